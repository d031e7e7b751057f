"""Records of a trace: its tokens have a name of their own, and a generation is cut where its thought ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge import evaluate
from expunge.benchmarks import BenchmarkConfig, find_benchmark
from expunge.core.errors import DataError
from expunge.core.plugins import load_plugins
from expunge.core.records import GeneratedText, GeneratedTexts, split_trace, texts_table, token_records
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import score_tokens
from expunge.evaluation.score_kinds import read_texts

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "riddles.py"


@pytest.fixture(scope="module")
def traced() -> ExampleSet:
    rows = [
        Example(0, "Who wrote book 1?", {"answer": "Ana.", "paraphrase": "It was Ana."}, trace="It was by the sea."),
        Example(1, "Who wrote book 2?", {"answer": "1991", "paraphrase": "In 1991."}, trace="Paris, over many years"),
        Example(2, "Who wrote book 3?", {"answer": "São Paulo", "paraphrase": "There."}, trace=""),
    ]
    return ExampleSet("traced", tuple(rows))


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_token_records_name_the_span(model: Any, traced: ExampleSet, tokenizer: Any, shared_prefix: bool) -> None:
    encoder = Encoder(Template(), tokenizer)
    names = ("answer", "paraphrase", "trace")
    records = token_records(score_tokens(model, traced, names, encoder, shared_prefix=shared_prefix))
    assert records["trace"].row_ids.tolist() == [0, 1]  # an empty trace has no token to score
    assert not records["trace"].is_eos.any()
    for row in traced:
        for name in (n for n in names if row.has(n)):
            encoded = encoder.row(traced, row, name)
            with torch.no_grad():
                logp = model(input_ids=torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
            expected = [float(logp[at - 1, encoded.ids[at]]) for at in range(encoded.n_prompt, len(encoded.ids))]
            actual = records[name].by_row(records[name].logp)[records[name].row_ids.tolist().index(row.row_id)]
            assert actual.tolist() == pytest.approx(expected, abs=2e-5, rel=1e-4)


def test_a_generation_is_cut_where_its_thought_ends() -> None:
    assert split_trace("Let me see.\n</think>\n\nAna.") == ("Let me see.", "Ana.")
    assert split_trace("never closed") == ("never closed", "")
    assert split_trace("hm<|END_THINKING|>Ana </think>") == ("hm", "Ana </think>")


def test_texts_are_compared_span_by_span(traced: ExampleSet) -> None:
    table = texts_table(
        [
            GeneratedText(0, 0, "q", "By the sea.\n</think>\n\nIt was Ana.", "Ana.", 9, True),
            GeneratedText(1, 0, "q", "Over and over", "1991", 3, False),
        ]
    )
    texts = read_texts(table, traced)
    by_name = {n: [(t.generation, t.reference) for t in texts.against(n)] for n in ("answer", "paraphrase", "trace")}
    assert by_name == {
        "answer": [("It was Ana.", "Ana."), ("", "1991")],
        "paraphrase": [("It was Ana.", "It was Ana."), ("", "In 1991.")],
        "trace": [("By the sea.", "It was by the sea."), ("Over and over", "Paris, over many years")],
    }
    assert texts.lacking(("trace",)) is None
    assert texts.of_rows([0]).traces == frozenset({0, 1, 2})
    plain = ExampleSet("plain", (Example(0, "q", {"answer": "a"}),))
    whole = read_texts(texts_table([GeneratedText(0, 0, "q", "x </think> y", "a", 4, True)]), plain)
    assert [t.generation for t in whole.against("answer")] == ["x </think> y"]  # an example without a trace is whole
    assert isinstance(whole, GeneratedTexts) and whole.lacking(("trace",)) == "'trace' answers"


def test_a_closing_tag_that_generations_lose_is_an_error(model: Any, traced: ExampleSet, tokenizer: Any) -> None:
    """Without it the whole text would count as the trace, and an empty answer looks like a forgotten one."""
    encoder = Encoder(Template(think_end_tag="\n[/R]\n"), tokenizer)
    with pytest.raises(DataError, match=r"^traced row 0: a generation is cut at the tag that closes its thought"):
        generate_texts(model, traced, "answer", encoder, Generation(max_new_tokens=2))
    result = generate_texts(model, traced, "answer", Encoder(Template(), tokenizer), Generation(max_new_tokens=2))
    assert len(result) == 3


@pytest.fixture
def riddles() -> None:
    load_plugins([str(PLUGIN)])


def test_the_example_benchmark_measures_traces(model: Any, tokenizer: Any, riddles: None) -> None:
    benchmark = find_benchmark("riddles").make(BenchmarkConfig())
    assert benchmark.sets["forget"].has_traces
    assert {"forget_trace_Prob", "forget_trace_ROUGE", "retain_trace_Prob"} <= {m.name for m in benchmark.panel}
    result = evaluate(model, tokenizer, benchmark=benchmark, metrics=["forget_trace_Prob", "forget_Q_A_Prob"])
    encoder = Encoder(Template(), tokenizer)
    rows = benchmark.sets["forget_eval"]
    encoded = encoder.row(rows, rows[0], "trace")
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
    scored = [float(logp[at - 1, encoded.ids[at]]) for at in range(encoded.n_prompt, len(encoded.ids))]
    expected = math.exp(sum(scored) / len(scored))
    assert result.results["forget_trace_Prob"].per_row[0]["prob"] == pytest.approx(expected, rel=1e-4)
    assert result["forget_Q_A_Prob"] != pytest.approx(result["forget_trace_Prob"], rel=1e-3)
    assert len(PLUGIN.read_text().splitlines()) <= 40
