"""What a foreign exception means: the one table from the words of s3fs, gcsfs, adlfs and botocore to the contract's.

Errors are recognised by HTTP status, service code and class name, never by message text and never by importing the
client library: the packages behind a URL scheme are optional. The status sits somewhere on the `__cause__` chain,
because fsspec file systems re-raise (s3fs turns 412, 416 and a bad digest alike into OSError(EINVAL)).

| answer                                         | becomes                                  |
|------------------------------------------------|------------------------------------------|
| 412, FileExistsError                           | ObjectExists                             |
| 404, FileNotFoundError                         | ObjectMissing                            |
| 404 naming the bucket or container             | RequestRefused                           |
| 416                                            | RangePastEnd (the adapter returns b"")   |
| 401, 403, no credentials, wrong region, 400    | RequestRefused                           |
| 408, 409, 425, 429, 5xx but 501, lost upload   | StoreFault, transient                    |
| timeouts, broken connections, other OSErrors   | StoreFault, transient                    |
| anything else                                  | StoreFault, permanent                    |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lsm.errors import InvalidError
from lsm.object_store.contract import CREATE_BYTES_MAX, ObjectExists, ObjectMissing, StoreFault


class RequestRefused(StoreFault):
    """The backend said no before doing anything: a write refused like this was certainly not applied."""


class RangePastEnd(Exception):
    """The range starts at or after the end of the object. Stays inside the adapters."""


class _Answer(NamedTuple):
    status: int
    code: str
    message: str


_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_CREDENTIAL_CODES = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}
_CLOCK_CODES = {"RequestTimeTooSkewed", "RequestExpired"}
_DAMAGED_IN_TRANSIT = {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "SlowDown"}
_TRANSIENT_STATUS = {408, 409, 425, 429}
_CREDENTIAL_ERRORS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
}
_TRANSIENT_ERRORS = {
    "HTTPClientError",  # botocore: the parent of its connection and timeout errors
    "ConnectionError",
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


def translate(error: BaseException, *, action: str, where: str) -> Exception:
    """What `error` means: an ObjectExists, ObjectMissing, RangePastEnd or StoreFault to be raised from it.

    `action` ("write wal/01") and `where` (the store's URL) go into the message.
    """
    text = f"{action} at {where}: "
    if isinstance(error, FileExistsError):
        return ObjectExists(text + "the name is taken")
    for link in _chain(error):
        answer = _answer(link)
        if answer is not None:
            return _from_answer(answer, text, where)
    return _from_class(error, text)


def _from_answer(answer: _Answer, text: str, where: str) -> Exception:
    status, code, message = answer
    said = f"{status} {code} {message}".strip()
    if status == 412:
        return ObjectExists(text + "the name is taken")
    if code in _NO_BUCKET:
        return RequestRefused(text + f"the bucket of {where} does not exist; create it first ({said})", transient=False)
    if status == 404:
        return ObjectMissing(text + "no such object")
    if status == 416:
        return RangePastEnd(text + said)
    if code in _CLOCK_CODES:
        return RequestRefused(text + f"this machine's clock is wrong; set it ({said})", transient=False)
    if status in (401, 403) or code in _CREDENTIAL_CODES:
        return RequestRefused(text + f"credentials refused; check key, secret and policy ({said})", transient=False)
    if status in _TRANSIENT_STATUS or code in _DAMAGED_IN_TRANSIT or (status >= 500 and status != 501):
        return StoreFault(text + f"the store answered {said}", transient=True)
    if status in (301, 307, 308):
        return RequestRefused(text + f"wrong region or endpoint for this bucket ({said})", transient=False)
    return RequestRefused(text + f"the store refused the request: {said}", transient=False)


def _from_class(error: BaseException, text: str) -> Exception:
    names = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if names & _CREDENTIAL_ERRORS:
        return RequestRefused(text + f"no usable credentials; pass key and secret ({said})", transient=False)
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(text + "no such object")
    if isinstance(error, PermissionError):
        return RequestRefused(text + f"credentials refused; check key, secret and policy ({said})", transient=False)
    if names & _TRANSIENT_ERRORS or isinstance(error, OSError):
        return StoreFault(text + said, transient=True)
    return StoreFault(text + said, transient=False)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _answer(error: BaseException) -> _Answer | None:
    """The HTTP answer an exception carries: botocore's dict, or a status attribute as in gcsfs, azure and aiohttp."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        said = response.get("Error") or {}
        status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
        code = str(said.get("Code", ""))
        if status is None and code.isdigit():
            status = int(code)
        if isinstance(status, int):
            return _Answer(status, code, str(said.get("Message", "")))
        return None
    for attribute in ("status_code", "status", "code"):
        status = getattr(error, attribute, None)
        if isinstance(status, int) and 300 <= status <= 599:
            return _Answer(status, str(getattr(error, "error_code", None) or ""), str(error))
    return None
