"""Fixtures for every test: the S3 servers, each started once a session when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.s3 import Ministack, Seaweed, ServerProcess


@pytest.fixture(scope="session")
def ministack() -> Iterator[Ministack]:
    yield from _running(Ministack())


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    yield from _running(Seaweed())


def _running(server: ServerProcess) -> Iterator[ServerProcess]:
    try:
        server.start()
        yield server
    finally:
        server.stop()
