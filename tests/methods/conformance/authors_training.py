"""Runs of the authors' training loops and rewards, by the file of their numbers."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from measure import case, definitions, tensor

Inputs = Mapping[str, Any]
OBJECTIVES = ("log_p_loss", "max_entropy_loss", "_filter_dpo_inputs", "obj_standard_max_next_token")
LOOP = ("adversary_next_token_obj_step", "tamper_resistance_obj", "inner_loop_step", "schedule", "tar_training_loop")


@case("tar", "schedule")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(folder / "modules/training.py", ["schedule"], {})
    n = inputs["steps"]
    return [code.schedule(i, K=n, schedule_lambda=inputs["decay"]) for i in range(n)]


@case("tar", "max_entropy")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(folder / "modules/objectives.py", ["max_entropy_loss"], {})
    return code.max_entropy_loss(tensor(inputs["logits"]))


class Bigrams(torch.nn.Module):
    """A model whose logits after a token are a row of one matrix."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(tensor(rows))
        self.vocab_size = len(rows)
        self.config = SimpleNamespace(use_cache=False)
        self._all_handles: list[Any] = []

    def forward(self, input_ids: torch.Tensor, **_unread: Any) -> Any:
        """Return the logits after each token."""
        return SimpleNamespace(logits=self.table[input_ids])


class LastGradient:
    """An optimizer that keeps the gradient of its last step in place of a step."""

    accelerator_state = SimpleNamespace(device="cpu")

    def __init__(self, model: Bigrams) -> None:
        self.model = model
        self.gradient: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return no state."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Load nothing."""

    def step(self) -> None:
        """Keep the gradient."""
        assert self.model.table.grad is not None
        self.gradient = self.model.table.grad.detach().clone()


@case("tar", "loop")
def _(folder: Path, inputs: Inputs) -> Any:
    modules = folder / "modules"
    utils = ("_filter_inputs", "get_next_batch", "next_n_batches", "delete_optimizer")
    objectives = {
        **vars(definitions(modules / "utils.py", utils, {})),
        "CrossEntropyLoss": torch.nn.CrossEntropyLoss,
    }
    objectives |= vars(definitions(modules / "objectives.py", (*OBJECTIVES, "obj_max_entropy_next_token"), objectives))
    storage = definitions(modules / "fsdp_v1_utils.py", ["fsdp_v1_model_params", "FSDPModelStorage"], {})
    plain = {
        "move_to_device": lambda values, device: values,
        "distributed_sample_task": lambda shares: shares.partition(":")[0],
        "distributed_sample_adversary_lr": lambda rates, accelerator: rates[0],
    }
    code = definitions(modules / "training.py", LOOP, {**objectives, **vars(storage), **plain})
    model = Bigrams(inputs["table"])
    accelerator = SimpleNamespace(
        is_main_process=False, backward=lambda loss: loss.backward(), prepare_optimizer=lambda one: one
    )
    outer = LastGradient(model)
    batches = {}
    for name, key in (("retain", "retain"), ("meta", "forget"), ("forget_train", "forget")):
        ids = torch.tensor([inputs[key]])
        batches[name] = [{"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}]
    code.tar_training_loop(
        model,
        batches,
        outer,
        accelerator,
        gradient_accumulation_steps=1,
        max_steps=1,
        tar_inner_loop_steps=inputs["steps"],
        tar_inner_loop_subsample=inputs["every"],
        tar_tamper_resistance_grad_scale=inputs["scale"],
        schedule_lambda=inputs["decay"],
        use_weighting_schedule=True,
        adversary_dist_types="forget_train:1.0",
        adversary_lr_schedulers="constant:1.0",
        adversary_lr_samples=str(inputs["rate"]),
        tar_num_tasks_sampled=1,
        unbounded=True,
    )
    return outer.gradient


@case("rule", "refusals")
def _(folder: Path, inputs: Inputs) -> Any:
    return [_reward(folder)(text, ["<reject>"])["overall"] for text in inputs["texts"]]


@case("rule", "answers")
def _(folder: Path, inputs: Inputs) -> Any:
    return [_reward(folder)(text, ["<answer>", answer])["overall"] for text, answer in inputs["pairs"]]


def _reward(folder: Path) -> Any:
    """Return the authors' `forget_reward`. It reads the package rouge (pip install rouge)."""
    import re

    from rouge import Rouge

    file = folder / "verl/utils/reward_score/forget.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    patterns = next(node for node in tree.body if isinstance(node, ast.Assign))
    scope: dict[str, Any] = {"re": re}
    exec(ast.unparse(patterns), scope)
    return definitions(file, ["forget_reward"], {"Rouge": Rouge, **scope}).forget_reward
