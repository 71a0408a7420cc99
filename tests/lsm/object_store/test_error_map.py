"""The translation table, on exceptions as the client libraries raise them."""

from __future__ import annotations

import pickle
import urllib.error
from email.message import Message
from typing import get_args

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from botocore import exceptions as boto
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from lsm.errors import InvalidError
from lsm.object_store import ObjectExists, ObjectMissing, RequestRefused, StoreFault
from lsm.object_store.error_map import Request, translate
from lsm.object_store.faults import RangePastEnd

REQUESTS: tuple[Request, ...] = get_args(Request)


def client_error(status: int, code: str) -> boto.ClientError:
    answer = {"Error": {"Code": code, "Message": "said the server"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(answer, "PutObject")  # type: ignore[arg-type]


def judge(error: BaseException, request: Request = "write") -> Exception:
    return translate(error, request, "wal/1", "s3://bucket/db")


@pytest.mark.parametrize("by_s3fs", [False, True], ids=["raw", "translated"])
@pytest.mark.parametrize(
    ("status", "code", "kind", "transient", "says"),
    [
        (404, "NoSuchBucket", RequestRefused, False, "create it first"),
        (409, "ConditionalRequestConflict", StoreFault, True, "409"),
        (403, "AccessDenied", RequestRefused, False, "credentials"),
        (403, "InvalidAccessKeyId", RequestRefused, False, "credentials"),
        (403, "SignatureDoesNotMatch", RequestRefused, False, "credentials"),
        (400, "ExpiredToken", RequestRefused, False, "credentials"),
        (403, "RequestTimeTooSkewed", RequestRefused, False, "clock"),
        (400, "RequestTimeout", StoreFault, True, "400"),
        (400, "BadDigest", StoreFault, True, "BadDigest"),
        (400, "InvalidRequest", RequestRefused, False, "InvalidRequest"),
        (301, "PermanentRedirect", RequestRefused, False, "region"),
        (429, "TooManyRequests", StoreFault, True, "429"),
        (500, "InternalError", StoreFault, True, "500"),
        (501, "NotImplemented", RequestRefused, False, "501"),
        (503, "SlowDown", StoreFault, True, "503"),
    ],
)
def test_answers_of_s3(
    by_s3fs: bool, status: int, code: str, kind: type[Exception], transient: bool | None, says: str
) -> None:
    error = client_error(status, code)

    for request in REQUESTS:
        found = judge(translate_boto_error(error) if by_s3fs else error, request)

        assert type(found) is kind
        assert says in str(found)
        assert "s3://bucket/db" in str(found)
        assert isinstance(found, StoreFault)
        assert found.transient is transient


@pytest.mark.parametrize("by_s3fs", [False, True], ids=["raw", "translated"])
@pytest.mark.parametrize(
    ("status", "code", "kind", "requests"),
    [
        (412, "PreconditionFailed", ObjectExists, ["write"]),
        (404, "NoSuchKey", ObjectMissing, ["read", "look at", "delete"]),
        (404, "404", ObjectMissing, ["look at"]),
        (404, "SomeGateway", ObjectMissing, []),
        (416, "InvalidRange", RangePastEnd, ["read"]),
    ],
)
def test_only_a_request_that_can_get_an_answer_believes_it(
    by_s3fs: bool, status: int, code: str, kind: type[Exception], requests: list[Request]
) -> None:
    error = client_error(status, code)

    for request in REQUESTS:
        found = judge(translate_boto_error(error) if by_s3fs else error, request)

        if request in requests:
            assert type(found) is kind
        else:
            assert isinstance(found, StoreFault)
            assert found.transient or status == 416


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        (boto.NoCredentialsError(), RequestRefused, False),
        (boto.EndpointConnectionError(endpoint_url="http://x"), StoreFault, True),
        (boto.ReadTimeoutError(endpoint_url="http://x"), StoreFault, True),
        (boto.ConnectTimeoutError(endpoint_url="http://x"), StoreFault, True),
        (boto.ConnectionClosedError(endpoint_url="http://x"), StoreFault, True),
        (boto.ParamValidationError(report="no"), InvalidError, None),
        (aiohttp.ClientPayloadError("cut off"), StoreFault, True),
        (aiohttp.ServerDisconnectedError(), StoreFault, True),
        (FSTimeoutError(), StoreFault, True),
        (TimeoutError(), StoreFault, True),
        (ConnectionResetError(), StoreFault, True),
        (OSError(5, "EIO"), StoreFault, True),
        (PermissionError("no"), RequestRefused, False),
        (FileExistsError("x"), ObjectExists, None),
        (FileNotFoundError("x"), RequestRefused, False),
        (TypeError("bug"), StoreFault, False),
        (ValueError("bug"), StoreFault, False),
        (RuntimeError("not fork-safe"), StoreFault, False),
    ],
)
def test_exceptions_without_an_answer(error: Exception, kind: type[Exception], transient: bool | None) -> None:
    found = judge(error)

    assert type(found) is kind
    assert getattr(found, "transient", None) is transient


def test_a_missing_file_is_a_missing_object_only_where_an_object_was_asked_for() -> None:
    for request in REQUESTS:
        expected = ObjectMissing if request in ("read", "look at", "delete") else RequestRefused
        assert type(judge(FileNotFoundError("x"), request)) is expected


def test_the_answer_is_found_in_what_an_error_was_raised_from_even_in_a_circle() -> None:
    inner, outer = client_error(412, "PreconditionFailed"), OSError(22, "Invalid argument")
    outer.__cause__ = inner
    inner.__cause__ = outer

    assert isinstance(judge(outer), ObjectExists)


ELSEWHERE = [
    client_error(412, "PreconditionFailed"),
    client_error(404, "NoSuchKey"),
    client_error(404, "NoSuchBucket"),
    client_error(403, "AccessDenied"),
    FileExistsError("x"),
    FileNotFoundError("x"),
    PermissionError("x"),
    urllib.error.HTTPError("http://elsewhere", 404, "Not Found", Message(), None),
]


@pytest.mark.parametrize("elsewhere", ELSEWHERE, ids=lambda error: f"{type(error).__name__}-{error}"[:40])
@pytest.mark.parametrize(
    "broken",
    [
        boto.EndpointConnectionError(endpoint_url="http://x"),
        boto.ReadTimeoutError(endpoint_url="http://x"),
        aiohttp.ClientPayloadError("cut off"),
        ConnectionResetError(),
        FSTimeoutError(),
        OSError(5, "EIO"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_under_way_when_a_connection_broke_is_no_answer(broken: Exception, elsewhere: Exception) -> None:
    for request in REQUESTS:
        broken.__context__ = elsewhere
        found = judge(broken, request)

        assert type(found) is StoreFault
        assert found.transient


def test_a_missing_file_concluded_from_a_broken_connection_is_no_answer() -> None:
    concluded = FileNotFoundError("could not be looked at")
    concluded.__cause__ = boto.EndpointConnectionError(endpoint_url="http://x")

    for request in REQUESTS:
        found = judge(concluded, request)
        assert isinstance(found, StoreFault)
        assert found.transient


def test_no_text_holds_the_word_for_nothing() -> None:
    answer = {"Error": {"Code": None, "Message": None}, "ResponseMetadata": {"HTTPStatusCode": 503}}
    key = ConnectionKey("localhost", 9000, False, True, None, None, None)

    for error in (
        boto.ClientError(answer, "GetObject"),  # type: ignore[arg-type]
        aiohttp.ClientConnectorError(key, OSError("Multiple exceptions")),
    ):
        assert "None" not in str(judge(error))


@pytest.mark.parametrize(
    ("attribute", "status", "kind"),
    [("status_code", 412, ObjectExists), ("status", 503, StoreFault), ("code", 404, ObjectMissing)],
)
def test_status_attributes_of_azure_aiohttp_and_gcsfs(attribute: str, status: int, kind: type[Exception]) -> None:
    error = Exception("as these libraries raise it")
    setattr(error, attribute, status)

    assert type(judge(error, "write" if status == 412 else "read")) is kind


def test_messages_never_carry_credentials() -> None:
    error = client_error(403, "AccessDenied")

    assert "secret" not in str(judge(error)).replace("key, secret and policy", "")
    assert pickle.dumps(ObjectExists("x"))
