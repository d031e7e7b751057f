"""One benchmark per file. A new file in this folder registers itself."""

from __future__ import annotations

import importlib
import pkgutil

from expunge.benchmarks.api import (
    Benchmark,
    BenchmarkConfig,
    Limits,
    benchmark,
    benchmarks,
    find_benchmark,
    settings,
    unused,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Benchmark",
    "Limits",
    "BenchmarkConfig",
    "benchmark",
    "benchmarks",
    "find_benchmark",
    "settings",
    "unused",
]
