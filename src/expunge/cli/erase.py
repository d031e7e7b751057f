"""`expunge erase`: rows and a model in, a model without them and a report out."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from expunge.core.durations import seconds
from expunge.core.errors import ConfigError

TEXT = "make a model forget rows of yours: search, save, audit and report in one go"
EPILOG = """\
examples:
  expunge erase --model SmolLM2-135M-Instruct --forget rows.csv --budget 30m --out erased
  expunge erase --model saves/train/full --forget rows.jsonl --retain keep.jsonl --holdout holdout.jsonl --out erased
exit codes: 0 done and all that was stated is achieved, 3 a model is written and something is not achieved,
  1 a job failed, 2 wrong input, 130 interrupted (the same command goes on)
"""
ROWS = "csv, JSON, JSON lines or parquet; of a .txt file each paragraph, or else each line, is a text"


def add_erase(commands: Any) -> None:
    """The command's arguments."""
    sub = commands.add_parser(
        "erase",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sub.add_argument("--model", required=True, metavar="PATH_OR_ID", help="a folder, a hub id or a shipped name")
    sub.add_argument("--forget", required=True, metavar="FILE", help=f"the rows to forget: {ROWS}")
    sub.add_argument(
        "--retain", dest="keep", metavar="FILE", help="rows the model must go on knowing (default: plain facts)"
    )
    sub.add_argument(
        "--holdout", dest="unseen", metavar="FILE", help="rows like those to forget that the model has surely not seen"
    )
    sub.add_argument("--method", default="auto", metavar="auto|NPO|...", help="auto tries several (default)")
    sub.add_argument(
        "--method-arg", action="append", default=[], metavar="KEY=VALUE", help="a setting of --method, such as beta=0.5"
    )
    sub.add_argument("--learning-rate", type=float, metavar="RATE", help="take this one, and search for none")
    sub.add_argument(
        "--budget", default="30m", metavar="TIME", help="time for search and audits: 90s, 1h30m (default: 30m)"
    )
    sub.add_argument(
        "--min-utility", dest="floor", type=float, default=0.9, help="share of utility that must stay (default: 0.9)"
    )
    sub.add_argument(
        "--max-residual",
        dest="target",
        type=float,
        default=0.2,
        help="share of the knowledge that may be left (default: 0.2)",
    )
    sub.add_argument("--retain-model", metavar="FOLDER", help="a model that never saw the rows, as a control")
    sub.add_argument("--base", metavar="PATH_OR_ID", help="the model before it was trained on --full-data")
    sub.add_argument(
        "--train-data", dest="full_data", metavar="FILE", help="all rows it was trained on; makes a control from --base"
    )
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder, or one to go on with")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--show-text", action="store_true", help="put the rows to forget into the report")
    sub.add_argument("--dry-run", action="store_true", help="check the input, show the plan, and do nothing")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="more settings, as of study=custom")
    sub.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help=argparse.SUPPRESS)
    sub.set_defaults(command=erase)


def erase(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Check, do, and say in the last lines what was achieved. Returns the exit code."""
    from rich.console import Console

    from expunge.data.custom import check_present

    for file in (parsed.forget, parsed.keep, parsed.unseen, parsed.full_data):
        if file is not None:
            check_present(file)
    from expunge.engine.worker import quiet
    from expunge.pipelines.erase.request import prepare_erase
    from expunge.pipelines.erase.run import carry_out_erase, dry_run
    from expunge.pipelines.study.template_example import print_example

    quiet()
    erasing = prepare_erase(request_of(parsed))
    for note in (*erasing.notes, *erasing.search.setting.benchmark.preview):
        print(f"note: {note}", file=sys.stderr)
    if erasing.control is None:
        print(f"note: {NO_CONTROL}", file=sys.stderr)
    print_example(erasing.final.setting, lambda line: print(line, file=sys.stderr))
    if parsed.dry_run:
        dry_run(erasing, print)
        return 0
    console = Console()
    done = carry_out_erase(erasing, _stages(console), command=shlex.join(["expunge", *words]))
    say(done, console)
    return done.code


NO_CONTROL = (
    "without a model that never saw the rows there is no forget quality, no privacy leakage, no reference attack and "
    "no verdict on relearning; --retain-model gives one, --base with --train-data makes one, and --holdout gives rows "
    "to compare with"
)


# Settings of a study that an erasure decides itself: to take them and go on without them would deceive.
DECIDED = {
    "methods": "name a method by --method",
    "audits": "the audits are those that fit into --budget",
    "seeds": "give --seed",
    "requests": "erase them one after the other, each from the model of the one before",
    "keep_later_requests": "erase them one after the other, each from the model of the one before",
    "grid": "it makes one model",
    "grid_cells": "it makes one model",
    "meta": "that is for a study, of many models",
    "sweep": "the search is its own, within --budget",
    "store": "it keeps what it needs to go on",
    "launch": "its jobs are done one after the other",
    "paths": "give --out",
    "benchmark": "the rows are those of --forget and --retain",
    "forget": "give --forget",
    "retain": "give --retain",
    "unlearn.learning_rate": "give --learning-rate",
    "unlearn.seed": "give --seed",
    "unlearn.max_steps": "the steps follow from the rows and --budget",
    "unlearn.num_train_epochs": "the steps follow from the rows and --budget",
    "unlearn.evaluate": "a trial is evaluated ten times, by --min-utility",
    "data.args.train_full": "--model knows the rows already",
    "data.args.holdout": "give --holdout",
    "data.request": "give a file of these rows alone by --forget",
    "eval.extras": "what it measures is its own; see `expunge eval`",
    "eval.lm_eval": "what it measures is its own; see `expunge eval`",
    "eval.split": "a part of the rows to keep chooses, and another reports",
}


def say(done: Any, console: Any) -> None:
    """The trials, where things are, and the last lines: what was achieved and what was not."""
    from rich.table import Table

    from expunge.pipelines.erase.search import KNOWN, UTILITY

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "steps kept", "forget", "keep", ""):
        table.add_column(name)
    for t in done.trials:
        numbers = [f"{t[k]:.3f}" if isinstance(t.get(k), float) else "-" for k in (KNOWN, UTILITY)]
        word = "chosen" if t["chosen"] else t["reason"]
        table.add_row(f"{t['method']} lr={t['learning_rate']:.3g}", str(t["kept_step"] or "-"), *numbers, word)
    console.print(table)
    for name in ("model", "erasure_report.html"):
        console.print(f"written: {done.folder / name}", highlight=False, soft_wrap=True, markup=False)
    colours = {"achieved": "green", "not achieved": "red", "not known": "yellow"}
    for state in ("achieved", "not known", "not achieved"):
        for line in (x for x in done.lines if x.state == state):
            console.print(
                f"{line.state}: {line.text}", style=colours[state], highlight=False, soft_wrap=True, markup=False
            )


def request_of(parsed: argparse.Namespace) -> Any:
    """The arguments as a request; settings are checked where the library checks them. Raises ConfigError."""
    from expunge.cli.compose import PLAIN_MODEL, SOURCE, options, study_tree
    from expunge.pipelines.erase.request import EraseRequest
    from expunge.pipelines.study.config import decode_study

    for word in parsed.overrides:
        key, is_pair, _ = word.lstrip("+~").partition("=")
        own = next((k for k in DECIDED if key == k or key.startswith(f"{k}.")), None) if is_pair else None
        if own is not None:
            raise ConfigError(f"{key}: `expunge erase` does not read it; {DECIDED[own]}")
        if key.startswith("train.") and parsed.base is None:
            raise ConfigError(
                f"{key}: is for a control, which --base and --train-data make; `unlearn.*` is the search's"
            )
    shipped = parsed.model in options("model")
    model = [f"model={parsed.model}"] if shipped else [f"model={PLAIN_MODEL}", f"{SOURCE}={parsed.model}"]
    tree = study_tree(["study=custom", "forget=-", *model, *parsed.overrides])
    tree |= {"forget": parsed.forget, "retain": parsed.keep, "methods": [], "audits": []}
    if parsed.unseen:
        tree["data"]["args"] = {**tree["data"]["args"], "holdout": parsed.unseen}
    given = {}
    for word in parsed.method_arg:
        key, is_pair, value = word.partition("=")
        if not is_pair or not key:
            raise ConfigError(f"--method-arg: {word!r} is not of the form key=value")
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--method-arg: {word!r} holds no value") from None
    return EraseRequest(
        study=decode_study(tree), out=parsed.out, method=parsed.method, method_args=given,
        learning_rate=parsed.learning_rate, budget_s=seconds(parsed.budget, "--budget"), floor=parsed.floor,
        target=parsed.target, seed=parsed.seed, retain_model=parsed.retain_model, base=parsed.base,
        full_data=parsed.full_data, show_text=parsed.show_text,
    )  # fmt: skip


def _stages(console: Any) -> Any:
    """Shows each stage of an erasure as a run of its own."""
    from expunge.cli.display import Display

    @contextlib.contextmanager
    def show(title: str, planned: Sequence[Any]) -> Iterator[Any]:
        console.print(title, style="bold", highlight=False)
        with Display(planned, console) as display:
            yield display.tell

    return show
