"""S3 servers for the tests: real processes on free loopback ports, started when the first test needs one.

    Ministack   pure Python, in memory, up in 0.6 s: the fast default
    Seaweed     SeaweedFS (`weed mini`), persistent, strict: survives `kill` and `start` on the same ports and directory

Both die with the thread that started them, however it ends: the kernel kills them when it goes (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import s3fs

ACCESS_KEY, SECRET_KEY = "lsmtestkey", "lsmtestsecret"
BUCKET = "lsm-tests"
_READY_SECONDS = 60.0
_LAUNCH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: outlives the exec, tied to the thread that called start()
os.execv(sys.argv[1], sys.argv[1:])
"""


class ServerProcess:
    """One server: its command, its ports, its log file, and the fsspec options to reach it."""

    name = ""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"lsm-{self.name}-"))
        self.log_path = self.directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    # -- what tests use -------------------------------------------------------------------------------------------

    def url(self, prefix: str) -> str:
        """The store URL of a prefix in the test bucket."""
        return f"s3://{BUCKET}/{prefix.strip('/')}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        raise NotImplementedError

    @property
    def storage_options(self) -> dict[str, Any]:
        """A fresh copy of the options that s3fs needs."""
        return {
            "key": ACCESS_KEY,
            "secret": SECRET_KEY,
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }

    def start(self) -> None:
        """Start on the same ports and directory as before, and wait until requests are answered."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, *self._command()],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                env={**os.environ, **self._environment()},
                start_new_session=True,
            )
        self._wait_until_ready()

    def kill(self) -> None:
        """SIGKILL, as a crash of the machine would: no shutdown of any kind."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)

    def restart(self) -> None:
        """kill -9 and start again; SeaweedFS keeps what it acknowledged."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End the process and remove its files. Idempotent."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def file_system(self) -> s3fs.S3FileSystem:
        """A plain s3fs for a test's own purposes, not shared with any store. Close with `close_file_system`."""
        return s3fs.S3FileSystem(**self.storage_options, skip_instance_cache=True, use_listings_cache=False)

    def make_bucket(self, bucket: str) -> None:
        fs = self.file_system()
        try:
            fs.call_s3("create_bucket", Bucket=bucket)
        finally:
            close_file_system(fs)

    # -- starting -------------------------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return {}

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        last: Exception | None = None
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended while starting:\n{self.log_tail()}")
            try:
                if self._answers():
                    self._ensure_bucket()
                    return
            except Exception as error:
                last = error
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} did not become ready: {last}\n{self.log_tail()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=1.0):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return error.code < 500
        except OSError:
            return False

    def _ensure_bucket(self) -> None:
        fs = self.file_system()
        fs.retries = 1
        try:
            names = [bucket["Name"] for bucket in fs.call_s3("list_buckets").get("Buckets", [])]
            if BUCKET not in names:
                fs.call_s3("create_bucket", Bucket=BUCKET)
            # Ready means that a write goes through, which on SeaweedFS takes a little longer than listing.
            fs.call_s3("put_object", Bucket=BUCKET, Key="ready", Body=b"")
        finally:
            close_file_system(fs)

    def log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log_path.read_text("utf-8", "replace").splitlines()[-30:])
        return "(no log)"


class Ministack(ServerProcess):
    """AWS emulator in one event loop. Accepts any key; forgets everything when it ends."""

    name = "ministack"

    def __init__(self) -> None:
        super().__init__()
        self._port = free_ports(1)[0]

    @property
    def port(self) -> int:
        return self._port

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "ministack"]

    def _environment(self) -> dict[str, str]:
        return {"GATEWAY_PORT": str(self._port), "BIND_HOST": "127.0.0.1", "TMPDIR": str(self.directory)}


class Seaweed(ServerProcess):
    """`weed mini`: master, volume, filer and S3 gateway in one process, with all ports chosen here."""

    name = "seaweed"

    def __init__(self) -> None:
        super().__init__()
        ports = free_ports(12)
        self._ports = dict(zip(_SEAWEED_PORTS, ports, strict=True))

    @property
    def port(self) -> int:
        return self._ports["s3.port"]

    def _command(self) -> list[str]:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        sockets = [f"-{part}.localSocket={self.directory}/{part}.sock" for part in ("filer", "s3")]
        return [
            _executable("weed"),
            "mini",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *sockets,
            *(f"-{flag}={port}" for flag, port in self._ports.items()),
        ]

    def _environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "HOME": str(self.directory)}


_SEAWEED_PORTS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "metricsPort",
    "s3.metricsPort",
)


def free_ports(count: int) -> list[int]:
    """Free ports. All are held open until the last is found, so they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def close_file_system(fs: s3fs.S3FileSystem) -> None:
    """Close an s3fs session, which otherwise stays open until the file system is collected."""
    creator = getattr(fs, "_s3creator", None)
    if creator is not None:
        fs.close_session(fs.loop, creator)


def _executable(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed beside {sys.executable}; run make setup")
    return found
