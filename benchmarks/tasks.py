"""One measurement as a value, and the figures it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.stores import OURS, Store, open_store
from benchmarks.workloads import Workload

Figures = dict[str, float]


@dataclass(frozen=True)
class Task:
    """One measurement: which step, on which store, in which directory, with which records."""

    step: str
    store: str
    path: str
    workload: Workload
    options: dict[str, Any] = field(default_factory=dict)

    def open(self, *, durable: bool = False) -> Store:
        engine = self.options.get("engine") if self.store in OURS else None
        return open_store(self.store, self.path, durable=durable, options=engine)
