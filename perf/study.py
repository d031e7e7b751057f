"""What a study costs beside its jobs: the time to plan a grid, and the time around each job of a run.

    python perf/study.py [--rounds 3] [--jobs 2000]

Planning: a grid on the embedded world (splits x training lengths x seeds x methods) is decoded, laid out as one graph,
and each job is looked up in an empty store, and then in a full one. Overhead: `run` on jobs that write one small file.
The best round counts, because absolute times are noise on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from expunge.study.grid import study_graph
from expunge.study.job import Job, in_order
from expunge.study.run import plan, run
from expunge.study.store import Store


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


def best(rounds: int, of: Callable[[], Any]) -> float:
    """Seconds of the quickest round."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        of()
        taken.append(time.perf_counter() - started)
    return min(taken)


def small(number: int) -> Job:
    """A job that takes no time."""

    def do(folder: Path, parents: Any, progress: Any) -> dict[str, Any]:
        (folder / "number").write_text(str(number))
        return {}

    return Job(kind="small", label=f"job {number}", identity={"number": number}, do=do)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2000)
    parsed = parser.parse_args()
    n_seeds = 1
    graph = study_graph(tree(n_seeds))  # the first loads the libraries
    while len(in_order(graph.jobs)) < parsed.jobs:
        n_seeds += 1
        graph = study_graph(tree(n_seeds))
    jobs = in_order(graph.jobs)
    out: dict[str, Any] = {"jobs": len(jobs), "cells": len(graph.cells)}
    out["graph_s"] = best(parsed.rounds, lambda: study_graph(tree(n_seeds)))
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
        trivial = [small(n) for n in range(200)]
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
