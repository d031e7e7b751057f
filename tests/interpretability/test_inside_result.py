from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.interpretability.activation_patching import unlearning_depth
from expunge.interpretability.inputs import AnalysisInputs
from expunge.interpretability.probe import ProbeLine, ProbeResult
from expunge.interpretability.result import plain, table, write
from expunge.interpretability.weights import weight_drift


def test_a_result_is_a_json_and_a_table(make_model: Any, read: AnalysisInputs, tmp_path: Path) -> None:
    result = unlearning_depth(make_model(0), make_model(1), make_model(2), read)
    write(tmp_path, "depth", result)
    summary = json.loads((tmp_path / "depth.json").read_text())
    assert summary["value"] == result.value
    assert summary["by_layer"]["0"] == result.by_layer[0]
    assert "lines" not in summary
    lines = pq.read_table(tmp_path / "depth.parquet")
    assert lines.schema.equals(table(result).schema)
    assert lines["control"].to_pylist() == [line.control for line in result.lines]
    assert (lines.num_rows, lines["layer"].to_pylist()[:3]) == (24, [0, 1, 2])
    drift = table(weight_drift(make_model(0), make_model(1)))
    assert drift["layer"].to_pylist()[0] is None
    probes = table(ProbeResult(0, 0.3, (ProbeLine("a", 0, *[0.5] * 7, 1, 1, 1, True),)))
    assert probes.schema.field("reason").type == pa.string()  # the same columns whether anything is missing or not


def test_numbers_that_json_has_not() -> None:
    assert plain({"a": math.nan, "b": (math.inf, -math.inf), 3: 1.5}) == {"a": None, "b": ["inf", "-inf"], "3": 1.5}
