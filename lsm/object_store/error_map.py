"""What a foreign exception means: the one table from the words of s3fs, gcsfs, adlfs and botocore to the contract's.

Errors are recognised by HTTP status, service code and class name, never by message text and never by importing the
client library: the packages behind a URL scheme are optional.

Only what the request itself raised counts. That is the exception and what it was explicitly raised from: s3fs re-raises
botocore's errors and sets `__cause__`. `__context__` is never followed, because Python sets it to whatever exception the
call happens to stand behind: the engine's own earlier request, or one the application is handling. A broken connection
ends the search: what lies behind it is no answer to this request.

`ObjectExists` and `ObjectMissing` are the store's positive answers, so they are concluded only where the request can get
them; everything else is unclear, and unclear is transient: it is asked again.

| answer                                         | to                | becomes                                  |
|------------------------------------------------|-------------------|------------------------------------------|
| 412, FileExistsError                           | write             | ObjectExists                             |
| 404 of an object, FileNotFoundError            | read, look, delete| ObjectMissing                            |
| 404 without a code of the service              | look              | ObjectMissing (the answer has no body)   |
| 416                                            | read              | RangePastEnd (the adapter returns b"")   |
| 404 naming the bucket or container             | anything          | RequestRefused                           |
| FileNotFoundError without an answer            | write, list       | RequestRefused (the bucket is missing)   |
| 404 and 412 where they are none of the above   | anything          | StoreFault, transient                    |
| 401, 403, no credentials, wrong region, 400    | anything          | RequestRefused                           |
| 408, 409, 425, 429, 5xx but 501, lost upload   | anything          | StoreFault, transient                    |
| refused, unknown host, certificate             | anything          | Unreachable                              |
| timeouts, broken connections, other OSErrors   | anything          | StoreFault, transient                    |
| illegal names and options                      | anything          | InvalidError                             |
| anything else                                  | anything          | StoreFault, permanent                    |
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from lsm.errors import InvalidError
from lsm.object_store.contract import CREATE_BYTES_MAX, ObjectExists, ObjectMissing, StoreFault
from lsm.object_store.faults import RangePastEnd, RequestRefused, Unreachable

Request = Literal["write", "read", "look at", "list", "delete"]


class _Answer(NamedTuple):
    status: int
    code: str
    message: str

    def __str__(self) -> str:
        return " ".join(str(part) for part in self if part)


_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_NO_OBJECT = {"NoSuchKey", "NoSuchVersion", "BlobNotFound", ""}
"""Codes of a 404 that speak of the object; gcsfs, azure and aiohttp give none. A page of some gateway has another one."""
_CREDENTIAL_CODES = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}
_CLOCK_CODES = {"RequestTimeTooSkewed", "RequestExpired"}
_ILLEGAL_CODES = {"InvalidBucketName"}
_DAMAGED_IN_TRANSIT = {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "SlowDown"}
_TRANSIENT_STATUS = {408, 409, 425, 429}
_CREDENTIAL_ERRORS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
}
_ILLEGAL_ERRORS = {"ParamValidationError", "ProfileNotFound", "InvalidRegionError", "ConfigParseError", "NoRegionError"}
_BROKEN_ERRORS = {
    "HTTPClientError",  # botocore: the parent of its connection and timeout errors
    "ConnectionError",  # botocore's and Python's own
    "gaierror",
    "ReadTimeoutError",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "ResponseParserError",
    "IncompleteReadError",
    "ResponseStreamingError",
    "CredentialRetrievalError",  # the metadata service did not answer; it usually does a moment later
    "ClientError",  # aiohttp; botocore's class of the same name carries an HTTP status and never gets here
    "ServiceRequestError",  # azure
    "ServiceResponseError",
    "ChecksumError",  # gcsfs
}


def oversize(name: str, size: int) -> InvalidError:
    """The error for an object above CREATE_BYTES_MAX."""
    return InvalidError(f"object {name!r} has {size} bytes; no object may exceed {CREATE_BYTES_MAX}")


def translate(error: BaseException, request: Request, name: str, where: str) -> Exception:
    """What `error` means for a request about `name`: an ObjectExists, ObjectMissing, RangePastEnd, InvalidError or
    StoreFault to be raised from it. `where`, the store's URL, goes into the message."""
    text = f"{request} {name} at {where}: "
    for link in _links(error):
        answer = _answer(link)
        if answer is not None:
            return _from_answer(answer, request, text, where)
        found = _from_class(link, text, where)
        if found is not None:
            return found
    return _from_outermost(error, request, text, where)


WRONG_OPTION = (TypeError, ValueError, AttributeError)
"""What an option of the wrong name or type makes of the first use."""


def unusable(error: BaseException, where: str) -> Exception:
    """What an `error` means that came up before the first request, while the client was made from its options."""
    found = translate(error, "list", "everything", where)
    is_bug = isinstance(found, StoreFault) and not found.transient and not isinstance(found, RequestRefused)
    if isinstance(error, WRONG_OPTION) or isinstance(found, InvalidError) or is_bug:
        return InvalidError(f"{where}: the storage options do not fit: {_said(error)}")
    return found


def _from_answer(answer: _Answer, request: Request, text: str, where: str) -> Exception:
    status, code = answer.status, answer.code
    if status == 412 and request == "write":
        return ObjectExists(text + "the name is taken")
    if code in _NO_BUCKET:
        return RequestRefused(text + f"the bucket of {where} does not exist; create it first ({answer})")
    if status == 404 and _is_missing(request, code):
        return ObjectMissing(text + "no such object")
    if status == 416 and request == "read":
        return RangePastEnd(text + str(answer))
    if code in _ILLEGAL_CODES:
        return InvalidError(text + f"the bucket's name is not allowed ({answer})")
    if code in _CLOCK_CODES:
        return RequestRefused(text + f"this machine's clock is wrong; set it ({answer})")
    if status in (401, 403) or code in _CREDENTIAL_CODES:
        return RequestRefused(text + f"credentials refused; check key, secret and policy ({answer})")
    if status in _TRANSIENT_STATUS or code in _DAMAGED_IN_TRANSIT or (status >= 500 and status != 501):
        return StoreFault(text + f"the store answered {answer}", transient=True)
    if status in (404, 412):
        return StoreFault(text + f"the store gave an answer that settles nothing: {answer}", transient=True)
    if status in (301, 302, 307, 308):
        return RequestRefused(text + _WRONG_PLACE.format(answer))
    return RequestRefused(text + f"the store refused the request: {answer}")


_WRONG_PLACE = "wrong region or endpoint for this bucket; check endpoint_url and region_name ({})"


def _is_missing(request: Request, code: str) -> bool:
    if request == "look at":
        return code in _NO_OBJECT or code == "404"  # botocore's word for an answer without a body
    return request in ("read", "delete") and code in _NO_OBJECT


def _from_class(link: BaseException, text: str, where: str) -> Exception | None:
    """What the class of one exception says by itself, or None where what it was raised from may say more."""
    names = {kind.__name__ for kind in type(link).__mro__}
    if names & _CREDENTIAL_ERRORS:
        return RequestRefused(text + f"no usable credentials; pass key and secret ({_said(link)})")
    if names & _ILLEGAL_ERRORS:
        return InvalidError(f"{where}: the bucket's name or the storage options cannot be used: {_said(link)}")
    if isinstance(link, RecursionError):
        # botocore looks for the bucket's region where it is redirected, and is redirected again.
        return RequestRefused(text + _WRONG_PLACE.format("redirected for ever"))
    if names & _BROKEN_ERRORS:
        return _unreachable(link, text) or StoreFault(text + _said(link), transient=True)
    return None


def _from_outermost(error: BaseException, request: Request, text: str, where: str) -> Exception:
    if isinstance(error, FileExistsError) and request == "write":
        return ObjectExists(text + "the name is taken")
    if isinstance(error, FileNotFoundError):
        if request in ("write", "list"):
            return RequestRefused(text + f"the bucket or container of {where} does not exist; create it first")
        return ObjectMissing(text + "no such object")
    if isinstance(error, PermissionError):
        return RequestRefused(text + f"credentials refused; check key, secret and policy ({_said(error)})")
    return StoreFault(text + _said(error), transient=isinstance(error, OSError))


_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}


def _unreachable(link: BaseException, text: str) -> Exception | None:
    """Why no connection came about, where that is known for certain."""
    host = _host(link)
    for each in reversed(list(_inside(link))):  # The innermost says most.
        if isinstance(each, ssl.SSLCertVerificationError):
            advice = "check `verify`, the path of the CA file, and AWS_CA_BUNDLE"
            said = getattr(each, "verify_message", None) or "verification failed"
            return Unreachable(text + f"the certificate of {host} is not accepted ({said}); {advice}", can_heal=False)
        if isinstance(each, ssl.SSLError) and getattr(each, "library", None) in ("X509", "PEM"):
            return InvalidError(text + "the CA file holds no certificate; check `verify` and AWS_CA_BUNDLE")
        if isinstance(each, ssl.SSLError) and getattr(each, "reason", None) in _NO_TLS:
            return Unreachable(text + f"{host} does not speak TLS; check the scheme of endpoint_url", can_heal=False)
        if isinstance(each, FileNotFoundError):
            return InvalidError(text + "the CA file does not exist; check `verify` and AWS_CA_BUNDLE")
        if isinstance(each, socket.gaierror):
            advice = "check endpoint_url and the name service"
            return Unreachable(text + f"the host of {host} cannot be found ({each.strerror}); {advice}", can_heal=True)
        if isinstance(each, OSError) and each.errno == errno.ECONNREFUSED:
            advice = "check endpoint_url, and that the server runs"
            return Unreachable(text + f"{host} refused the connection; {advice}", can_heal=True)
    return None


def _inside(link: BaseException) -> Iterator[BaseException]:
    """An exception and those it was made of: botocore keeps aiohttp's in `kwargs`, aiohttp the system's in `os_error`."""
    yield link
    kwargs = getattr(link, "kwargs", None)
    inner = kwargs.get("error") if isinstance(kwargs, Mapping) else None
    for each in (link, inner):
        if isinstance(each, BaseException):
            if each is not link:
                yield each
            for attribute in ("os_error", "certificate_error"):
                deeper = getattr(each, attribute, None)
                if isinstance(deeper, BaseException):
                    yield deeper


def _host(link: BaseException) -> str:
    kwargs = getattr(link, "kwargs", None)
    if isinstance(kwargs, Mapping) and kwargs.get("endpoint_url"):
        address = urlsplit(str(kwargs["endpoint_url"]))
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
    for each in _inside(link):
        if getattr(each, "host", None):
            return f"{each.host}:{getattr(each, 'port', '')}".rstrip(":")  # type: ignore[attr-defined]
    return "the server"


def _said(error: BaseException) -> str:
    """The exception in words. aiohttp puts `[None]` where the system gave no reason."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    kwargs = getattr(error, "kwargs", None)
    inner = kwargs.get("error") if isinstance(kwargs, Mapping) else None
    said = f"{type(error).__name__}: {error}".replace(" [None]", "").rstrip(": ")
    # "Could not connect" is botocore's word for every broken connection.
    return f"{said} ({type(inner).__name__}: {inner})".replace(" [None]", "") if inner else said


def _links(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was explicitly raised from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _answer(error: BaseException) -> _Answer | None:
    """The HTTP answer an exception carries: botocore's dict, or a status attribute as in gcsfs, azure and aiohttp."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        said = response.get("Error") or {}
        status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
        code = str(said.get("Code") or "")
        if status is None and code.isdigit():
            status = int(code)
        if isinstance(status, int):
            return _Answer(status, code, str(said.get("Message") or ""))
        return None
    for attribute in ("status_code", "status", "code"):
        status = getattr(error, attribute, None)
        if isinstance(status, int) and 300 <= status <= 599:
            return _Answer(status, str(getattr(error, "error_code", None) or ""), str(error))
    return None
