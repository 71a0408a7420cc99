"""What a call took that was cut off is handed out later, and costs the loop no more than what is handed out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opendata_log import aio
from opendata_log.aio.iterators import Pieces
from tests.opendata_log.support import tiny


class Numbers(Pieces[int]):
    """Pieces of 1000, until it is cut off."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.left = pieces

    async def _next_piece(self) -> Any:
        if not self.left:
            raise KeyError("cut off")
        self.left -= 1
        return iter(range(1000 * self.left, 1000 * self.left + 1000))


class Uncut(list):  # type: ignore[type-arg]
    """A list whose head is not cut off: that costs as much as there is behind it."""

    def pop(self, *_: Any) -> Any:
        raise AssertionError("something was taken off the head")

    def __delitem__(self, _: Any) -> None:
        raise AssertionError("something was cut out")

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            assert at.stop is not None, "the rest was copied"
        return super().__getitem__(at)


def test_what_was_kept_comes_in_order_and_is_never_copied() -> None:
    async def main() -> None:
        numbers = Numbers(150)
        with pytest.raises(KeyError):
            await numbers._take(None)
        expected = list(numbers._kept)
        numbers._kept = Uncut(numbers._kept)

        found = [await anext(numbers) for _ in range(1000)]
        for _ in range(20):
            found += await numbers.fetchmany(50)
        assert found == expected[:2000]
        numbers._kept = list(numbers._kept)
        with pytest.raises(KeyError):
            await numbers._take(None)

        assert await numbers.fetchmany(len(expected) - 2000) == expected[2000:]

    asyncio.run(main())


@pytest.mark.parametrize("way", ["next", "many"])
def test_a_fetchall_that_timed_out_loses_nothing(way: str) -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage="memory://", engine=tiny(l0_sst_size_bytes=1 << 20)) as log:
            await log.try_append([(b"k", b"%d" % at) for at in range(20_000)])
            entries = log.scan(b"k")
            task = asyncio.ensure_future(entries.fetchall())
            for _ in range(3):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert entries.next_sequence == 0

            if way == "next":
                found = [await anext(entries) for _ in range(10)]
                assert entries.next_sequence == 10
                found += [entry async for entry in entries]
            else:
                found = []
                while more := await entries.fetchmany(999):
                    found += more
                    assert entries.next_sequence >= len(found)

            assert [entry.sequence for entry in found] == list(range(20_000))

    asyncio.run(main())


def test_many_that_stop_waiting_for_durability_at_once_are_forgotten() -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage="memory://", engine=tiny()) as log:
            watch = log.subscribe_durable()
            tasks = [asyncio.ensure_future(watch.wait(at)) for at in range(2000)]
            await asyncio.sleep(0)
            watermark = watch._watermark
            assert sum(map(len, watermark._waiting.values())) == 2000
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks[1:], return_exceptions=True)
            assert sum(map(len, watermark._waiting.values())) <= 3

            await log.try_append([(b"k", b"v")])
            await log.flush()
            assert await tasks[0] == 1
            assert not watermark._waiting
            assert not watermark._gone

    asyncio.run(main())
