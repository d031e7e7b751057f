"""A grid from the command line: planned, run, shown cell by cell, and found again by another study."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

Run = Callable[..., tuple[int, str, str]]

GRID = """
benchmark: world
model: llama-64k
data: {world: {authors: 6, questions_per_author: 2, forget_fraction: 0.34, facts: 4, holdout_authors: 0}}
train: {learning_rate: 1e-3, num_train_epochs: 1}
unlearn: {num_train_epochs: 1}
methods: [{trainer: GradAscent, grid: {args.learning_rate: [1e-4, 1e-3]}}]
eval: {generation: {max_new_tokens: 2}}
grid:
  split:
    a<b: {data.world.forget_fraction: 0.17}
    large: {data.world.forget_fraction: 0.34}
"""


@pytest.mark.slow
def test_a_grid_is_run_and_shown_cell_by_cell(here: Path, expunge: Run) -> None:
    (here / "mine.yaml").write_text(GRID)
    code, out, errors = expunge("plan", "study=mine.yaml")
    assert code == 0, errors
    assert "disk to fill" in out and "0 hit" in out
    code, out, errors = expunge("run", "study=mine.yaml")
    assert code == 0, errors + out
    folder = here / "saves/study/mine"
    assert (folder / "cells/large/report.html").is_file() and (folder / "cells/a-b/results.csv").is_file()
    page = (folder / "report.html").read_text()
    assert "a&lt;b" in page and "a<b" not in page
    labels = set(pq.read_table(folder / "results.parquet").column("label").to_pylist())
    own = ("full", "retain", "GradAscent(learning_rate=0.0001)", "GradAscent(learning_rate=0.001)")
    assert labels == {f"{cell}/{label}" for cell in ("a<b", "large") for label in own}
    code, out, errors = expunge("results", "study=mine.yaml", "--format", "csv")
    assert code == 0 and "large/full" in out, errors
    # one of the cells, as a study of its own under other labels, is all there already
    one = GRID.partition("grid:\n")[0]
    (here / "one.yaml").write_text(one)
    code, out, errors = expunge("plan", "study=one.yaml", "--json")
    assert code == 0, errors
    assert Counter(job["state"] for job in json.loads(out)) == {"hit": len(json.loads(out))}


def test_axes_and_models_on_the_command_line(here: Path, expunge: Run) -> None:
    words = ("plan", "study=quickstart", "grid.model=[llama-64k,llama-1m]", "grid.seeds.train=[[0],[1]]", "--json")
    code, _, errors = expunge(*words)
    assert (code, len(errors.splitlines())) == (2, 1), errors  # `grid.seeds.train` is a key within a key
    (here / "mine.yaml").write_text(GRID)
    code, out, errors = expunge("plan", "study=mine.yaml", "grid.model=[llama-64k,llama-1m]", "--json")
    assert code == 0, errors
    bases = [job for job in json.loads(out) if job["kind"] == "base"]
    assert [job["label"] for job in bases] == ["llama-64k/llama-64k", "llama-1m/llama-1m"]
    code, _, errors = expunge("plan", "study=mine.yaml", "grid.model=[llama-65k]")
    assert code == 2 and "llama-64k" in errors and len(errors.splitlines()) == 1
