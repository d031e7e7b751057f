from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.methods import LossInputs, Quantity, Requirements, objective
from expunge.training.config import TrainArgs
from expunge.training.loop import train
from expunge.training.phases import spec_for
from expunge.training.trainable import set_trainable

DOWN = r"model\.layers\.\d+\.mlp\.down_proj\.weight"


def free(model: Any) -> set[str]:
    return {n for n, p in model.named_parameters() if p.requires_grad}


def test_the_last_layers(make_model) -> None:
    model = make_model()
    n = set_trainable(model, last_k_layers=1, params_regex=())
    assert free(model) == {n for n, _ in model.named_parameters() if n.startswith("model.layers.1.")}
    assert n == sum(p.numel() for p in model.model.layers[1].parameters())
    set_trainable(model, last_k_layers=2, params_regex=())
    assert "model.layers.0.mlp.up_proj.weight" in free(model) and "model.norm.weight" not in free(model)


def test_names_and_both_together(make_model) -> None:
    model = make_model()
    set_trainable(model, last_k_layers=None, params_regex=[DOWN, r"model\.norm\.weight"])
    assert free(model) == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)} | {"model.norm.weight"}
    set_trainable(model, last_k_layers=1, params_regex=[DOWN])
    assert free(model) == {"model.layers.1.mlp.down_proj.weight"}


def test_a_tied_parameter_goes_by_both_names(make_model) -> None:
    model = make_model()
    set_trainable(model, last_k_layers=None, params_regex=[r"lm_head\.weight"])
    assert free(model) == {"model.embed_tokens.weight"}


def test_what_matches_nothing_is_named(make_model) -> None:
    model = make_model()
    words = r"^trainer\.args\.trainable_params_regex\[1\]: no parameter's whole name matches .*; did you mean "
    with pytest.raises(ConfigError, match=words + r"'model\.norm\.weight'\?"):
        set_trainable(model, last_k_layers=None, params_regex=[DOWN, r"model\.nrm\.weight"])
    with pytest.raises(ConfigError, match="down_proj"):  # a part of a name is no whole name
        set_trainable(model, last_k_layers=None, params_regex=["down_proj"])
    with pytest.raises(ConfigError, match=r"trainable_last_k_layers: the model has 2 layers, got 3"):
        set_trainable(model, last_k_layers=3, params_regex=())
    with pytest.raises(ConfigError, match="matches no parameter of the last 1 layers"):
        set_trainable(model, last_k_layers=1, params_regex=[r"model\.norm\.weight"])
    with pytest.raises(ConfigError, match="is no regular expression"):
        set_trainable(model, last_k_layers=None, params_regex=["("])
    assert len(free(model)) == len(list(model.parameters()))  # nothing was frozen on the way


def test_frozen_parameters_stay_and_enter_no_norm(make_model, rows) -> None:
    """The clipping norm is that of the trained gradients alone: with the limit just above it nothing is clipped."""
    model = make_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    sgd = {"optim": "sgd", "lr_scheduler_type": "constant", "weight_decay": 0.1, "learning_rate": 1e-3}
    args = TrainArgs(
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        logging_steps=1,
        max_grad_norm=1e9,
        trainable_params_regex=(DOWN,),
        **sgd,
    )
    done = train(model, objective("NPO"), rows, args, pad_id=0)
    moved = 0.0
    for name, p in model.named_parameters():
        if name.endswith("down_proj.weight"):
            moved += float(((p.detach() - before[name] * (1 - 1e-3 * 0.1)) / 1e-3).double().square().sum())
        else:
            assert torch.equal(p, before[name]), name
            assert p.grad is None, name
    assert done.history[0]["grad_norm"] == pytest.approx(moved**0.5, rel=1e-3)


def test_settings_are_checked_and_count_only_where_set() -> None:
    plain = fingerprint(TrainArgs().identity)
    assert fingerprint(TrainArgs(trainable_last_k_layers=2).identity) != plain
    assert fingerprint(TrainArgs(trainable_params_regex=("a",)).identity) != plain
    assert decode(TrainArgs, {"trainable_params_regex": ["a", "b"]}).trainable_params_regex == ("a", "b")
    for keys, words in (
        ({"trainable_last_k_layers": -1}, "trainable_last_k_layers: must be at least 0"),
        ({"trainable_params_regex": ["("]}, r"trainable_params_regex: '\(' is no regular expression"),
        ({"lora": {}, "trainable_last_k_layers": 1}, r"lora: .*lora\.target_modules"),
    ):
        with pytest.raises(ConfigError, match=rf"^train\.{words}"):
            decode(TrainArgs, keys, where="train")


def test_the_settings_load_no_torch() -> None:
    code = "import sys, expunge.training.config; print([m for m in ('torch', 'peft') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize("step", [None, "sam"])
def test_a_loss_that_reaches_nothing_trained_is_told(step, make_model, rows) -> None:
    args = TrainArgs(
        trainable_last_k_layers=1, max_steps=1, grad_transform=step
    )  # RMU reads layer 0, and runs no other
    with pytest.raises(ConfigError, match=r"^trainer\.args: RMU's loss depends on none of the parameters"):
        train(make_model(), objective("RMU", {"module_regex": "model.layers.0"}), rows, args, pad_id=0)


def test_a_forget_term_without_a_gradient_is_refused(make_model, rows) -> None:
    class Detached:
        def forget_loss(self, view: LossInputs) -> torch.Tensor:
            return view.forget.logps_N.detach().mean()

    goal = dataclasses.replace(objective("GradDiff"), method=Detached())
    with pytest.raises(
        ConfigError, match=r"^method GradDiff: forget_loss returned a number without a gradient, so noth"
    ):
        train(make_model(), goal, rows, TrainArgs(max_steps=1), pad_id=0)


def test_hidden_states_of_no_module_are_refused() -> None:
    for side, ref in (("forget", False), ("retain", True)):
        needs = Requirements(**{f"{side}{'_ref' * ref}": Quantity.HIDDEN})
        with pytest.raises(
            ConfigError, match=rf"^Requirements\({side}=Quantity\.HIDDEN\): hidden states of which modules"
        ):
            spec_for(needs, side, ref=ref)
