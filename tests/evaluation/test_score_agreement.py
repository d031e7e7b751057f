"""The agreement pass against whole distributions in float64."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from expunge.core.errors import JobError
from expunge.core.records import AGREEMENT, answer_numbers
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.template import Template
from expunge.evaluation import agreement
from expunge.evaluation.agreement import score_agreement
from expunge.models.build import build_llama


@pytest.fixture(scope="module")
def moved(model: Any) -> Any:
    """The model with some noise on its weights."""
    result = copy.deepcopy(model)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in result.parameters():
            p.add_(torch.randn(p.shape, generator=noise) * 0.1 * p.std(correction=0))
    return result


def test_a_model_agrees_with_itself(model: Any, tokenizer: Any, rows: ExampleSet) -> None:
    table = score_agreement(model, model, rows, ("answer",), Encoder(Template(), tokenizer))
    assert table.schema == AGREEMENT
    result = answer_numbers(table)["answer"]
    assert result.row_ids.tolist() == list(range(23))
    assert result.columns["kl"].max() == 0.0
    assert result.columns["same_argmax"].min() == 1.0


def test_divergence_from_the_whole_distributions(model: Any, moved: Any, tokenizer: Any, rows: ExampleSet) -> None:
    encoder = Encoder(Template(), tokenizer)
    result = answer_numbers(score_agreement(moved, model, rows, ("answer", "paraphrase"), encoder))
    for variant in ("answer", "paraphrase"):
        for i, row in enumerate(rows):
            encoded = encoder.row(rows, row, variant)
            with torch.inference_mode():
                both = [m(input_ids=torch.tensor([encoded.ids])).logits[0].double() for m in (model, moved)]
            at = slice(encoded.n_prompt - 1, len(encoded.ids) - 1)
            p, q = (x[at].log_softmax(-1) for x in both)
            kl = (p.exp() * (p - q)).sum(-1).mean().item()
            same = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
            assert result[variant].columns["kl"][i] == pytest.approx(kl, rel=1e-4, abs=1e-6)
            assert result[variant].columns["same_argmax"][i] == pytest.approx(same)
    assert result["answer"].columns["kl"].min() > 0


def test_batches_and_chunks_do_not_count(
    model: Any, moved: Any, tokenizer: Any, rows: ExampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(Template(), tokenizer)
    few = dataclasses.replace(rows, rows=rows.rows[:7])
    one = answer_numbers(score_agreement(moved, model, few, ("answer",), encoder))["answer"]
    monkeypatch.setattr(agreement, "rows_at_a_time", lambda logits: 5)
    other = answer_numbers(score_agreement(moved, model, few, ("answer",), encoder, token_budget=1))["answer"]
    for name in ("kl", "same_argmax"):
        assert other.columns[name] == pytest.approx(one.columns[name], rel=1e-4, abs=1e-6)


def test_two_vocabularies_do_not_compare(model: Any, tokenizer: Any, rows: ExampleSet) -> None:
    other = build_llama("llama-64k", tokenizer, vocab_size=512, seed=0)
    with pytest.raises(JobError, match=r"\b400 tokens.*\b512"):
        score_agreement(model, other, rows, ("answer",), Encoder(Template(), tokenizer))
