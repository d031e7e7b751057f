"""A folder of TOFU's shape made from the embedded world, and the command line run in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.main import main
from expunge.data.examples import ExampleSet
from expunge.data.world import WorldConfig
from expunge.data.world.generate import build_world


def write_tofu(folder: Path) -> None:
    """forget10 / retain90 of ten authors, as TOFU's JSON lines."""
    sets = build_world(WorldConfig(authors=10, questions_per_author=4, forget_fraction=0.1, holdout_authors=1, facts=4))
    names = {
        "full": "full",
        "forget": "forget10",
        "retain": "retain90",
        "forget_eval": "forget10_perturbed",
        "retain_eval": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
        "holdout": "holdout10",
    }
    folder.mkdir()
    for role, name in names.items():
        (folder / f"{name}.json").write_text(_lines(sets[role], full=name.endswith("perturbed")))


def _lines(rows: ExampleSet, *, full: bool) -> str:
    out = []
    for row in rows:
        line: dict[str, object] = {"question": row.question, "answer": row.answer}
        if full:
            line["perturbed_answer"] = list(row.perturbed)
            if "paraphrase" in row.answers:
                line["paraphrased_answer"] = row.answers["paraphrase"]
        out.append(json.dumps(line))
    return "\n".join(out) + "\n"


@pytest.fixture(scope="session")
def tofu_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tofu") / "data"
    write_tofu(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; what a command writes by default lands in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def expunge(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in `here`: (exit code, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return call
