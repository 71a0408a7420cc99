"""Wrong options and addresses: which error, how soon, and what it tells to check."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from botocore import exceptions as boto

from lsm.errors import InvalidError, UnavailableError
from lsm.object_store import MemoryStore, ObjectStore, ReliableStore, open_store
from lsm.object_store import reliable as reliable_module
from lsm.object_store.error_map import translate
from lsm.object_store.faults import RequestRefused, Unreachable
from lsm.object_store.reliable import FIRST_CONTACT_SECONDS
from opendata_log import InvalidInputError, LogDb, LogDbReader, StorageConfig, StorageError
from tests.doubles import WrappedStore
from tests.lsm.object_store.test_reliable import FastRuntime
from tests.servers.s3 import BUCKET, Ministack, free_ports

SOUND = {
    "key": "a",
    "secret": "b",
    "endpoint_url": "http://127.0.0.1:9",
    "client_kwargs": {"region_name": "us-east-1"},
}


def first_request(url: str = f"s3://{BUCKET}/db", **options: Any) -> None:
    store = open_store(url, {key: value for key, value in {**SOUND, **options}.items() if value is not None})
    try:
        store.list("manifest/", timeout=10.0)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"client_kwargs": {"nonsense": 1}}, "nonsense"),
        ({"config_kwargs": {"nonsense": 1}}, "nonsense"),
        ({"endpoint_url": "127.0.0.1:9000"}, r"127\.0\.0\.1:9000"),
        ({"endpoint_url": "localhost"}, "localhost"),
        ({"client_kwargs": {"region_name": "us east"}}, "us east"),
        ({"client_kwargs": {"region_name": "us-east-1", "verify": "/nowhere/ca.pem"}}, r"/nowhere/ca\.pem"),
        ({"profile": "nobody", "key": None, "secret": None}, "nobody"),
        ({"config_kwargs": {"retries": 5}}, "storage options"),
        ({"config_kwargs": 5}, "storage options"),
        ({"client_kwargs": 5}, "storage options"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_that_cannot_work_are_invalid_input(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidError, match=says) as caught:
        first_request(**options)
    assert "None" not in str(caught.value)


@pytest.mark.parametrize("bucket", ["a b", "x", "B_", "a" * 256, "bücket"])
def test_a_name_no_bucket_can_have_is_invalid_input_without_a_request(bucket: str) -> None:
    with pytest.raises(InvalidError, match="bucket"):
        open_store(f"s3://{bucket}/db", SOUND)


def test_a_service_that_calls_the_buckets_name_illegal_is_believed() -> None:
    said = {"Error": {"Code": "InvalidBucketName"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    error = boto.ClientError(said, "ListObjectsV2")  # type: ignore[arg-type]

    assert isinstance(translate(error, "list", "manifest/", "s3://x"), InvalidError)


def test_logs_raise_their_own_class_of_it() -> None:
    storage = StorageConfig(url=f"s3://{BUCKET}/db", storage_options={**SOUND, "nonsense": 1})
    for opening in (LogDb.open, LogDbReader.open):
        with pytest.raises(InvalidInputError, match="nonsense"):
            opening(storage=storage)


# -- no connection ----------------------------------------------------------------------------------------------------


def failed_connection(reason: OSError) -> Exception:
    """As aiobotocore raises it."""
    key = ConnectionKey("nobody.test", 9000, True, True, None, None, None)
    if isinstance(reason, ssl.SSLCertVerificationError):
        inner: Exception = aiohttp.ClientConnectorCertificateError(key, reason)
        return boto.SSLError(endpoint_url="https://nobody.test:9000/bucket/key", error=inner)
    inner = aiohttp.ClientConnectorError(key, reason)
    return boto.EndpointConnectionError(endpoint_url="https://nobody.test:9000/bucket/key", error=inner)


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    error.library, error.reason = "SSL", "CERTIFICATE_VERIFY_FAILED"
    return error


def not_tls_error() -> ssl.SSLError:
    error = ssl.SSLError(1, "wrong version number")
    error.library, error.reason = "SSL", "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("reason", "can_heal", "says"),
    [
        (ConnectionRefusedError(111, "Connection refused"), True, "endpoint_url"),
        (certificate_error(), False, "self-signed certificate.*`verify`, the path of the CA file"),
        (not_tls_error(), False, "scheme of endpoint_url"),
    ],
    ids=["refused", "certificate", "no TLS"],
)
def test_why_there_is_no_connection_is_told_with_what_to_check(reason: OSError, can_heal: bool, says: str) -> None:
    found = translate(failed_connection(reason), "list", "manifest/", "s3://bucket/db")

    assert isinstance(found, Unreachable)
    assert found.can_heal is can_heal
    assert "https://nobody.test:9000" in str(found)
    with pytest.raises(Unreachable, match=says):
        raise found


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(Unreachable, match=r"no-such-host\.invalid.*endpoint_url"):
        first_request(endpoint_url="http://no-such-host.invalid")


def test_a_connection_that_broke_is_no_wrong_address() -> None:
    for reason in (ConnectionResetError(104, "reset"), OSError(113, "No route to host"), ssl.SSLEOFError(8, "EOF")):
        found = translate(failed_connection(reason), "list", "manifest/", "s3://bucket/db")
        assert not isinstance(found, Unreachable | InvalidError)


class Failing(WrappedStore):
    """Raises what it is told to."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.fault: Exception | None = None

    def _around(self, call: str, name: str, request: Callable[[], Any]) -> Any:
        if self.fault is not None:
            raise self.fault
        return request()


@pytest.mark.parametrize("can_heal", [True, False])
def test_a_store_that_was_never_reached_is_given_up_soon_and_one_that_was_is_not(can_heal: bool) -> None:
    runtime = FastRuntime()
    failing = Failing(MemoryStore())
    store = ReliableStore(failing, runtime, op_timeout=60.0, request_timeout=15.0)
    failing.fault = Unreachable("nobody listens", can_heal=can_heal)

    with pytest.raises(UnavailableError, match="nobody listens") as caught:
        store.list("manifest/")
    assert runtime.now < FIRST_CONTACT_SECONDS if can_heal else runtime.now == 0
    assert caught.value.retryable is can_heal

    failing.fault = None
    store.list("manifest/")
    failing.fault = Unreachable("nobody listens", can_heal=can_heal)
    began = runtime.now

    with pytest.raises(UnavailableError, match="within 60 s") as caught:
        store.with_cause("another view").list("manifest/")
    assert runtime.now - began > 59
    assert caught.value.retryable
    runtime.close()


def test_a_short_deadline_stays_short() -> None:
    runtime = FastRuntime()
    failing = Failing(MemoryStore())
    failing.fault = Unreachable("nobody listens", can_heal=True)

    with pytest.raises(UnavailableError, match="within 1 s"):
        ReliableStore(failing, runtime, op_timeout=1.0, request_timeout=15.0).get("x")
    assert runtime.now <= 1.0
    runtime.close()


def test_a_log_on_a_refused_port_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reliable_module, "FIRST_CONTACT_SECONDS", 0.2)
    options = {**SOUND, "endpoint_url": f"http://127.0.0.1:{free_ports(1)[0]}"}
    storage = StorageConfig(url=f"s3://{BUCKET}/db", storage_options=options)

    for opening in (LogDb.open, LogDbReader.open):
        with pytest.raises(StorageError, match="check endpoint_url") as caught:
            opening(storage=storage)
        assert options["endpoint_url"] in str(caught.value)
        assert "None" not in str(caught.value)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_refusal_is_not_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FastRuntime()
    failing = Failing(MemoryStore())
    store = ReliableStore(failing, runtime, op_timeout=60.0, request_timeout=15.0)
    failing.fault = RequestRefused("403")

    with pytest.raises(UnavailableError) as caught:
        store.put_new("x", [b"x"])

    assert not caught.value.retryable
    assert not caught.value.outcome_unknown
    assert runtime.now == 0
    runtime.close()


@pytest.mark.s3
def test_a_missing_bucket_is_not_retryable(ministack: Ministack) -> None:
    storage = StorageConfig(url="s3://no-such-bucket/db", storage_options=ministack.storage_options)

    for opening in (LogDb.open, LogDbReader.open):
        with pytest.raises(StorageError, match=r"no-such-bucket.*create it first") as caught:
            opening(storage=storage)
        assert not caught.value.retryable


def test_a_ca_file_without_a_certificate_is_invalid_input(tmp_path: Path) -> None:
    nothing = tmp_path / "ca.pem"
    nothing.write_text("nothing")

    with pytest.raises(InvalidError, match="CA file"):
        first_request(
            endpoint_url="https://127.0.0.1:9", client_kwargs={"region_name": "us-east-1", "verify": str(nothing)}
        )
