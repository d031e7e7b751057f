"""The layer report of `expunge.inspect`: drift, CKA, lens and probes of one model next to others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from expunge.core.errors import nearest
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import AnalysisInputs
from expunge.interpretability.lens import lens_scores
from expunge.interpretability.probe import probe
from expunge.interpretability.result import AnalysisResult, remarks
from expunge.interpretability.similarity import layer_cka
from expunge.interpretability.weights import weight_drift
from expunge.models.capabilities import kept_modes

ANALYSES = ("drift", "cka", "lens", "probe")


class LayerReport(Mapping[str, AnalysisResult]):
    """Numbers by layer: a mapping from an analysis (such as "lens_model") to its full result.

    Attributes:
        layers: The layers of the model, from 0.
    """

    def __init__(
        self, results: Mapping[str, AnalysisResult], columns: Mapping[str, Mapping[int, float]], notes: Sequence[str]
    ) -> None:
        self._results, self._columns, self.notes = dict(results), dict(columns), tuple(notes)
        self.layers = sorted({layer for column in columns.values() for layer in column})

    def __getitem__(self, name: str) -> AnalysisResult:
        if name not in self._results:
            raise KeyError(f"no analysis named {name!r}{nearest(name, self._results)}")
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def to_pandas(self) -> Any:
        """Return one line per layer and one column per analysis; `drift` and `cka` compare with the reference."""
        import pandas as pd

        data = {name: [column.get(layer, math.nan) for layer in self.layers] for name, column in self._columns.items()}
        return pd.DataFrame(data, index=pd.Index(self.layers, name="layer"))

    def details(self, name: str) -> Any:
        """Return the finest numbers of one analysis as a DataFrame (by module, example or attribute)."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(line) for line in self[name].lines])

    def __repr__(self) -> str:
        table = self.to_pandas().to_string(float_format=lambda x: f"{x:.4g}")
        return "\n".join([f"LayerReport({len(self.layers)} layers)", table, *self.notes])

    def _repr_html_(self) -> str:
        return str(self.to_pandas().to_html(float_format=lambda x: f"{x:.4g}"))


Outputs = tuple[dict[str, AnalysisResult], dict[str, Mapping[int, float]]]


def _drift(models: Mapping[str, Any], read: AnalysisInputs, other: AnalysisInputs | None) -> Outputs:
    results = weight_drift(models["model"], models["reference"])
    layers = {ln.layer: ln.relative for ln in results.lines if ln.module == "" and ln.layer is not None}
    return {"drift": results}, {"drift": layers}


def _cka(models: Mapping[str, Any], read: AnalysisInputs, other: AnalysisInputs | None) -> Outputs:
    results = layer_cka(*(hidden_states(models[name], read, at="last") for name in ("model", "reference")))
    return {"cka": results}, {"cka": {ln.layer: ln.cka for ln in results.lines}}


def _lens(models: Mapping[str, Any], read: AnalysisInputs, other: AnalysisInputs | None) -> Outputs:
    results = {name: lens_scores(model, read) for name, model in models.items()}
    columns = {f"lens {name}": dict(zip(r.layers, r.logp, strict=True)) for name, r in results.items()}
    return {f"lens_{name}": r for name, r in results.items()}, dict(columns)


def _probe(models: Mapping[str, Any], read: AnalysisInputs, other: AnalysisInputs | None) -> Outputs:
    rows = (*read.rows, *(other.rows if other else ()))
    whole = dataclasses.replace(read, rows=rows, row_ids=tuple(range(len(rows))))
    labels = {"forget": [i < len(read.rows) for i in range(len(rows))]}
    results = {name: probe(hidden_states(model, whole, at="last"), labels) for name, model in models.items()}
    columns = {f"probe {name}": {ln.layer: ln.auc for ln in r.lines} for name, r in results.items()}
    return {f"probe_{name}": r for name, r in results.items()}, dict(columns)


_RUN: Mapping[str, Callable[[Mapping[str, Any], AnalysisInputs, AnalysisInputs | None], Outputs]] = {
    "drift": _drift, "cka": _cka, "lens": _lens, "probe": _probe,
}  # fmt: skip


def layer_report(
    analyses: Sequence[str],
    models: Mapping[str, Any],
    read: AnalysisInputs,
    other: AnalysisInputs | None,
    notes: Sequence[str] = (),
) -> LayerReport:
    """Run some analyses (of ANALYSES) on models by name; each model keeps its mode.

    models: "model", "reference" if `analyses` has drift or CKA, and others. other: the examples that probes separate
    from those of `read`.
    """
    results: dict[str, AnalysisResult] = {}
    columns: dict[str, Mapping[int, float]] = {}
    with kept_modes(*models.values()):
        for model in models.values():
            model.eval()
        for name in analyses:
            outputs, shown = _RUN[name](models, read, other)
            results |= outputs
            columns |= shown
    return LayerReport(results, columns, (*notes, *remarks(results)))
