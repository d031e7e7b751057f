"""A part of TOFU: fewer authors and evaluation rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks.api import BenchmarkConfig
from expunge.benchmarks.tofu import tofu
from expunge.core.errors import ConfigError

AUTHORS = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five authors of 20 rows; the last two are the forget split, the first two are evaluated."""
    plain = [{"question": f"Q{i}?", "answer": f"A{i}."} for i in range(20 * AUTHORS)]
    wrong = [{**r, "perturbed_answer": ["B.", "C."], "paraphrased_answer": "Z."} for r in plain]
    real = [{**wrong[0], "question": f"R{i}?"} for i in range(30)]
    files = {
        "full": plain, "forget01": plain[60:], "retain99": plain[:60], "forget01_perturbed": wrong[60:],
        "retain_perturbed": wrong[:40], "real_authors_perturbed": real, "world_facts_perturbed": real[:7],
    }  # fmt: skip
    for name, records in files.items():
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def part(folder: Path, **args: Any) -> Any:
    split = None if "granularity" in args else "forget01"
    return tofu(BenchmarkConfig(root=str(folder), forget_split=split, args=args))


def questions(benchmark: Any, name: str) -> list[str]:
    return [row.question for row in benchmark.sets[name]]


def test_the_first_authors_of_each_side(folder: Path) -> None:
    result = part(folder, forget_authors=1, retain_authors=1, evaluation_rows=10)
    forget, retain = [f"Q{i}?" for i in range(60, 80)], [f"Q{i}?" for i in range(20)]
    assert questions(result, "forget") == questions(result, "forget_eval") == forget
    assert questions(result, "retain") == retain
    assert questions(result, "full") == [*retain, *forget]
    assert questions(result, "retain_eval") == retain[::2]
    assert questions(result, "real_authors") == [f"R{i}?" for i in range(0, 30, 3)]
    assert len(result.sets["world_facts"]) == 7
    assert all(row.row_id == i for name in result.sets for i, row in enumerate(result.sets[name]))


def test_without_settings_all_rows_are_read(folder: Path) -> None:
    whole, part_of_one = part(folder), part(folder, evaluation_rows=1000)
    assert {n: len(s) for n, s in whole.sets.items()} == {n: len(s) for n, s in part_of_one.sets.items()}
    assert len(whole.sets["full"]) == 100


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"forget_authors": 3}, "data.args.forget_authors=3: the forget split has 2 authors"),
        ({"retain_authors": 4}, "data.args.retain_authors=4: the retain split has 3 authors"),
        ({"evaluation_rows": 0}, "data.args.evaluation_rows: must be at least 1"),
        ({"granularity": "author", "forget_authors": 1}, "data.args.forget_authors: has no effect with"),
    ],
)
def test_wrong_settings(folder: Path, args: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        part(folder, **args)
