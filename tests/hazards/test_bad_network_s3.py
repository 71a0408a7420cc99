"""A bad network between a log and real S3 servers: some faults of test_bad_network.py, but through sockets."""

from __future__ import annotations

import random
import time
import urllib.error
from collections.abc import Callable, Iterator
from email.message import Message

import pytest

import lsm
from opendata_log import Config, LogDb, LogDbReader, ReaderConfig, StorageConfig, StorageError
from tests.opendata_log.support import tiny, values
from tests.servers.rough import Act, FaultProxy, Seen
from tests.servers.s3 import Ministack, Seaweed, ServerProcess

pytestmark = pytest.mark.s3

REFUSALS = {Act.FORBIDDEN, Act.MOVED}
OF_THE_SOCKET = (Act.RESET_AFTER, Act.TAKEN_AFTER, Act.MOVED, Act.PAGE, Act.GARBAGE)
"""What only a socket can do, or what the client makes something of its own of."""


class Place:
    """A prefix of a server's bucket, reached directly and through a proxy."""

    def __init__(self, server: ServerProcess, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.url = server.url(f"network-{random.getrandbits(64):x}")
        self.direct = StorageConfig(url=self.url, storage_options=server.storage_options)
        options = {**server.storage_options, "endpoint_url": proxy.url}
        self.through = StorageConfig(url=self.url, storage_options=options)

    def open(self, *, op_timeout: float = 30.0, request_timeout: float = 1.0) -> LogDb:
        engine = tiny(op_timeout=op_timeout, request_timeout=request_timeout)
        return LogDb.open(Config(storage=self.through, engine=engine))

    def manifests(self) -> list[int]:
        with lsm.Admin(self.url, storage_options=self.direct.storage_options) as admin:
            return [each.id for each in admin.list_manifests()]

    def check(self, expected: list[bytes]) -> None:
        assert not lsm.fsck(self.url, storage_options=self.direct.storage_options).problems
        with LogDbReader.open(ReaderConfig(storage=self.direct)) as reader:
            assert values(reader, b"k") == expected


@pytest.fixture
def place(ministack: Ministack) -> Iterator[Place]:
    with FaultProxy(ministack.port) as proxy:
        yield Place(ministack, proxy)


def first(acts: dict[str, list[Act]]) -> Callable[[Seen], Act | None]:
    """The next request of each kind meets the acts listed, one after the other."""

    def rule(seen: Seen) -> Act | None:
        waiting = acts.get("LIST" if "list-type=2" in seen.path else seen.method)
        return waiting.pop(0) if waiting else None

    return rule


def test_a_lost_reply_and_a_reset_of_the_read_back_are_survived(place: Place) -> None:
    with place.open() as log:
        log.try_append([(b"k", b"0")])
        log.flush()
        place.proxy.rule = first({"PUT": [Act.RESET_AFTER], "GET": [Act.RESET_BEFORE, Act.RESET_BEFORE]})
        log.try_append([(b"k", b"1")])
        log.flush()
        log.try_append([(b"k", b"2")])
        log.flush()
    place.check([b"0", b"1", b"2"])


@pytest.mark.parametrize("status", [404, 412, 403, 416])
@pytest.mark.parametrize("act", [Act.RESET_BEFORE, Act.MISSING])
def test_an_open_in_a_handler_of_an_http_error_takes_no_broken_listing_for_an_empty_one(
    place: Place, status: int, act: Act
) -> None:
    with place.open() as log:
        log.try_append([(b"k", b"0")])
        log.flush()
    before = place.manifests()
    place.proxy.rule = lambda seen: act if "list-type=2" in seen.path else None
    try:
        raise urllib.error.HTTPError("http://config/marker", status, "said another server", Message(), None)
    except urllib.error.HTTPError:
        with pytest.raises(StorageError, match="list manifest/"):
            place.open(op_timeout=0.3)
        with pytest.raises(StorageError, match="list manifest/"):
            LogDbReader.open(ReaderConfig(storage=place.through, engine=tiny(op_timeout=0.3)))
    place.proxy.rule = None
    assert place.manifests() == before
    place.check([b"0"])


def test_a_redirect_without_a_region_is_a_refusal_that_names_the_settings(place: Place) -> None:
    place.proxy.rule = lambda seen: Act.MOVED
    began = len(place.proxy.seen)

    with pytest.raises(StorageError, match="endpoint_url and region_name") as caught:
        place.open()

    assert not caught.value.retryable
    assert len(place.proxy.seen) - began < 10


def use_under(place: Place, act: Act, at: int) -> None:
    """Open, append, flush, write tables, collect and read, where every `at`-th request of each step meets `act`."""
    expected: list[bytes] = []
    count = 0

    def rule(seen: Seen) -> Act | None:
        nonlocal count
        count += 1
        return act if count == at else None

    def step(work: Callable[[], object]) -> object:
        nonlocal count
        count = 0
        place.proxy.rule = rule
        try:
            return work()
        except (StorageError, lsm.UnavailableError) as error:
            assert type(error) in (StorageError, lsm.UnavailableError)
            assert act in REFUSALS
            assert not error.retryable
            return None
        finally:
            place.proxy.rule = None

    for turn in range(2):
        opened = step(place.open)
        log = opened if isinstance(opened, LogDb) else place.open()
        with log:
            log.try_append([(b"k", b"%d" % turn)])
            expected.append(b"%d" % turn)
            for work in (
                log.flush,
                lambda log=log: log._db.flush(lsm.FlushType.MEMTABLE),
                lambda log=log: log.collect_garbage(min_age=0),
                lambda log=log: (log.drop_cached(), values(log, b"k")),
            ):
                step(work)
            log.flush()
            assert log.durable_sequence == turn + 1
            assert values(log, b"k") == expected
    place.check(expected)


@pytest.mark.parametrize("act", OF_THE_SOCKET)
def test_a_log_is_used_over_a_socket_that_fails(place: Place, act: Act) -> None:
    use_under(place, act, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize("server", ["ministack", "seaweed"])
def test_a_log_is_used_over_any_socket_that_fails(
    request: pytest.FixtureRequest, server: str, act: Act, at: int
) -> None:
    found: Ministack | Seaweed = request.getfixturevalue(server)
    with FaultProxy(found.port) as proxy:
        use_under(Place(found, proxy), act, at)


def test_silence_ends_at_the_time_limit_and_is_asked_again(place: Place) -> None:
    with place.open(request_timeout=0.3) as log:
        place.proxy.rule = first({"PUT": [Act.SILENCE_AFTER], "GET": [Act.SILENCE_BEFORE]})
        began = time.monotonic()
        log.try_append([(b"k", b"0")])
        log.flush()
        assert time.monotonic() - began >= 0.3
    place.check([b"0"])
