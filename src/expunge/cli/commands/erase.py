"""`expunge erase`: make a model forget rows, audit the result and write a report."""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from expunge.cli.commands.push import check_new_repository, check_push, push_erasure
from expunge.cli.given_rows import OWN_SETTINGS, ROWS, model_words, refuse_settings
from expunge.cli.parser import add_push
from expunge.core.durations import seconds
from expunge.core.errors import ConfigError
from expunge.core.terminal import complain, say
from expunge.core.yaml_text import parse_yaml

MOST_TESTED = 1000  # rows to forget that a dry run tests the model on; each takes about a second on a CPU
TEXT = "make a model forget rows of yours: search, save, audit and report in one go"
EPILOG = """\
examples:
  expunge erase --model SmolLM2-135M-Instruct --forget rows.csv --budget 30m --out erased
  expunge erase --model saves/train/full --forget rows.jsonl --retain keep.jsonl --holdout holdout.jsonl --out erased
  expunge erase --model SmolLM2-135M-Instruct --forget "Who is Ada Lovelace?" --out erased
exit codes: 0 done and all that was stated is achieved; 3 something is not achieved (no model is written if it is \
under the minimum utility, nothing if the model knows no row); 1 a job failed; 2 wrong input; 130 interrupted (the \
same command continues)
"""


def add_erase(commands: Any) -> None:
    """Add `erase` to the commands of a parser."""
    sub = commands.add_parser(
        "erase",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    sub.add_argument("--model", metavar="PATH_OR_ID", help="a folder, a hub id or a shipped name")
    target = sub.add_mutually_exclusive_group(required=True)
    target.add_argument("--forget", metavar="FILE|QUESTION", help=f"the rows to forget: {ROWS}; or a question")
    target.add_argument("--forget-entity", metavar="NAME", help="forget the model's knowledge of a person or a thing")
    sub.add_argument("--yes", action="store_true", help="agree to the rows that are made for a question or a name")
    sub.add_argument(
        "--retain",
        dest="keep",
        metavar="FILE",
        help="rows that the model must still know (default: questions like those to forget, and plain facts)",
    )
    sub.add_argument(
        "--holdout", dest="unseen", metavar="FILE", help="rows similar to the forget rows that the model has never seen"
    )
    sub.add_argument("--method", default="auto", metavar="auto|NPO|...", help="auto tries several (default)")
    sub.add_argument(
        "--method-arg", action="append", default=[], metavar="KEY=VALUE", help="a setting of --method, such as beta=0.5"
    )
    sub.add_argument("--learning-rate", type=float, metavar="RATE", help="use this rate, without a search")
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
    sub.add_argument("--write-anyway", action="store_true", help="write a model under the minimum utility too")
    sub.add_argument("--lm-eval", metavar="TASK,TASK", help="tasks of lm-evaluation-harness, before and after")
    sub.add_argument("--judge", type=Path, metavar="FILE.yaml", help="a chat API that judges the model's answers")
    sub.add_argument("--retain-model", metavar="PATH_OR_ID", help="a model that never saw the rows, as a control")
    sub.add_argument("--base", metavar="PATH_OR_ID", help="the model before it was trained on --train-data")
    sub.add_argument(
        "--train-data", dest="full_data", metavar="FILE", help="all rows it was trained on; makes a control from --base"
    )
    sub.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a new folder, or the folder of an earlier run to continue",
    )
    sub.add_argument(
        "--verify-commitment", type=Path, metavar="MODEL", help="check that the card of MODEL stands for --forget"
    )
    sub.add_argument("--key", type=Path, metavar="FILE", help="the erasure_key.json of that erasure")
    add_push(sub, "the new model")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--show-text", action="store_true", help="put the rows to forget into the report")
    sub.add_argument("--dry-run", action="store_true", help="only check, test the model's knowledge, and show the plan")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="more settings, as of study=custom")
    sub.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help=argparse.SUPPRESS)
    sub.add_argument("--allow-env", action="store_true", help="let config files read variables by ${oc.env:NAME}")
    sub.set_defaults(command=erase)


def erase(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Check the input, run the erasure, and print its outcome in the last lines. Returns the exit code."""
    from expunge.core.console import Console
    from expunge.data.custom import check_present

    check_push(parsed)
    row_request = made_request(parsed)
    command = shown_command(parsed, words, row_request)
    for file in (None if row_request else parsed.forget, parsed.keep, parsed.unseen, parsed.full_data):
        if file is not None:
            check_present(file)
    if parsed.verify_commitment is not None:
        return verify_commitment(parsed)
    if parsed.key is not None:
        raise ConfigError("--key: belongs to --verify-commitment; an erasure makes a key of its own")
    for option in ("model", "out"):
        if getattr(parsed, option) is None:
            raise ConfigError(f"--{option}: missing; see `expunge erase --help`")
    from expunge.core.terminal import quiet
    from expunge.pipelines.erase.preflight import preflight_lines
    from expunge.pipelines.erase.request import PREFLIGHT, prepare_erase
    from expunge.pipelines.erase.run import NOTHING_KNOWN, carry_out_erase, dry_run, know_rows
    from expunge.pipelines.output_folder import check_free
    from expunge.pipelines.study.template_example import print_example

    quiet()
    check_new_repository(parsed, str(parsed.model))
    check_free(parsed.out)
    if row_request is not None and not agreed_rows(parsed, row_request):
        return 0
    erasing = prepare_erase(request_of(parsed))
    for note in (*erasing.notes, *erasing.search.setting.benchmark.preview):
        complain(f"note: {note}")
    if erasing.control is None:
        complain(f"note: {NO_CONTROL}")
    print_example(erasing.final.setting, lambda line: complain(line))
    n_rows = len(erasing.setting.benchmark.sets["forget_eval"])
    if parsed.dry_run and n_rows > MOST_TESTED and not (erasing.work / PREFLIGHT).is_file():
        complain(f"note: a dry run tests the model on {MOST_TESTED} rows at most, so not on these {n_rows}")
        dry_run(erasing, say)
        return 0
    erasing = know_rows(erasing, lambda line: complain(line))
    known = erasing.preflight
    for line in preflight_lines(known, erasing.setting.benchmark.sets["forget_eval"]) if known else ():
        say(line)
    if known is None or not known.known:
        say(NOTHING_KNOWN)
        return 3
    if parsed.dry_run:
        dry_run(erasing, say)
        say("next:    the same command without --dry-run")
        return 0
    console = Console()
    done = carry_out_erase(erasing, _stages(console), command=command)
    print_outcome(done, console)
    if parsed.push is not None and done.written:
        push_erasure(parsed, done.folder / "model")
    print_next(parsed, done)
    return done.code


def print_next(parsed: argparse.Namespace, done: Any) -> None:
    """Print the useful commands after an erasure."""
    model, page = done.folder / "model", done.folder / "erasure_report.html"
    say(f"next:    read {page}" + ("" if done.written else "; give it more time by --budget"))
    if done.written:
        words = ["--verify-commitment", str(model), "--key", str(done.folder / "erasure_key.json")]
        words += ["--forget", parsed.forget]
        say(f"         prove later which rows were erased: expunge erase {shlex.join(words)}")


def made_request(parsed: argparse.Namespace) -> Any:
    """Return the request for rows that the model makes itself, or None if --forget is a file."""
    from expunge.pipelines.erase.made_rows import RowRequest, is_question

    if parsed.forget_entity is not None:
        if not parsed.forget_entity.strip():
            raise ConfigError("--forget-entity: is empty; give the name of a person or a thing")
        return RowRequest(entity=parsed.forget_entity.strip())
    if not is_question(parsed.forget):
        return None
    if not parsed.forget.strip(" \t\n?"):
        raise ConfigError(f"--forget: {parsed.forget!r} is an empty question; ask for a fact, or name a file of rows")
    return RowRequest((parsed.forget.strip(),))


def shown_command(parsed: argparse.Namespace, words: Sequence[str], row_request: Any) -> str:
    """Return the command for the report: without the question or the name to forget, unless --show-text is given."""
    hidden = {"--forget": parsed.forget, "--forget-entity": parsed.forget_entity}
    out = list(words)
    if row_request is not None and not parsed.show_text:
        for option, text in hidden.items():
            out = [f"{option}=NOT_SHOWN" if word == f"{option}={text}" else word for word in out]
            out = ["NOT_SHOWN" if text == word and before == option else word for before, word in pairwise(["", *out])]
    return shlex.join(["expunge", *out])


def agreed_rows(parsed: argparse.Namespace, row_request: Any) -> bool:
    """Make the rows of a question or a name, show them, and write them once the user agrees.

    Sets `parsed.forget` to their file. Returns False after a refusal. Raises ConfigError without a terminal and --yes.
    """
    from expunge.models.identity import model_identity
    from expunge.pipelines.erase.made_rows import make_rows, write_rows
    from expunge.pipelines.erase.run import answers_of

    parsed.forget = "-"  # replaced below; the model alone is read for now
    study = request_of(parsed).study
    file = row_request.file(parsed.out, model_identity(study.model))
    parsed.forget = str(file)
    if file.is_file():
        say(f"rows to forget: those of {file}, which you agreed to before")
        return True
    if not parsed.yes and not parsed.dry_run and not sys.stdin.isatty():
        raise ConfigError("--yes: missing; rows made by the model need your consent, and this is no terminal")
    rows = make_rows(row_request, answers_of(study))
    if not rows:
        raise ConfigError("--forget: the model gives no answer that could be forgotten; give a file of rows")
    say(f"rows to forget, made from the model's own answers ({len(rows)}):")
    for question, answer in rows:
        say(f"  {question} -> {answer}")
    if parsed.dry_run:
        consent = "continues with these rows" if parsed.yes else "needs your consent, or --yes"
        say(f"the plan stops here; the same command without --dry-run {consent}")
        return False
    if not parsed.yes and input("forget these rows? [y/N] ").strip().lower() not in ("y", "yes"):
        say("nothing was done; edit such rows in a file and give it by --forget")
        return False
    write_rows(file, rows)
    say(f"written: {file}")
    return True


def verify_commitment(parsed: argparse.Namespace) -> int:
    """Print whether a model's card commits to the rows of a file. Returns 0 for a match, 1 for none."""
    from expunge.data.custom import load_rows
    from expunge.pipelines.erase.commitment import matches
    from expunge.pipelines.erase.jobs import columns_of
    from expunge.pipelines.study.config import decode_study

    if parsed.forget is None:
        raise ConfigError("--forget: missing; name the file of the rows")
    if parsed.key is None:
        raise ConfigError("--key: missing; name the erasure_key.json that the erasure wrote")
    rows = load_rows(parsed.forget, "forget", columns_of(decode_study(_study_tree([], parsed))))
    if matches(parsed.verify_commitment, parsed.key, rows):
        say(f"match: {parsed.verify_commitment} commits to the {len(rows)} rows of {parsed.forget}")
        return 0
    say(f"no match: {parsed.verify_commitment} does not commit to the {len(rows)} rows of {parsed.forget}")
    return 1


NO_CONTROL = (
    "without a model that never saw the rows there is no forget quality, no privacy leakage, no reference attack and "
    "no verdict on relearning; give one with --retain-model, train one with --base and --train-data, or give rows to "
    "compare with by --holdout"
)


# Settings of a study that an erasure decides itself. Reject them; do not ignore them silently.
DECIDED = {
    **OWN_SETTINGS,
    "methods": "name a method by --method",
    "audits": "the audits follow from --budget",
    "seeds": "give --seed",
    "requests": "run one erasure for each, from the model of the previous erasure",
    "keep_later_requests": "run one erasure for each, from the model of the previous erasure",
    "grid": "an erasure creates one model",
    "grid_cells": "an erasure creates one model",
    "sweep": "an erasure has its own search, within --budget",
    "unlearn.learning_rate": "give --learning-rate",
    "unlearn.seed": "give --seed",
    "unlearn.max_steps": "the steps follow from the rows and --budget",
    "unlearn.num_train_epochs": "the steps follow from the rows and --budget",
    "unlearn.evaluate": "a trial is evaluated ten times, by --min-utility",
    "eval.extras": "its measurements are fixed; see `expunge eval`",
    "eval.lm_eval.tasks": "give --lm-eval",
    "eval.split": "it selects on one part of the retain rows and reports on another",
}


def print_outcome(done: Any, console: Any) -> None:
    """Print the verdict, the trials, the written files, and the state of each goal."""
    from rich.table import Table
    from rich.text import Text

    from expunge.pipelines.erase.goal_values import MISSED, STATES
    from expunge.pipelines.erase.request import UTILITY
    from expunge.pipelines.erase.rows import KNOWN
    from expunge.report.verdicts import folded

    if not done.written:
        console.print("no model was written; the reasons follow", style="bold red")
    console.print(Text(f"{folded(done.verdict, console.width)}\n"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "steps kept", "forget", "keep", "ability", ""):
        table.add_column(name)
    for t in done.trials:
        values = (t.get(key) for key in (KNOWN, UTILITY, "ability"))
        numbers = [f"{v:.3f}" if isinstance(v, float) and math.isfinite(v) else "-" for v in values]
        word = "chosen" if t["chosen"] else t["reason"]
        table.add_row(f"{t['method']} lr={t['learning_rate']:.3g}", str(t["kept_step"] or "-"), *numbers, word)
    console.print(table)
    for name in ("model", "erasure_report.html")[0 if done.written else 1 :]:
        console.print(f"written: {done.folder / name}", highlight=False, soft_wrap=True, markup=False)
    for state in STATES:
        colour = "green" if state == "achieved" else "red" if state in MISSED else "yellow"
        for line in (x for x in done.lines if x.state == state):
            console.print(f"{state}: {line.text}", style=colour, highlight=False, soft_wrap=True, markup=False)


def request_of(parsed: argparse.Namespace) -> Any:
    """Return the arguments as a request. Raises ConfigError for settings that the library refuses."""
    from expunge.pipelines.erase.request import EraseRequest
    from expunge.pipelines.study.config import decode_study

    refuse_settings(parsed.overrides, DECIDED, "expunge erase")
    for word in parsed.overrides:
        key, _, _ = word.lstrip("+~").partition("=")
        if key.startswith("train.") and parsed.base is None:
            raise ConfigError(
                f"{key}: only a control reads it (--base with --train-data); for the search set `unlearn.*`"
            )
    tree = _study_tree(model_words(parsed.model), parsed)
    if parsed.lm_eval:
        tree["eval"] = {
            **tree["eval"],
            "lm_eval": {**tree["eval"].get("lm_eval", {}), "tasks": parsed.lm_eval.split(",")},
        }
    if parsed.unseen:
        tree["data"]["args"] = {**tree["data"]["args"], "holdout": parsed.unseen}
    method_args = {}
    for word in parsed.method_arg:
        key, is_pair, value = word.partition("=")
        if not is_pair or not key:
            raise ConfigError(f"--method-arg: {word!r} is not of the form key=value")
        method_args[key] = parse_yaml(value, f"--method-arg: {word!r}: the value")
    return EraseRequest(
        study=decode_study(tree), out=parsed.out, method=parsed.method, method_args=method_args,
        learning_rate=parsed.learning_rate, budget_s=seconds(parsed.budget, "--budget"), floor=parsed.floor,
        target=parsed.target, seed=parsed.seed, retain_model=parsed.retain_model, base=parsed.base,
        full_data=parsed.full_data, show_text=parsed.show_text, write_anyway=parsed.write_anyway,
        judge=_judge_of(parsed.judge), default_lora=not any(map(_names_parameters, parsed.overrides)),
    )  # fmt: skip


def _names_parameters(word: str) -> bool:
    """Return whether a word sets which parameters are trained, such as unlearn.lora=null."""
    return word.lstrip("+~").startswith(("unlearn.lora", "unlearn.trainable_"))


def _judge_of(file: Path | None) -> Any:
    """Return the judge of a settings file, or None. Raises ConfigError."""
    if file is None:
        return None
    from expunge.core.decode import decode
    from expunge.core.yaml_text import read_yaml
    from expunge.judges.http import HttpJudge, HttpJudgeConfig

    return HttpJudge(decode(HttpJudgeConfig, read_yaml(file, "--judge"), where="judge"))


def _study_tree(model: Sequence[str], parsed: argparse.Namespace) -> dict[str, Any]:
    from expunge.cli.compose import compose

    composed = compose("run", ["study=custom", "forget=-", *model, *parsed.overrides])
    for note in composed.notes:
        complain(f"note: {note}")
    return composed.tree | {"forget": parsed.forget, "retain": parsed.keep, "methods": [], "audits": []}


def _stages(console: Any) -> Any:
    """Return a context manager that shows each stage of an erasure as one run."""
    from expunge.report.display import Display

    @contextlib.contextmanager
    def show(title: str, planned: Sequence[Any]) -> Iterator[Any]:
        console.print(title, style="bold", highlight=False)
        with Display(planned, console) as display:
            yield display.tell

    return show
