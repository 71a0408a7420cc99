"""For every test: the S3 servers, each started once a session when the first test asks for it; and a summary that counts
lint checks apart from tests."""

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lint checks are many and small: one a file and rule. Counted among the tests they would make the suite look larger."""
    reports = [
        each for found in terminalreporter.stats.values() for each in found if isinstance(each, pytest.TestReport)
    ]
    checks = {each.nodeid for each in reports if "lint" in each.keywords}
    tests = {each.nodeid for each in reports} - checks
    if reports:
        terminalreporter.write_line(f"{len(checks)} lint checks, {len(tests)} tests")
