"""S3 over TLS, with a certificate of its own; servers that know no aws-chunked framing; servers that change while in use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from lsm.object_store import ObjectExists, open_store
from opendata_log import Config, Error, InvalidInputError, LogDb, LogDbReader, ReaderConfig, StorageConfig
from tests.servers.proxy import Proxy, framed, proxied
from tests.servers.s3 import ServerProcess

pytestmark = pytest.mark.s3
SECONDS = 20.0


@pytest.fixture(params=["ministack-https", "seaweed-https", "ministack-http"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    name, _, scheme = request.param.partition("-")
    with proxied(request.getfixturevalue(name), tls=scheme == "https") as made:
        yield made


@pytest.fixture
def server(proxy: Proxy) -> ServerProcess:
    return proxy.server


def prefix() -> str:
    return f"tls-{random.getrandbits(64):x}"


def config(server: ServerProcess, proxy: Proxy, name: str, **engine: Any) -> Config:
    storage = StorageConfig(url=server.url(name), storage_options=proxy.storage_options)
    quick = {"compaction_enabled": False, "gc_interval": None, "flush_placement": "thread"}
    return Config(storage=storage, engine={**quick, **engine})  # type: ignore[arg-type]


def test_a_log_is_written_and_read(server: ServerProcess, proxy: Proxy) -> None:
    name = prefix()
    with LogDb.open(config(server, proxy, name)) as log:
        log.try_append([(b"k", b"%d" % at) for at in range(100)])
        log.flush()
        log._db.flush()
    storage = StorageConfig(url=server.url(name), storage_options=proxy.storage_options)
    with LogDbReader.open(ReaderConfig(storage=storage)) as reader:
        assert len(reader.scan(b"k").fetchall()) == 100

    assert proxy.puts
    assert framed(proxy.puts) == []
    assert all("x-amz-checksum-crc32" in each and "if-none-match" in each for each in proxy.puts)


def test_a_server_that_refuses_chunks_is_written_to(server: ServerProcess, proxy: Proxy) -> None:
    proxy.refuses_chunks = True
    store = open_store(server.url(prefix()), proxy.storage_options)

    for size in (0, 1, 3 << 20):
        body = random.randbytes(size)
        store.put_if_absent(f"wal/{size}", [body], timeout=SECONDS)
        with pytest.raises(ObjectExists):
            store.put_if_absent(f"wal/{size}", [body + b"x"], timeout=SECONDS)
        assert store.get(f"wal/{size}", timeout=SECONDS) == body
    store.close()


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_the_users_checksum_goes_in_a_header_too(ministack: ServerProcess, algorithm: str) -> None:
    with proxied(ministack, tls=True) as proxy:
        options = {**proxy.storage_options, "s3_additional_kwargs": {"ChecksumAlgorithm": algorithm}}
        store = open_store(ministack.url(prefix()), options)

        store.put_if_absent("wal/1", [b"whole"], timeout=SECONDS)

        assert store.get("wal/1", timeout=SECONDS) == b"whole"
        assert framed(proxy.puts) == []
        assert f"x-amz-checksum-{algorithm.lower()}" in proxy.puts[0]
        store.close()


def test_who_wants_no_checksum_sends_none(ministack: ServerProcess) -> None:
    with proxied(ministack, tls=True) as proxy:
        options = {**proxy.storage_options, "config_kwargs": {"request_checksum_calculation": "when_required"}}
        store = open_store(ministack.url(prefix()), options)

        store.put_if_absent("wal/1", [b"whole"], timeout=SECONDS)

        assert framed(proxy.puts) == []
        assert not [key for key in proxy.puts[0] if key.startswith("x-amz-checksum")]
        store.close()


def test_a_certificate_that_nobody_vouches_for_is_an_error(ministack: ServerProcess) -> None:
    with proxied(ministack, tls=True) as proxy:
        options = proxy.storage_options
        del options["client_kwargs"]["verify"]
        storage = StorageConfig(url=ministack.url(prefix()), storage_options=options)

        with pytest.raises(Error, match=r"certificate.*`verify`"):
            LogDb.open(Config(storage=storage))
        assert proxy.puts == []


# -- a server that changes --------------------------------------------------------------------------------------------


def test_a_server_that_drops_the_condition_between_two_opens_is_refused(ministack: ServerProcess) -> None:
    name = prefix()
    with proxied(ministack, tls=True) as proxy:
        with LogDb.open(config(ministack, proxy, name)) as log:
            log.try_append([(b"k", b"1")])
        proxy.drops_conditions = True

        with pytest.raises(InvalidInputError, match="ignores conditional writes"):
            LogDb.open(config(ministack, proxy, name))

        proxy.drops_conditions = False
        with LogDb.open(config(ministack, proxy, name)) as log:
            assert [entry.value for entry in log.scan(b"k")] == [b"1"]


@pytest.mark.parametrize("adds", [{"x-amz-version-id": "v1"}, {"Server": "another/2.0"}], ids=["versioned", "moved"])
def test_a_server_that_changes_while_a_log_is_open_is_refused_before_anything_is_durable(
    ministack: ServerProcess, adds: dict[str, str]
) -> None:
    name = prefix()
    with proxied(ministack, tls=False) as proxy:
        log = LogDb.open(config(ministack, proxy, name, flush_interval=None))
        log.try_append([(b"k", b"1")])
        log.flush()
        durable = log.durable_sequence
        proxy.drops_conditions, proxy.adds = True, adds

        log.try_append([(b"k", b"2")])
        with pytest.raises(Error, match="ignores conditional writes"):
            log.flush()

        assert log.durable_sequence == durable
        with pytest.raises(Error, match="ignores conditional writes"):
            log.close()


def test_versioning_that_a_server_honours_costs_one_request(ministack: ServerProcess) -> None:
    with (
        proxied(ministack, tls=False) as proxy,
        LogDb.open(config(ministack, proxy, prefix(), flush_interval=None)) as log,
    ):
        proxy.adds = {"x-amz-version-id": "v1"}
        proxy.puts.clear()
        for at in range(3):
            log.try_append([(b"k", b"%d" % at)])
            log.flush()
        assert len(proxy.puts) == 4
