"""Proxies in front of an S3 server, in this process: TLS with a certificate of its own, and what other servers do to a PUT.

`loopback.pem` is the key and the certificate of 127.0.0.1, made for these tests and good for nothing else; `loopback_ca.pem` is
the certificate alone, which a client must be configured to trust.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers.s3 import ServerProcess

CA_FILE = Path(__file__).with_name("loopback_ca.pem")
_KEY_FILE = Path(__file__).with_name("loopback.pem")
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Proxy:
    """Passes requests on unchanged, except as the attributes configure. Remembers the headers of every PUT."""

    def __init__(self, server: ServerProcess, *, tls: bool) -> None:
        self.server = server
        self._http = _Server(self, server.port)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(_KEY_FILE)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._tls = tls
        self.puts: list[dict[str, str]] = []
        self.refuses_chunks = False
        """Answers a PUT without Content-Length with 411, as Ceph 16 does."""
        self.drops_conditions = False
        """The condition of a create never reaches the server."""
        self.adds: dict[str, str] = {}
        """Headers of every answer."""
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def storage_options(self) -> dict[str, Any]:
        options = self.server.storage_options
        scheme = "https" if self._tls else "http"
        options["endpoint_url"] = f"{scheme}://127.0.0.1:{self._http.server_port}"
        if self._tls:
            options["client_kwargs"]["verify"] = str(CA_FILE)
        return options

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextlib.contextmanager
def proxied(server: ServerProcess, *, tls: bool) -> Iterator[Proxy]:
    proxy = Proxy(server, tls=tls)
    try:
        yield proxy
    finally:
        proxy.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: Proxy, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy
        self.target = target

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors: a client may hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        if self._is_refused():
            self._answer(411, {}, b"")
            return False
        return super().handle_expect_100()

    def _is_refused(self) -> bool:
        return self.command == "PUT" and self.server.proxy.refuses_chunks and "Content-Length" not in self.headers

    def _pass(self) -> None:
        proxy = self.server.proxy
        if self.command == "PUT":
            proxy.puts.append({key.lower(): value for key, value in self.headers.items()})
        if self._is_refused():
            self.close_connection = True
            self._answer(411, {}, b"")
            return
        body = self._body()
        headers = {key: value for key, value in self.headers.items() if key.lower() not in _HOP | {"expect"}}
        if self.command == "PUT":
            headers["Content-Length"] = str(len(body))
            if proxy.drops_conditions:
                headers = {key: value for key, value in headers.items() if key.lower() != "if-none-match"}
            # A server that does not know aws-chunked stores the framing as content.
            for key in [each for each in headers if each.lower() in ("content-encoding", "x-amz-trailer")]:
                del headers[key]
        backend = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        try:
            backend.request(self.command, self.path, body, headers)
            answer = backend.getresponse()
            content = answer.read()
        finally:
            backend.close()
        self._answer(
            answer.status, {**dict(answer.getheaders()), **proxy.adds}, content, answer.getheader("Content-Length")
        )

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        found = b""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return found

    def _answer(self, status: int, headers: dict[str, str], content: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            if key.lower() not in _HOP:
                self.send_header(key, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", (length or "0") if is_head else str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass


def framed(puts: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The PUTs whose body came in aws-chunked framing, or with a trailer."""
    return [
        each
        for each in puts
        if "aws-chunked" in each.get("content-encoding", "")
        or "x-amz-trailer" in each
        or "STREAMING" in each.get("x-amz-content-sha256", "")
        or "content-length" not in each
    ]
