"""Which waiters share an object of the log, when a buffer is sealed, and what the end of an upload means."""

from __future__ import annotations

import pytest

import lsm
from lsm.wal.group_commit import GATHER_SECONDS_MAX, JOIN_SECONDS, GroupCommit
from lsm.wal.upload import PIPELINE_MAX, UploadQueue, WalObject


def groups_after(upload_seconds: float, *, members: int) -> GroupCommit:
    """The state at time 100, at which an upload ended that `members` threads waited for."""
    groups = GroupCommit(flush_interval=0.5, object_bytes=1000)
    for _ in range(members):
        groups.join(1)
    groups.upload_started(100 - upload_seconds)
    groups.upload_ended(100)
    for _ in range(members):
        groups.leave(1)
    return groups


def test_the_first_waiter_seals_at_once() -> None:
    groups = GroupCommit(flush_interval=None, object_bytes=1000)
    groups.join(1)
    assert groups.may_seal(100, 0, is_uploading=False)


def test_a_first_waiter_waits_for_the_last_group_and_no_longer_than_half_an_upload() -> None:
    groups = groups_after(0.001, members=3)
    groups.join(2)
    assert not groups.may_seal(100, 1, is_uploading=False)
    assert groups.timer_seconds(100, is_uploading=False) == pytest.approx(0.0005)
    assert groups.may_seal(100.0006, 1, is_uploading=False)
    groups.join(3)
    groups.join(4)
    assert groups.may_seal(100, 1, is_uploading=False)


def test_on_a_slow_store_the_wait_for_the_last_group_has_a_limit() -> None:
    assert groups_after(5, members=2).timer_seconds(100, is_uploading=False) == pytest.approx(GATHER_SECONDS_MAX)


def test_a_waiter_whose_batch_is_durable_is_no_member() -> None:
    groups = GroupCommit(flush_interval=None, object_bytes=1000)
    for seq in (3, 4, 5):
        groups.join(seq)
    assert groups.waiting(3) == 2


def test_beside_an_upload_another_one_starts_only_after_a_moment() -> None:
    groups = GroupCommit(flush_interval=None, object_bytes=1000)
    groups.join(1)
    groups.upload_started(100)
    assert not groups.may_seal(100 + JOIN_SECONDS / 2, 0, is_uploading=True)
    assert groups.timer_seconds(100, is_uploading=True) == JOIN_SECONDS
    assert groups.may_seal(100 + 2 * JOIN_SECONDS, 0, is_uploading=True)


def test_without_a_waiter_a_buffer_is_due_by_its_age_or_never() -> None:
    groups = groups_after(0.001, members=0)
    groups.buffered_since = 200
    assert groups.seconds_until_due(200.2) == pytest.approx(0.3)
    assert GroupCommit(flush_interval=None, object_bytes=1000).seconds_until_due(200.2) is None


def sealed(seq: int) -> WalObject:
    return WalObject([b"frame"], seq, seq)


def started(queue: UploadQueue, count: int) -> list[WalObject]:
    for seq in range(1, count + 1):
        queue.add(sealed(seq))
    return [queue.start() for _ in range(count)]


def past_the_serial_numbers(uploads_max: int) -> UploadQueue:
    """A queue that has stored as many objects as are written one by one."""
    queue = UploadQueue(1, uploads_max)
    for _ in range(PIPELINE_MAX + 1):
        queue.add(sealed(0))
        queue.stored(queue.start())
    return queue


def test_objects_become_durable_in_the_order_of_their_numbers() -> None:
    queue = past_the_serial_numbers(4)
    first, second, third = started(queue, 3)
    assert queue.stored(second) is None
    assert queue.stored(first) == 2
    assert queue.durable_number == second.number
    assert queue.objects_between(1, 2) == (first.number, second.number)
    assert queue.stored(third) == 3


def test_the_first_numbers_after_a_fence_are_uploaded_one_by_one() -> None:
    queue = UploadQueue(1, 4)
    assert queue.has_room
    started(queue, 1)
    assert not queue.has_room


def test_no_upload_starts_far_ahead_of_one_that_is_slow_but_a_retry_does() -> None:
    queue = past_the_serial_numbers(PIPELINE_MAX)
    slow, *others = started(queue, PIPELINE_MAX)
    for done in others:
        queue.stored(done)
    queue.add(sealed(9))
    assert not queue.has_room
    queue.failed(slow, lsm.UnavailableError("the store is down"))
    assert queue.has_room
    number, parts = slow.number, slow.parts
    again = queue.start()
    assert again is slow
    assert (again.number, again.parts) == (number, parts)


def test_a_failed_upload_goes_before_whatever_has_no_number() -> None:
    queue = past_the_serial_numbers(4)
    first, second = started(queue, 2)
    queue.add(sealed(3))
    for failed in (second, first):
        queue.failed(failed, KeyboardInterrupt())
    assert [queue.start() for _ in range(2)] == [first, second]
    assert queue.outage is None


def test_a_refusal_is_an_outage_only_when_it_comes_again() -> None:
    queue = UploadQueue(1, 4)
    refused = lsm.UnavailableError("no permission", retryable=False)
    (upload,) = started(queue, 1)
    queue.failed(upload, refused)
    assert queue.outage is None
    queue.failed(queue.start(), refused)
    assert queue.outage is refused
    assert queue.outage_since(queue.attempts) is None
    assert queue.outage_since(queue.attempts - 1) is refused
    queue.stored(queue.start())
    assert queue.outage is None
