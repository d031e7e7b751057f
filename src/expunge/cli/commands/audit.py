"""`expunge audit`: the audits of one given model, with or without controls, and their report."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.cli.given_rows import OWN_SETTINGS, ROWS, model_source, model_words, refuse_settings
from expunge.cli.parser import command_line
from expunge.core.errors import ConfigError
from expunge.core.terminal import complain, quiet, say, say_json

TEXT = "audit a model that you were given: has it forgotten the rows?"
EPILOG = """\
examples:
  expunge audit saves/unlearn/npo --forget rows.csv
  expunge audit OWNER/MODEL --forget rows.csv --retain keep.csv --retain-model OWNER/RETAIN --base OWNER/BEFORE
  expunge audit MODEL --forget rows.csv --dry-run
  expunge audit MODEL --forget rows.csv --audits relearn,quantize
  expunge audit MODEL --forget rows.csv --audits "[{name: relearn, rows: 4, learning_rate: 1e-4}]"
exit codes: 0 done and no finding shows that the rows are left (without --retain-model this is no proof); 3 done and \
a finding differs from a model that never saw the rows, or the model is broken; 1 a job failed; 2 wrong input; 130 \
interrupted (the same command continues)
"""
# Settings of a study that an audit decides itself.
DECIDED = {
    **OWN_SETTINGS,
    "methods": "it audits a finished model",
    "finished_models": "name the models by MODEL, --retain-model and --base",
    "audits": "give --audits",
    "seeds": "it audits one model; a seed of an audit is one of its settings (--audits)",
    "requests": "give a file of all rows by --forget",
    "keep_later_requests": "give a file of all rows by --forget",
    "grid": "it audits one model",
    "grid_names": "it audits one model",
    "grid_cells": "it audits one model",
    "sweep": "it audits a finished model",
    "stories": "it reads your rows",
    "train": "it trains no model",
    "retain_logs_path": "give the retain model itself by --retain-model",
    "eval.split": "it reads all rows",
    "name": "give --out",
}
LEARNING = (
    "unlearn.learning_rate",
    "unlearn.optim",
    "unlearn.activation_checkpointing",
)  # the relearning audit reads them

ROW_SETS = ("forget", "retain", "holdout")
ROLE_NAMES = {"unlearn": "model", "retain": "retain model", "full": "model before unlearning"}


def add_audit(commands: Any) -> None:
    """Add `audit` to the commands of a parser."""
    sub = commands.add_parser(
        "audit",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    sub.add_argument("model", metavar="MODEL", help="a folder, a hub id or a shipped name")
    sub.add_argument("--forget", metavar="FILE", required=True, help=f"the rows that should be forgotten: {ROWS}")
    sub.add_argument(
        "--retain", metavar="FILE", help="rows that the model should still answer (default: plain facts of the package)"
    )
    sub.add_argument(
        "--holdout",
        metavar="FILE",
        help="rows similar to the forget rows that no model has seen, for membership attacks",
    )
    sub.add_argument(
        "--retain-model", metavar="PATH_OR_ID", help="a control: a model that never saw the rows; no verdict without it"
    )
    sub.add_argument(
        "--base", metavar="PATH_OR_ID", help="a control: the model before unlearning, which knows the rows"
    )
    sub.add_argument(
        "--audits",
        metavar="NAME,NAME",
        help="names (`expunge list audits`), or a YAML list with settings (default: relearn, quantize, prompting, "
        "exposure, probe)",
    )
    sub.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a new folder, or that of an earlier audit of the same model and rows (default: saves/audit/MODEL)",
    )
    sub.add_argument("--dry-run", action="store_true", help="only check the input, and show the jobs and their work")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="more settings, as of study=custom")
    sub.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
    sub.add_argument("-q", "--quiet", action="store_true", help="no progress and no tables; only the place")
    sub.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="load a file of audits of your own"
    )
    sub.add_argument("--allow-env", action="store_true", help="let config files read variables by ${oc.env:NAME}")
    sub.set_defaults(command=audit)


def audit(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Check the input, run the audits, write the report, and print the verdict. Returns the exit code."""
    from expunge.core.console import Console
    from expunge.data.custom import check_present

    for file in (parsed.forget, parsed.retain, parsed.holdout):
        if file is not None:
            check_present(file)
    request = request_of(parsed)
    from expunge.pipelines.audit.request import prepare_audit
    from expunge.pipelines.audit.run import carry_out_audit
    from expunge.pipelines.study.template_example import print_example
    from expunge.report.verdicts import folded

    quiet()
    prepared = prepare_audit(request, dry_run=parsed.dry_run)
    silent = parsed.quiet or parsed.json
    if not silent:
        benchmark = prepared.graph.setting.benchmark
        for note in (*benchmark.notes, *benchmark.preview):
            complain(f"note: {note}")
        print_example(prepared.graph.setting, complain)
    if parsed.dry_run:
        show_audit_plan(prepared, as_json=parsed.json)
        return 0
    console = Console(quiet=silent)
    command = shlex.join(["expunge", *(word for word in words if word not in ("-q", "--quiet", "--json"))])
    done = carry_out_audit(prepared, _progress(console), command)
    if parsed.json:
        values = {"page": str(done.page), "exit_code": done.code, "verdict": done.verdict.to_dict()}
        say_json(values | {"failures": dict(done.failures)})
        return done.code
    console.print(f"{folded(done.verdict, console.width)}\n", highlight=False, markup=False)
    for line in done.report.unknown:
        console.print(line, highlight=False, markup=False)
    for names, why in done.report.not_run:
        console.print(f"not run: {names}: {why}", highlight=False, markup=False)
    for label, reason in done.failures.items():
        complain(f"failed: {label}: {reason}")
    say(f"report:  {done.page}")
    if not parsed.quiet:
        say(f"next:    {_next(parsed)}")
    return done.code


def show_audit_plan(prepared: Any, *, as_json: bool) -> None:
    """Print the rows, the models, the audits and the jobs of a checked request. Writes nothing."""
    from expunge.cli.commands.plan import plan_values, print_plan
    from expunge.engine.run import plan
    from expunge.engine.store import Store

    planned = plan(prepared.graph.jobs, Store(prepared.work))
    names = [str(entry["name"]) for entry in prepared.graph.study.audits]
    if as_json:
        jobs = [plan_values(one) for one in planned]
        say_json({"audits": names, "not_run": dict(prepared.not_run), "jobs": jobs}, indent=1)
        return
    sets = prepared.graph.setting.benchmark.sets
    say(f"rows: {', '.join(f'{len(sets[name])} {name}' for name in ROW_SETS if name in sets)}")
    for role, model in prepared.roles.items():
        say(f"{ROLE_NAMES[role]}: {model.source}")
    say(f"audits: {', '.join(names) or 'none'}")
    for name, why in prepared.not_run.items():
        say(f"not run: {name}: {why}")
    print_plan(planned)
    say("next:    the same command without --dry-run")


def _next(parsed: argparse.Namespace) -> str:
    """Return the next useful command."""
    if parsed.retain_model is None:
        return "for a verdict, the same command with --retain-model: a model that never saw the rows"
    words = ("--model", parsed.model, "--forget", parsed.forget, "--out", "erased", "--dry-run")
    return f"if rows are left: {command_line('erase', words, parsed)}"


@contextlib.contextmanager
def _display(planned: Sequence[Any], console: Any) -> Iterator[Any]:
    from expunge.report.display import Display

    with Display(planned, console) as display:
        yield display.tell


def _progress(console: Any) -> Any:
    """Return a function that shows the run of jobs in the terminal."""
    return lambda planned: _display(planned, console)


def request_of(parsed: argparse.Namespace) -> Any:
    """Return the arguments as a request. Raises ConfigError for settings that an audit does not read."""
    from expunge.cli.compose import study_tree
    from expunge.models.config import model_name
    from expunge.pipelines.audit.request import AuditRequest
    from expunge.pipelines.study.config import decode_study

    refuse_settings(parsed.overrides, DECIDED, "expunge audit")
    for word in parsed.overrides:
        key, _, _ = word.lstrip("+~").partition("=")
        if key.split(".")[0] == "unlearn" and key not in LEARNING:
            raise ConfigError(f"{key}: no audit reads it (allowed: {', '.join(LEARNING)})")
    audits = _audits(parsed.audits)
    tree = study_tree(["study=custom", "forget=-", *model_words(parsed.model), *parsed.overrides])
    tree |= {"name": "audit", "forget": parsed.forget, "retain": parsed.retain, "methods": [], "audits": []}
    if parsed.holdout:
        tree["data"]["args"] = {**tree["data"]["args"], "holdout": parsed.holdout}
    study = decode_study(tree)
    out = parsed.out or Path("saves") / "audit" / model_name(str(study.model.source)).replace("/", "_")
    named = {key: getattr(parsed, key) for key in ("retain_model", "base")}
    options = {key: f"--{key.replace('_', '-')}" for key in named}
    controls = {key: None if model is None else model_source(model, options[key]) for key, model in named.items()}
    return AuditRequest(study=study, out=out, audits=tuple(audits), **controls)


def _audits(text: str | None) -> list[str | Mapping[str, Any]]:
    """Return the audits of --audits: names, or settings with a name; empty for the default. Raises ConfigError."""
    if text is None:
        return []
    if not text.lstrip().startswith(("[", "{")):
        names: list[str | Mapping[str, Any]] = [name.strip() for name in text.split(",") if name.strip()]
        if not names:
            raise ConfigError("--audits: name at least one audit")
        return names
    from expunge.core.yaml_text import parse_yaml

    value = parse_yaml(text, "--audits")
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(isinstance(one, str) or (isinstance(one, Mapping) and "name" in one) for one in entries):
        raise ConfigError('--audits: expected names, or a list such as "[{name: relearn, rows: 4}, quantize]"')
    return entries
