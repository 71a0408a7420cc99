"""A proxy between an S3 client and a server that does to each request what a rough network does.

    with FaultProxy(server.port) as proxy:
        proxy.rule = lambda request: Act.RESET_AFTER if request.method == "PUT" else None

The rule is asked once for each request that arrives, re-sent ones included, in the order in which they arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple


class Act(enum.Enum):
    """The fate of a request. The name shows whether the request reaches the server."""

    RESET_BEFORE = "the connection breaks, nothing was applied"
    RESET_AFTER = "applied, then the connection breaks"
    TAKEN_AFTER = "applied, then answered 412 as a second copy of the request would be"
    MISSING = "404 NoSuchKey"
    FORBIDDEN = "403 AccessDenied"
    BUSY = "503 SlowDown"
    MOVED = "301 PermanentRedirect, without a region"
    PAGE = "200 with a gateway's page for people"
    GARBAGE = "bytes that are no HTTP"
    SILENCE_BEFORE = "nothing is ever answered, nothing was applied"
    SILENCE_AFTER = "applied, and nothing is ever answered"


ANSWERS = {
    Act.TAKEN_AFTER: (412, "PreconditionFailed"),
    Act.MISSING: (404, "NoSuchKey"),
    Act.FORBIDDEN: (403, "AccessDenied"),
    Act.BUSY: (503, "SlowDown"),
    Act.MOVED: (301, "PermanentRedirect"),
}
APPLIED = {Act.RESET_AFTER, Act.TAKEN_AFTER, Act.SILENCE_AFTER}
_PAGE = b"<html><head><title>Sign in</title></head><body><p>Welcome to the hotel</p></body></html>"


class Seen(NamedTuple):
    """A request as it arrived."""

    number: int
    method: str
    path: str


class FaultProxy:
    """Listens on a free port of the loopback until it is closed."""

    def __init__(self, port: int) -> None:
        self.rule: Callable[[Seen], Act | None] | None = None
        self.seen: list[Seen] = []
        self._server_port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        self.port: int = started.result(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    async def _start(self) -> int:
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def _stop(self) -> None:
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- one connection -----------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while await self._serve(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request. Return False if the connection has ended."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if _header(head, b"expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(_header(head, b"content-length") or 0))
        seen = Seen(len(self.seen), method, path)
        self.seen.append(seen)
        act = self.rule(seen) if self.rule is not None else None
        answer = b""
        if act is None or act in APPLIED:
            answer = await self._forward(head, body)
        if act in (Act.RESET_BEFORE, Act.RESET_AFTER):
            _reset(writer)
            return False
        if act in (Act.SILENCE_BEFORE, Act.SILENCE_AFTER):
            await reader.read()  # Until the client gives up.
            return False
        if act is Act.GARBAGE:
            answer = bytes(range(256)) + b"\r\n\r\n"
        elif act is Act.PAGE:
            answer = _reply(200, "OK", b"text/html", b"" if method == "HEAD" else _PAGE)
        elif act is not None:
            status, code = ANSWERS[act]
            xml = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>as the test has it</Message></Error>'
            answer = _reply(status, code, b"application/xml", b"" if method == "HEAD" else xml.encode())
        writer.write(answer)
        await writer.drain()
        return act is not Act.GARBAGE and b"connection: close" not in answer[: answer.find(b"\r\n\r\n")].lower()

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server_port, limit=1 << 20)
        dropped = (b"connection:", b"expect:")
        lines = [line for line in head.split(b"\r\n")[:-2] if not line.lower().startswith(dropped)]
        writer.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
        answer = await reader.read(-1)
        writer.close()
        split = answer.find(b"\r\n\r\n") + 4
        if _header(answer[:split], b"transfer-encoding"):
            return answer  # Self-delimiting, with a header that announces the end of the connection.
        return answer


def _reply(status: int, reason: str, kind: bytes, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind.decode()}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def _reset(writer: asyncio.StreamWriter) -> None:
    """Send RST instead of FIN, as a firewall or a dying machine does."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
