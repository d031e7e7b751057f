from __future__ import annotations

import copy
import io
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from expunge.core.errors import DataError
from expunge.core.records import TOKENS, token_records
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation import token_stats
from expunge.evaluation.kinds import wanted_variants
from expunge.evaluation.loglikelihood import score_tokens
from expunge.metrics.api import Metric
from expunge.metrics.compute import compute

WANTED = ("answer", "paraphrase", "perturbed")


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(Template(), tokenizer)


@pytest.fixture(scope="module")
def table(model: Any, rows: ExampleSet, encoder: Encoder) -> pa.Table:
    return score_tokens(model, rows, WANTED, encoder)


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def same(a: pa.Table, b: pa.Table) -> None:
    """Equal keys in equal order, and numbers equal but for the rounding that batch shapes bring."""
    exact = ["row_id", "variant", "position", "token_id", "is_eos", "zlib", "n_bytes"]
    assert a.select(exact).equals(b.select(exact))
    for name in ("logp", "mean", "var"):
        np.testing.assert_allclose(a[name].to_numpy(), b[name].to_numpy(), rtol=1e-4, atol=2e-5, err_msg=name)
    assert a["is_argmax"].to_pylist() == b["is_argmax"].to_pylist()


@pytest.mark.parametrize("template", [{}, {"labels": "all"}, {"compat": "openunlearning"}])
def test_equals_a_plain_computation_row_by_row(model: Any, rows: ExampleSet, tokenizer: Any, template: Any) -> None:
    encoder = Encoder(Template(**template), tokenizer)
    actual = score_tokens(model, rows, WANTED, encoder).to_pylist()
    k = 0
    for row in rows:
        for variant in sorted(row.answers):
            encoded = encoder.encode(row.question, row.answers[variant])
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([encoded.ids])).logits[0].float()
            for position, at in enumerate(range(max(encoded.n_prompt, 1), len(encoded.ids))):
                line, token = actual[k], encoded.ids[at]
                logp = torch.log_softmax(logits[at - 1].double(), -1)
                mean = float((logp.exp() * logp).sum())
                var = float((logp.exp() * (logp - mean).square()).sum())
                assert (line["row_id"], line["variant"], line["position"]) == (row.row_id, variant, position)
                assert line["token_id"] == token
                assert line["logp"] == pytest.approx(float(logp[token]), abs=1e-5, rel=1e-5)
                assert line["mean"] == pytest.approx(mean, abs=1e-5, rel=1e-5)
                assert line["var"] == pytest.approx(var, abs=5e-5, rel=5e-5)
                assert line["is_argmax"] == (int(logits[at - 1].argmax()) == token)
                assert line["is_eos"] == (at == len(encoded.ids) - 1)
                scored = tokenizer.decode(encoded.ids[max(encoded.n_prompt, 1) : -1])
                assert line["zlib"] == len(zlib.compress(scored.encode()))
                assert line["n_bytes"] == len(scored.lstrip(" ").encode())
                k += 1
    assert k == len(actual) > 500


def test_is_sorted_and_typed(table: pa.Table) -> None:
    assert table.schema == TOKENS
    keys = list(zip(*(table[c].to_pylist() for c in ("row_id", "variant", "position")), strict=True))
    assert keys == sorted(keys)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("budget", [1, 100, 333, 100_000])
def test_does_not_depend_on_the_token_budget(
    table: pa.Table, model: Any, rows: ExampleSet, encoder: Encoder, budget: int
) -> None:
    same(table, score_tokens(model, rows, WANTED, encoder, token_budget=budget))


def test_does_not_depend_on_the_chunk(
    table: pa.Table, model: Any, rows: ExampleSet, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(token_stats.CHUNK, "cpu", 7 * 400)
    same(table, score_tokens(model, rows, WANTED, encoder))


def test_does_not_depend_on_the_order_of_rows(table: pa.Table, model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = ExampleSet("mixed", tuple(Example(i, rows[k].question, rows[k].answers) for i, k in enumerate(order)))
    actual = score_tokens(model, mixed, WANTED, encoder)
    ids = pa.array(order[actual["row_id"].to_numpy()], type=pa.int32())
    back = actual.set_column(0, TOKENS.field("row_id"), ids)
    same(table, back.sort_by([(c, "ascending") for c in ("row_id", "variant", "position")]))


def test_same_bytes_every_time(table: pa.Table, model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    model.train()
    assert parquet(score_tokens(model, rows, WANTED, encoder)) == parquet(table)
    assert not model.training


def test_pad_that_is_eos_changes_nothing(table: pa.Table, model: Any, rows: ExampleSet, tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    other.pad_token = other.eos_token
    same(table, score_tokens(model, rows, WANTED, Encoder(Template(), other)))


def test_only_what_is_wanted(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    actual = score_tokens(model, rows, ("perturbed_1", "answer"), encoder)
    assert set(actual["variant"].to_pylist()) == {"answer", "perturbed_1"}
    assert set(token_records(actual)["perturbed_1"].row_ids.tolist()) == {r.row_id for r in rows if r.row_id % 3 == 2}
    empty = score_tokens(model, rows, ("nothing",), encoder)
    assert (empty.num_rows, empty.schema) == (0, TOKENS)


def test_wanted_variants() -> None:
    names = ("answer", "perturbed_0", "perturbed_10", "perturbed_best", "answer_2")
    row = Example(0, "Q", dict.fromkeys(names, "x"))
    assert wanted_variants(row, ["perturbed"]) == ["perturbed_0", "perturbed_10"]
    assert wanted_variants(row, ["answer", "perturbed_10"]) == ["answer", "perturbed_10", "answer_2"]


def test_progress_counts_sequences(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    calls: list[int] = []
    score_tokens(model, rows, WANTED, encoder, token_budget=200, progress=calls.append)
    assert len(calls) > 1
    assert sum(calls) == sum(len(r.answers) for r in rows)


def test_a_truncated_row_has_no_eos(model: Any, rows: ExampleSet, tokenizer: Any) -> None:
    n = len(Encoder(Template(), tokenizer).prompt(rows[1].question)) + 2
    one = ExampleSet("one", (Example(0, rows[1].question, rows[1].answers),))
    actual = score_tokens(model, one, ("answer",), Encoder(Template(max_length=n), tokenizer))
    assert actual["is_eos"].to_pylist() == [False, False]


def test_a_row_that_does_not_fit_is_named(model: Any, rows: ExampleSet, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"^rows row 0: the prompt alone has "):
        score_tokens(model, rows, ("answer",), Encoder(Template(max_length=3), tokenizer))


def test_an_empty_answer_is_named(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    empty = ExampleSet("mine", (rows[0], Example(1, "Who?", {"answer": " \n"})))
    with pytest.raises(DataError, match=r"^mine row 1: 'answer' is empty"):
        score_tokens(model, empty, ("answer",), encoder)
    assert score_tokens(model, empty, ("paraphrase",), encoder).num_rows > 0, "what is not wanted is not read"


def test_a_row_longer_than_the_model_s_context_is_named(model: Any, rows: ExampleSet, tokenizer: Any) -> None:
    long = ExampleSet("long", (rows[0], Example(1, "Who? " * 400, {"answer": "Ana."})))
    facts = r"^long row 1: 'answer' .*\d+ tokens.*context is 1024.*model\.template_args\.max_length"
    with pytest.raises(DataError, match=facts):
        score_tokens(model, long, ("answer",), Encoder(Template(max_length=4000), tokenizer))


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_logits_that_are_not_numbers_reach_the_metrics_as_missing_rows(
    model: Any, rows: ExampleSet, encoder: Encoder, shared_prefix: bool
) -> None:
    """One token's embedding is broken: the rows that read it have no value, the means are those of the others."""
    panel = [
        Metric("prob", "probability", rows="r", reads={"tokens": ("answer",)}),
        *(Metric(n, n, rows="r", reads={"tokens": ("answer",)}) for n in ("exact_memorization", "extraction_strength")),
        *(
            Metric(n, f"{n}_score", rows="r", reads={"tokens": ("answer",)})
            for n in ("loss", "zlib", "min_k", "min_k_plus_plus")
        ),
    ]
    some = ExampleSet("r", tuple(r for r in rows.rows[:8]))

    def measured(bad: set[int]) -> dict[str, Any]:
        embedding = model.get_input_embeddings()

        def spoil(_module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
            return out.masked_fill(torch.isin(args[0], torch.tensor(sorted(bad)))[..., None], float("nan"))

        hook = embedding.register_forward_hook(spoil)
        table = score_tokens(model, some, WANTED, encoder, shared_prefix=shared_prefix)
        hook.remove()
        return compute(panel, {"tokens": {"r": token_records(table)}})

    sound = measured(set())
    ids = {i: set(encoder.row(some, r, "answer").ids[:-1]) for i, r in enumerate(some)}
    word = min(ids[3] - ids[0])
    hit = [i for i in ids if word in ids[i]]
    assert 0 < len(hit) < 8
    for name, result in measured({word}).items():
        rest = [i for i in ids if i not in hit]
        per_row = {i: next(iter(stats.values())) for i, stats in result.per_row.items()}
        assert [i for i, v in per_row.items() if np.isnan(v)] == hit, name
        assert result.value == pytest.approx(np.mean([per_row[i] for i in rest]))
        assert [per_row[i] for i in rest] == pytest.approx(
            [next(iter(sound[name].per_row[i].values())) for i in rest], rel=1e-4
        )
        assert result.extra["n_missing"] == len(hit)
    for name, result in measured(set().union(*ids.values())).items():
        assert np.isnan(result.value), name
        assert str(result.reason).startswith("none of the 8 rows could be scored: ")
