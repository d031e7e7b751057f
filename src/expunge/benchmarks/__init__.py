"""One benchmark per file. A new file in this folder registers itself."""

from __future__ import annotations

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
