"""Shared parts of the audits of hidden layers: a number per row and layer, compared with the two controls.

The layers that count are those at which the controls differ. The audited model does not influence the selection, so it
is neither favoured nor disfavoured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from expunge.audits.api import AuditFindings, AuditOutputs
from expunge.core.records import Floats
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.interpretability.inputs import AnalysisInputs as Read
from expunge.interpretability.inputs import analysis_inputs, find_span
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.equivalence import AuditFinding, compare_to_controls, differ

Sides = tuple[Floats, Floats, Floats]


def by_layer(name: str, values_RL: Floats, layers: Sequence[int], row_ids: Sequence[int]) -> dict[str, MetricResult]:
    """Return a result for each layer, `NAME.LAYER`, of numbers of shape (R, L)."""
    out = {}
    for k, layer in enumerate(layers):
        rows = {i: {"score": float(v)} for i, v in zip(row_ids, values_RL[:, k], strict=True)}
        out[f"{name}.{layer}"] = MetricResult(float(np.nanmean(values_RL[:, k])), per_row=rows)
    return out


def layers_of(results: Mapping[str, MetricResult], name: str) -> list[int]:
    """Return the layers with results."""
    return sorted(int(key.rpartition(".")[2]) for key in results if key.rpartition(".")[0] == name)


def columns(outputs: AuditOutputs, probe: str, name: str) -> dict[int, Sides]:
    """Return for each layer a number per row of the model, the retain and the target model, aligned."""
    layers = layers_of(outputs.model[probe], name)
    return {layer: outputs.columns(probe, Metric(f"{name}.{layer}", "")) for layer in layers}


def counting(sides: Mapping[int, Sides]) -> list[int]:
    """Return the layers at which the target model scores above the retain model (interval of the difference > 0)."""
    return [layer for layer, (_, retain, full) in sides.items() if differ(retain, full)]


def read_layers(name: str, sides: Mapping[int, Sides], *, margin: float, known: float, note: str = "") -> AuditFinding:
    """Compare the mean over the layers that count with the controls; details: every layer's means."""
    used = counting(sides)
    details = layer_means(sides)
    if not used:
        return AuditFinding(
            name, note="at no layer does the target model differ from the retain model", details=details
        )
    means = [np.mean([sides[layer][side] for layer in used], axis=0) for side in range(3)]
    remark = f"layers {', '.join(map(str, used))}" + (f"; {note}" if note else "")
    return compare_to_controls(
        name, (means[0], means[1], means[2]), margin=margin, known=known, note=remark, details=details
    )


def layer_means(sides: Mapping[int, Sides]) -> dict[str, float]:
    """Return `model_layer_0` and so on: the means over rows, for the report's figure; NaN without a number."""
    return {
        f"{who}_layer_{layer}": float(np.nanmean(column)) if (~np.isnan(column)).any() else math.nan
        for layer, three in sides.items()
        for who, column in zip(("model", "retain", "full"), three, strict=True)
    }


def rows_by_layer(name: str, sides: Mapping[int, Sides]) -> dict[str, list[object]]:
    """Return a table with a line per layer and row."""
    out: dict[str, list[object]] = {k: [] for k in ("probe", "layer", "row_id", "model", "retain", "full")}
    for layer, three in sides.items():
        n = len(three[0])
        cells = ([name] * n, [layer] * n, range(n), *(column.tolist() for column in three))
        for key, column in zip(out, cells, strict=True):
            out[key] += column
    return out


def collect_findings(
    readings: Sequence[AuditFinding], tables: Sequence[Mapping[str, Sequence[object]]] = ()
) -> AuditFindings:
    """Join findings, and their tables one below the other."""
    keys = tables[0] if tables else ()
    return AuditFindings(tuple(readings), {key: [v for table in tables for v in table[key]] for key in keys})


def fact_reading(rows: ExampleSet, encoder: Encoder) -> Read:
    """Return the tokens of the true answers; in rows that name their fact (`meta.value`), the fact's tokens only."""
    inputs = analysis_inputs(rows, encoder)
    spans = []
    for encoded, row_id in zip(inputs.rows, inputs.row_ids, strict=True):
        value = rows[row_id].meta.get("value")
        span = find_span(encoder.tokenizer, encoded, value) if isinstance(value, str) else None
        spans.append(span or (0, len(encoded.ids) - max(encoded.n_prompt, 1)))
    return Read(inputs.rows, inputs.pad_id, inputs.row_ids, tuple(spans))
