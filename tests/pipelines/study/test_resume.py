"""Evaluations, checkpoints and resume as a user has them: a study, its store, and processes that are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.warm import Warm

from expunge.core.errors import ConfigError
from expunge.engine.store import Store
from expunge.pipelines.study.handle import load_study

MODELS = [
    "data.world.questions_per_author=2", "data.world.facts=3", "train.num_train_epochs=1",
    "unlearn.per_device_train_batch_size=1", "unlearn.gradient_accumulation_steps=1", "unlearn.num_train_epochs=3",
    "unlearn.logging_steps=1", "methods=[{trainer: NPO}]", "eval.generation.max_new_tokens=2",
]  # fmt: skip

# Each attempt is a fork, and sends itself a signal within a step of the unlearning job, where it is told to.
DRIVER = """
import json, os, sys
from expunge.training.trainer import PhaseTrainer
from expunge.cli.main import main

step = PhaseTrainer.training_step
codes = []
for words, at, number, said in json.loads(sys.argv[1]):
    def counted(self, *args, **keys):
        if self.objective.forgets and self.state.global_step + 1 == at:
            os.kill(os.getpid(), number)
        return step(self, *args, **keys)

    child = os.fork()
    if child == 0:
        to = os.open(said, os.O_WRONLY | os.O_CREAT)
        os.dup2(to, 1)
        os.dup2(to, 2)
        PhaseTrainer.training_step = counted
        os._exit(main(["run", *words]))
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    store = next(w for w in words if w.startswith("paths.store=")).partition("=")[2]
    codes.append(sorted(d for _, dirs, _ in os.walk(f"{store}/.checkpoints") for d in dirs if d.startswith("step-")))
print(json.dumps(codes))
"""


def run(warm: Warm, attempts: list[tuple[list[str], int, int, str]]) -> list[Any]:
    """Of each attempt (words, the step to be hit, the signal, the file for what it says): exit code, checkpoints."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = warm.run(["-c", DRIVER, json.dumps(attempts)], Path.cwd(), environment=env, timeout_s=280)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def words_of(micro: list[str], folder: Path, *more: str) -> list[str]:
    return [*micro, *MODELS, f"paths.store={folder}/store", f"paths.output_dir={folder}/out", *more]


def unlearned(folder: Path) -> Path:
    (result,) = (folder / "store" / "unlearn").iterdir()
    return result


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((unlearned(folder) / "job.json").read_text()))


EVALUATED = ("unlearn.evaluate.steps=4", "unlearn.evaluate.keep=best", "unlearn.evaluate.rule.floor=0.1")


@pytest.mark.slow
def test_killed_in_a_step_and_gone_on(tmp_path: Path, micro: list[str], warm: Warm) -> None:
    """SIGKILL, then SIGTERM, then to the end: the bytes of an unbroken run, with a trajectory."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = words_of(micro, broken, *EVALUATED, "unlearn.checkpoint.steps=2")
    output = [str(tmp_path / f"said{i}") for i in range(4)]
    result = run(
        warm,
        [
            (words_of(micro, whole, *EVALUATED, "unlearn.checkpoint=null"), 0, 0, output[0]),
            (words, 6, signal.SIGKILL, output[1]),
            (words, 8, signal.SIGTERM, output[2]),
            (words, 0, 0, output[3]),
        ],
    )
    steps = [[f"step-{n:08d}" for n in of] for of in ((), (2, 4), (6, 8), ())]
    codes = (0, -signal.SIGKILL, 130, 0)
    assert result == [x for pair in zip(codes, steps, strict=True) for x in pair], Path(output[3]).read_text()
    assert "run the same command again to continue" in Path(output[2]).read_text()
    for name in ("model.safetensors", "log.jsonl", "trajectory.jsonl"):
        assert (unlearned(broken) / name).read_bytes() == (unlearned(whole) / name).read_bytes(), name
    assert list((broken / "store" / ".checkpoints").iterdir()) == []
    mine, plain = record(broken), record(whole)
    assert mine["key"] == plain["key"]
    assert mine["facts"].pop("resumed_at") == 8
    for facts in (mine["facts"], plain["facts"]):
        assert facts.pop("speed")["train_s"] > 0  # of this attempt alone
    assert mine["facts"] == plain["facts"]
    lines = [json.loads(line) for line in (unlearned(whole) / "trajectory.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 4, 8, 12]
    assert [line["epoch"] for line in lines] == [0.0, 1.0, 2.0, 3.0]
    assert set(lines[0]) >= {"forget_Q_A_Prob", "retain_Q_A_Prob", "extraction_strength"}
    choice = mine["facts"]["evaluation"]
    assert choice["rows"] == {"forget_eval": 4, "retain_eval": 4}
    assert isinstance(choice["rule"]["target"], float)  # the retain model's forget probability
    candidates = [ln for ln in lines[1:] if ln["retain_Q_A_Prob"] >= 0.1 * lines[0]["retain_Q_A_Prob"]]
    best = min(candidates, key=lambda ln: abs(ln["forget_Q_A_Prob"] - choice["rule"]["target"]))
    assert choice["kept_step"] == best["step"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, micro: list[str]) -> Callable[..., Any]:
    folder = tmp_path_factory.mktemp("study")

    def fit(*more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The trajectory and the final numbers of the study's unlearned model, with some more words."""
        study = load_study(words_of(micro, folder, *more))
        assert not study.run().failures
        store, leaf = Store(folder / "store"), study.graph.leaves[-1]
        lines = (store.path(leaf.model) / "trajectory.jsonl").read_text().splitlines()
        final = json.loads((store.path(leaf.metrics) / "TOFU_SUMMARY.json").read_text())
        return [json.loads(line) for line in lines], final

    return fit


@pytest.mark.slow
def test_the_last_fast_evaluation_is_what_the_end_measures(fitted: Callable[..., Any]) -> None:
    """Few rows, so the panel reads all of them: its last numbers are those of the metrics job."""
    lines, final = fitted("unlearn.evaluate.every=3")
    assert [line["step"] for line in lines] == [0, 12]
    for name in ("forget_Q_A_Prob", "retain_Q_A_Prob", "extraction_strength", "forget_truth_ratio"):
        assert lines[-1][name] == pytest.approx(final[name], rel=1e-6), name


@pytest.mark.slow
def test_the_full_panel_knows_the_retain_model(fitted: Callable[..., Any]) -> None:
    (line,), final = fitted(
        "unlearn.evaluate.every=3", "unlearn.evaluate.panel=full", "unlearn.evaluate.at_start=false"
    )
    for name in ("forget_quality", "model_utility", "forget_Q_A_ROUGE"):
        assert line[name] == pytest.approx(final[name], rel=1e-6), name
    assert line["mia_min_k"] == pytest.approx(final["mia_min_k"])


def test_forget_quality_needs_a_retain_model(tmp_path: Path, micro: list[str]) -> None:
    words = [f"train.evaluate.{w}" for w in ("every=1", "panel=full", "keep=best")]
    with pytest.raises(ConfigError, match=r"rule.forget: forget_quality compares with a retain model.*forget_Q_A_Prob"):
        _ = load_study(words_of(micro, tmp_path, *words)).graph
