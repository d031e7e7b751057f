"""A folder like `saves`: two studies, one with a note of its run, a store, pages, and a log of one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from workspace_folder import HOSTILE, artifact, note, results, study

from expunge.metrics.results import write_results
from expunge.ui.routes import Routes


@pytest.fixture
def saves(tmp_path: Path) -> Path:
    root = tmp_path / "saves"
    store = root / "store"
    (store / ".locks").mkdir(parents=True)
    study(root / "study" / "first", ("NPO", "GradDiff"))
    study(root / "study" / f"second{HOSTILE.replace('/', '')}", ("NPO",))
    (root / "study" / "first-latest").symlink_to("first")
    models = [["NPO", "unlearn", "0", artifact(store, "NPO", 0.2)],
              ["GradDiff", "unlearn", "0", artifact(store, "GradDiff", 0.5)]]  # fmt: skip
    note(store, root / "study" / "first", models)
    cell = root / "study" / "grid" / "cells" / "a=1"
    cell.mkdir(parents=True)
    (cell / "report.html").write_text("cell")
    (cell.parent.parent / "report.html").write_text("grid")
    for place in ("erased/erasure_report.html", "given/audit_report.html", "layers/inspect.html", "compare/a-b.html"):
        (root / place).parent.mkdir()
        (root / place).write_text(place)
    (root / "eval" / "before").mkdir(parents=True)
    write_results(root / "eval" / "before", results(0.9), {}, prefix="WORLD_")
    (root / "secret.txt").write_text("no")
    (root / "erased" / "erasure_key.json").write_text("no")
    return root


@pytest.fixture
def routes(saves: Path) -> Callable[[], Routes]:
    return lambda: Routes([saves], [])
