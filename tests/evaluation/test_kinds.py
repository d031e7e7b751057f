"""Record kinds: what the built-in ones declare, and a new kind with its metric from one file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.core.plugins import load_plugins
from expunge.core.records import KEYS, answer_numbers
from expunge.data.examples import Example, ExampleSet
from expunge.evaluation import kinds
from expunge.evaluation.kinds import RecordKind, ScoringInputs, find_kind, parts
from expunge.metrics import api
from expunge.metrics.added import added_metrics
from expunge.metrics.api import Metric
from expunge.pipelines.study.library import evaluate

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "hidden_norm.py"
ROWS = [{"question": f"Who wrote book {i}?", "answer": f"Ana {i}."} for i in range(3)]


@pytest.fixture
def plugin() -> None:
    """The example plugin, loaded."""
    load_plugins([str(PLUGIN)])


def test_the_built_in_kinds() -> None:
    known = kinds.kinds()
    assert {
        "tokens", "texts", "samples", "grads", "agreement", "texts_similarity", "samples_similarity",
    } <= set(known)  # fmt: skip
    assert {n: k.needs for n, k in known.items() if k.needs} == {
        "agreement": "original", "texts_similarity": "embedder", "samples_similarity": "embedder",
        "judgements": "judge",
    }  # fmt: skip
    assert known["texts_similarity"].follows == "texts"
    assert {n for n, k in known.items() if k.collective} == {"tokens", "texts", "samples"}


def test_a_job_key_holds_columns_and_a_raised_revision() -> None:
    tokens = find_kind("tokens")
    assert tokens.key == tokens.schema.names
    assert RecordKind("x", tokens.schema, tokens.compute, revision=2).key[-1] == "revision 2"


def test_parts_come_after_what_they_read() -> None:
    metrics = [
        Metric("near", "semantic_similarity", rows="r", reads={"texts": "answer", "texts_similarity": "answer"}),
        Metric("prob", "probability", rows="r", reads={"tokens": ("answer", "perturbed")}),
    ]
    assert [(p.file, p.names) for p in parts(metrics)] == [
        ("r.tokens.parquet", ("answer", "perturbed")),
        ("r.texts.parquet", ("answer",)),
        ("r.texts_similarity.parquet", ("answer",)),
    ]
    with pytest.raises(ConfigError, match=r"metric m: reads: no record kind named 'token'; did you mean 'tokens'"):
        parts([Metric("m", "probability", rows="r", reads={"token": "answer"})])


def test_numbers_of_an_answer_are_means_over_its_lines() -> None:
    table = pa.table(
        {
            "row_id": pa.array([1, 0, 1, 0], pa.int32()),
            "variant": ["answer", "answer", "answer", "other"],
            "position": [0, 0, 1, 0],
            "x": [1.0, 5.0, 2.0, math.nan],
            "flag": [True, False, False, True],
            "word": ["a", "b", "c", "d"],
        }
    )
    result = answer_numbers(table)
    assert result["answer"].row_ids.tolist() == [0, 1]
    assert {name: column.tolist() for name, column in result["answer"].columns.items()} == {
        "x": [5.0, 1.5], "flag": [0.0, 0.5],
    }  # fmt: skip
    assert result.of_rows([1])["answer"].columns["x"].tolist() == [1.5]
    assert (result.lacking(["answer"]), result.lacking(["answer", "paraphrase"])) == (None, "'paraphrase' answers")
    assert "position" in KEYS


def test_a_plugin_metric_in_memory(plugin: None, model: Any, tokenizer: Any) -> None:
    result = evaluate(model, tokenizer, forget=ROWS, metrics=["hidden_norm"])
    assert set(result) == {"forget_hidden_norm"}
    assert set(result.records) == {"forget_eval.hidden_norm"}
    prompt = tokenizer("Question: Who wrote book 1?\nAnswer:")["input_ids"]
    answer = [*tokenizer(" Ana 1.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        hidden = model(torch.tensor([prompt + answer]), output_hidden_states=True).hidden_states[-1][0]
    expected = float(hidden[len(prompt) :].norm(dim=-1).mean())
    assert result.results["forget_hidden_norm"].per_row[1]["norm"] == pytest.approx(expected, rel=1e-5)
    both = evaluate(model, tokenizer, forget=ROWS, metrics=["hidden_norm", "forget_Q_A_Prob"])
    assert set(both) == {"forget_hidden_norm", "forget_Q_A_Prob"}


def test_a_plugin_metric_by_example_meta(plugin: None, model: Any, tokenizer: Any) -> None:
    rows = ExampleSet(
        "x", tuple(Example(i, r["question"], {"answer": r["answer"]}, meta={"n": i % 2}) for i, r in enumerate(ROWS))
    )
    metric = Metric("some", "hidden_norm", rows="forget_eval", reads={"hidden_norm": "answer"}, where={"n": 0})
    assert list(evaluate(model, tokenizer, forget=rows, metrics=[metric]).results["some"].per_row) == [0, 2]


def test_where_added_metrics_are_measured(plugin: None) -> None:
    suite = [Metric("p", "probability", rows="city", reads={"tokens": "answer"})]
    assert [m.name for m in added_metrics(["hidden_norm"], suite, {"forget_eval", "retain_eval", "holdout"})] == [
        "forget_hidden_norm",
        "retain_hidden_norm",
    ]
    assert [(m.name, m.rows) for m in added_metrics(["hidden_norm"], suite, {"city"})] == [("city_hidden_norm", "city")]
    two = [*suite, Metric("q", "probability", rows="level1", reads={"tokens": "answer"})]
    assert [m.rows for m in added_metrics(["hidden_norm"], two, {"city", "level1", "forget_eval"})] == [
        "city",
        "level1",
    ]
    assert [m.rows for m in added_metrics(["hidden_norm"], [], {"forget_eval"})] == ["forget_eval"]
    with pytest.raises(ConfigError, match=r"eval\.metrics: no metric named 'hiden_norm'; did you mean 'hidden_norm'"):
        added_metrics(["hiden_norm"], suite, {"city"})
    with pytest.raises(ConfigError, match="this benchmark reads none"):
        added_metrics(["hidden_norm"], [], set())


def test_without_the_plugin_its_metric_is_not_there(model: Any, tokenizer: Any) -> None:
    assert "hidden_norm" not in api.families()
    with pytest.raises(ConfigError, match=r"eval\.metrics: no metric named 'hidden_norm'.*--plugin FILE\.py"):
        added_metrics(["hidden_norm"], [], {"forget_eval"})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"row_id": 999, "variant": "answer", "value": 1.0}], "row_id 999 is no row of forget_eval; use row.row_id"),
        ([{"row_id": 0, "variant": "answer"}], "its table has the columns row_id, variant; its schema has row_id, var"),
    ],
)
def test_a_table_with_other_rows_or_columns_is_refused(lines: list[dict[str, Any]], words: str) -> None:
    schema = pa.schema([("row_id", pa.int32()), ("variant", pa.string()), ("value", pa.float64())])
    kind = RecordKind("odd", schema, lambda inputs: pa.Table.from_pylist(lines))
    rows = ExampleSet("forget_eval", (Example(0, "q", {"answer": "a"}),))
    inputs = ScoringInputs(model=None, examples=rows, names=("answer",), encoder=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"^record kind odd: {words}"):
        kind.table(inputs)


def test_a_membership_attack_without_holdout_rows_names_their_setting() -> None:
    with pytest.raises(ConfigError, match=r"^eval\.metrics: privleak reads holdout rows.*holdout_split=holdout10"):
        added_metrics(["privleak"], [], {"forget_eval", "retain_eval"})
    with pytest.raises(
        ConfigError, match=r"^metrics: mia_min_k reads holdout rows, and there are none; write holdout="
    ):
        added_metrics(["mia_min_k"], [], {"forget_eval", "retain_eval"}, where="metrics")
