"""Kinds of store faults. `object_store/error_map` maps a backend's error to one of them."""

from __future__ import annotations

from lsm.object_store.contract import StoreFault


class RequestRefused(StoreFault):
    """The backend refused the request before doing anything: a refused write was certainly not applied."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message, transient=transient)


class Unreachable(StoreFault):
    """No connection could be made: it was refused, the host is unknown, or its certificate is not trusted.

    `can_heal` is false for a certificate, because waiting does not help.
    """

    def __init__(self, message: str, *, can_heal: bool) -> None:
        super().__init__(message, transient=True)
        self.can_heal = can_heal


class RangePastEnd(Exception):
    """The range starts at or after the end of the object. Adapters catch it."""
