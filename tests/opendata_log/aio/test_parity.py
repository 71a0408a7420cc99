"""The same scenarios over both faces of the log, and the same names with the same parameters."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

import opendata_log
from opendata_log import (
    ClosedError,
    InvalidInputError,
    QueueFullError,
    ReadVisibility,
    Record,
    ScanOptions,
    ShutdownError,
    StorageError,
    aio,
)
from tests.opendata_log.support import tiny

FOR_THE_OTHER_FACE = {
    "attach",
    "check",
    "next_block",
    "be_ended",
    "be_forked",
}
"""What the blocking classes offer to the other face, and to the process."""
OWN = {"wrap"}


# -- names ------------------------------------------------------------------------------------------------------------


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(method).parameters.values()
    return [(one.name, one.kind, one.default) for one in found]


@pytest.mark.parametrize("name", aio.__all__)
def test_both_faces_have_the_same_methods_with_the_same_parameters(name: str) -> None:
    blocking, other = getattr(opendata_log, name), getattr(aio, name)
    wanted = {each for each in dir(blocking) if not each.startswith("_")} - FOR_THE_OTHER_FACE

    assert {each for each in dir(other) if not each.startswith("_")} - OWN == wanted
    for each in wanted:
        one, two = inspect.getattr_static(blocking, each), inspect.getattr_static(other, each)
        assert isinstance(one, property) is isinstance(two, property), each
        if not isinstance(one, property):
            assert parameters(getattr(blocking, each)) == parameters(getattr(other, each)), f"{name}.{each}"


# -- scenarios --------------------------------------------------------------------------------------------------------


class Blocking:
    """A scenario's hands, for the blocking face."""

    face: Any = opendata_log

    async def open(self, **options: Any) -> Any:
        return opendata_log.LogDb.open(**options)

    async def open_reader(self, **options: Any) -> Any:
        return opendata_log.LogDbReader.open(**options)

    async def do(self, answer: Any) -> Any:
        return answer

    async def each(self, iterator: Any) -> list[Any]:
        return list(iterator)


class Async(Blocking):
    """For the other one."""

    face = aio

    async def open(self, **options: Any) -> Any:
        return await aio.LogDb.open(**options)

    async def open_reader(self, **options: Any) -> Any:
        return await aio.LogDbReader.open(**options)

    async def do(self, answer: Awaitable[Any]) -> Any:
        return await answer

    async def each(self, iterator: AsyncIterator[Any]) -> list[Any]:
        return [found async for found in iterator]


Scenario = Callable[[Blocking], Awaitable[Any]]


async def everything(hands: Blocking) -> Any:
    """Appends of every shape, and every read, over memory and tables and sealed segments."""
    seen: list[Any] = []
    log = await hands.open(storage="memory://", engine=tiny())
    for number in range(30):
        await hands.do(log.try_append([(b"a", b"%d" % number), Record("b", "x" * 40), ["c", bytearray(b"y")]]))
        if number in (9, 19):
            seen.append(await hands.do(log.seal_segment()))
    seen.append(await hands.do(log.try_append(Record(b"g", b"%d" % n) for n in range(2000))))
    seen.append(await hands.do(log.try_append([(b"g", b"%d" % n) for n in range(2000)])))
    seen.append(await hands.do(log.append_timeout([], 1)))
    seen.append(await hands.do(log.append_timeout([(b"a", b"end")], timedelta(seconds=1))))
    await hands.do(log.flush())
    seen += [log.durable_sequence, log.subscribe_durable().value]
    seen.append(await hands.do(log.subscribe_durable().wait(3, 5.0)))
    for options in (
        {},
        {"start": 11, "end": 50},
        {"last": 3},
        {"reverse": True},
        {"reverse": True, "last": 2, "end": 40},
        {"options": ScanOptions(limit=4)},
        {"start": 4000},
    ):
        iterator = log.scan(b"a", **options)
        some = await hands.do(iterator.fetchmany(2))
        at = iterator.next_sequence
        seen.append((some, at, await hands.each(iterator), iterator.next_sequence))
    iterator = log.scan_all(iter([b"a", b"c"]), 5)
    seen += [await hands.do(iterator.fetchmany(3)), iterator.next_sequence, await hands.do(iterator.fetchall())]
    seen += [await hands.do(log.scan_all(prefix=b"").fetchall())]
    iterator = log.scan(b"g")
    seen.append(await hands.do(iterator.fetchmany(7)))
    await hands.do(iterator.close())
    seen += [iterator.next_sequence, await hands.each(iterator), await hands.do(iterator.fetchall())]
    for follower in (
        log.follow(b"a", timeout=0),
        log.follow_all([b"a", b"b"], timeout=0),
        log.follow_all(prefix="c", timeout=0),
    ):
        seen += [await hands.do(follower.fetchmany(2)), follower.next_sequence, await hands.each(follower)]
        seen += [follower.next_sequence, await hands.do(follower.fetchmany(1)), await hands.do(follower.fetchmany(0))]
        await hands.do(follower.close())
        seen += [follower.next_sequence, await hands.each(follower)]
    keys = log.list_keys(prefix="")
    seen += [await hands.do(keys.fetchmany(1)), await hands.do(keys.fetchall()), await hands.each(log.list_keys(2, 3))]
    for key in (b"a", b"g", b"none"):
        seen += [
            await hands.do(log.count(key)),
            await hands.do(log.count(key, 3, 60)),
            (await hands.do(log.inspect(key))).total,
        ]
    seen += [len(await hands.do(log.list_segments())), await hands.do(log.sequence_at(timedelta(hours=1)))]
    seen += [type(await hands.do(log.tree_summary())), (await hands.do(log.status())).url]
    seen += [await hands.do(log.wait_idle(30.0))]
    await hands.do(log.collect_garbage(dry_run=True))
    await hands.do(log.close())
    await hands.do(log.close())
    return seen


async def refusals(hands: Blocking) -> Any:
    """What is refused, and when."""
    seen: list[Any] = []
    log = await hands.open(storage="memory://", engine=tiny(max_unflushed_bytes=4096))

    async def refused(call: Callable[[], Any], *kinds: type[Exception]) -> None:
        with pytest.raises(kinds) as caught:
            await hands.do(call())
        seen.append((type(caught.value), str(caught.value), getattr(caught.value, "records", None)))

    for call in (
        lambda: log.try_append(7),
        lambda: log.try_append([(b"", b"x")]),
        lambda: log.try_append("ab"),
        lambda: log.append_timeout([(b"a", b"")], -1),
        lambda: log.count(b""),
        lambda: log.scan(b"a").fetchmany(-1),
        lambda: log.follow(b"a").fetchmany(True),
        lambda: log.subscribe_durable().wait("x"),
        lambda: log.list_segments(-1),
    ):
        await refused(call, InvalidInputError)
    for plain in (
        lambda: log.scan(b"", 0),
        lambda: log.scan(b"a", -1),
        lambda: log.scan(b"a", last=-1),
        lambda: log.scan(b"a", options=3),
        lambda: log.scan_all(b"a"),
        lambda: log.scan_all(),
        lambda: log.follow(b"a", timeout="x"),
        lambda: log.follow_all(7),
        lambda: log.list_keys(prefix=7),
        lambda: hands.face.LogDbBuilder(3),
    ):
        with pytest.raises((InvalidInputError, TypeError)) as caught:
            plain()
        seen.append((type(caught.value), str(caught.value)))
    with pytest.raises(QueueFullError):
        for _ in range(10_000):
            await hands.do(log.try_append([(b"k", b"x" * 500)]))
            await asyncio.sleep(0)
    await hands.do(log.append_timeout([(b"k", b"late")], 30.0))
    await refused(lambda: log.subscribe_durable().wait(1 << 40, 0.0), TimeoutError)
    watch, follower, scan = log.subscribe_durable(), log.follow(b"k"), log.scan(b"k")
    await hands.do(log.close())
    await hands.do(follower.fetchmany(1))
    await refused(lambda: log.try_append([(b"a", b"b")]), ShutdownError)
    await refused(lambda: log.try_append([]), ClosedError)
    await refused(lambda: log.append_timeout([(b"a", b"b")], 0.0), ShutdownError)
    for call in (log.flush, log.seal_segment, lambda: log.count(b"a"), log.wait_idle, log.collect_garbage):
        await refused(call, ClosedError)
    await refused(lambda: watch.wait(1 << 40), ClosedError)
    with pytest.raises(ClosedError):
        log.scan(b"a")
    with pytest.raises(ClosedError):
        log.subscribe_durable()
    await hands.do(scan.close())
    return seen


async def reading(hands: Blocking) -> Any:
    """A reader beside a writer."""
    with pytest.raises(StorageError):
        await hands.open_reader(storage="memory://nobody-wrote-this")
    seen: list[Any] = []
    name = f"memory://reading-{hands.face.__name__}"
    log = await hands.open(storage=name, engine=tiny())
    await hands.do(log.try_append([(b"a", b"0"), (b"b", b"1")]))
    await hands.do(log.flush())
    reader = await hands.open_reader(storage=name, refresh_interval=1000.0)
    follower = reader.follow_all([b"a", b"b"], timeout=0)
    seen += [await hands.each(follower), await hands.each(reader.scan(b"a"))]
    for number in range(60):
        await hands.do(log.try_append([(b"a", b"%d" % number), (b"b", b"z" * 40)]))
        if number == 30:
            await hands.do(log.seal_segment())
    await hands.do(log.flush())
    seen += [await hands.do(reader.count(b"a")), await hands.each(follower)]
    await hands.do(reader.refresh())
    seen += [await hands.do(reader.count(b"a")), await hands.each(follower), follower.next_sequence]
    seen += [await hands.each(reader.scan(b"a", 5, since=timedelta(hours=1))), await hands.each(reader.list_keys())]
    seen += [await hands.do(reader.sequence_at(timedelta(hours=1))), len(await hands.do(reader.list_segments()))]
    seen += [(await hands.do(reader.status())).last_failure]
    with pytest.raises(InvalidInputError):
        reader.scan(b"a", -1)
    await hands.do(log.close())
    await hands.do(reader.refresh())
    seen += [await hands.each(reader.scan(b"b", 20))]
    await hands.do(reader.close())
    for call in (reader.refresh, lambda: reader.count(b"a")):
        with pytest.raises(ClosedError) as caught:
            await hands.do(call())
        seen.append(str(caught.value))
    return seen


async def only_what_is_durable(hands: Blocking) -> Any:
    """Reads under REMOTE."""
    log = await hands.open(storage="memory://", engine=tiny(), read_visibility=ReadVisibility.REMOTE)
    await hands.do(log.try_append([(b"a", b"0"), (b"b", b"1")]))
    seen = [await hands.do(log.count(b"a")), log.durable_sequence, await hands.each(log.follow(b"a", timeout=0))]
    await hands.do(log.flush())
    seen += [await hands.do(log.count(b"a")), log.durable_sequence, await hands.each(log.follow(b"a", timeout=0))]
    await hands.do(log.close())
    return seen


@pytest.mark.parametrize("scenario", [everything, refusals, reading, only_what_is_durable])
def test_both_faces_answer_alike(scenario: Scenario) -> None:
    one = asyncio.run(scenario(Blocking()))  # type: ignore[arg-type]
    two = asyncio.run(scenario(Async()))  # type: ignore[arg-type]

    assert len(one) == len(two)
    for place, (left, right) in enumerate(zip(one, two, strict=True)):
        assert left == right, place
