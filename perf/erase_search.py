"""The search of `expunge erase` against the best of a grid by hand: forgetting at equal utility.

    python perf/erase_search.py MODEL FORGET [--retain FILE] [--budget 5m] [--floor 0.9] [WORDS ...]

Both read the same rows and the same preflight, keep the best checkpoint by the same rule, and are judged by the
selection rows: the probability of the known answers, among models that keep the floor. The search is `--method auto`
within its budget. The grid has three methods at five learning rates each, without a budget. WORDS are settings, as for
`expunge erase`. MODEL, FORGET of the three cases:

    a model that knows plain facts, and a file of some of them
    the same model after some rows were taught by LoRA, and these rows
    saves/study/quickstart/full (a copy of the target model), and the quickstart's forget rows with --retain
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from expunge.cli.erase import add_erase, request_of
from expunge.engine.store import Store
from expunge.pipelines.erase.request import UTILITY, EraseRun, begin, prepare_erase
from expunge.pipelines.erase.rows import KNOWN
from expunge.pipelines.erase.run import know_rows
from expunge.pipelines.erase.search import (
    NEAR,
    EraseTrial,
    TrialResult,
    best,
    budget_of,
    candidates,
    finished_trial,
    plan_search,
    search,
    trial_job,
    wanted_steps,
)

METHODS, FACTORS = ("NPO", "SimNPO", "GradDiff"), (0.25, 0.5, 1.0, 2.0, 4.0)


@contextlib.contextmanager
def silent(title: str, planned: Sequence[Any]) -> Iterator[Any]:
    """Show nothing of a stage."""
    yield lambda event: None


def by_hand(erasing: EraseRun, store: Store) -> list[TrialResult]:
    """Return every setting of the grid, with as many steps as a whole trial has."""
    rate, results = candidates(erasing)[0].learning_rate, []
    for method in METHODS:
        for factor in FACTORS:
            trial = EraseTrial(method, float(f"{rate * factor:.3g}"), wanted_steps(erasing), dict(NEAR))
            results.append(finished_trial(trial, trial_job(erasing, trial, None), store, silent))
            print(line(method, results[-1]), flush=True)
    return results


def line(name: str, result: TrialResult) -> str:
    """Return a line of the table."""
    known, utility = (result.values.get(key, math.nan) for key in (KNOWN, UTILITY))
    share = utility / result.start_utility
    return f"| {name} | {result.trial.label} | {result.step} | {known:.4f} | {share:.0%} |"


def main() -> None:
    """Compare the two, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("forget")
    parser.add_argument("--retain")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--floor", default="0.9")
    parser.add_argument("words", nargs="*")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = argparse.ArgumentParser()
        add_erase(commands.add_subparsers())
        words = [
            "erase",
            "--model",
            args.model,
            "--forget",
            args.forget,
            "--budget",
            args.budget,
            "--out",
            f"{folder}/out",
        ]
        words += ["--min-utility", args.floor, *(("--retain", args.retain) if args.retain else ()), *args.words]
        erasing = know_rows(prepare_erase(request_of(commands.parse_args(words))))
        erasing.work.mkdir(parents=True)
        begin(erasing)
        store = Store(erasing.work)
        print("| | setting | step | probability of the answers | utility, share of the start |")
        print("| --- | --- | --: | --: | --: |", flush=True)
        began = time.monotonic()
        budget = budget_of(erasing.request.budget_s, store.root)
        found = best(
            search(erasing, plan_search(erasing, None, store, silent, budget), None, store, silent, budget), None
        )
        took = time.monotonic() - began
        print(line(f"**search**, {took:.0f} s", found), flush=True)
        hand = best(by_hand(dataclasses.replace(erasing), store), None)
        print(line("**best by hand**", hand))


if __name__ == "__main__":
    main()
