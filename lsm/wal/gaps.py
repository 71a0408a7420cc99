"""Both walks: where the log ends, and whether what is missing there was there once.

docs/protocol.md, rule W7. A log object says up to which number the log was durable when it was written. So the first number
that is missing is the end of the log only as long as no later object knows of it. Whatever reads the log asks here:
recovery, readers, checkpoints, clones, fsck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from lsm.errors import CorruptionError
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import wal_name
from lsm.object_store.reliable import ReliableStore
from lsm.wal.replay import list_wal, read_wal_object


def was_durable(number: int, marks: Mapping[int, int]) -> bool:
    """Whether a later log object was written when `number` was durable. `marks`: `durable_through` by number. Pure."""
    return any(later > number and through >= number for later, through in marks.items())


def lost(number: int) -> CorruptionError:
    """What a missing log object means that was durable once."""
    return CorruptionError("is missing, and a later log object builds on it", object_name=wal_name(number))


def is_lost(store: ReliableStore, number: int, listed: Iterable[int], database: bytes, marks: dict[int, int]) -> bool:
    """Whether log object `number`, which is not among those `listed`, was durable and is not there now.

    It may have been collected since: the caller looks at the manifest after this, and only a replay position that is still
    below `number` makes it damage. `marks`: as `read_marks`. Cost: as `read_marks`; one HEAD where a later object knows of it,
    three where it is not there.
    """
    read_marks(store, number, listed, database, marks)
    # A listing of a directory is no snapshot of it: what was created meanwhile may be listed or not.
    return was_durable(number, marks) and not exists(store, number, is_known=True)


def read_marks(
    store: ReliableStore, number: int, listed: Iterable[int], database: bytes, marks: dict[int, int]
) -> None:
    """Add what the objects behind `number` say to `marks`, and forget what those before it said.

    Cost: a GET for each that is new; only uploads under way, and uploads that a crash cut off, lie behind a gap.
    Raises: CorruptionError where one is damaged.
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
    """Whether there is a log object of that number. Cost: one HEAD. `is_known`: it was there once, so that an answer that it
    is missing is doubted."""
    try:
        store.insist(lambda: store.head(wal_name(number)), is_known=is_known)
    except ObjectMissing:
        return False
    return True


def first_gap(store: ReliableStore, number: int, database: bytes, replay_after: Callable[[], int]) -> int:
    """The first number from `number` on that no log object has. Cost: one LIST, and what `is_lost` costs.

    `replay_after`: the replay position of the newest manifest, asked for where an object is missing that was durable.
    Raises: CorruptionError where it is lost, or a later one damaged.
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
