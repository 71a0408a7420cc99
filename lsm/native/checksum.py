"""crc32c, out of the extension module of the package of that name.

The package is left out where the extension is found without it: it looks up its own version in its metadata and makes a command
line, which takes longer than to import the half of this engine.
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
    """The extension module by itself; None where it is no file beside the package's own."""
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
