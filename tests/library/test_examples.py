"""Every script in examples/ runs without a hub and prints its result; three also run in this process."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

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
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["npo", "own_loss", "own_csv"])
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert SHOWN[name] in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs_as_a_script(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert SHOWN[name] in done.stdout
