"""Object stores: the contract, its adapters, and the retrying store that the engine uses.

Read contract.py first, then memory.py (the model), then reliable.py.
"""

from lsm.object_store.contract import (
    CREATE_BYTES_MAX,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    StoreFault,
    StoreSpec,
)
from lsm.object_store.faults import RequestRefused
from lsm.object_store.fsspec_store import FsspecStore
from lsm.object_store.local import LocalStore
from lsm.object_store.memory import MemoryStore
from lsm.object_store.open import open_store
from lsm.object_store.probe import probe_conditional_create
from lsm.object_store.reliable import ReliableStore, Traffic
from lsm.object_store.s3_store import S3Store

__all__ = [
    "CREATE_BYTES_MAX",
    "FsspecStore",
    "LocalStore",
    "MemoryStore",
    "ObjectExists",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "ReliableStore",
    "RequestRefused",
    "S3Store",
    "StoreFault",
    "StoreSpec",
    "Traffic",
    "open_store",
    "probe_conditional_create",
]
