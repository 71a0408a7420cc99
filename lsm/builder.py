"""Opens a database with custom components, step by step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lsm.db import Db
from lsm.settings import Settings


class DbBuilder:
    """Each `with_…` returns the builder; `build` opens the database. `with_component` takes the fields of `Components`.

    >>> DbBuilder("memory://").with_settings(Settings(flush_interval=None)).build().close()
    """

    def __init__(self, storage: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> None:
        self._storage = storage
        self._storage_options = storage_options
        self._settings: Settings | None = None
        self._components: dict[str, Any] = {}

    def with_settings(self, settings: Settings) -> DbBuilder:
        self._settings = settings
        return self

    def with_component(self, **components: Any) -> DbBuilder:
        """`prefix_extractor=`, `scheduler=`, `clock=`, `caches=`, `object_store=`, `wal_url=`, ..."""
        self._components.update(components)
        return self

    def build(self) -> Db:
        """Open the database. Raises: as `Db.open`."""
        return Db.open(self._storage, self._settings, storage_options=self._storage_options, **self._components)
