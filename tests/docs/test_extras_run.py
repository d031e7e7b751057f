"""The commands of the pages that need an extra run, where it is installed (`make test-extras`)."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command_rules import RULES, TINY
from page_commands import ROOT

NEEDED = sorted({name for rule in RULES.values() for name in rule.needs})


@pytest.mark.slow
def test_every_command_with_an_extra_runs(tmp_path: Path) -> None:
    absent = [name for name in NEEDED if not (importlib.util.find_spec(name) or shutil.which(name))]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", "docs", "examples", ""))
    reader = tmp_path / "reader"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "docs" / "run_commands.py"), str(reader), "extras"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=600,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(o["page"], o["command"], o["fault"]) for o in outcomes if o["fault"] or o["reason"]] == []
    assert done.returncode == 0, done.stderr[-3000:]
    assert Counter(o["form"] for o in outcomes)["run"] >= 3
    words = ["report", "study=quickstart", *shlex.split(TINY), "--figures", "svg,pdf,png"]
    subprocess.run([sys.executable, "-m", "expunge", *words], cwd=reader, check=True, timeout=300)
    for suffix, beginning in {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"PNG"}.items():
        figures = sorted(reader.glob(f"saves/study/quickstart*/**/*{suffix}"))
        assert figures and all(beginning in file.read_bytes()[:200] for file in figures)
