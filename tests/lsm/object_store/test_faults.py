"""The translation table, on exceptions as the client libraries raise them."""

from __future__ import annotations

import pickle

import aiohttp
import pytest
from botocore import exceptions as boto
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from lsm.object_store import ObjectExists, ObjectMissing, RequestRefused, StoreFault
from lsm.object_store.faults import RangePastEnd, translate


def client_error(status: int, code: str) -> boto.ClientError:
    answer = {"Error": {"Code": code, "Message": "said the server"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(answer, "PutObject")  # type: ignore[arg-type]


def judge(error: BaseException) -> Exception:
    return translate(error, action="write wal/1", where="s3://bucket/db")


@pytest.mark.parametrize("by_s3fs", [False, True], ids=["raw", "translated"])
@pytest.mark.parametrize(
    ("status", "code", "kind", "transient", "says"),
    [
        (412, "PreconditionFailed", ObjectExists, None, "taken"),
        (404, "NoSuchKey", ObjectMissing, None, "no such object"),
        (404, "404", ObjectMissing, None, "no such object"),
        (404, "NoSuchBucket", RequestRefused, False, "create it first"),
        (416, "InvalidRange", RangePastEnd, None, ""),
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

    found = judge(translate_boto_error(error) if by_s3fs else error)

    assert type(found) is kind
    assert says in str(found)
    if isinstance(found, StoreFault):
        assert found.transient is transient
        assert "s3://bucket/db" in str(found)


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        (boto.NoCredentialsError(), RequestRefused, False),
        (boto.EndpointConnectionError(endpoint_url="http://x"), StoreFault, True),
        (boto.ReadTimeoutError(endpoint_url="http://x"), StoreFault, True),
        (boto.ConnectTimeoutError(endpoint_url="http://x"), StoreFault, True),
        (boto.ConnectionClosedError(endpoint_url="http://x"), StoreFault, True),
        (boto.ParamValidationError(report="no"), StoreFault, False),
        (aiohttp.ClientPayloadError("cut off"), StoreFault, True),
        (aiohttp.ServerDisconnectedError(), StoreFault, True),
        (FSTimeoutError(), StoreFault, True),
        (TimeoutError(), StoreFault, True),
        (ConnectionResetError(), StoreFault, True),
        (OSError(5, "EIO"), StoreFault, True),
        (PermissionError("no"), RequestRefused, False),
        (FileExistsError("x"), ObjectExists, None),
        (FileNotFoundError("x"), ObjectMissing, None),
        (TypeError("bug"), StoreFault, False),
        (ValueError("bug"), StoreFault, False),
        (RuntimeError("not fork-safe"), StoreFault, False),
    ],
)
def test_exceptions_without_an_answer(error: Exception, kind: type[Exception], transient: bool | None) -> None:
    found = judge(error)

    assert type(found) is kind
    assert getattr(found, "transient", None) is transient


def test_the_answer_is_found_anywhere_on_the_chain_even_in_a_circle() -> None:
    inner, outer = client_error(412, "PreconditionFailed"), OSError(22, "Invalid argument")
    outer.__context__ = inner
    inner.__context__ = outer

    assert isinstance(judge(outer), ObjectExists)


@pytest.mark.parametrize(
    ("attribute", "status", "kind"),
    [("status_code", 412, ObjectExists), ("status", 503, StoreFault), ("code", 404, ObjectMissing)],
)
def test_status_attributes_of_azure_aiohttp_and_gcsfs(attribute: str, status: int, kind: type[Exception]) -> None:
    error = Exception("as these libraries raise it")
    setattr(error, attribute, status)

    assert type(judge(error)) is kind


def test_messages_never_carry_credentials() -> None:
    error = client_error(403, "AccessDenied")

    assert "secret" not in str(judge(error)).replace("key, secret and policy", "")
    assert pickle.dumps(ObjectExists("x"))
