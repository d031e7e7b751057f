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
from expunge.pipelines.study.memory import estimate_memory, shape_of
from expunge.training.config import TrainArgs

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


def test_a_plan_says_what_memory_its_largest_jobs_need(here: Path, expunge: Run) -> None:
    """By the same sums as `expunge memory`: the longest row, and as many sides as a sample has."""
    words = ("study=quickstart", "model=llama-8m", "unlearn.bf16=true")
    out = expunge("plan", *words, "--json")[1]
    needs = {f"{j['kind']} {j['label']}": j["memory"] for j in json.loads(out)}
    shape, args = shape_of("llama-8m"), TrainArgs(bf16=True)
    found = {estimate_memory(shape, args, "ddp", length=n, sides=2).total for n in range(10, 100)}
    assert needs["unlearn NPO"] in found
    assert needs["unlearn NPO"] > needs["unlearn GradAscent"] > 0 and needs["metrics NPO"] is None
    assert needs["score full forget_eval tokens"] > 4 * shape.parameters
    line = " ".join(expunge("plan", *words)[1].split())
    most = max(((n, value) for n, value in needs.items() if n.startswith(("train", "unlearn"))), key=lambda of: of[1])
    assert f"training up to {most[1] / 2**30:.3g} GiB ({most[0]}), evaluation up to 0." in line


def test_a_plan_says_why_it_knows_no_memory(here: Path, expunge: Run) -> None:
    words = ("model.model_args.pretrained_model_name_or_path=someone/model",)
    out = " ".join(expunge("plan", "study=quickstart", *words)[1].split())
    assert "training unknown (no model folder and no known model 'someone/model'" in out
    done = " ".join(expunge("plan", "study=stories_tiny")[1].split())
    assert "training up to" in done and "evaluation up to" in done


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
