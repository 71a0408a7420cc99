"""S3 through s3fs, one request a call.

s3fs's own file calls send too many requests: HEAD+GET to read a whole object, LIST+HEAD+LIST to find a prefix missing. So
this adapter uses the client call under them. Bodies stay under 100 MiB, so a create is always one conditional PUT and never
a multipart upload, whose condition some servers ignore.

Checksums: over https, botocore by default sends a PUT with a trailing checksum in aws-chunked framing. Ceph 16 and gateways
answer 411 to it, and s3rver stores the framing as content. So this module computes the checksum and sends it in a header,
over http and https.

Retries: botocore and s3fs do not retry. aiohttp still re-sends a PUT if a kept-alive connection breaks, so an ObjectExists
may come from the first copy (ReliableStore reads back).

Cost: about 1 ms of CPU per request, nearly all in botocore; about 900 requests/s per process.
"""

from __future__ import annotations

import contextlib
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, NoReturn

from lsm.errors import InvalidError
from lsm.native.checksum import crc32c
from lsm.object_store.contract import ObjectInfo, ObjectMissing, StoreFault
from lsm.object_store.error_map import WRONG_OPTION, Request, unusable
from lsm.object_store.fsspec_store import FsspecStore, modified_ms

_CLOSE_SECONDS = 5.0
_DIGESTS: Mapping[str, Callable[[bytes], bytes]] = {
    "CRC32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "CRC32C": lambda body: crc32c(body).to_bytes(4, "big"),
    "SHA1": lambda body: _hashed("sha1", body),
    "SHA256": lambda body: _hashed("sha256", body),
}
"""Checksum functions by S3 algorithm name."""


def _hashed(algorithm: str, body: bytes) -> bytes:
    import hashlib  # It loads OpenSSL, which only those need who ask for these checksums.

    return hashlib.new(algorithm, body).digest()


def s3_options(storage_options: Mapping[str, Any], *, request_timeout: float) -> dict[str, Any]:
    """Return the arguments for s3fs: ours, overridden by the user's. `config_kwargs` and its `retries` merge key by key."""
    config = {
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "connect_timeout": min(5.0, request_timeout),
        "read_timeout": request_timeout,
        "max_pool_connections": 64,
    }
    theirs = dict(storage_options)
    config = _merged(config, theirs.pop("config_kwargs", None) or {})
    return {"use_listings_cache": False, "skip_instance_cache": True, **theirs, "config_kwargs": config}


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    both = {**ours, **theirs}
    retries = theirs.get("retries")
    if isinstance(retries, Mapping) and "max_attempts" in retries:
        return both  # `max_attempts` is another name of our limit, and botocore refuses both together
    for key in ours.keys() & theirs.keys():
        if isinstance(ours[key], Mapping) and isinstance(theirs[key], Mapping):
            both[key] = {**ours[key], **theirs[key]}
    return both


class S3Store(FsspecStore):
    """A bucket and prefix behind an s3fs.S3FileSystem.

    Every call but head detects a missing bucket. The answer to a head has no body, so there it looks like a missing object.
    """

    def __init__(self, fs: Any, root: str, url: str, **options: Any) -> None:
        super().__init__(fs, root, url, **options)
        self._is_connected = False
        self._has_worked = False
        self._bucket, _, self._prefix = self._stem.lstrip("/").partition("/")
        self._seen: set[tuple[str, bool]] = set()

    @property
    def generation(self) -> int:
        """Number of server kinds seen, less one. A kind is the server software, and whether the bucket is versioned. Servers
        behind one host name may differ; each kind counts once."""
        return max(0, len(self._seen) - 1)

    def _run(self, function: Callable[..., Any], *arguments: Any, timeout: float, **options: Any) -> Any:
        if not self._is_connected:
            self._connect(timeout)
        found = super()._run(function, *arguments, timeout=timeout, **options)
        self._has_worked = True
        return found

    def _connect(self, timeout: float) -> None:
        """Make the client, which checks the options. No request is sent to the store yet.

        Raises: InvalidError if the options cannot be used.
        """
        try:
            super()._run(self._fs.set_session, timeout=timeout)
        except (InvalidError, StoreFault):
            raise
        except Exception as error:
            raise unusable(error, self.url) from error
        events = getattr(getattr(getattr(self._fs, "_s3", None), "meta", None), "events", None)
        if events is not None:
            events.register("before-call.s3.HeadBucket", _ask_once, unique_id="ask_once")
        self._is_connected = True

    def _raise(self, error: Exception, request: Request, name: str) -> NoReturn:
        if isinstance(error, WRONG_OPTION) and not isinstance(error, InvalidError) and not self._has_worked:
            raise unusable(error, self.url) from error
        super()._raise(error, request, name)

    def _request(self, method: str, timeout: float, **fields: Any) -> Any:
        return self._run(self._fs._call_s3, method, Bucket=self._bucket, timeout=timeout, **fields)

    def _create(self, name: str, body: bytes, timeout: float) -> None:
        checksum = self._checksum(body)
        answer = self._request("put_object", timeout, Key=self._prefix + name, Body=body, IfNoneMatch="*", **checksum)
        _check(answer, "ETag")
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self._seen.add((headers.get("server", ""), bool(answer.get("VersionId"))))

    def _checksum(self, body: bytes) -> dict[str, str]:
        """Return the `put_object` parameter for the checksum header. The user's options may name the algorithm."""
        if (self._fs.config_kwargs or {}).get("request_checksum_calculation") == "when_required":
            return {}
        algorithm = (self._fs.s3_additional_kwargs or {}).get("ChecksumAlgorithm", "CRC32")
        digest = _DIGESTS.get(algorithm)
        return {} if digest is None else {f"Checksum{algorithm}": b64encode(digest(body)).decode()}

    def _read(self, name: str, start: int, end: int | None, timeout: float) -> bytes:
        fields = {"Bucket": self._bucket, "Key": self._prefix + name}
        if start or end is not None:
            fields["Range"] = f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"
        found = self._run(_fetch, self._fs, fields, timeout=timeout)
        if not isinstance(found, bytes):
            raise ConnectionAbortedError("the request was cancelled")
        return found

    def _look(self, name: str, timeout: float) -> ObjectInfo | None:
        answer = self._request("head_object", timeout, Key=self._prefix + name)
        _check(answer, "ETag")
        return ObjectInfo(name, answer["ContentLength"], modified_ms(answer))

    def _list(self, prefix: str, timeout: float) -> list[ObjectInfo]:
        """List objects. Cost: one request per 1,000 objects. `timeout` is the limit of each request."""
        found: list[ObjectInfo] = []
        more: dict[str, str] = {}
        while True:
            answer = self._request("list_objects_v2", timeout, Prefix=self._prefix + prefix, **more)
            _check(answer, "IsTruncated")
            for entry in answer.get("Contents", ()):
                name = entry["Key"][len(self._prefix) :]
                if name and not name.endswith("/"):  # consoles and SeaweedFS store empty objects as directory markers
                    found.append(ObjectInfo(name, entry["Size"], modified_ms(entry)))
            if not answer.get("IsTruncated"):
                return found
            _check(answer, "NextContinuationToken")
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, name: str, *, timeout: float) -> None:
        try:
            self._request("delete_object", timeout, Key=self._prefix + name)
        except Exception as error:
            with contextlib.suppress(ObjectMissing):
                self._raise(error, "delete", name)

    def close(self) -> None:
        if self._is_closed:
            return
        super().close()
        # A file system of the application stays open: the application may go on using it.
        creator = getattr(self._fs, "_s3creator", None)
        if self._is_owned and creator is not None:
            # s3fs closes its session in a finalizer, which may run late and waits only a tenth of a second.
            with contextlib.suppress(Exception):
                self._sync(self._fs.loop, creator.__aexit__, None, None, None, timeout=_CLOSE_SECONDS)


_has_asked: ContextVar[bool] = ContextVar("has_asked", default=False)


def _ask_once(**_: Any) -> tuple[Any, dict[str, Any]] | None:
    """Answer botocore's second HeadBucket within one request ourselves, naming no region. That ends its recursion.

    After a redirect, botocore asks for the bucket's region by HeadBucket. If that is redirected, too, it asks again, until
    the stack overflows. The adapter itself never sends HeadBucket.
    """
    if _has_asked.get():
        return SimpleNamespace(status_code=200), {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": {}}}
    _has_asked.set(True)
    return None


def _check(answer: Any, field: str) -> None:
    """Raise ConnectionError for an answer without `field`, which the service always sends.

    A gateway's own page with status 200 would otherwise pass for an empty listing or for a stored object. `answer` is None if
    the request was cancelled.
    """
    if not answer or answer.get(field) is None:
        raise ConnectionAbortedError(f"the answer has no {field}: it is not the store's")


async def _fetch(fs: Any, fields: Mapping[str, Any]) -> bytes:
    answer = await fs._call_s3("get_object", **fields)
    body = answer["Body"]
    try:
        _check(answer, "ETag")
        found: bytes = await body.read()
    finally:
        body.close()
    return found
