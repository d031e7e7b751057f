"""A whole TOFU evaluation by OpenUnlearning and by us, side by side: processor seconds and numbers.

    python perf/peer.py PEER PYTHON TOFU MODEL RETAIN [--rounds 2] [--panels default,all]

PEER is a checkout of OpenUnlearning (github.com/locuslab/open-unlearning), and PYTHON the interpreter of an environment
with its requirements; deepspeed and lm_eval are not needed. TOFU is a folder of TOFU's JSON files, MODEL and RETAIN are
folders of Llama models with their tokenizers. Both sides get the same words, with the tags of its phi-1_5, and run with
one thread, in turns. The numbers of RETAIN are computed once on each side, before the table. A line "first" is a
command in an empty store, where the configuration and the tokenizer are also tried in a limited process; "again" is
a command in a store that has seen the model under another name. "imports" is the processor time of the imports of a
plain transformers model on our side. "arithmetic", "tokenising", "statistics" and "decoding" are the parts of least.py.
"Limit" is a program that does these five and nothing else. The least time of the rounds is in the table.

Of the panels, `default` has the metrics of the peer's eval/tofu, and `all` has every metric that needs no download.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ATTACKS = ("mia_min_k_plus_plus", "mia_min_k", "mia_loss", "mia_zlib", "mia_gradnorm", "mia_reference")
DEFAULT = (
    "forget_truth_ratio", "forget_quality", "forget_Q_A_Prob", "forget_Q_A_ROUGE", "model_utility", "privleak",
    "extraction_strength",
)  # fmt: skip
PANELS = {"default": DEFAULT, "all": (*DEFAULT, "exact_memorization", *ATTACKS)}
ADDED = [name for name in PANELS["all"] if name not in DEFAULT]
STUBS = {
    "deepspeed/__init__.py": "class DeepSpeedEngine: ...\n",
    "lm_eval/__init__.py": "simple_evaluate = None\n",
    "lm_eval/models/__init__.py": "",
    "lm_eval/models/hf_vlms.py": "class HFLM: ...\n",
    "lm_eval/tasks.py": "class TaskManager: ...\n",
}
PARTS = ("imports", "arithmetic", "tokenising", "statistics", "decoding")
IMPORTS = "import torch, transformers; transformers.LlamaForCausalLM"
LEAST = Path(__file__).resolve().parent / "least.py"


class FailedError(Exception):
    """A command of one side failed; the text has the end of its output."""


@dataclass(frozen=True)
class Sides:
    """The two programs, and the folder in which both run.

    peer: the peer's checkout. python: its interpreter. models: MODEL and RETAIN.
    """

    peer: Path
    python: Path
    folder: Path
    models: Mapping[str, Path]

    def words(self, model: str, name: str) -> list[str]:
        """The words that both sides get."""
        source = self.models[model]
        return [
            "experiment=eval/tofu/default", "model=phi-1_5", f"task_name={name}", "model.model_args.device_map=cpu",
            f"model.model_args.pretrained_model_name_or_path={source}",
            f"model.tokenizer_args.pretrained_model_name_or_path={source}",
        ]  # fmt: skip

    def theirs(self, model: str, panel: str, name: str, retain: Path | None) -> tuple[float, dict[str, float]]:
        """Evaluate by the peer. Returns the processor seconds and the numbers."""
        words = ["--config-name=eval.yaml", *self.words(model, name)]
        if panel == "all":
            words.append(f"+eval/tofu_metrics=[{','.join(ADDED)}]")
            words.append(f"eval.tofu.metrics.mia_reference.reference_model_path={self.models['retain']}")
        if retain:
            words.append(f"retain_logs_path={retain}")
        spent = self.run([str(self.python), "-W", "ignore", str(self.peer / "src/eval.py"), *words], "stubs")
        return spent, self._numbers(f"saves/eval/{name}")

    def ours(self, model: str, panel: str, name: str, retain: Path | None) -> tuple[float, dict[str, float]]:
        """Evaluate by `expunge eval`. Returns the processor seconds and the numbers."""
        words = [*self.words(model, name), "profile=openunlearning", "data.root=locuslab/TOFU", "paths.output_dir=ours"]
        words.append(f"eval.metrics=[{','.join(m for m in PANELS[panel] if m != 'mia_gradnorm')}]")
        words += ["eval.extras=[gradnorm]"] if panel == "all" else []
        words += [f"retain_logs_path={retain}"] if retain else []
        shutil.rmtree(self.folder / "ours", ignore_errors=True)
        spent = self.run([sys.executable, "-m", "expunge", "eval", *words], None)
        return spent, self._numbers("ours")

    def _numbers(self, place: str) -> dict[str, float]:
        numbers = json.loads((self.folder / place / "TOFU_SUMMARY.json").read_text())
        return {name: value for name, value in numbers.items() if value is not None}

    def least(self, panel: str) -> dict[str, float]:
        """The processor seconds of the parts that a panel needs in any program, with one thread."""
        words = [str(LEAST), str(self.folder / "locuslab/TOFU"), str(self.models["model"]), panel]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FailedError(f"{LEAST.name}: {done.stderr[-2000:]}")
        return {str(name): float(value) for name, value in json.loads(done.stdout).items()}

    def run(self, command: Sequence[str], path: str | None) -> float:
        """Run a command with one thread. Returns the processor seconds of it and its children."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hub")}
        if path:
            environment["PYTHONPATH"] = str(self.folder / path)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise FailedError(f"{' '.join(command[:4])} ...: {(done.stdout + done.stderr)[-2000:]}")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(folder: Path, tofu: Path) -> None:
    """Write TOFU under the name of its hub id, and empty packages in place of those that are imported but not used."""
    data = folder / "locuslab/TOFU"
    data.mkdir(parents=True)
    lines = ["---", "configs:"]
    for file in sorted(tofu.glob("*.json")):
        shutil.copy(file, data)
        lines += [f"- config_name: {file.stem}", f"  data_files: {file.name}"]
    (data / "README.md").write_text("\n".join([*lines, "---", ""]))
    for name, text in STUBS.items():
        (folder / "stubs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "stubs" / name).write_text(text)


def difference(theirs: Mapping[str, float], ours: Mapping[str, float]) -> tuple[int, float, str]:
    """The number of metrics that both have, and the largest difference (relative above 1) with its metric."""
    both = sorted(theirs.keys() & ours.keys())
    sizes = {name: abs(theirs[name] - ours[name]) / max(1.0, abs(theirs[name])) for name in both}
    worst = max(sizes, key=sizes.__getitem__, default="")
    return len(both), sizes.get(worst, math.nan), worst


def measure(sides: Sides, panel: str, rounds: int, logs: Mapping[str, Path]) -> list[str]:
    """Run both sides in turns. Returns the lines of the table."""
    spent: dict[str, list[float]] = {name: [] for name in ("theirs", "first", "again", *PARTS)}
    for i in range(rounds):
        seconds, theirs = sides.theirs("model", panel, f"{panel}_{i}", logs["theirs"])
        spent["theirs"].append(seconds)
        for name in ("first", "again"):
            if name == "first":
                shutil.rmtree(sides.folder / "saves/store", ignore_errors=True)
            else:  # its results are removed; the notes about the model and its tokenizer stay
                for part in (sides.folder / "saves/store").iterdir():
                    if part.is_dir() and not part.name.startswith("."):
                        shutil.rmtree(part)
            seconds, ours = sides.ours("model", panel, f"{panel}_{i}", logs["ours"])
            spent[name].append(seconds)
        spent["imports"].append(sides.run([sys.executable, "-c", IMPORTS], None))
        for name, value in sides.least(panel).items():
            spent[name].append(value)
    least = {name: min(values) for name, values in spent.items()}
    n, largest, worst = difference(theirs, ours)
    least["limit"] = sum(least[name] for name in PARTS)
    ratios = [f"{least['theirs'] / least[name]:.1f}x" for name in ("first", "again", "limit")]
    cells = [f"{least[name]:.1f}" for name in ("theirs", "first", "again", *PARTS)]
    return ["| " + " | ".join([panel, *cells, *ratios, str(n), f"{largest:.0e} ({worst})"]) + " |"]


def main() -> None:
    """Evaluate RETAIN on both sides, then MODEL in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("peer", "python", "tofu", "model", "retain"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--panels", default="default,all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, args.tofu)
        models = {"model": args.model.resolve(), "retain": args.retain.resolve()}
        sides = Sides(args.peer.resolve(), args.python.absolute(), folder, models)
        sides.theirs("retain", "default", "retain", None)
        sides.ours("retain", "all", "retain", None)
        kept = shutil.copytree(folder / "ours", folder / "kept")
        logs = {"theirs": folder / "saves/eval/retain/TOFU_EVAL.json", "ours": kept / "TOFU_EVAL.json"}
        names = ["panel", "theirs s", "ours, first s", "ours, again s", *(f"{name} s" for name in PARTS)]
        names += ["first", "again", "limit", "numbers", "largest difference"]
        print("| " + " | ".join(names) + " |")
        print("| --- |" + " --: |" * (len(names) - 2) + " --- |", flush=True)
        for panel in args.panels.split(","):
            print("\n".join(measure(sides, panel, args.rounds, logs)), flush=True)


if __name__ == "__main__":
    main()
