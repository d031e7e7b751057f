"""Metrics: one family per file, from records to numbers. A new file in this folder registers itself."""

from __future__ import annotations

import importlib
import pkgutil

from expunge.metrics.api import Metric, MetricFamily, MetricInputs, MetricResult, families, family, find_family, missing

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "MetricFamily",
    "MetricInputs",
    "Metric",
    "MetricResult",
    "families",
    "family",
    "find_family",
    "missing",
]
