"""Metrics: one family per file, from records to numbers. A new file in this folder registers itself."""

from __future__ import annotations

from expunge.metrics.api import Metric, MetricFamily, MetricInputs, MetricResult, families, family, find_family, missing

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
