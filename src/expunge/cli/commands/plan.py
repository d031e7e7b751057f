"""`expunge plan`: the jobs of a study, or of a single job, and their work, without running."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.compose import check
from expunge.cli.parser import command_line
from expunge.core.console import Console
from expunge.core.terminal import complain, say, say_json

if TYPE_CHECKING:
    from expunge.engine.run import PlannedJob

SINGLE = {"train": "train", "finetune": "train", "unlearn": "unlearn", "eval": "eval"}


def show_plan(words: Sequence[str], parsed: argparse.Namespace) -> int:
    """Print the plan of `study=...`, or of a single job: `expunge plan unlearn experiment=...`. Raises ConfigError."""
    mode, words = mode_of(words)
    for note in check(mode, words).notes:
        complain(f"note: {note}")
    # Imported after the check, so that a wrong word is reported at once.
    from expunge.engine.run import plan
    from expunge.engine.store import Store

    waiting: Sequence[str] = ()
    if mode == "run":
        from expunge.pipelines.study.handle import load_study

        study = load_study(words, parsed.plugin)
        notes, planned = study.notes, study.plan()
        if study.swept is not None:
            waits = "the trials of the sweep; the study with the best settings follows when they are done"
            waiting = study.swept.stage.notes or (waits,)
    else:
        from expunge.pipelines.study.job_handle import load_job

        job = load_job(mode, words)
        notes, planned = job.prepared.notes, plan(job.prepared.ends, Store(Path(job.prepared.single.paths.store)))
    for note in notes:
        complain(f"note: {note}")
    if parsed.json:
        say_json([plan_values(p) for p in planned], indent=1)
    else:
        print_plan(planned, waiting, every_job=parsed.all)
        say(f"next:    {command_line(mode, words, parsed)}")
    return 0


def mode_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command that a plan is of, and its words. An experiment's name begins with it."""
    if words and words[0] in SINGLE:
        return SINGLE[words[0]], list(words[1:])
    experiment = next((word.partition("=")[2] for word in words if word.startswith("experiment=")), "")
    return SINGLE.get(experiment.split("/")[0], "run"), list(words)


def print_plan(planned: Sequence[PlannedJob], waiting: Sequence[str] = (), *, every_job: bool = False) -> None:
    """Print the jobs if they are few, their kinds, and their work; `waiting`: lines on jobs that follow later."""
    from expunge.report.display import LISTED, plan_kinds, plan_memory, plan_summary, plan_table

    console = Console()
    if every_job or len(planned) <= LISTED:
        console.print(plan_table(planned))
    console.print(plan_kinds(planned))
    console.print(plan_summary(planned), highlight=False)
    for p in planned:
        if p.damage:
            console.print(f"damaged: {p.job.name}: {p.damage}", highlight=False, markup=False, soft_wrap=True)
    if memory := plan_memory(planned):
        console.print(memory, highlight=False, markup=False)
    for line in waiting:
        console.print(line, highlight=False, markup=False)


def plan_values(p: Any) -> dict[str, Any]:
    """Return a planned job as plain values for JSON."""
    return {
        "job": p.job.name,
        "kind": p.job.kind,
        "label": p.job.label,
        "key": p.job.key,
        "state": p.state,
        "damage": p.damage or None,
        "parents": [parent.key for parent in p.job.parents.values()],
        "tokens": p.job.estimate.tokens,
        "seconds": p.seconds,
        "bytes": p.job.estimate.bytes,
        "memory": p.job.estimate.memory or None,
    }
