"""The measuring scripts run in a small size, so that they stay correct between measurements."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PERF = Path(__file__).resolve().parents[2] / "perf"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The importer of a script of perf/."""
    monkeypatch.syspath_prepend(str(PERF))
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["methods", "runs", "reading", "vllm", "attention"])
def test_every_part_of_the_gpu_script_runs_on_a_cpu(script: Any, part: str) -> None:
    gpu = script("gpu")
    lines = gpu.measured(gpu.TINY, [part], minutes=5)
    assert len(lines) >= (1 if part in ("vllm", "attention") else 2)
    assert all(len(line) == 4 for line in lines)
    assert not any("Error" in str(cell) for line in lines for cell in line)


def test_a_part_of_the_gpu_script_that_fails_is_a_line(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = script("gpu")

    def fails(size: Any) -> Any:
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setitem(gpu.PARTS, "vllm", fails)
    size = gpu.dataclasses.replace(gpu.TINY, rows=4)
    assert gpu.measured(size, ["vllm"], minutes=5) == [["vllm", "", "RuntimeError: no such kernel", ""]]
    assert gpu.measured(size, ["vllm"], minutes=-1) == [["vllm", "", "not begun: no time left", ""]]


@pytest.mark.slow
def test_both_dtypes_are_measured_on_a_cpu(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "cpu_bf16.py --preset llama-64k --rows 4 --steps 1 --batch 2 --new-tokens 2 --rounds 1"
    monkeypatch.setattr(sys, "argv", words.split())
    script("cpu_bf16").main()
    output = capsys.readouterr().out
    assert {"scoring", "generation", "training"} <= {line.split(" | ")[0].strip("| ") for line in output.splitlines()}


@pytest.mark.slow
def test_an_evaluation_gives_the_numbers_of_the_plain_way(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "evaluation.py --scale 0.005 --preset llama-64k --only muse,choice"
    monkeypatch.setattr(sys, "argv", words.split())
    script("evaluation").main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[0] for line in lines] == ["muse", "choice"]
    assert all(int(line[-2]) > 10 and float(line[-1].split()[0]) < 1e-3 for line in lines)


@pytest.mark.slow
def test_the_least_parts_of_an_evaluation_are_measured(script: Any) -> None:
    evaluation, least = script("evaluation"), script("least")
    sets = evaluation.tofu_rows(0.005)
    model, tokenizer = evaluation.load(None, "float32", "llama-64k", [sets], "cpu")
    encoder = evaluation.Encoder(evaluation.Template(), tokenizer)
    parts = least.parts(model, encoder, evaluation.tofu_work(sets, everything=True))
    assert list(parts) == ["arithmetic", "tokenising", "statistics", "decoding"]
    assert all(value > 0 for value in parts.values())


def test_a_step_is_measured_in_both_ways(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {}
    for way in ("plain", "ours"):
        words = f"methods.py --one {way} NPO+KL --steps 1 --shape tiny --logits-chunk-size 8"
        monkeypatch.setattr(sys, "argv", words.split())
        script("methods").main()
        losses[way] = json.loads(capsys.readouterr().out)["loss"]
    assert losses["ours"] == pytest.approx(losses["plain"], rel=1e-4)


@pytest.mark.parametrize("name", ["erase_search", "stories", "stories_training", "study"])
def test_a_script_can_be_imported(script: Any, name: str) -> None:
    assert callable(script(name).main)


def test_the_slope_is_the_exponent_of_the_work(script: Any, tmp_path: Path) -> None:
    scale = script("scale")
    assert scale.slope([(100, 1.0), (1000, 10.0)]) == "1.00"
    assert scale.slope([(100, 1.0)]) == "-"
    scale.write_rows(tmp_path / "rows.jsonl", 3)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


MODEL_SIZES = ["--scored", "4", "--steps", "1", "--vocabulary", "2048", "--cores", "1", "--fixed", "8", "2", "2048"]


@pytest.mark.slow
def test_a_dry_run_and_a_plan_are_measured(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = script("scale")
    in_a_process = scale.in_a_process

    def measured(code: str, *words: str, cores: int | None = None) -> Any:
        """Only plans are measured in processes of their own here: each of the others imports torch again."""
        if code == scale.PLAN:
            return in_a_process(code, *words, cores=cores)
        printed = io.StringIO()
        with monkeypatch.context() as own, contextlib.redirect_stdout(printed):
            own.setattr(sys, "argv", ["-c", *words])
            exec(code, {"__name__": "__main__"})
        return json.loads(printed.getvalue().splitlines()[-1])

    monkeypatch.setattr(scale, "in_a_process", measured)
    monkeypatch.setattr(sys, "argv", ["scale.py", "--rows", "50", "--jobs", "100", *MODEL_SIZES])
    scale.main()
    output = capsys.readouterr().out
    assert output.count("\n") == 4 + 4 + 1 + 4
    assert "scoring of 8 rows" in output and "work, vocabulary 2,048" in output
