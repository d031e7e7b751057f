"""Time and memory against the work: erasures, studies, scoring and training.

    python perf/scale.py [--rows 2000 10000 100000] [--jobs 100 1000 10000] [--scored 1000 4000 16000]
        [--steps 10 40 160] [--vocabulary 32000 64000 128000 256000] [--cores 1 2] [--fixed 500 10 64000]
        [--model FOLDER]

--rows: dry runs of an erasure. --jobs: plans of a study. --scored, --steps: a random model with a body of 1M parameters
scores rows, and is trained by NPO with 4 forget and 4 retain rows a step. --vocabulary, --cores: both by these, with
the rows, the steps and (for --cores) the tokens of --fixed.

Each measurement is a process of its own. The memory is its high-water mark; next to it stands the mark after the
imports, which no number of rows changes. Seconds are those of the processor, because other processes share the machine.
--model: the folder whose tokenizer and chat template the dry runs use (default: a small random one). A slope near 1 is
linear in the work, and near 0 constant.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from speeds import table

HEAD = """
import json, sys, time
from pathlib import Path
def mark():  # ru_maxrss begins at the size of the parent process
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
"""
DRY_RUN = (
    HEAD
    + """
import expunge.pipelines.erase.run
from expunge.cli.main import main
imports = mark(), time.process_time()
code = main(sys.argv[1:])
out = {"imports_s": imports[1], "s": time.process_time(), "imports_mb": imports[0], "mb": mark(), "code": code}
print(json.dumps(out))
"""
)
PLAN = (
    HEAD
    + """
from study import tree
from expunge.engine.job import in_order
from expunge.engine.run import plan
from expunge.engine.store import Store
from expunge.pipelines.study.grid import study_graph
study_graph(tree(1))
imports = mark(), time.process_time()
graph = study_graph(tree(int(sys.argv[1])))
plan(graph.jobs, Store(Path(sys.argv[2])))
out = {"imports_s": imports[1], "s": time.process_time(), "imports_mb": imports[0], "mb": mark()}
print(json.dumps({**out, "n": len(in_order(graph.jobs))}))
"""
)
MODEL = (
    HEAD
    + """
import torch
from expunge.data.encoder import Encoder
from expunge.data.template import Template
from expunge.models.build import build_llama, train_tokenizer
from expunge.training.config import TrainArgs
from speeds import Bench, qa_rows, training
work, n, vocabulary = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
tokenizer = train_tokenizer([r.question + " " + r.answer for r in qa_rows(400)], 2048, max_length=512)
model = build_llama("llama-1m", tokenizer, vocab_size=vocabulary, seed=0)
encoder = Encoder(Template(), tokenizer)
def call(n):
    if work == "score":
        return Bench(model.eval(), encoder, qa_rows(n), 4).score()
    steps = dict(max_steps=n, per_device_train_batch_size=4, gradient_accumulation_steps=1, optim="adamw_torch_fused")
    return training(model.train(), encoder, qa_rows(64), TrainArgs(**steps), method="NPO")
call(2)
imports, began = (mark(), time.process_time()), time.perf_counter()
call(n)
wall = time.perf_counter() - began
out = {"imports_s": imports[1], "s": time.process_time(), "imports_mb": imports[0], "mb": mark(), "wall": wall}
print(json.dumps(out))
"""
)


def in_a_process(code: str, *words: str, cores: int | None = None) -> dict[str, Any]:
    paths = [str(Path(__file__).parent), *sys.path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    env |= {} if cores is None else {"OMP_NUM_THREADS": str(cores)}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_rows(path: Path, n: int) -> None:
    """Questions of about 12 words and answers of about 25, as in TOFU."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            question, answer = (" ".join(draw.choices(words, k=k)) for k in (9, 25))
            file.write(
                json.dumps({"question": f"What is said of {question} {i}?", "answer": f"It is {answer}."}) + "\n"
            )


def small_model(folder: Path) -> Path:
    from expunge.models.build import build_llama, train_tokenizer
    from expunge.models.load import save_model

    tokenizer = train_tokenizer(["What is said of that? It is a red book."] * 5, 400, max_length=512)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=400, seed=0), tokenizer, folder)
    return folder


def slope(points: list[tuple[float, float]]) -> str:
    """The exponent between the last two points."""
    if len(points) < 2:
        return "-"
    (a, x), (b, y) = points[-2:]
    return f"{math.log(max(y, 1e-3) / max(x, 1e-3)) / math.log(b / a):.2f}"


def lines_of(name: str, unit: str, found: list[dict[str, Any]]) -> list[list[Any]]:
    lines: list[list[Any]] = []
    points: list[tuple[float, float]] = []
    for one in found:
        points.append((one["n"], one["s"] - one["imports_s"]))
        lines.append(
            [
                name, f"{one['n']:,} {unit}", f"{points[-1][1]:.1f}", f"{one['s']:.1f}", slope(points),
                f"{one['mb']:.0f}", f"{one['imports_mb']:.0f}",
            ]
        )  # fmt: skip
    return lines


def model_lines(given: argparse.Namespace) -> list[list[Any]]:
    """Scoring by rows and by vocabulary, and training by steps and by vocabulary."""
    rows, steps, _ = given.fixed
    series = [
        ("scoring, vocabulary 2,048", "rows", given.scored, lambda n: ("score", n, 2048)),
        ("NPO, vocabulary 2,048", "steps", given.steps, lambda n: ("train", n, 2048)),
        (f"scoring of {rows} rows", "tokens known", given.vocabulary, lambda v: ("score", rows, v)),
        (f"NPO, {steps} steps", "tokens known", given.vocabulary, lambda v: ("train", steps, v)),
    ]
    lines: list[list[Any]] = []
    for name, unit, sizes, words in series:
        found = [{**in_a_process(MODEL, *map(str, words(size)), cores=1), "n": size} for size in sizes]
        lines += lines_of(name, unit, found)
    return lines


def core_lines(cores: list[int], rows: int, steps: int, vocabulary: int) -> list[list[Any]]:
    """Seconds of the clock with each number of threads."""
    lines = []
    for name, work, n in ((f"scoring of {rows} rows", "score", rows), (f"NPO, {steps} steps", "train", steps)):
        walls = [in_a_process(MODEL, work, str(n), str(vocabulary), cores=c)["wall"] for c in cores]
        lines += [[name, c, f"{wall:.1f}", f"{walls[0] / wall:.2f}x"] for c, wall in zip(cores, walls, strict=True)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[2_000, 10_000, 100_000])
    parser.add_argument("--jobs", type=int, nargs="*", default=[100, 1_000, 10_000])
    parser.add_argument("--scored", type=int, nargs="*", default=[1_000, 4_000, 16_000])
    parser.add_argument("--steps", type=int, nargs="*", default=[10, 40, 160])
    parser.add_argument("--vocabulary", type=int, nargs="*", default=[32_000, 64_000, 128_000, 256_000])
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--fixed", type=int, nargs=3, default=[500, 10, 64_000], metavar=("ROWS", "STEPS", "TOKENS"))
    parser.add_argument("--model", type=Path, help="folder of a model")
    given = parser.parse_args()
    lines: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as place:
        model = given.model or small_model(Path(place) / "model")
        found = []
        for n in given.rows:
            path = Path(place) / f"{n}.jsonl"
            write_rows(path, n)
            words = ("erase", "--model", str(model), "--forget", str(path), "--out", f"{place}/out", "--dry-run")
            found.append({**in_a_process(DRY_RUN, *words), "n": n})
        lines += lines_of("dry run of an erasure", "rows", found)
        found, per_seed = [], 0
        for n in given.jobs:
            per_seed = per_seed or int(in_a_process(PLAN, "1", f"{place}/store")["n"])
            found.append(in_a_process(PLAN, str(max(1, round(n / per_seed))), f"{place}/store"))
        lines += lines_of("planning of a study", "jobs", found)
    lines += model_lines(given)
    heads = ["work", "size", "s", "s with imports", "slope", "peak MB", "MB after imports"]
    print(table(heads, lines))
    if given.cores:
        print()
        heads = [f"work, vocabulary {given.fixed[2]:,}", "threads", "s of the clock", "speed-up"]
        print(table(heads, core_lines(given.cores, *given.fixed)))


if __name__ == "__main__":
    main()
