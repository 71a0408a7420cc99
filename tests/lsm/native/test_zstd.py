"""What is done in C: zstd by either of two modules, whose frames are the same, and crc32c out of a package left out."""

from __future__ import annotations

import importlib
import importlib.util
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from lsm.native import zstd

ROOT = Path(__file__).resolve().parents[3]
OWN = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
"""Python's own module, or the same code for older versions."""


def module_with(monkeypatch: pytest.MonkeyPatch, modules: dict[str, ModuleType | None]) -> ModuleType:
    """`lsm.native.zstd` once more, in a Python where `modules` are what they are mapped to. None: not there."""
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.find_spec("lsm.native.zstd")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
    return made


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """By the package zstandard; by Python's own module."""
    package = pytest.importorskip("zstandard")
    own = pytest.importorskip(OWN)
    places = {"compression": ModuleType("compression"), "compression.zstd": own}
    return module_with(monkeypatch, {"zstandard": package}), module_with(monkeypatch, {"zstandard": None, **places})


def contents() -> list[bytes]:
    chance = random.Random(4)
    sizes = (0, 1, 10, 1000, 131_072, 131_073, 400_000)
    words = [(b"some words %d, " * (size // 10 + 1))[:size] for size in sizes]
    return [*words, *map(bytes, sizes), *map(chance.randbytes, sizes)]


@pytest.mark.parametrize("level", [1, 3, 9])
def test_either_writes_the_same_frames_and_reads_the_others(pair: tuple[ModuleType, ModuleType], level: int) -> None:
    compressors = [each.compressor(level) for each in pair]

    for content in contents():
        frames = [compress(content) for compress in compressors]
        assert frames[0] == frames[1]
        for module in pair:
            assert module.decompress(memoryview(frames[0]), len(content)) == content
            assert b"".join(module.frame_contents(memoryview(frames[0] * 3), 1 << 16)) == content * 3


def test_either_refuses_frames_of_another_size(pair: tuple[ModuleType, ModuleType]) -> None:
    for module in pair:
        for content in contents():
            frame = module.compressor(1)(content)
            for size in (len(content) + 1, len(content) - 1):
                if size >= 0:
                    with pytest.raises(module.ZstdError):
                        module.decompress(frame, size)


def test_either_notices_the_same_damage(pair: tuple[ModuleType, ModuleType]) -> None:
    chance = random.Random(8)

    def outcome(module: ModuleType, call: Callable[[], bytes]) -> bytes | None:
        try:
            return call()
        except module.ZstdError:
            return None

    for content in filter(None, contents()):
        frame = pair[0].compressor(1)(content)
        damaged = [frame[: chance.randrange(len(frame))] for _ in range(5)]
        for _ in range(20):
            flipped = bytearray(frame)
            flipped[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
            damaged.append(bytes(flipped))
        for each in damaged:
            found = [outcome(module, lambda m=module, d=each: m.decompress(d, len(content))) for module in pair]
            assert found[0] == found[1], (len(content), each[:20])
        for module in pair:
            with pytest.raises(module.ZstdError):
                list(module.frame_contents(frame + b"no frame", 1 << 16))
            cut = b"".join(module.frame_contents((frame * 2)[:-3], 1 << 16))
            assert (content * 2).startswith(cut)
            assert len(cut) < 2 * len(content)


def test_a_python_without_any_zstd_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match="pip install zstandard"):
        module_with(monkeypatch, {"zstandard": None, "compression": None, "compression.zstd": None})


WITHOUT_PACKAGE = """
import importlib, sys, types
sys.path.insert(0, {root!r})
own = importlib.import_module({own!r})
sys.modules.update({{"zstandard": None, "compression": types.ModuleType("compression"), "compression.zstd": own}})
from opendata_log import Config, LogDb
import lsm
with LogDb.open(Config(storage={url!r})) as log:
    for value in range({start}, {start} + 100):
        log.append(b"key", b"value %d " % value * 100)
    log.flush()
    assert [entry.value for entry in log.scan(b"key")] == [b"value %d " % value * 100 for value in range({start} + 100)]
assert lsm.fsck({url!r}).is_sound
"""


def test_a_log_is_written_by_one_and_the_other_in_turn(tmp_path: Path) -> None:
    pytest.importorskip(OWN)
    pytest.importorskip("zstandard")
    url = f"file://{tmp_path}/log"

    for turn in range(3):
        program = WITHOUT_PACKAGE.format(root=str(ROOT), own=OWN, url=url, start=100 * turn)
        if turn == 1:
            program = "\n".join(line for line in program.splitlines() if "sys.modules" not in line)
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_checksum_is_that_of_the_package_and_does_without_it() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from lsm.native.checksum import crc32c\n"
        "assert 'crc32c' not in sys.modules\n"
        "import crc32c as package\n"
        "for data in (b'', b'123456789', bytes(70_000)):\n"
        "    assert crc32c(data) == package.crc32c(data)\n"
        "    assert crc32c(memoryview(data), 7) == package.crc32c(data, 7)\n"
        "assert crc32c(b'123456789') == 0xE3069283\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_where_the_extension_is_no_file_the_package_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "crc32c", raising=False)
        patch.setattr("importlib.machinery.ExtensionFileLoader", type("NoLoader", (), {}))
        spec = importlib.util.spec_from_file_location("checksum", ROOT / "lsm" / "native" / "checksum.py")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)

    assert made.crc32c(b"123456789") == 0xE3069283


def test_a_forged_size_of_a_block_allocates_nothing() -> None:
    frame = zstd.compressor(1)(bytes(1 << 20))

    with pytest.raises(zstd.ZstdError):
        zstd.decompress(frame, 1 << 10)
