"""Both walks: where the log ends, and whether an object missing there was ever stored.

docs/protocol.md, rule W7. A log object states up to which number the log was durable when the object was written. So the first
missing number is the end of the log only if no later object states that it was durable. Recovery, readers, checkpoints, clones
and fsck all find the end of the log here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from lsm.errors import CorruptionError
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import wal_name
from lsm.object_store.reliable import ReliableStore
from lsm.wal.replay import list_wal, read_wal_object


def was_durable(number: int, marks: Mapping[int, int]) -> bool:
    """Whether a later log object states that `number` was durable. `marks`: `durable_through` by object number. Pure."""
    return any(later > number and through >= number for later, through in marks.items())


def lost(number: int) -> CorruptionError:
    """Return the error for a log object that was durable and is missing."""
    return CorruptionError("is missing, and a later log object builds on it", object_name=wal_name(number))


def is_lost(store: ReliableStore, number: int, listed: Iterable[int], database: bytes, marks: dict[int, int]) -> bool:
    """Whether log object `number`, which is not among those `listed`, was durable and is missing now.

    True is no proof of loss: the collector may have deleted the object. Read the manifest after this call; the object is lost
    only if the replay position is still below `number`. `marks`: as `read_marks`. Cost: as `read_marks`; if a later object
    states that `number` was durable, one HEAD, or three if it is missing.
    """
    read_marks(store, number, listed, database, marks)
    # A listing is no snapshot: it may miss objects that were created while it was made.
    return was_durable(number, marks) and not exists(store, number, is_known=True)


def read_marks(
    store: ReliableStore, number: int, listed: Iterable[int], database: bytes, marks: dict[int, int]
) -> None:
    """Read the marks of the listed objects after `number` into `marks`, and drop those of objects up to `number`.

    Cost: one GET per object not read before. They are few: only uploads under way or cut off by a crash lie behind a gap.
    Raises: CorruptionError if an object is damaged.
    """
    for past in [each for each in marks if each <= number]:
        del marks[past]
    for later in sorted(listed):
        if (
            later > number
            and later not in marks
            and (entries := read_wal_object(store, later, database, is_known=True)) is not None
        ):
            marks[later] = entries.durable_through


def exists(store: ReliableStore, number: int, *, is_known: bool = False) -> bool:
    """Whether log object `number` is stored. `is_known`: it was stored once, so the answer "missing" is verified. Cost: one
    HEAD, or three for an object that is known and missing."""
    try:
        store.insist(lambda: store.head(wal_name(number)), is_known=is_known)
    except ObjectMissing:
        return False
    return True


def first_gap(store: ReliableStore, number: int, database: bytes, replay_after: Callable[[], int]) -> int:
    """Return the first number from `number` on that no log object has. Cost: one LIST, and the cost of `is_lost`.

    `replay_after`: returns the replay position of the newest manifest; called when an object that was durable is missing.
    Raises: CorruptionError if that object is lost, or a later one is damaged.
    """
    listed = set(list_wal(store))
    marks: dict[int, int] = {}
    while True:
        while number in listed:
            number += 1
        if is_lost(store, number, listed, database, marks):
            position = replay_after()
            if position < number:
                raise lost(number)
            number = position + 1  # It was collected.
            listed = set(list_wal(store))
        elif was_durable(number, marks):
            listed.add(number)  # Created since the listing.
        else:
            return number
