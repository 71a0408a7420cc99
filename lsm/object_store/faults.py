"""The ways in which a store fails. `object_store/error_map` decides which of them a backend's error becomes."""

from __future__ import annotations

from lsm.object_store.contract import StoreFault


class RequestRefused(StoreFault):
    """The backend said no before doing anything: a write refused like this was certainly not applied."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message, transient=transient)


class Unreachable(StoreFault):
    """No connection could be made: nobody listens there, nobody knows the host, or its certificate is not trusted.

    `can_heal` is false for a certificate, which no waiting mends.
    """

    def __init__(self, message: str, *, can_heal: bool) -> None:
        super().__init__(message, transient=True)
        self.can_heal = can_heal


class RangePastEnd(Exception):
    """The range starts at or after the end of the object. Stays inside the adapters."""
