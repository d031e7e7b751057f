"""The names other projects give to methods, where a user types them: in a study, in `unlearn` and in `train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.compose import single_tree
from expunge.core.errors import ConfigError
from expunge.pipelines.study.handle import load_study
from expunge.pipelines.study.job_handle import load_job
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task

Run = Callable[..., tuple[int, str, str]]
ALIASES = {
    "ascent": "GradAscent", "difference": "GradDiff", "idk": "IdkNLL", "kl": "KL", "IdkDPO": "DPO", "CE-U": "CEU",
    "ME+GD": "ME", "iterative": "SemEvalGA",
}  # fmt: skip
SMALL = ("model=llama-64k", "benchmark=world", "data.world={authors: 6, questions_per_author: 2, facts: 4}")


@pytest.mark.parametrize("alias", ["ascent", "difference", "idk", "kl"])
def test_an_alias_is_its_method(alias: str, here: Path) -> None:
    jobs = [
        load_job("unlearn", ["task_name=x", f"trainer={name}", *SMALL]).prepared.model
        for name in (alias, ALIASES[alias])
    ]
    assert jobs[0] is not None and jobs[1] is not None
    assert jobs[0].key == jobs[1].key


def test_aliases_in_a_study(here: Path) -> None:
    calls = []
    for names in (ALIASES.keys(), ALIASES.values()):
        methods = ", ".join(f"{{trainer: {name}}}" for name in names)
        graph = load_study(["study=quickstart", f"methods=[{methods}]"]).graph
        calls.append({leaf.model.key for leaf in graph.leaves if leaf.role == "unlearn"})
    assert calls[0] == calls[1]
    assert len(calls[0]) == len(ALIASES)


@pytest.mark.parametrize(("name", "split"), [("full", "full"), ("retain", "retain"), ("retrain", "retain")])
def test_a_name_of_fine_tuning_says_which_rows(name: str, split: str) -> None:
    tree, notes = single_tree("train", ["task_name=x", f"trainer={name}", "experiment=finetune/tofu/default"])
    assert decode_task(SingleJob, tree).train_split == split
    assert f"trainer={name} trains on train_split={split}" in notes
    tree, notes = single_tree("train", ["task_name=x", f"trainer={name}", "train_split=retain95"])
    assert tree["train_split"] == "retain95" and not notes
    assert single_tree("train", ["task_name=x", "trainer=finetune"])[0]["train_split"] == "full"


def test_the_oracle_is_trained_from_the_base_model_and_is_no_method(here: Path, expunge: Run) -> None:
    oracle, spelled = (
        load_job("train", ["task_name=x", *words, *SMALL]).prepared.model
        for words in (["trainer=retrain"], ["train_split=retain"])
    )
    assert oracle is not None and spelled is not None and oracle.key == spelled.key
    for name in ("retrain", "retain", "full", "finetune"):
        code, _, errors = expunge("unlearn", "task_name=x", f"trainer={name}", *SMALL)
        assert code == 2
        assert f"trainer={name}: this does not unlearn" in errors and "`expunge train trainer=retrain`" in errors
        with pytest.raises(ConfigError, match=rf"^methods\[0\]\.trainer: {name} does not unlearn; .*every study"):
            load_study(["study=quickstart", f"methods=[{{trainer: {name}}}]"])


def test_the_list_has_every_loss_step_and_edit_with_source_and_needs(expunge: Run) -> None:
    entries = json.loads(expunge("methods", "--json")[1])
    assert {e["shape"] for e in entries.values()} == {"loss", "step", "edit", "wrapper"}
    assert all(e["paper"] and e["about"].endswith(".") and "arXiv" not in e["about"] for e in entries.values())
    assert all(e["needs"] for e in entries.values() if e["shape"] not in ("edit", "wrapper"))
    assert entries["KL"]["needs"] == ["forget: logps", "retain: logits", "retain_ref: logits"]
    assert entries["RMU"]["needs"][-1] == r"layer: model.layers.7"
    assert entries["latent"]["settings"]["layer"] == "required"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("retrain", ("finetune\n", "aliases: full, retain, retrain")),
        ("mudman", ("settings: forget_norm=1, momentum=0.9, keep_retain=true", "needs: forget, retain, relearn")),
        ("ties", ("shape: edit", "density=0.8, weights=null", "arXiv:2306.01708")),
        ("SAMM", ("did you mean 'sam'",)),
    ],
)  # fmt: skip
def test_a_page_shows_settings_as_they_are_typed(name: str, parts: tuple[str, ...], expunge: Run) -> None:
    code, out, errors = expunge("methods", name)
    assert (code == 0) is (name != "SAMM")
    for part in parts:
        assert part in out + errors
    assert "\n    Formula" not in out
