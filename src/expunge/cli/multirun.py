"""`expunge train|unlearn|eval --multirun key=a,b ...`: a job for each combination of the listed values.

All are checked before the first is done; they run one after the other in this process, and one that fails stops no
other.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from expunge.cli.compose import check
from expunge.cli.words import split_words, sweep_of
from expunge.core.console import Console
from expunge.core.errors import ConfigError, ExpungeError
from expunge.core.terminal import complain

PLACES = ("task_name", "paths.output_dir")
N_SHOWN = 6


def combinations(mode: str, words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return each combination of the listed values: its name, and the words of its own command. Raises ConfigError.

    The name, `learning_rate=1e-5,beta=0.1`, becomes the last folder of task_name (and of paths.output_dir).
    """
    split = split_words(words, "experiment")
    values = {
        i: options for i, word in enumerate(split) if not word.remove and (options := sweep_of(mode, word)) is not None
    }
    if not values:
        raise ConfigError("--multirun: no value is a list, such as trainer.args.learning_rate=1e-5,1e-4")
    if any(split[i].key in PLACES for i in values):
        raise ConfigError(
            "--multirun: task_name and paths.output_dir take one value; each job writes to a folder below"
        )
    out = []
    for combination in itertools.product(
        *([f"{split[i].key}={value}" for value in options] for i, options in values.items())
    ):
        name = ",".join(_short(word) for word in combination)
        plain = [_below(word, name) for i, word in enumerate(words) if i not in values]
        out.append((name, [*plain, *combination]))
    if len({name for name, _ in out}) < len(out):
        raise ConfigError("--multirun: two combinations have the same name; list values that differ")
    return out


def _below(word: str, name: str) -> str:
    """Return the word; a word that sets an output place gets a folder of this name below."""
    key, _, value = word.partition("=")
    return f"{key}={value}/{name}" if key.lstrip("+") in PLACES else word


def _short(word: str) -> str:
    """Shorten `trainer.args.learning_rate=1e-5` to `learning_rate=1e-5`, safe as a folder's name."""
    key, _, value = word.lstrip("+").partition("=")
    return f"{key.rpartition('.')[2]}={re.sub(r'[^A-Za-z0-9._+-]+', '-', value)}"


def run_all(mode: str, words: Sequence[str], console: Console) -> int:
    """Run every combination and print a table of their numbers. Returns 1 if a combination failed."""
    runs = combinations(mode, words)
    for name, own in runs:
        try:
            check(mode, own)
        except ExpungeError as error:
            raise type(error)(f"{name}: {error}") from None
    from expunge.pipelines.study.job_handle import JobHandle, load_job  # loads torch

    jobs: list[tuple[str, JobHandle]] = []
    for name, own in runs:
        try:
            jobs.append((name, load_job(mode, own)))
        except ExpungeError as error:
            raise type(error)(f"{name}: {error}") from None
    for note in dict.fromkeys(note for _, job in jobs for note in job.notes):
        console.print(f"note: {note}", markup=False)
    rows: dict[str, Any] = {}
    failed = 0
    for number, (name, job) in enumerate(jobs):
        console.print(f"{number + 1}/{len(jobs)} {name}", markup=False, highlight=False)
        try:
            rows[name] = job.run(console=console, example=None if number else complain)
        except ExpungeError as error:
            failed += 1
            console.print(f"failed: {name}: {error}", markup=False, style="red", soft_wrap=True)
    table = Table("run", box=None, pad_edge=False)
    shown = list(dict.fromkeys(metric for done in rows.values() for metric in done.summary))[:N_SHOWN]
    for metric in shown:
        table.add_column(metric, justify="right")
    for name, done in rows.items():
        values = [done.summary.get(metric) for metric in shown]
        table.add_row(name, *("-" if v is None else f"{v:.4g}" for v in values))
    console.print(table)
    for done in rows.values():
        console.print(f"written: {done.folder}", highlight=False, soft_wrap=True)
    if len(rows) > 1:
        pair = [shlex.quote(str(done.folder)) for done in list(rows.values())[:2]]
        console.print(f"next:    expunge compare {' '.join(pair)}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0
