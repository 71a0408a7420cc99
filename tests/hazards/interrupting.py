"""Raises an exception at a chosen point of the product's code, in the calling thread only."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = (f"{ROOT}/lsm/", f"{ROOT}/opendata_log/")
CALLS = ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD")
"""Instructions after which the interpreter checks for signals."""


@cache
def names_of(code: CodeType) -> dict[int, str]:
    return {found.offset: found.opname for found in dis.get_instructions(code)}


@cache
def is_never_reached(code: CodeType, at: int) -> bool:
    """Whether only a trace function could raise before the instruction there. It begins the way out of a `with` block, up to
    the call of `__exit__`, without which no lock could be relied on; or it is the `try` itself, which no handler covers."""
    following = [(found.opname, found.argval) for found in dis.get_instructions(code) if found.offset >= at][:5]
    if following[0][0] == "NOP":
        return True
    while following and following[0][0] in ("SWAP", "PUSH_EXC_INFO"):
        del following[0]
    ends_well = len(following) >= 3 and all(name == "LOAD_CONST" and value is None for name, value in following[:3])
    return ends_well or (bool(following) and following[0][0] == "WITH_EXCEPT_START")


@cache
def handler_of(code: CodeType, at: int) -> int | None:
    """The start of the exception handler that covers the instruction; None if no handler does."""
    found = [each.target for each in dis.Bytecode(code).exception_entries if each.start <= at < each.end]
    return found[0] if found else None


class Interrupter:
    """`run` raises `error` at point number `at` of those the call passes; None: only count them.

    Points are the beginnings of lines and the ends of calls, where the interpreter raises KeyboardInterrupt.
    """

    def __init__(self, at: int | None, error: type[BaseException], code: tuple[str, ...] = PRODUCT) -> None:
        self._code = code
        self._at = at
        self._error = error
        self._last: dict[FrameType, int] = {}
        self.points = 0
        self.where = ""

    @property
    def has_fired(self) -> bool:
        return bool(self.where)

    def run(self, call: Callable[[], Any]) -> Any:
        tracer_before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return call()
        finally:
            sys.settrace(tracer_before)
            self._last.clear()

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        code, at = frame.f_code, frame.f_lasti
        if not code.co_filename.startswith(self._code) or self.has_fired:
            return None
        frame.f_trace_opcodes = True
        if event == "line":
            self._pass(frame)
            self._last[frame] = -1
        elif event == "opcode":
            last = self._last.get(frame, -1)
            self._last[frame] = at
            # The interpreter raises in the call itself: what follows may stand behind the handler that covers the call, as the
            # return of `return call()` in a `try` does.
            if last >= 0 and names_of(code)[last] in CALLS and handler_of(code, last) == handler_of(code, at):
                self._pass(frame)
        return self._trace

    def _pass(self, frame: FrameType) -> None:
        code, at = frame.f_code, frame.f_lasti
        if is_never_reached(code, at):
            return
        self.points += 1
        if self.points == self._at:
            self.where = f"{code.co_filename.removeprefix(str(ROOT))}:{frame.f_lineno}, byte {at}"
            raise self._error(f"injected at {self.where}")
