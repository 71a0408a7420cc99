"""The result as a table: as wide as the terminal, readable without colour, in ASCII where the stream has no Unicode."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from opendata_log.bench.measure import Measure

_BLOCKS = " ▏▎▍▌▋▊▉█"
_WIDTH_MIN, _WIDTH_MAX = 72, 120
_BOLD, _DIM, _CYAN, _GREEN = "1", "2", "36", "32"


@dataclass(frozen=True)
class Style:
    """The abilities of the output: its width in columns, colour, Unicode."""

    width: int = 80
    colour: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO | None = None) -> Style:
        """The style for `stream`; None: stdout. NO_COLOR and COLUMNS are respected."""
        out = stream if stream is not None else sys.stdout
        width = min(_WIDTH_MAX, max(_WIDTH_MIN, shutil.get_terminal_size((80, 24)).columns))
        colour = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        try:
            (_BLOCKS + "─✓µ·").encode(out.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls(width, colour, unicode=False)
        return cls(width, colour)

    def paint(self, text: str, *codes: str) -> str:
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.colour and text.strip() else text

    def plain(self, text: str) -> str:
        """`text` with characters replaced that the stream cannot encode."""
        if self.unicode:
            return text
        for fancy, simple in (("µ", "u"), ("─", "-"), ("✓ ", ""), ("·", "-"), ("█", "#")):
            text = text.replace(fancy, simple)
        return text.encode("ascii", "replace").decode("ascii")


# Columns left to right: title, width, right-aligned, minimum terminal width. The bar gets the rest of the width.
_COLUMNS = (
    ("phase", 15, False, 0),
    ("count", 10, True, 100),
    ("time", 8, True, 0),
    ("rate", 8, True, 0),
    ("", 0, False, 0),
    ("MB/s", 6, True, 0),
    ("p50", 7, True, 0),
    ("p99", 7, True, 0),
    ("requests", 8, True, 110),
    ("checked", 10, False, 0),
)
_BAR = 4


def render(measures: Sequence[Measure], style: Style) -> str:
    """The table as text: a heading, a rule, one line per phase, a rule."""
    shown = [number for number, column in enumerate(_COLUMNS) if style.width >= column[3]]
    widths = {number: _COLUMNS[number][1] for number in shown}
    widths[_BAR] = max(4, style.width - sum(widths.values()) - len(shown) + 1)
    top = max((measure.per_second or 0.0 for measure in measures if measure.bytes), default=0.0)
    rule = style.paint(style.plain("─" * style.width), _DIM)
    heading = _joined([column[0] for column in _COLUMNS], shown, widths)
    lines = [style.paint(heading, _BOLD), rule]
    for measure in measures:
        cells = _cells(measure, style, top, widths[_BAR])
        line = _joined(cells, shown, widths) + (f"  {measure.note}" if measure.note else "")
        lines.append(_painted(style.plain(line), cells, style))
    return "\n".join([*lines, rule])


def _cells(measure: Measure, style: Style, top: float, bar_width: int) -> list[str]:
    rate = measure.per_second
    bar = _bar((rate or 0.0) / top, bar_width, style) if measure.bytes and top else ""
    return [
        measure.name,
        f"{measure.count:,}" if measure.count else "",
        _time(measure.seconds) if measure.seconds else "",
        f"{_number(rate)}/s" if rate else "",
        bar,
        _megabytes(measure.bytes_per_second),
        _time(measure.latency(0.50)),
        _time(measure.latency(0.99)),
        f"{sum(measure.requests.values()):,}" if measure.requests else "",
        "✓ verified" if measure.verified else "",
    ]


def _joined(cells: Sequence[str], shown: Sequence[int], widths: dict[int, int]) -> str:
    aligned = [
        cells[number].rjust(widths[number]) if _COLUMNS[number][2] else cells[number].ljust(widths[number])
        for number in shown
    ]
    return " ".join(aligned).rstrip()


def _painted(line: str, cells: Sequence[str], style: Style) -> str:
    """Colour the finished line. Colour codes have no width, so they are added last."""
    name, bar, mark = cells[0], cells[_BAR], cells[-1]
    if bar.strip():
        line = line.replace(bar.rstrip(), style.paint(bar.rstrip(), _CYAN), 1)
    if mark:
        line = line.replace(mark, style.paint(mark, _GREEN), 1)
    return style.paint(name, _BOLD) + line[len(name) :]


def _bar(share: float, width: int, style: Style) -> str:
    """A bar of `share` of the width; eighths of a cell where the stream can show them."""
    if not style.unicode:
        return "#" * max(1, round(share * width))
    eighths = max(1, round(share * width * 8))
    return "█" * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} M" if value < 1e7 else f"{value / 1e6:.1f} M"
    if value >= 1e4:
        return f"{value / 1e3:.0f} k"
    return f"{value:,.0f}"


def _megabytes(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{rate / 1e6:,.0f}" if rate >= 1e8 else f"{rate / 1e6:.1f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs" if seconds < 1e-4 else f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"
