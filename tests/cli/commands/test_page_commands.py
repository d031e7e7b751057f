"""The command on each page of a method or step is taken as it stands, up to the data and weights it needs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.compose import single_tree, study_tree
from expunge.methods import registry
from expunge.methods.grad_transforms import grad_transform_registry, make_grad_transform
from expunge.pipelines.study.single import training_runs
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task
from expunge.training.term_parts import check_grad_transform

PAGES = {spec.name: spec.page for spec in (*registry().values(), *grad_transform_registry().values())}
MINE = """
benchmark: world
model: llama-64k
data: {world: {authors: 8, questions_per_author: 3, facts: 4}}
unlearn: {grad_transform: latent, grad_transform_args: {layer: model.layers.0}}
methods: [{trainer: NPO}]
"""


@pytest.mark.parametrize("name", PAGES)
def test_the_command_of_a_page(name: str) -> None:
    _, mode, *words = shlex.split(PAGES[name].partition("Try: ")[2].replace("\\\n", " "))
    if mode == "run":
        assert study_tree(words)["name"] == words[0].removeprefix("study=")
        return
    tree, _ = single_tree(mode, words)
    for run in training_runs(decode_task(SingleJob, tree)):
        if name in grad_transform_registry():
            assert run.args.grad_transform == name
        if run.args.grad_transform is not None:
            check_grad_transform(
                make_grad_transform(run.args.grad_transform, run.args.grad_transform_args, "trainer.args"),
                run.objective,
            )


@pytest.mark.parametrize(
    ("plus", "message"), [("", "grad_transform_args.rho=0.5"), ("+", "grad_transform_args={rho: 0.5}")]
)
def test_a_steps_own_settings(plus: str, message: str) -> None:
    tree, _ = single_tree(
        "unlearn", ["task_name=x", "trainer=NPO", "trainer.args.grad_transform=sam", f"{plus}trainer.args.{message}"]
    )
    assert tree["trainer"]["args"]["grad_transform_args"] == {"rho": 0.5}
    tree = study_tree(["study=quickstart", "unlearn.grad_transform=sam", f"{plus}unlearn.{message}"])
    assert tree["unlearn"]["grad_transform_args"] == {"rho": 0.5}


def test_a_steps_own_settings_in_a_file(here: Path, expunge: Callable[..., tuple[int, str, str]]) -> None:
    (here / "mine.yaml").write_text(MINE)
    assert expunge("plan", "study=mine.yaml", "unlearn.grad_transform_args.eps=2")[0] == 0
    code, _, errors = expunge("plan", "study=mine.yaml", "unlearn.grad_transform_args.epss=2")
    assert code == 2 and "grad_transform_args.epss: unknown key; did you mean 'eps'?" in errors
