from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.loaders.tofu import FORGET, check_splits, holdout_for, load_tofu, retain_for

Records = list[dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten rows in TOFU's files, one to forget."""
    plain: Records = [{"question": f"Q{i}?", "answer": f"A{i}."} for i in range(10)]
    wrong: Records = [{**r, "perturbed_answer": ["B.", "C."], "paraphrased_answer": "Z."} for r in plain]
    files = {
        "full": plain, "forget10": plain[9:], "retain90": plain[:9], "forget10_perturbed": wrong[9:],
        "retain_perturbed": wrong[:2], "real_authors_perturbed": wrong[:3], "world_facts_perturbed": wrong[:4],
    }  # fmt: skip
    for name, records in files.items():
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "holdout10.json").write_text(json.dumps([{"question": "H?", "answer": "H."}]))
    return tmp_path


def load(folder: Path, **keys: Any) -> Any:
    return load_tofu(str(folder), forget_split="forget10", retain_split="retain90", **keys)


def edit(folder: Path, name: str, change: Callable[[Records], Records]) -> None:
    path = folder / f"{name}.json"
    records = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.mark.parametrize("forget", list(FORGET))
def test_partners(forget: str) -> None:
    assert int(forget[6:]) + int(retain_for(forget)[6:]) == 100
    check_splits(forget, retain_for(forget), holdout_for(forget))
    check_splits(forget, retain_for(forget), "holdout10")
    check_splits(forget, retain_for(forget))


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (
            ("forget05", "retain90"),
            "forget_split=forget05 requires retain_split=retain95, not retain90, which belongs to ",
        ),
        (("forget10", "retain95"), "forget_split=forget10 requires retain_split=retain90, not retain95, which belongs"),
        (("forgte10", "retain90"), "forget_split=forgte10: TOFU has no such split; did you mean 'forget10'?"),
        (("forget10", "retan90"), "retain_split=retan90: TOFU has no such split; did you mean 'retain90'?"),
        (("forget10", "retain90", "hold10"), "holdout_split=hold10: TOFU has no such split; did you mean 'holdout10'?"),
    ],
)
def test_wrong_splits(splits: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_splits(*splits)
    assert str(caught.value).startswith(words)
    with pytest.raises(ConfigError) as caught:
        check_splits(*splits, where="task")
    assert str(caught.value).startswith(f"task.{words}")


def test_a_retain_split_alone_names_its_forget_split() -> None:
    with pytest.raises(ConfigError, match=r"retain95, which belongs to task\.forget_split=forget05$"):
        check_splits("forget10", "retain95", where="task")


def test_sets_by_role(folder: Path) -> None:
    sets = load(folder)
    assert {name: len(rows) for name, rows in sets.items()} == {
        "full": 10, "forget": 1, "retain": 9, "forget_eval": 1, "retain_eval": 2, "real_authors": 3, "world_facts": 4,
    }  # fmt: skip
    assert all(rows.name == name for name, rows in sets.items())
    assert sets["forget"].variants == ("answer",)
    assert sets["forget_eval"].variants == ("answer", "paraphrase", "perturbed_0", "perturbed_1")


def test_the_holdout_is_read_if_asked(folder: Path) -> None:
    assert load(folder, holdout=True)["holdout"][0].question == "H?"
    assert len(load(folder, holdout_split="holdout10")["holdout"]) == 1
    with pytest.raises(DataError, match="holdout05"):
        load(folder, holdout_split="holdout05")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "full",
            lambda r: r[:9],
            r"forget10\.json \(1 rows\) and .*n90\.json \(9\) do not add up to .*full\.json \(9\)",
        ),
        ("forget10_perturbed", lambda r: r * 2, r"forget10_perturbed\.json has 2 rows, .*forget10\.json has 1"),
        (
            "forget10_perturbed",
            lambda r: [{**r[0], "question": "Other?"}],
            r"0_perturbed\.json row 0: the quest",
        ),
        ("world_facts_perturbed", lambda r: [r[0], {"question": "Q", "answer": "A"}], r"row 1: no perturbed_answer"),
        ("retain90", lambda r: [{"question": "Q"}, *r[1:]], r"retain90\.json row 0: no column 'answer'"),
    ],
)
def test_files_at_odds(folder: Path, name: str, change: Callable[[Records], Records], words: str) -> None:
    edit(folder, name, change)
    with pytest.raises(DataError, match=words):
        load(folder)


def test_a_missing_file(folder: Path) -> None:
    (folder / "forget10_perturbed.json").unlink()
    with pytest.raises(DataError, match=r"forget10_perturbed does not exist; did you mean"):
        load(folder)


@pytest.mark.shared
@pytest.mark.parametrize("forget", list(FORGET))
def test_the_real_files(shared: Path, forget: str) -> None:
    sets = load_tofu(
        str(shared / "data/tofu"),
        forget_split=forget,
        retain_split=retain_for(forget),
        holdout_split=holdout_for(forget),
    )
    n = 40 * int(forget[6:])
    assert {name: len(rows) for name, rows in sets.items()} == {
        "full": 4000, "forget": n, "retain": 4000 - n, "forget_eval": n, "retain_eval": 400, "real_authors": 100,
        "world_facts": 117, "holdout": n,
    }  # fmt: skip
    pairs = [(r.question, r.answer) for r in sets["full"]]
    assert [(r.question, r.answer) for name in ("retain", "forget") for r in sets[name]] == pairs
    assert sets["forget_eval"].variants == ("answer", "paraphrase", *(f"perturbed_{i}" for i in range(5)))
    assert sets["world_facts"].variants == ("answer", *(f"perturbed_{i}" for i in range(3)))
    assert all(len(r.perturbed) == 5 for r in sets["forget_eval"])
