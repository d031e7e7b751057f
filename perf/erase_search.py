"""The search of `expunge erase` against the best of a grid by hand: forgetting at equal utility.

    python perf/erase_search.py MODEL FORGET [--retain FILE] [--budget 5m] [--floor 0.9] [--grid SPEC] [WORDS ...]

Both read the same rows and the same preflight, keep the best checkpoint by the same rule, and are judged by the
selection rows: the probability of the known answers, among models that keep the floor. Models that have forgotten
enough are equal in that, and the higher utility decides. The search is `--method auto` within its budget. The grid has
every setting of SPEC (such as "NPO=1e-4,3e-4;SimNPO=1e-3") with all steps, without a budget. WORDS are settings, as for
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

from expunge.cli.commands.erase import add_erase, request_of
from expunge.engine.store import Store
from expunge.pipelines.erase.proposals import METHODS, rounded
from expunge.pipelines.erase.request import UTILITY, EraseRun, prepare_erase
from expunge.pipelines.erase.rows import KNOWN
from expunge.pipelines.erase.run import know_rows
from expunge.pipelines.erase.search import (
    ENOUGH_SHARE,
    best,
    budget_of,
    finished_trial,
    plan_search,
    search,
    with_ability,
)
from expunge.pipelines.erase.trials import (
    SearchGoal,
    TrialResult,
    first_rate,
    fit_trial,
    trial_args,
    trial_of,
    wanted_steps,
)

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


@contextlib.contextmanager
def silent(title: str, planned: Sequence[Any]) -> Iterator[Any]:
    """Show nothing of a stage."""
    yield lambda event: None


def by_hand(erasing: EraseRun, goal: SearchGoal, grid: dict[str, list[float]], store: Store) -> list[TrialResult]:
    """Return every setting of the grid, with as many steps as a whole trial has and no early end."""
    results = []
    for method, rates in grid.items():
        for rate in rates:
            trial = trial_of(erasing, method, rate, wanted_steps(erasing))
            args = trial_args(erasing, trial, goal)
            args = dataclasses.replace(args, evaluate=dataclasses.replace(args.evaluate, patience=None))
            result = finished_trial(trial, fit_trial(erasing, trial, None, args), store, silent)
            results.append(with_ability(erasing, result, store, silent))
            print(line("by hand", results[-1]), flush=True)
    return results


def line(name: str, result: TrialResult) -> str:
    """Return a line of the table."""
    known, utility = (result.values.get(key, math.nan) for key in (KNOWN, UTILITY))
    share = utility / result.start_utility
    under = "" if result.passes else f" ({result.reason or 'under the floor'})"
    return (
        f"| {name} | {result.trial.label}{under} | {result.step} | {known:.4f} | {share:.1%} | {result.ability:.1%} |"
    )


def goal_before(erasing: EraseRun) -> SearchGoal:
    """Return the goal of an erasure without a reference, by the probabilities of the preflight."""
    rows = () if erasing.preflight is None else erasing.preflight.rows
    both = [[p for p in (row.probability, row.own_probability) if math.isfinite(p)] for row in rows]
    start = math.fsum(max(values) for values in both) / len(both)
    return SearchGoal(None, ENOUGH_SHARE * erasing.request.target * start, start)


def grid_of(spec: str | None, rate: float) -> dict[str, list[float]]:
    """Return the grid: method -> learning rates; without a SPEC five rates of each method of the search."""
    if spec is None:
        return {name: [rounded(rate * near * factor) for factor in FACTORS] for name, near in METHODS.items()}
    pairs = (part.partition("=") for part in spec.split(";"))
    return {name.strip(): [float(rate) for rate in rates.split(",")] for name, _, rates in pairs}


def main() -> None:
    """Compare the two, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("forget")
    parser.add_argument("--retain")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--floor", default="0.9")
    parser.add_argument("--grid")
    parser.add_argument("words", nargs="*")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = argparse.ArgumentParser()
        add_erase(commands.add_subparsers())
        words = ["erase", "--model", args.model, "--forget", args.forget, "--budget", args.budget]
        words += ["--out", f"{folder}/out", "--min-utility", args.floor]
        words += [*(("--retain", args.retain) if args.retain else ()), *args.words]
        erasing = know_rows(prepare_erase(request_of(commands.parse_args(words))))
        erasing.work.mkdir(parents=True)
        store, goal = Store(erasing.work), goal_before(erasing)
        print(f"probability of the answers before: {goal.start:.3f}; enough: {goal.enough:.3f}\n")
        print("| | setting | step | probability of the answers | utility, share of the start | general ability, same |")
        print("| --- | --- | --: | --: | --: | --: |", flush=True)
        began = time.monotonic()
        budget = budget_of(erasing.request.budget_s, store.root)
        steps = plan_search(erasing, goal, store, silent, budget)
        results = search(erasing, steps, goal, store, silent, budget)
        for result in results:
            print(line("trial", result), flush=True)
        print(line(f"**search**, {time.monotonic() - began:.0f} s", best(results, goal)), flush=True)
        hand = by_hand(erasing, goal, grid_of(args.grid, first_rate(erasing)), store)
        print(line("**best by hand**", best(hand, goal)))


if __name__ == "__main__":
    main()
