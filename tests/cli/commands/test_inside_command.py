"""`expunge inspect`: looks into model folders, as a table, JSON and parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model

Run = Callable[..., tuple[int, str, str]]
WORLD = ("benchmark=world", "data.world.authors=6", "data.world.questions_per_author=4")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["Who wrote it? She did, in the year 1912."], 300, max_length=1024)
    for seed, name in enumerate(("model", "full", "retain")):
        save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=seed), tokenizer, root / name)
    return {name: str(root / name) for name in ("model", "full", "retain")}


def controls(models: dict[str, str]) -> tuple[str, ...]:
    return tuple(word for name, path in models.items() for word in (f"--{name}", path))


@pytest.mark.parametrize(
    ("what", "files", "heads"),
    [
        ("lens", ("lens_model", "lens_full", "lens_retain"), ("log p, model", "log p, retain")),
        ("probe", ("probe_model", "probe_kept"), ("AUC, full", "kept")),
        ("depth", ("depth",), ("erased", "unlearning depth")),
        ("drift", ("drift",), ("relative drift", "others")),
        ("cka", ("cka",), ("CKA with full",)),
        ("attribution", ("attribution_model", "attribution_retain"), ("sum |w g|, model", "others")),
        ("attention", ("attention",), ("JSD from full, bits",)),
        ("path", ("path",), ("loss, forget", "loss, retain", "barrier (0: one basin")),
        ("prune", ("prune_model", "prune_retain"), ("moved", "back to the full model's")),
    ],
)
def test_a_look(
    what: str, files: tuple[str, ...], heads: tuple[str, ...], models: dict[str, str], here: Path, expunge: Run
) -> None:
    code, out, errors = expunge("inspect", what, *WORLD, *controls(models), "--n", "6", "--out", "looked")
    assert code == 0, errors
    assert all(head in out for head in heads), out
    for name in files:
        assert isinstance(json.loads((here / "looked" / f"{name}.json").read_text()), dict)
        assert pq.read_table(here / "looked" / f"{name}.parquet").num_rows > 0


def test_a_model_against_itself_has_not_moved(models: dict[str, str], here: Path, expunge: Run) -> None:
    same = ("--model", models["full"], "--full", models["full"])
    code, out, errors = expunge("inspect", "drift", *WORLD, *same, "--n", "2", "--out", "looked")
    assert code == 0, errors
    assert json.loads((here / "looked" / "drift.json").read_text())["relative"] == 0
    assert "0.0000" in out


def test_two_equal_models_are_alike_in_every_look(models: dict[str, str], here: Path, expunge: Run) -> None:
    same = ("--model", models["full"], "--full", models["full"], "--n", "6")
    result = {}
    for what in ("cka", "attention", "path", "prune"):
        code, _, errors = expunge("inspect", what, *WORLD, *same, "--out", what)
        assert code == 0, errors
        name = "prune_model" if what == "prune" else what
        result[what] = pq.read_table(here / what / f"{name}.parquet").to_pylist()
    assert [line["cka"] for line in result["cka"]] == pytest.approx([1, 1], abs=1e-12)
    assert {line["divergence"] for line in result["attention"]} == {0.0}
    assert [line["above"] for line in result["path"]] == pytest.approx([0] * len(result["path"]), abs=1e-6)
    assert {line["moved"] for line in result["prune"]} == {0}


def test_pruned_to_zero_where_no_full_model_is_given(models: dict[str, str], here: Path, expunge: Run) -> None:
    code, out, errors = expunge("inspect", "prune", *WORLD, "--model", models["model"], "--n", "4", "--out", "looked")
    assert code == 0 and "weights moved to zero" in out, errors
    assert json.loads((here / "looked" / "prune_model.json").read_text())["target"] == "zero"
    losses = [ln for ln in pq.read_table(here / "looked" / "prune_model.parquet").to_pylist() if ln["rows"] == "forget"]
    assert [ln["moved"] for ln in losses][:3] == [0, 1, 10]
    code, _, errors = expunge("inspect", "prune", *WORLD, "--model", models["model"], "--n", "1", "--out", "one")
    assert code == 2 and "--n: prune needs at least two rows" in errors


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("depth", "--retain", "MODEL"), ("--full: missing",)),
        (("lens", "--rows", "forgt"), ("--rows: no set named 'forgt'", "'forget'")),
        (("lens", "--n", "0"), ("--n: must be at least 1",)),
        (("lens", "--retain", "./nowhere/model"), ("--retain: no folder ./nowhere/model",)),
        (("lens", "benchmark=wrld"), ("benchmark", "'world'")),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    words: tuple[str, ...], parts: tuple[str, ...], models: dict[str, str], here: Path, expunge: Run
) -> None:
    inputs = [models["model"] if word == "MODEL" else word for word in words]
    code, _, errors = expunge("inspect", inputs[0], *WORLD, *inputs[1:], "--model", models["model"], "--out", "looked")
    assert code == 2
    assert all(part in errors for part in parts), errors
    assert len(errors.strip().splitlines()) == 1 and not (here / "looked").exists()


def test_a_folder_that_is_not_empty_is_left_alone(models: dict[str, str], here: Path, expunge: Run) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("keep")
    code, _, errors = expunge("inspect", "lens", *WORLD, "--model", models["model"], "--out", "mine")
    assert code == 2 and "--out: mine is not empty" in errors
