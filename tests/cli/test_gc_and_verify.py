"""`expunge verify` and `expunge gc` on a study that has run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.commands.store import _names
from expunge.engine.retention import NOT_REACHED, GarbagePlan
from expunge.engine.store import Store

Run = Callable[..., tuple[int, str, str]]

STUDY = """
benchmark: world
model: llama-64k
data: {world: {authors: 6, questions_per_author: 2, forget_fraction: 0.34, facts: 4, holdout_authors: 0}}
train: {learning_rate: 1e-3, num_train_epochs: 1}
unlearn: {num_train_epochs: 1}
methods: [{trainer: GradAscent}, {trainer: GradDiff}METHODS]
eval: {generation: {max_new_tokens: 2}}
"""


def weights(store: Path, kind: str = "unlearn") -> set[str]:
    return {p.parent.name.split("-")[0] for p in store.glob(f"{kind}/*/model.safetensors")}


def test_the_question_of_gc_names_models_first_and_counts_the_rest(tmp_path: Path) -> None:
    def plan(kind: str, label: str) -> GarbagePlan:
        return GarbagePlan(tmp_path / kind / label, label, NOT_REACHED, bytes=2000)

    store = Store(tmp_path)
    few = [plan("score", "NPO-1"), plan("unlearn", "NPO-2")]
    assert _names(few, store) == "unlearn/NPO-2 (1.95 KiB), score/NPO-1 (1.95 KiB)"
    many = [plan("score", f"a-{i:02}") for i in range(19)] + [plan("train", "full-1")]
    assert _names(many, store).startswith("train/full-1 (1.95 KiB), score/a-00 (1.95 KiB), ")
    assert _names(many, store).endswith("score/a-10 (1.95 KiB) and 8 more")


@pytest.mark.slow
def test_gc_and_verify(here: Path, expunge: Run) -> None:
    (here / "mine.yaml").write_text(STUDY.replace("METHODS", ""))
    (here / "fewer.yaml").write_text(STUDY.replace(", {trainer: GradDiff}METHODS", ""))
    (here / "more.yaml").write_text(STUDY.replace("METHODS", ", {trainer: noise, from: [GradDiff]}"))
    store = here / "saves/store"
    assert expunge("run", "study=mine.yaml")[0] == 0
    code, out, errors = expunge("verify", "study=mine.yaml")
    assert code == 0 and " 0 faults" in out, errors
    (root,) = re.findall(r"root of the results: ([0-9a-f]{64})", out)
    assert root in (here / "saves/study/mine/report.html").read_text()
    names = {p.relative_to(store) for p in store.rglob("*") if ".locks" not in p.parts}

    code, out, errors = expunge("gc", "study=mine.yaml", "study=fewer.yaml")
    assert code == 0 and "0 B removed" in out, errors
    code, _, errors = expunge("gc", "study=fewer.yaml")  # this would remove a run that the words do not name
    assert code == 2 and "--yes" in errors
    assert "results that no named study reaches: unlearn/GradDiff-" in errors and errors.count("GradDiff") >= 3, errors
    code, out, _ = expunge("gc", "study=mine.yaml", "--keep", "best", "--dry-run")
    assert "would be removed" in out and len(out.splitlines()) == 2  # one of two models
    assert {p.relative_to(store) for p in store.rglob("*") if ".locks" not in p.parts} == names
    code, out, _ = expunge("gc", "study=mine.yaml", "--keep", "none")
    assert code == 0 and weights(store) == set() and weights(store, "train") == {"full", "retain"}
    code, out, _ = expunge("verify", "--store", "saves/store")
    assert code == 0 and re.search(r"B, \d+ notes: 0 faults", out)  # the totals name all that was read
    code, out, _ = expunge("plan", "study=mine.yaml")
    assert "0 missing" in out

    # a method that goes on from a model whose weights are gone has them made again
    code, out, errors = expunge("run", "study=more.yaml")
    assert code == 0, errors + out
    assert weights(store) == {"GradDiff"}

    code, out, _ = expunge("gc", "study=fewer.yaml", "--yes")
    assert code == 0 and "no named study reaches it" in out
    assert not list(store.glob("unlearn/GradDiff*"))
    assert expunge("gc", "--undo")[0] == 0 and list(store.glob("unlearn/GradDiff*"))
    assert root in expunge("verify", "study=mine.yaml")[1]
    assert expunge("gc", "study=fewer.yaml", "--yes")[0] == 0
    code, out, _ = expunge("gc", "--empty-trash", "--store", "saves/store")
    assert code == 0 and "freed" in out and not (store / ".trash").exists()
    assert expunge("gc", "--undo", "--store", "nowhere")[0] == 2
    assert expunge("gc", "study=fewer.yaml", "--store", "saves/store")[0] == 2 and expunge("gc")[0] == 2
    assert not list(store.glob("unlearn/GradDiff*")) and list(store.glob("unlearn/GradAscent*"))
    assert " 0 faults" in expunge("verify", "study=fewer.yaml")[1]

    file = next(store.glob("train/full*/model.safetensors"))
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(bytes(damaged))
    code, out, _ = expunge("verify", "study=fewer.yaml")
    assert code == 1 and "model.safetensors: is damaged" in out
    assert expunge("verify", "--store", "saves/store")[0] == 1
    assert expunge("verify")[0] == 2 and expunge("verify", "--store", "nowhere")[0] == 2
