"""Every shipped experiment of unlearning composes to settings that are accepted, with the values its source gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from expunge.cli.compose import CONF, options, single_tree
from expunge.core.decode import decode
from expunge.methods.objective import Objective, objective
from expunge.pipelines.study.handle import load_study
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task
from expunge.training.config import TrainArgs

SHIPPED = [name for name in options("experiment") if name.startswith("unlearn/")]
BASELINE = {
    "learning_rate": 1e-5, "num_train_epochs": 10.0, "rows_per_step": 32, "weight_decay": 0.01, "warmup_epochs": 1.0,
}  # fmt: skip
BARE = {"weight_decay": 0.0, "warmup_epochs": None}

# experiment: (method, what differs from the shared baseline, settings of the method)
VALUES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "tofu/default": ("GradAscent", {}, {}),
    "tofu/idk": ("DPO", {}, {"beta": 0.1}),
    "tofu/tuned_NPO": ("NPO", {"learning_rate": 5e-5}, {"beta": 0.1, "alpha": 5.0}),
    "tofu/tuned_AltPO": ("AltPO", {"learning_rate": 5e-5}, {"beta": 0.1, "alpha": 2.0}),
    "tofu/published_UNDIAL": ("UNDIAL", {"learning_rate": 1e-4}, {"beta": 10.0, "alpha": 0.0}),
    "tofu/published_WGA": ("WGA", {"num_train_epochs": 5.0}, {"beta": 1.0, "gamma": 1.0, "alpha": 1.0}),
    "tofu/published_SatImp": ("SatImp", {"num_train_epochs": 5.0}, {"beta1": 5.0, "beta2": 1.0, "alpha": 0.1}),
    "tofu/published_PDU": ("PDU", {}, {"alpha": 100.0, "retain_loss_eps": 0.3, "dual_step_size": 5.0}),
    "tofu/published_ME": ("ME", {"num_train_epochs": 5.0}, {"gamma": 0.1, "alpha": 1.0}),
    "tofu/published_FLAT": ("FLAT", {"num_train_epochs": 5.0, "rows_per_step": 64}, {"divergence": "TV"}),
    "arcsf/gpt2_shorter": (
        "GradAscent",
        {"learning_rate": 5e-5, "num_train_epochs": 5.0, "rows_per_step": 16, **BARE},
        {},
    ),
    "arcsf/gpt2_longer": (
        "GradAscent",
        {"learning_rate": 5e-5, "num_train_epochs": 25.0, "rows_per_step": 16, **BARE},
        {},
    ),
    "arcsf/llama_shorter": (
        "GradDiff",
        {"learning_rate": 1e-4, "num_train_epochs": 5.0, "rows_per_step": 8, **BARE, "weight_decay": 0.01},
        {},
    ),
    "arcsf/llama_default": (
        "GradDiff",
        {"learning_rate": 5e-4, "num_train_epochs": 25.0, "rows_per_step": 8, **BARE},
        {},
    ),
    "semeval/snuffleupagus_7b": (
        "RMU",
        {"learning_rate": 5e-5, "rows_per_step": 12, "warmup_epochs": None},
        {"adaptive": True, "steering_coeff": 5.0, "alpha": 900.0, "layer": "model.layers.26"},
    ),
    "semeval/snuffleupagus_1b": (
        "RMU",
        {"learning_rate": 5e-5, "rows_per_step": 8, "warmup_epochs": None},
        {"adaptive": True, "steering_coeff": 3.0, "alpha": 900.0, "layer": "model.layers.14"},
    ),
}  # fmt: skip


def composed(name: str, *words: str) -> tuple[Objective, TrainArgs]:
    tree, notes = single_tree("unlearn", [f"experiment={name}", "task_name=x", *words])
    assert all("from OpenUnlearning by intention" in note for note in notes)
    trainer = decode_task(SingleJob, tree).trainer
    return objective(trainer.handler, trainer.method_args), decode(TrainArgs, trainer.args, where="trainer.args")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_experiment_names_a_method_and_its_settings(name: str) -> None:
    settings, _ = composed(name)
    assert settings.forgets


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    method, differs, settings = VALUES[name]
    choice, args = composed(f"unlearn/{name}")
    assert choice.spec.name == method
    assert {key: getattr(args, key) for key in BASELINE | differs} == BASELINE | differs
    for key, value in settings.items():
        assert getattr(choice.method, key, getattr(choice.weights, key, None)) == value, key


def test_every_method_can_be_put_on_the_baseline() -> None:
    """The comparison under equal settings: one experiment, any trainer."""
    for name in ("NPO", "SimNPO", "RMU"):
        settings, args = composed("unlearn/tofu/default", f"trainer={name}")
        assert settings.spec.name == name
        assert {key: getattr(args, key) for key in BASELINE} == BASELINE


def test_arcsf_adapters() -> None:
    for name, dropout in (("shorter", 0.05), ("default", 0.0)):
        lora = composed(f"unlearn/arcsf/llama_{name}", "trainer=idk")[1].lora
        assert lora is not None
        assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (8, 8.0, dropout)
        assert lora.target_modules == ("q_proj", "v_proj")


def test_adaptive_rmu_trains_three_down_projections() -> None:
    (pattern,) = composed("unlearn/semeval/snuffleupagus_7b")[0].method.trainable_params_regex
    trained = [n for n in range(32) if re.fullmatch(pattern, f"model.layers.{n}.mlp.down_proj.weight")]
    assert trained == [24, 25, 26]


def test_two_runs_and_their_merge_in_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graph = load_study(["study=zjuklab"]).graph
    leaves = {leaf.label: leaf for leaf in graph.leaves if leaf.role == "unlearn"}
    assert list(leaves) == ["model1", "model2", "merged"]
    weights = {
        label: leaves[label].model.identity["objective"]["weights"] | leaves[label].model.identity["args"]
        for label in ("model1", "model2")
    }
    for label, (a, b, c), batch in (("model1", (0.4, 0.4, 0.2), 1), ("model2", (0.3, 0.3, 0.4), 2)):
        output = weights[label]
        assert (output["gamma"], output["alpha"], output["nll_weight"], output["retain_loss_type"]) == (a, b, c, "KL")
        assert (output["per_device_train_batch_size"], output["gradient_accumulation_steps"]) == (batch, 4)
        assert (output["lora"]["r"], output["learning_rate"], output["num_train_epochs"]) == (32, 1e-4, 5.0)
    assert leaves["merged"].model.identity["edit"]["args"] == {"density": 0.8, "weights": (1.0, 1.0)}


def test_every_preset_is_told_on_the_methods_page() -> None:
    page = (CONF.parents[2] / "docs" / "explanation" / "methods.md").read_text()
    for name in [*VALUES, "zjuklab"]:
        assert name.rpartition("/")[2] in page, name
