"""`expunge methods|metrics|benchmarks`, `--help`, and `plan`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("what", "some"),
    [
        ("methods", {"GradAscent", "GradDiff", "NPO", "finetune"}),
        ("metrics", {"probability", "truth_ratio", "forget_quality", "model_utility", "rouge"}),
        ("benchmarks", {"tofu", "world"}),
    ],
)
def test_lists_as_json_and_as_a_table(what: str, some: set[str], expunge: Run) -> None:
    code, out, _ = expunge(what, "--json")
    entries = json.loads(out)
    assert code == 0
    assert some <= set(entries)
    assert all(entry["about"] for entry in entries.values())
    code, out, _ = expunge(what)
    assert code == 0
    assert all(name in out for name in some)


def test_one_page(expunge: Run) -> None:
    code, out, _ = expunge("methods", "NPO")
    assert code == 0
    assert "arXiv:2404.05868" in out
    assert "beta=0.1" in out


def test_help_loads_no_heavy_library() -> None:
    """Counted rather than timed: a help text that pulls in torch would take seconds."""
    code = (
        "import sys; from expunge.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'hydra', 'pydantic', 'rich', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "expunge run study=quickstart" in done.stdout


def test_plan_shows_the_graph_and_writes_nothing(here: Path, expunge: Run) -> None:
    code, out, _ = expunge("plan", "study=quickstart", "--json")
    jobs = json.loads(out)
    assert code == 0
    assert [j["state"] for j in jobs].count("missing") == 1  # the base, which all others wait for
    assert [j["state"] for j in jobs].count("blocked") == len(jobs) - 1
    assert [j["kind"] for j in jobs].count("unlearn") == 4
    assert [j["kind"] for j in jobs].count("reference") == 2
    assert not (here / "saves").exists()
    code, out, _ = expunge("plan", "study=quickstart")
    assert code == 0
    assert "21 jobs: 0 hit, 1 missing, 20 blocked" in out


def test_settings_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    ways = (
        ("memory", "llama-8m", "bf16=true", "--processes", "4", "lora.r=4"),
        ("memory", "--processes", "4", "llama-8m", "lora.r=4", "bf16=true"),
    )
    told = []
    for words in ways:
        assert main(words) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    with pytest.raises(SystemExit) as wrong:
        main(("memory", "llama-8m", "--processes", "4", "bf16=true", "more"))
    assert wrong.value.code == 2
    assert "unrecognized arguments: more" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "expunge", "metrics", "--json"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
