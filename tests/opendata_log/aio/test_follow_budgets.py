"""What a thousand followers that wait cost in requests, counted where the handle counts them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from opendata_log import aio

FOLLOWERS = 1000
KEYS = [b"key-%03d" % number for number in range(FOLLOWERS)]


def asked(status: Any) -> dict[tuple[str, str], int]:
    return {kind: each.requests for kind, each in status.requests.items() if each.requests}


async def caught_up(log: Any) -> list[aio.LogFollower]:
    """A follower of every key, each of which has yielded the key's one entry."""
    followers = [log.follow(key) for key in KEYS]
    for follower in followers:
        assert len(await follower.fetchmany(1)) == 1
    return followers


async def waiting(followers: list[aio.LogFollower]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(follower.fetchmany(1)) for follower in followers]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in tasks)
    return tasks


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_in_the_writers_process_they_ask_for_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage=str(tmp_path)) as log:
            await log.try_append([(key, b"v") for key in KEYS])
            await log.flush()
            followers = await caught_up(log)
            before = asked(await log.status())
            tasks = await waiting(followers)

            assert asked(await log.status()) == before
            await log.try_append([(KEYS[7], b"new")])
            assert [entry.value for entry in await tasks[7]] == [b"new"]
            assert {kind for kind in asked(await log.status()) if kind[0] != "put"} == {
                kind for kind in before if kind[0] != "put"
            }
            await ended(tasks)

    asyncio.run(main())


def test_in_a_readers_process_they_share_its_polls(tmp_path: Path) -> None:
    async def polls(reader: aio.LogDbReader, count: int) -> dict[tuple[str, str], int]:
        before = asked(await reader.status())
        for _ in range(count):
            await reader.refresh()
        after = asked(await reader.status())
        return {kind: number - before.get(kind, 0) for kind, number in after.items() if number != before.get(kind, 0)}

    async def main() -> None:
        async with await aio.LogDb.open(storage=str(tmp_path)) as log:
            await log.try_append([(key, b"v") for key in KEYS])
            await log.flush()
            async with await aio.LogDbReader.open(storage=str(tmp_path), refresh_interval=500.0) as reader:
                alone = await polls(reader, 10)
                followers = await caught_up(reader)
                tasks = await waiting(followers)
                assert await polls(reader, 10) == alone
                assert sum(alone.values()) <= 30

                await log.try_append([(key, b"new") for key in KEYS])
                await log.flush()
                news = await polls(reader, 1)
                found = await asyncio.gather(*tasks)
                assert [entries[0].value for entries in found] == [b"new"] * FOLLOWERS
                assert sum(news.values()) <= 4  # One cycle: the log object, and what a poll without news asks.

    asyncio.run(main())
