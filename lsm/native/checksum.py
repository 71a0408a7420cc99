"""The checksum crc32c, from the extension module of the package `crc32c`.

The extension is imported without its package if possible. The package looks up its version in its metadata and builds a command
line, which takes longer than the import of half of this engine.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ExtensionFileLoader, PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING, Any

_PACKAGE = "crc32c"
_EXTENSION = "crc32c._crc32c"


def _extension() -> Any:
    """Load the extension module without its package; `None` if it is no file in the package's directory."""
    package = PathFinder.find_spec(_PACKAGE)
    places = package.submodule_search_locations if package is not None else None
    found = PathFinder.find_spec(_EXTENSION, places) if places is not None else None
    if found is None or not isinstance(found.loader, ExtensionFileLoader):
        return None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _loaded() -> Any:
    found = None if _PACKAGE in sys.modules else _extension()
    return found if hasattr(found, "crc32c") else importlib.import_module(_PACKAGE)


if TYPE_CHECKING:
    from crc32c import crc32c as crc32c
else:
    crc32c = _loaded().crc32c
