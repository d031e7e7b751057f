"""Every script in examples/ runs without a hub and prints its result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.warm import Warm

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOWN = {
    "npo": "forget_Q_A_Prob: ",
    "own_loss": "UnlearnResult(squared_margin, ",
    "lora": "LlamaForCausalLM",
    "tofu": "forget quality ",
    "own_csv": "retain_Q_A_Prob: ",
    "audit_with_controls": "relearn same_rows",
    "compare_methods": "Comparison(b - a)",
    "judge": "full: ",
    "inspect_layers": "LayerReport(2 layers)",
    "slurm_study": "queue.sh",
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} - {"tiny"} == set(SHOWN)
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"[{name}.py]({name}.py)" in listed for name in SHOWN)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs_as_a_script(name: str, tmp_path: Path, warm: Warm) -> None:
    done = warm.run([str(EXAMPLES / f"{name}.py")], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert SHOWN[name] in done.stdout
    if name in ("npo", "own_csv", "lora"):  # the first scripts that a user runs forget, and keep the rest
        after = {m[1]: float(m[2]) for m in re.finditer(r"(\w+)_Q_A_Prob: (?:[\d.]+ -> )?([\d.]+)", done.stdout)}
        assert after["forget"] < 0.1 and after["retain"] > 0.7
