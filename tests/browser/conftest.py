"""A report with everything in it, made of numbers from a seed, and a browser to open it with."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from expunge.metrics.api import Result
from expunge.report.model import Audit, Entry, Explorer, Making, Missing, ReportModel, RowScore, Run, Sample

HOSTILE = "<script>window.__pwned = 1</script><img src=x onerror='window.__pwned = 2'></script>"
WORDS = "the author of this book was born in a small town near sea and wrote stories about lost letters of rain".split()
SCORES = (RowScore("probability"), RowScore("ROUGE"), RowScore("truth ratio", "low"), RowScore("extraction strength"))
Browser = Callable[..., Any]


def many(models: int, rows: int, seed: int = 0) -> ReportModel:
    """`models` models (full, retain, then methods of two seeds each) and `rows` rows in three sets."""
    source = random.Random(seed)
    runs = [_run(source, "full", "full", None, rows), _run(source, "retain", "retain", None, rows)]
    for k in range(models - 2):
        runs.append(_run(source, f"Method {k // 2}", "unlearn", k % 2, rows))
    names = tuple(run.label if run.seed is None else f"{run.label}, seed {run.seed}" for run in runs)
    entries = tuple(_entry(source, k, rows, len(names)) for k in range(rows))
    return ReportModel(
        title="A study of many",
        study="many",
        command="expunge run study=many",
        created="2026-01-01",
        sets={"forget": rows // 2, "retain": rows - rows // 2},
        runs=tuple(runs),
        missing=(Missing("RMU", "the loss was not finite at step 3"),),
        samples=(Sample(HOSTILE, HOSTILE, {names[0]: HOSTILE}),),
        audits=tuple(_audit(source, run.label) for run in runs if run.seed in (None, 0)),
        explorer=Explorer(names, SCORES, entries),
        making=Making("study: many\nseeds: [0, 1]\n", ("expunge 0.1.0, torch 2.13.0",), ("cpus 2",), "0, 1", ("make it",)),
        directions={"forget_Q_A_Prob": "more knowledge"},
    )  # fmt: skip


def _run(source: random.Random, label: str, role: str, seed: int | None, rows: int) -> Run:
    ratios = {k: {"score": math.exp(source.gauss(0, 1))} for k in range(min(rows, 4000))}
    ks, utility = source.random(), 0.4 + 0.3 * source.random()
    results = {
        "forget_quality": Result(10 ** (-9 * ks), extra={"ks_distance": ks, "log10_p": -9 * ks}),
        "forget_truth_ratio": Result(source.random(), per_row=ratios),
        "forget_Q_A_Prob": Result(ks, extra={"ci_low": ks * 0.9, "ci_high": min(1.0, ks * 1.1)}),
        "model_utility": Result(utility),
    }
    points = tuple({"step": 10.0 * k, "forget_Q_A_Prob": 0.9 - 0.2 * k * ks} for k in range(4))
    return Run(label, role, label, "lr 1e-5", seed, results, 60 + 60 * ks, 40, 1.5, points)  # type: ignore[arg-type]


def _audit(source: random.Random, label: str) -> Audit:
    value = source.random()
    curve = tuple((float(step), value * step / 50) for step in range(0, 51, 10))
    return Audit("relearning", label, value, value - 0.05, value + 0.05, value, "comes back", "50 steps", curve)


def _entry(source: random.Random, k: int, rows: int, n_models: int) -> Entry:
    def text(n: int) -> str:
        return " ".join(source.choices(WORDS, k=n))

    said = tuple(text(12) for _ in range(n_models))
    scores = tuple(tuple(source.random() for _ in SCORES) for _ in range(n_models))
    question = f"Question {k}: {text(9)}?"
    if k == 1:
        question, said, scores = (
            f"Question 1: {HOSTILE}",
            (HOSTILE,) * n_models,
            ((math.nan,) * len(SCORES),) * n_models,
        )
    return Entry("forget" if k < rows // 2 else "retain", k, question, text(10), said, scores)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of this machine; the tests are skipped where it or playwright is absent."""
    driver = pytest.importorskip(
        "playwright.sync_api", reason="needs the Python package playwright (no browsers of its own)"
    )
    found = os.environ.get("EXPUNGE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs chromium (apt-get install chromium), or its path in EXPUNGE_BROWSER")
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Browser]:
    """Open an address or a page given as text, wait until its figures are drawn; no error may be told meanwhile."""
    errors: list[str] = []
    contexts = []

    def open_page(page: str, width: int = 1280, height: int = 900) -> Any:
        if not page.startswith("http:"):
            file = tmp_path / "report.html"
            file.write_text(page, encoding="utf-8")
            page = file.as_uri()
        context = chromium.new_context(viewport={"width": width, "height": height}, has_touch=width < 500)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page)
        tab.wait_for_selector("html[data-drawn]", timeout=30_000, state="attached")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
