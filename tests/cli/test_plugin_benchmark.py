"""A benchmark from a user's own file, as the user types it: listed, planned and measured."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "capitals.py"


def test_a_benchmark_from_a_file(here: Path, expunge: Run) -> None:
    code, out, errors = expunge("benchmarks", "--json", "--plugin", str(PLUGIN))
    assert code == 0, errors
    assert "capitals" in json.loads(out)
    words = (
        "benchmark=capitals", "model=llama-64k", "task_name=mine", "forget_split=Borea", "trainer=GradDiff",
        "trainer.args.num_train_epochs=1", "eval.generation.max_new_tokens=2", "eval.metrics=[forget_Q_A_Prob]",
    )  # fmt: skip
    code, out, errors = expunge("plan", "unlearn", *words, "--json", "--plugin", str(PLUGIN))
    assert code == 0, errors
    assert {job["kind"] for job in json.loads(out)} >= {"base", "unlearn", "metrics"}
    code, out, errors = expunge("unlearn", *words, "--plugin", str(PLUGIN))
    assert code == 0, errors
    results = json.loads(Path("saves/unlearn/mine/evals/TOFU_EVAL.json").read_text())
    assert len(results["forget_Q_A_Prob"]["value_by_index"]) == 1
    assert "retain_Q_A_Prob" not in results
