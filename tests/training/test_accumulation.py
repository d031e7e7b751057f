"""A step of several micro-batches is one mean: however five samples are cut, one step of descent is the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from expunge.core.errors import ConfigError
from expunge.methods import objective
from expunge.methods.api import LossInputs, registry
from expunge.methods.custom_loss import CustomLoss, unlearning_loss
from expunge.methods.objective import Objective
from expunge.methods.reduction import TermMean
from expunge.training.config import TrainArgs
from expunge.training.in_memory.unlearn_config import UnlearnConfig
from expunge.training.in_memory.unlearn_objective import resolve_objective
from expunge.training.loop import train
from expunge.training.phases import SIDES, spec_for
from expunge.training.reference import reference

SGD: dict[str, Any] = {
    "optim": "sgd", "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 0.0, "learning_rate": 0.1,
    "num_train_epochs": 1, "logging_steps": 1,
}  # fmt: skip
SPLITS = [(1, 5), (2, 3)]
LAYER = {"module_regex": r"model\.layers\.0"}
LAYERS: dict[str, dict[str, Any]] = {
    "RMU": LAYER, "R2MU": {"layer": "model.layers.0"}, "RR": {"layers": ["model.layers.0", "model.layers.1"]},
}  # fmt: skip
OVER_PAIRS = ("RepNoise", "CIR")  # a distance over pairs of tokens, and a ratio of two means
SAMPLED = ("PURGE", "RULE")  # samples texts by a tokenizer: test_rollouts.py
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, LAYERS.get(name, {})) for name in registry() if name not in (*OVER_PAIRS, *SAMPLED)},
    "GradDiff KL": ("GradDiff", {"retain_loss_type": "KL"}),
    "NPO by tokens": ("NPO", {"level": "token"}),
    "NPO KL and NLL": ("NPO", {"retain_loss_type": "KL", "nll_weight": 0.7}),
    "SimNPO JSD": ("SimNPO", {"retain_loss_type": "JSD"}),
    "RMU adaptive": ("RMU", {**LAYER, "adaptive": True}),
    "CEU with retain": ("CEU", {"alpha": 1.0, "ignore_first_n_answer_tokens": 3}),
    "UNDIAL with retain": ("UNDIAL", {"alpha": 1.0}),
    "FLAT with retain": ("FLAT", {"alpha": 1.0}),
    "WHP to a distribution": ("WHP", {"target": "softmax"}),
}


@pytest.fixture
def ragged(make_rows: Any) -> dict[str, Any]:
    """5 forget rows, an alternate of each, and 5 retain rows, with answers of 2 to 19 tokens."""
    return {
        "forget": make_rows([(6, 4), (21, 2), (9, 3), (14, 6), (7, 3)], 1),
        "alternate": make_rows([(20, 2), (5, 2), (12, 3), (8, 6), (15, 3)], 2),
        "retain": make_rows([(18, 3), (5, 3), (7, 4), (22, 5), (9, 2)], 3),
    }


def one_step(make_model: Any, rows: Any, goal: Objective, size: int, n: int, **more: Any) -> torch.Tensor:
    """The weights after a step over all five samples."""
    if goal.needs.marks:  # the first two tokens of each answer have a mark
        rows = {
            side: [dataclasses.replace(row, marks=(row.n_prompt, row.n_prompt + 1)) for row in own]
            for side, own in rows.items()
        }
    model, other = make_model().double(), make_model().double()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.9)
    known = {}
    for side in SIDES:
        for key, which in ((side, {"ref": True}), (f"{side}_teacher", {"teacher": True})):
            if (what := spec_for(goal.needs, side, **which)) is not None:
                known[key] = reference(other, rows[side], range(len(rows[side])), what, pad_id=0)
    args = TrainArgs(per_device_train_batch_size=size, gradient_accumulation_steps=n, **{**SGD, **more})
    used = {s: rows[s] for s in SIDES if s == "forget" or getattr(goal.needs, s) is not None}
    done = train(model, goal, used, args, pad_id=0, references=known)
    assert done.n_steps == 1
    return torch.cat([p.detach().flatten() for p in model.parameters()])


SHORT = ("GradDiff", "RMU")  # a mean over tokens and one over positions; the other methods are slow tests
METHOD_CASES = [case if case in SHORT else pytest.param(case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", METHOD_CASES)
def test_the_cut_into_micro_batches_does_not_count(make_model, ragged, case: str) -> None:
    goal = objective(*CASES[case])
    start = torch.cat([p.detach().flatten() for p in make_model().double().parameters()])
    whole = one_step(make_model, ragged, goal, 5, 1)
    assert float((whole - start).abs().max()) > 1e-4
    for size, n in SPLITS:
        torch.testing.assert_close(one_step(make_model, ragged, goal, size, n), whole, rtol=0, atol=1e-7)
    old = one_step(make_model, ragged, goal, 2, 3, accumulation="mean_of_means")
    assert float((old - whole).abs().max()) > 1e-6  # these rows would show the mean of means


@unlearning_loss(retain_loss_type=None)
def over_tokens(inputs: LossInputs) -> torch.Tensor:
    assert inputs.forget is not None
    return inputs.forget.logps_N.square().mean()


@unlearning_loss(reduction="row")
def over_rows(inputs: LossInputs) -> torch.Tensor:
    assert inputs.forget is not None
    return inputs.forget.row_means(inputs.forget.logps_N).square().mean()


@pytest.mark.parametrize("loss", [over_tokens, over_rows], ids=lambda loss: loss.spec.name)
def test_the_cut_does_not_count_for_losses_of_ones_own(make_model, ragged, loss: CustomLoss) -> None:
    four = {side: rows[:4] for side, rows in ragged.items()}
    goal = resolve_objective(UnlearnConfig(), loss)
    whole = one_step(make_model, four, goal, 4, 1)
    torch.testing.assert_close(one_step(make_model, four, goal, 1, 4), whole, rtol=0, atol=1e-7)
    spec = dataclasses.replace(loss.spec, reduction="micro_batch")  # each micro-batch weighs alike: another step
    unweighted = resolve_objective(UnlearnConfig(), CustomLoss(loss.function, spec))
    other = one_step(make_model, four, unweighted, 3, 2)
    assert float((other - one_step(make_model, four, goal, 3, 2)).abs().max()) > 1e-6


def test_a_reduction_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^unlearning_loss\.reduction: .* 'rows'; did you mean 'row'"):
        unlearning_loss(reduction="rows")


TRANSFORMS: dict[str, dict[str, Any]] = {
    "sam": {}, "gru": {}, "blur": {}, "mudman": {}, "latent": {"layer": "model.layers.0"}, "cir": {},
    "tar": {"steps": 2, "every": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in ("sam", "gru") else pytest.param(name, marks=pytest.mark.slow) for name in TRANSFORMS]
)
def test_the_cut_does_not_count_for_gradient_transforms(make_model, ragged, name: str) -> None:
    goal = objective("NPO", {"beta": 0.5})  # a mean over rows; what a transform relearns is a mean over tokens
    args = {"grad_transform": name, "grad_transform_args": TRANSFORMS[name]}
    whole = one_step(make_model, ragged, goal, 5, 1, **args)
    for size, n in SPLITS:
        torch.testing.assert_close(one_step(make_model, ragged, goal, size, n, **args), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("upon", ["step", "epoch"])
def test_the_dual_variable_moves_once_a_step(make_model, ragged, upon: str) -> None:
    goal = objective("PDU", {"dual_warmup_epochs": 0, "dual_update_upon": upon, "retain_loss_eps": 0.1, "gamma": 0.01})
    weights = []
    for size, n in ((1, 5), (5, 1)):
        model = make_model().double()
        args = TrainArgs(
            per_device_train_batch_size=size, gradient_accumulation_steps=n, group_by_length=False,
            **{**SGD, "num_train_epochs": 5, "learning_rate": 0.01},
        )  # fmt: skip
        train(model, goal, {s: ragged[s] for s in ("forget", "retain")}, args, pad_id=0)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-7)


def test_every_shipped_loss_says_what_it_averages_over() -> None:
    for name, spec in registry().items():
        assert (spec.reduction == "micro_batch") == (name in OVER_PAIRS), name
    padded = {"retain_loss_type": "KL", "compat": "openunlearning"}
    assert objective("NPO", padded).means["retain"].reduction == "micro_batch"
    assert objective("NPO", {"level": "token"}).means["forget"].reduction == "token"
    assert objective("CEU").means["forget"].items({"forget": [1, 2, 5]}) == 0 + 1 + 4


def test_shares_average_to_one() -> None:
    tokens = [[1], [7, 2], [4]]
    step = {"forget": [n for micro in tokens for n in micro]}
    for reduction, expected in (("token", [3 / 14, 27 / 14, 12 / 14]), ("row", [0.75, 1.5, 0.75])):
        mean = TermMean("forget", reduction)
        shares = [mean.share({"forget": micro}, step, 3) for micro in tokens]
        assert shares == pytest.approx(expected)
        assert sum(shares) == pytest.approx(3)
    assert TermMean("forget", "micro_batch").share({"forget": [1]}, step, 3) == 1
    assert TermMean("forget", "token").share({"forget": [0]}, {"forget": [0, 0]}, 2) == 1


class Reads(TorchDispatchMode):
    """Counts how often a number is read out of a tensor, for which a GPU must be waited for."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["GradDiff", "NPO", "RMU"])
def test_reading_the_device_does_not_grow_with_micro_batches(make_model, ragged, name: str, monkeypatch: Any) -> None:
    # transformers reads a number in each forward without an attention mask, to look for packed rows
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    goal = objective(name, LAYER if name == "RMU" else {})
    counts = []
    for size, n in ((1, 5), (5, 1)):
        with Reads() as reads:
            one_step(make_model, ragged, goal, size, n)
        counts.append(reads.n)
    assert counts[0] == counts[1], counts
