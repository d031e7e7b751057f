"""Hidden states for weight edits equal those of plain forwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoder
from expunge.data.in_memory import examples_from
from expunge.data.template import Template
from expunge.evaluation.edit_statistics import ModelStatistics
from expunge.methods.weight_edits import TargetSearch
from expunge.methods.weight_edits.memit import MEMIT

FORGET = [{"question": "Who is Ann?", "answer": "A spy."}, {"question": "Where is Bertha now?", "answer": "Rome."}]
RETAIN = [{"question": "What is blue?", "answer": "The sky."}, {"question": "What is red?", "answer": "A rose."}]
REFUSALS = ["I do not know.", "No idea at all."]
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture
def statistics(model: Any, tokenizer: Any) -> ModelStatistics:
    """Of a copy: the statistics of an edit freeze the weights."""
    model = copy.deepcopy(model)
    encoder = Encoder(Template(), tokenizer)
    sides = [[examples_from(rows, side)] for rows, side in ((FORGET, "forget"), (RETAIN, "retain"))]
    return ModelStatistics(model, encoder, *sides, REFUSALS)


@torch.no_grad()
def plain(model: Any, ids: Any, name: str) -> torch.Tensor:
    module, _, place = name.partition(":")
    calls: list[torch.Tensor] = []
    handle = model.get_submodule(module).register_forward_hook(
        lambda _m, args, out: calls.append(args[0] if place else out[0] if isinstance(out, tuple) else out)
    )
    model(torch.tensor([list(ids)]))
    handle.remove()
    return calls[0][0].double()


def test_states_and_moments_are_those_of_rows_alone(statistics, model, tokenizer) -> None:
    prompts = [statistics._encoder.prompt(row["question"]) for row in FORGET]
    for name in (f"{DOWN}:input", "model.layers.1"):
        expected = torch.stack([plain(model, ids, name)[-1] for ids in prompts])
        torch.testing.assert_close(statistics.states(name, "forget", "last", {}), expected, rtol=1e-4, atol=1e-5)
        every = torch.cat([plain(model, ids, name) for ids in prompts])
        moments = statistics.moments([name], "forget", "prompt")[name]
        assert moments.n == len(every)
        torch.testing.assert_close(moments.sum_D, every.sum(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(moments.square_DD, every.T @ every, rtol=1e-4, atol=1e-3)
    requests = statistics.states("model.layers.1", [row["question"] for row in FORGET], "prompt", {})
    torch.testing.assert_close(requests, every, rtol=1e-4, atol=1e-5)


def test_changed_weights_count_within_a_call_only(statistics, model) -> None:
    name = f"{DOWN}.weight"
    before = model.state_dict()[name].clone()
    usual = statistics.states("model.layers.1", "forget", "last", {})
    other = statistics.states("model.layers.1", "forget", "last", {name: torch.zeros_like(before)})
    assert (usual - other).abs().max() > 1e-4
    assert torch.equal(model.state_dict()[name], before)


@torch.no_grad()
def test_an_edit_moves_the_ends_of_prompts_to_their_targets(statistics, model) -> None:
    base = {k: v.clone() for k, v in model.state_dict().items()}
    rule = MEMIT(modules=(DOWN,), covariance_weight=1e-9, value_rate=0.5)
    edited = rule(base, statistics)
    target = statistics.targets("model.layers.1", TargetSearch(rate=0.5))
    changed = {name: value for name, value in edited.items() if not torch.equal(value, base[name])}
    assert list(changed) == [f"{DOWN}.weight"]
    torch.testing.assert_close(
        statistics.states("model.layers.1", "forget", "last", changed), target, rtol=1e-3, atol=1e-3
    )
    assert all(torch.equal(v, base[k]) for k, v in model.state_dict().items())


def test_missing_inputs_and_modules_are_named(statistics, model, tokenizer) -> None:
    encoder = Encoder(Template(), tokenizer)
    forget = [examples_from(FORGET, "forget")]
    with pytest.raises(ConfigError, match=r"^weight edit: needs forget examples and refusals; pass both$"):
        ModelStatistics(copy.deepcopy(model), encoder, forget, [], [])
    with pytest.raises(ConfigError, match=r"^weight edit: needs retain examples; pass some$"):
        ModelStatistics(copy.deepcopy(model), encoder, forget, [], REFUSALS).moments([f"{DOWN}:input"], "retain", "row")
    with pytest.raises(ConfigError, match=r"^method_args.block: the model has no module 'model.layers.9'"):
        statistics.targets("model.layers.9", TargetSearch())
