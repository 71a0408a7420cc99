"""Maps exceptions of s3fs, gcsfs, adlfs and botocore to the exceptions of the contract.

Errors are recognised by HTTP status, service code and class name. Message texts are not used. Client libraries are not
imported, because the packages behind a URL scheme are optional.

The search follows `__cause__`, which s3fs sets when it re-raises botocore's errors. The search never follows `__context__`:
Python sets that to any exception that is being handled, even one of an earlier request or of the application. A broken
connection ends the search, because what caused it is not the answer to this request.

`ObjectExists` and `ObjectMissing` are definite answers, so an answer is mapped to one of them only if the request can get
it. Any other 404 or 412 is unclear. An unclear answer is a transient fault, and the request is repeated.

| answer                                         | to                | becomes                                  |
|------------------------------------------------|-------------------|------------------------------------------|
| 412, FileExistsError                           | write             | ObjectExists                             |
| 404 of an object, FileNotFoundError            | read, look, delete| ObjectMissing                            |
| 404 without a code of the service              | look              | ObjectMissing (the answer has no body)   |
| 416                                            | read              | RangePastEnd (the adapter returns b"")   |
| 404 naming the bucket or container             | anything          | RequestRefused                           |
| FileNotFoundError without an answer            | write, list       | RequestRefused (the bucket is missing)   |
| any other 404 or 412                           | anything          | StoreFault, transient                    |
| 401, 403, no credentials, wrong region, 400    | anything          | RequestRefused                           |
| 408, 409, 425, 429, 5xx but 501, lost upload   | anything          | StoreFault, transient                    |
| refused, unknown host, certificate             | anything          | Unreachable                              |
| timeouts, broken connections, other OSErrors   | anything          | StoreFault, transient                    |
| illegal names and options                      | anything          | InvalidError                             |
| anything else                                  | anything          | StoreFault, permanent                    |
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

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
"""Codes of a 404 about an object; gcsfs, azure and aiohttp give no code. A gateway's own page has another code."""
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
    """Return the error for an object above CREATE_BYTES_MAX."""
    return InvalidError(f"object {name!r} has {size} bytes; no object may exceed {CREATE_BYTES_MAX}")


def translate(error: BaseException, request: Request, name: str, where: str) -> Exception:
    """Return the exception to raise from `error`, which a request about `name` raised: an ObjectExists, ObjectMissing,
    RangePastEnd, InvalidError or StoreFault. `where` is the store's URL, for the message."""
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
"""Raised at the first use of a client whose options have a wrong name or type."""


def unusable(error: BaseException, where: str) -> Exception:
    """Return the exception to raise from `error`, which was raised while the client was made, before the first request."""
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
        return code in _NO_OBJECT or code == "404"  # botocore's code for an answer without a body
    return request in ("read", "delete") and code in _NO_OBJECT


def _from_class(link: BaseException, text: str, where: str) -> Exception | None:
    """Map one exception by its class. None: the class is not in the tables; look at its cause."""
    names = {kind.__name__ for kind in type(link).__mro__}
    if names & _CREDENTIAL_ERRORS:
        return RequestRefused(text + f"no usable credentials; pass key and secret ({_said(link)})")
    if names & _ILLEGAL_ERRORS:
        return InvalidError(f"{where}: the bucket's name or the storage options cannot be used: {_said(link)}")
    if isinstance(link, RecursionError):
        # After a redirect botocore looks for the bucket's region at the new address, and is redirected again.
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
    """Return why no connection was made. None: the reason is not certain."""
    host = _host(link)
    for each in reversed(list(_inside(link))):  # The innermost exception names the reason most exactly.
        names = {kind.__name__ for kind in type(each).__mro__}
        if "SSLCertVerificationError" in names:
            advice = "check `verify`, the path of the CA file, and AWS_CA_BUNDLE"
            said = getattr(each, "verify_message", None) or "verification failed"
            return Unreachable(text + f"the certificate of {host} is not accepted ({said}); {advice}", can_heal=False)
        if "SSLError" in names and getattr(each, "library", None) in ("X509", "PEM"):
            return InvalidError(text + "the CA file holds no certificate; check `verify` and AWS_CA_BUNDLE")
        if "SSLError" in names and getattr(each, "reason", None) in _NO_TLS:
            return Unreachable(text + f"{host} does not speak TLS; check the scheme of endpoint_url", can_heal=False)
        if isinstance(each, FileNotFoundError):
            return InvalidError(text + "the CA file does not exist; check `verify` and AWS_CA_BUNDLE")
        if "gaierror" in names:
            said = getattr(each, "strerror", None)
            advice = "check endpoint_url and the name service"
            return Unreachable(
                text + f"the host of {host} cannot be found ({said}); {advice}",
                can_heal=True,
            )
        if isinstance(each, OSError) and each.errno == errno.ECONNREFUSED:
            advice = "check endpoint_url, and that the server runs"
            return Unreachable(text + f"{host} refused the connection; {advice}", can_heal=True)
    return None


def _inside(link: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those it wraps: botocore keeps aiohttp's in `kwargs`, aiohttp the system's in `os_error`."""
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
        from urllib.parse import urlsplit

        address = urlsplit(str(kwargs["endpoint_url"]))
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
    for each in _inside(link):
        host = getattr(each, "host", None)
        if host:
            return f"{host}:{getattr(each, 'port', '')}".rstrip(":")
    return "the server"


def _said(error: BaseException) -> str:
    """Describe an exception. aiohttp writes `[None]` if the system gave no reason."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    kwargs = getattr(error, "kwargs", None)
    inner = kwargs.get("error") if isinstance(kwargs, Mapping) else None
    said = f"{type(error).__name__}: {error}".replace(" [None]", "").rstrip(": ")
    # botocore calls every broken connection "Could not connect"; the wrapped exception is more exact.
    return f"{said} ({type(inner).__name__}: {inner})".replace(" [None]", "") if inner else said


def _links(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and its chain of causes."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _answer(error: BaseException) -> _Answer | None:
    """Return the HTTP answer in an exception: botocore's dict, or a status attribute as in gcsfs, azure and aiohttp."""
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
