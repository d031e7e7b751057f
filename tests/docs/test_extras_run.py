"""The commands of the pages that need an extra run, where it is installed (`make test-extras`)."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command_rules import RULES, TINY, is_there
from run_commands import run_apart

NEEDED = sorted({name for rule in RULES.values() for name in rule.needs})


@pytest.mark.slow
def test_every_command_with_an_extra_runs(tmp_path: Path) -> None:
    absent = [name for name in NEEDED if not is_there(name)]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    reader = tmp_path / "reader"
    outcomes, code, errors = run_apart(reader, "extras", timeout_s=600)
    assert [(o["page"], o["command"], o["fault"]) for o in outcomes if o["fault"] or o["reason"]] == []
    assert code == 0, errors
    assert Counter(o["form"] for o in outcomes)["run"] >= 3
    words = ["report", "study=quickstart", *shlex.split(TINY), "--figures", "svg,pdf,png"]
    subprocess.run([sys.executable, "-m", "expunge", *words], cwd=reader, check=True, timeout=300)
    for suffix, beginning in {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"PNG"}.items():
        figures = sorted(reader.glob(f"saves/study/quickstart*/**/*{suffix}"))
        assert figures and all(beginning in file.read_bytes()[:200] for file in figures)
