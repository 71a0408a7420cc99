"""The pages of the documentation, run: each page is one session, block after block, as a reader would type it."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, Ministack
from tests.test_tidy import ROOT

PAGES = ["docs/index.md", "docs/tutorial.md", "docs/concepts.md"]
PAGES += sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*/*.md") if "```python" in path.read_text("utf-8")
)
ON_S3 = "docs/how-to/s3.md"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:```output\n(?P<output>.*?)^```)?", re.DOTALL | re.MULTILINE)


def run(page: str, text: str) -> int:
    """Run every block of `text` in one namespace, and compare what each prints. Returns the number of blocks."""
    names: dict[str, object] = {"__name__": "page"}
    count = 0
    for found in BLOCK.finditer(text):
        line = text[: found.start()].count("\n") + 2
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (line - 1) + found["code"], page, "exec"), names)
        assert printed.getvalue() == (found["output"] or ""), f"{page}:{line}"
        count += 1
    return count


@pytest.mark.parametrize("page", [page for page in PAGES if page != ON_S3])
def test_a_page_prints_what_it_shows(page: str) -> None:
    assert run(page, (ROOT / page).read_text("utf-8"))


@pytest.mark.s3
def test_the_page_about_s3_prints_what_it_shows(ministack: Ministack) -> None:
    text = (ROOT / ON_S3).read_text("utf-8")
    for shown, real in {
        "http://localhost:9000": ministack.endpoint,
        '"key": "minioadmin"': f'"key": "{ACCESS_KEY}"',
        '"secret": "minioadmin"': f'"secret": "{SECRET_KEY}"',
        '"s3://bucket/orders"': f'"s3://{BUCKET}/page"',
    }.items():
        assert shown in text, f"{ON_S3} shows {shown} no more"
        text = text.replace(shown, real)

    assert run(ON_S3, text)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)

    assert made.returncode == 0, made.stderr
    assert "try_append" in (tmp_path / "site" / "reference" / "opendata_log" / "index.html").read_text("utf-8")
