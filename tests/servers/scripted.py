"""An S3 bucket in this process, behind the s3fs object that the adapter talks to: every exception is botocore's own.

It uses no sockets, so thousands of runs are affordable. `rough.py` tests the behaviour of the sockets themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import s3fs
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from tests.servers.rough import ANSWERS, APPLIED, Act, Seen

BUCKET = "scripted-bucket"
_METHODS = {
    "put_object": "PUT",
    "get_object": "GET",
    "head_object": "HEAD",
    "list_objects_v2": "LIST",
    "delete_object": "DELETE",
}


class ScriptedBucket:
    """The objects, and a rule that decides the fate of each request. Copies are independent."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = dict(objects or {})
        self.rule: Callable[[Seen], Act | None] | None = None
        self.seen: list[Seen] = []
        self._lock = threading.Lock()

    def copy(self) -> ScriptedBucket:
        return ScriptedBucket(self.objects)

    def file_system(self) -> ScriptedFileSystem:
        return ScriptedFileSystem(self)

    def answer(self, method: str, fields: dict[str, Any]) -> Any:
        """The client's result of one request. Raises: as s3fs does."""
        key = fields.get("Key", fields.get("Prefix", ""))
        with self._lock:
            seen = Seen(len(self.seen), _METHODS[method], key)
            self.seen.append(seen)
            act = self.rule(seen) if self.rule is not None else None
            if act is not None and act not in APPLIED:
                return _failed(act, method)
            try:
                answer = getattr(self, method)(**fields)
            except boto.ClientError as error:
                if act is not None:
                    return _failed(act, method)
                raise translate_boto_error(error) from error
        return answer if act is None else _failed(act, method)

    # -- the service --------------------------------------------------------------------------------------------------

    def put_object(self, Key: str, Body: bytes, IfNoneMatch: str, **_: Any) -> Any:
        assert IfNoneMatch == "*"
        if Key in self.objects:
            raise _error(412, "PreconditionFailed", "PutObject")
        self.objects[Key] = bytes(Body)
        return {"ETag": "etag", "ResponseMetadata": {"HTTPStatusCode": 200}}

    def get_object(self, Key: str, Range: str | None = None, **_: Any) -> Any:
        found = self._found(Key, "GetObject")
        if Range is not None:
            start, _, end = Range.removeprefix("bytes=").partition("-")
            if int(start) >= len(found):
                raise _error(416, "InvalidRange", "GetObject")
            found = found[int(start) : int(end) + 1 if end else None]
        return {"ETag": "etag", "Body": _Body(found)}

    def head_object(self, Key: str, **_: Any) -> Any:
        if Key not in self.objects:
            raise _error(404, "404", "HeadObject")
        return {"ETag": "etag", "ContentLength": len(self.objects[Key]), "LastModified": _MODIFIED}

    def list_objects_v2(self, Prefix: str, **_: Any) -> Any:
        found = [
            {"Key": key, "Size": len(body), "LastModified": _MODIFIED}
            for key, body in sorted(self.objects.items())
            if key.startswith(Prefix)
        ]
        return {"IsTruncated": False, "Contents": found}

    def delete_object(self, Key: str, **_: Any) -> Any:
        self.objects.pop(Key, None)
        return {"ResponseMetadata": {"HTTPStatusCode": 204}}

    def _found(self, key: str, operation: str) -> bytes:
        if key not in self.objects:
            raise _error(404, "NoSuchKey", operation)
        return self.objects[key]


class ScriptedFileSystem(s3fs.S3FileSystem):  # type: ignore[misc]
    """s3fs with the bucket in place of its client."""

    cachable = False

    def __init__(self, bucket: ScriptedBucket) -> None:
        super().__init__(anon=True, skip_instance_cache=True)
        self._bucket = bucket

    async def set_session(self, *arguments: Any, **options: Any) -> None:
        return None

    async def _call_s3(self, method: str, *arguments: Any, **fields: Any) -> Any:
        fields.pop("Bucket")
        return self._bucket.answer(method, fields)


_MODIFIED = datetime(2026, 1, 1, tzinfo=UTC)
_PAGE = b"<html><body>Welcome to the hotel</body></html>"


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        return self._data

    def close(self) -> None:
        return None


def _failed(act: Act, method: str) -> Any:
    """What the client makes of a request that something became of."""
    if act in (Act.RESET_BEFORE, Act.RESET_AFTER):
        raise boto.EndpointConnectionError(endpoint_url="http://scripted", error=ConnectionResetError(104, "reset"))
    if act in (Act.SILENCE_BEFORE, Act.SILENCE_AFTER):
        raise FSTimeoutError
    if act is Act.GARBAGE:
        raise ResponseParserError("Unable to parse response")
    if act is Act.PAGE:
        # An answer of the service without anything the service says; a read gets the page for content.
        return {"Body": _Body(_PAGE), "ETag": "etag"} if method == "get_object" else {}
    status, code = ANSWERS[act]
    if method == "head_object":
        code = str(status)
    raise translate_boto_error(_error(status, code, method))


def _error(status: int, code: str, operation: str) -> boto.ClientError:
    answer = {"Error": {"Code": code, "Message": "said the bucket"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(answer, operation)  # type: ignore[arg-type]
