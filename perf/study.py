"""What a study costs beside its jobs: the time to plan a grid, and the time around each job of a run.

    python perf/study.py [--rounds 3] [--jobs 2000] [--tofu FOLDER]
    python perf/study.py --forget 12 [--steps 20] [--model llama-8m]

Planning: a grid on the embedded world (splits x training lengths x seeds x methods) is decoded, laid out as one graph,
and each job is looked up in an empty store, and then in a full one. Overhead: `run` on jobs that write one small file.
A task: a process that receives its job in a stage's file, as on a node of a cluster, before it works.
--tofu plans real TOFU, too, its files read for the first time. --forget: a study of so many forget jobs against as many
`expunge unlearn` commands, both from the same stored full and retain models, each in a fresh store; the study's seconds
beyond the work its jobs say they did are its overhead. The best round counts, because absolute times are noise on a
shared machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from expunge.engine.job import Job, JobContext, in_order
from expunge.engine.job_file import JobFile
from expunge.engine.run import plan, run
from expunge.engine.store import Store
from expunge.pipelines.study.grid import study_graph


def tree(n_seeds: int) -> dict[str, Any]:
    """5 splits, a training config, and eight methods; each seed is a cell of its own."""
    seeds = {f"seed{s}": {"seeds.train": [s], "seeds.unlearn": [s]} for s in range(n_seeds)}
    splits = {f"{n}": {"data.world.forget_fraction": n / 40} for n in range(1, 6)}
    return {
        "name": "perf",
        "model": {"preset": "llama-64k"},
        "methods": [{"trainer": name} for name in ("GradAscent", "GradDiff", "SimNPO", "WGA")]
        + [{"trainer": "NPO", "grid": {"method_args.beta": [0.1, 0.5], "args.learning_rate": [1e-5, 2e-5]}}],
        "grid": {"seed": seeds, "split": splits},
    }


METHODS = ("GradAscent", "GradDiff", "NPO", "SimNPO")


def expunge(folder: Path, *words: str) -> float:
    """Seconds of one command in a process of its own."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "expunge", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"expunge {' '.join(words)}\n{done.stderr}")
    return time.perf_counter() - started


def forget(n: int, steps: int, model: str) -> dict[str, Any]:
    """A study of n forget jobs, and the same n as commands."""
    world = ["data.world.authors=20", "data.world.questions_per_author=5", "data.world.forget_fraction=0.1"]
    rates = [round(1e-4 * (1 + i / 10), 6) for i in range(-(-n // len(METHODS)))]
    settings = [(method, rate) for rate in rates for method in METHODS][:n]
    size = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": steps}
    few = ["eval.generation.max_new_tokens=8"]
    study = ["run", "study=quickstart", f"model={model}", "train.num_train_epochs=1", *world, *few]
    study += [f"unlearn.{key}={value}" for key, value in size.items()]
    with tempfile.TemporaryDirectory() as place:
        ready = Path(place) / "ready"
        ready.mkdir()
        expunge(ready, *study, "methods=[]")
        (full,) = (ready / "saves/store/train").glob("full-*")
        (retain,) = (ready / "saves/store/metrics").glob("retain-*")
        both = {}
        for name in ("study", "commands"):
            both[name] = Path(place) / name
            shutil.copytree(ready, both[name])
        entries = ",".join(f"{{trainer: {m}, label: {m}-{r}, args: {{learning_rate: {r}}}}}" for m, r in settings)
        whole = expunge(both["study"], *study, f"methods=[{entries}]")
        known = {p for p in (ready / "saves/store").glob("*/*/job.json")}
        names = {p.relative_to(ready) for p in known}
        made = [p for p in (both["study"] / "saves/store").glob("*/*/job.json")]
        new = [json.loads(p.read_text()) for p in made if p.relative_to(both["study"]) not in names]
        unlearning = [f"trainer.args.{key}={value}" for key, value in size.items()]
        unlearning += ["trainer.args.lr_scheduler_type=constant", "trainer.args.weight_decay=0"]
        unlearning += ["benchmark=world", "model.template_args.apply_chat_template=false"]
        single = 0.0
        for method, rate in settings:
            single += expunge(
                both["commands"], "unlearn", f"trainer={method}", f"trainer.args.learning_rate={rate}",
                f"task_name={method}-{rate}", f"model.model_args.pretrained_model_name_or_path={full}",
                f"retain_logs_path={retain / 'TOFU_EVAL.json'}", *unlearning, *world, *few,
            )  # fmt: skip
    work = sum(record["wall_s"] for record in new)
    return {
        "forget_jobs": n,
        "jobs": len(new),
        "study_s": whole,
        "commands_s": single,
        "ratio": whole / single,
        "overhead_per_forget_job_s": (whole - work) / n,
        "overhead_per_job_s": (whole - work) / len(new),
    }


def tofu_tree(root: str, n_seeds: int) -> dict[str, Any]:
    """Three splits of real TOFU, eight methods; each seed is a cell of its own."""
    own = tree(n_seeds)
    grid = {"seed": own["grid"]["seed"], "forget_split": ["forget01", "forget05", "forget10"]}
    return own | {"benchmark": "tofu", "data": {"root": root}, "grid": grid}


def best(rounds: int, of: Callable[[], Any]) -> float:
    """Seconds of the quickest round."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        of()
        taken.append(time.perf_counter() - started)
    return min(taken)


@dataclass(frozen=True, eq=False, kw_only=True)
class SmallJob(Job):
    """A job that takes no time."""

    kind: ClassVar[str] = "small"
    number: int

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> dict[str, Any]:
        """Write one number."""
        (out / "number").write_text(str(self.number))
        return {}


TASK = """
import json, sys, time
from pathlib import Path
def cpu():
    return time.process_time()
from expunge.engine.job_file import JobFile
from expunge.core.terminal import quiet
read = JobFile.read(Path(sys.argv[1]))
quiet()
read.prepare()
imported = cpu()
job = read.job(read.tasks[-1][-1])
decoded = cpu()
job.source.load()
print(json.dumps({"imports_s": imported, "decode_s": decoded - imported, "rows_s": cpu() - decoded}))
"""


def task(jobs: list[Job], rounds: int) -> dict[str, Any]:
    """What one task of an array costs before its own work, in a process of its own: CPU seconds of the imports, of
    decoding its job with its ancestors, and of loading its rows; and the size of the stage's file."""
    unlearn = [job for job in jobs if job.kind == "unlearn"][:1000]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage.json"
        started = time.perf_counter()
        JobFile.of(unlearn, tasks=[[job.key] for job in unlearn]).write(path)
        out: dict[str, Any] = {"tasks": len(unlearn), "write_s": time.perf_counter() - started}
        out["file_mb"] = path.stat().st_size / 1e6
        found = []
        for _ in range(rounds):
            done = subprocess.run([sys.executable, "-c", TASK, str(path)], capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return out | {key: min(one[key] for one in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--tofu", metavar="FOLDER", help="a folder of TOFU's files")
    parser.add_argument("--forget", type=int, metavar="N", help="a study of N forget jobs against N commands, alone")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", default="llama-8m")
    parsed = parser.parse_args()
    if parsed.forget:
        found = forget(parsed.forget, parsed.steps, parsed.model)
        print(json.dumps({k: round(v, 3) for k, v in found.items()}, indent=1))
        return
    n_seeds = 1
    graph = study_graph(tree(n_seeds))  # the first loads the libraries
    while len(in_order(graph.jobs)) < parsed.jobs:
        n_seeds += 1
        graph = study_graph(tree(n_seeds))
    jobs = in_order(graph.jobs)
    out: dict[str, Any] = {"jobs": len(jobs), "cells": len(graph.cells)}
    out["graph_s"] = best(parsed.rounds, lambda: study_graph(tree(n_seeds)))
    if parsed.tofu:
        started, before = time.perf_counter(), time.process_time()
        made = study_graph(tofu_tree(parsed.tofu, 7))
        plan(made.jobs, Store(Path(parsed.tofu) / "no store"))
        out |= {"tofu_jobs": len(in_order(made.jobs)), "tofu_s": time.perf_counter() - started}
        out["tofu_cpu_s"] = time.process_time() - before
    out |= {f"task_{key}": value for key, value in task(jobs, parsed.rounds).items()}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "empty")
        out["look_up_empty_s"] = best(parsed.rounds, lambda: plan(graph.jobs, store))
        full = Store(Path(folder) / "full")
        for job in jobs:
            place = full.path(job)
            place.mkdir(parents=True)
            record = {"key": job.key, "wall_s": 1.0, "files": {"x": ["0" * 64, 1]}}
            (place / "job.json").write_text(json.dumps(record))
        out["look_up_full_s"] = best(parsed.rounds, lambda: plan(graph.jobs, full))
        trivial = [SmallJob(label=f"job {n}", number=n) for n in range(200)]
        started = time.perf_counter()
        run(trivial, Store(Path(folder) / "run"), lambda event: None)
        out["overhead_per_job_ms"] = 1e3 * (time.perf_counter() - started) / len(trivial)
        out["hit_per_job_ms"] = (
            1e3
            * best(parsed.rounds, lambda: run(trivial, Store(Path(folder) / "run"), lambda event: None))
            / len(trivial)
        )
    print(json.dumps({k: round(v, 3) for k, v in out.items()}, indent=1))


if __name__ == "__main__":
    main()
