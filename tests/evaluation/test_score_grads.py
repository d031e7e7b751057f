"""The gradient pass against plain backward passes, and against another implementation's norms."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from expunge.core.decode import decode
from expunge.core.records import GRADS, answer_numbers
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.loaders.tofu import load_tofu
from expunge.data.template import Template
from expunge.evaluation import gradients
from expunge.evaluation.gradients import score_grads
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import load_model, load_tokenizer

NORMS = ("l1", "l2", "linf", "tensor_mean")


def by_hand(model: Any, encoder: Encoder, rows: ExampleSet, variant: str) -> list[list[float]]:
    """One row at a time, through `.grad` and the model's own loss of shifted labels."""
    out = []
    for row in rows:
        encoded = encoder.row(rows, row, variant)
        ids = torch.tensor([encoded.ids])
        labels = ids.clone()
        labels[0, : encoded.n_prompt] = -100
        labels[0, -1] = -100
        model.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=labels).loss.backward()
        grads = [p.grad.double() for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        out.append(
            [
                flat.abs().sum().item(),
                flat.norm().item(),
                flat.abs().max().item(),
                sum(g.norm().item() for g in grads) / len(grads),
            ]
        )
    model.zero_grad(set_to_none=True)
    return out


def test_norms_are_those_of_one_backward_pass_a_row(model: Any, tokenizer: Any, rows: ExampleSet) -> None:
    model = copy.deepcopy(model).double()  # in float32 the order of a sum is near the tolerance
    few = dataclasses.replace(rows, rows=rows.rows[:6])
    encoder = Encoder(Template(), tokenizer)
    table = score_grads(model, few, ("answer", "paraphrase"), encoder)
    assert table.schema == GRADS
    result = answer_numbers(table)
    for variant in ("answer", "paraphrase"):
        columns = [result[variant].columns[name].tolist() for name in NORMS]
        expected = by_hand(model, encoder, few, variant)
        assert [list(row) for row in zip(*columns, strict=True)] == [pytest.approx(row, rel=1e-5) for row in expected]
    assert all(p.grad is None for p in model.parameters())


def test_frozen_weights_count_and_stay_frozen(model: Any, tokenizer: Any, rows: ExampleSet) -> None:
    few = dataclasses.replace(rows, rows=rows.rows[:2])
    encoder = Encoder(Template(), tokenizer)
    before = score_grads(model, few, ("answer",), encoder)
    model.requires_grad_(False)
    try:
        assert score_grads(model, few, ("answer",), encoder).equals(before)
        assert not any(p.requires_grad for p in model.parameters())
    finally:
        model.requires_grad_(True)


def test_one_row_does_not_depend_on_the_others(model: Any, tokenizer: Any, rows: ExampleSet) -> None:
    encoder = Encoder(Template(), tokenizer)
    three = score_grads(model, dataclasses.replace(rows, rows=rows.rows[:3]), ("answer",), encoder)
    one = score_grads(model, dataclasses.replace(rows, rows=rows.rows[:1]), ("answer",), encoder)
    for name in NORMS:  # one is read by itself, three share a backward: they differ by rounding
        assert three[name].to_pylist()[0] == pytest.approx(one[name].to_pylist()[0], rel=1e-5)


def test_answers_share_a_backward_where_their_gradients_have_room(
    model: Any, tokenizer: Any, rows: ExampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(rows, rows=rows.rows[:6])
    encoder = Encoder(Template(), tokenizer)
    sizes: list[int] = []
    handle = model.register_forward_pre_hook(lambda _m, _a, kw: sizes.append(len(kw["input_ids"])), with_kwargs=True)
    try:
        for room, expected in ((2**30, [2, 1, 6]), (1, [1] * 6)):  # two together and one apart are held side by side
            monkeypatch.setitem(gradients.ROOM, "cpu", room)
            sizes.clear()
            score_grads(model, few, ("answer",), encoder)
            assert sizes == expected
    finally:
        handle.remove()


def test_a_model_whose_rows_cannot_be_told_apart_is_read_one_answer_at_a_time(tokenizer: Any, rows: ExampleSet) -> None:
    # GPT-2 adds one row of positions to all rows of a batch
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    other = GPT2LMHeadModel(config).eval()
    few = dataclasses.replace(rows, rows=rows.rows[:3])
    encoder = Encoder(Template(), tokenizer)
    columns = answer_numbers(score_grads(other, few, ("answer",), encoder))["answer"].columns
    expected = by_hand(other, encoder, few, "answer")
    result = [list(row) for row in zip(*(columns[n].tolist() for n in NORMS), strict=True)]
    assert result == [pytest.approx(row, rel=1e-5) for row in expected]


def test_an_answer_of_one_token_has_no_norms(model: Any, tokenizer: Any, rows: ExampleSet) -> None:
    bare = dataclasses.replace(rows, rows=(Example(0, "Who?\n", {"answer": "a"}),), form="text")
    encoder = Encoder(Template(), tokenizer)
    assert encoder.row(bare, bare[0], "answer").n_answer == 1
    result = answer_numbers(score_grads(model, bare, ("answer",), encoder))["answer"]
    assert all(math.isnan(result.columns[name][0]) for name in NORMS)


@pytest.mark.shared
def test_norms_of_another_implementation(shared: Path) -> None:
    golden = shared / "golden" / "visible"
    settings = json.loads((golden / "tofu_eval" / "settings.json").read_text())
    tags = {k: v for k, v in settings["template"].items() if k.endswith("_tag")}
    template = decode(Template, tags | {"compat": "openunlearning", "max_length": settings["max_length"]})
    encoder = Encoder(template, load_tokenizer(str(golden / "tiny_llama" / "full"), TokenizerArgs()))
    model = load_model(str(golden / "tiny_llama" / "full"), ModelArgs(), device=torch.device("cpu"))
    sets = load_tofu(
        str(shared / "data" / "tofu"), forget_split="forget10", retain_split="retain90", holdout_split="holdout10"
    )
    with gzip.open(golden / "tofu_eval" / "full" / "per_row.json.gz", "rt") as f:
        peer = json.load(f)["mia_gradnorm"]
    for name, side in (("forget_eval", "forget"), ("holdout", "holdout")):
        few = dataclasses.replace(sets[name], rows=sets[name].rows[:24])
        actual = answer_numbers(score_grads(model, few, ("answer",), encoder))["answer"].columns["tensor_mean"]
        assert actual.tolist() == pytest.approx([peer[side][str(i)]["score"] for i in range(24)], abs=5e-5)
