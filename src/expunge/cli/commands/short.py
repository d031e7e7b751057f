"""The commands that have no file of their own: each takes the parsed arguments and returns its exit code."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from expunge.cli.parser import command_line
from expunge.core.distributed import here
from expunge.core.errors import ConfigError
from expunge.core.terminal import complain, say, say_json


def show_notes(notes: Sequence[str]) -> None:
    """Print notes on standard error, on the first process of a launch."""
    for note in notes if here().first else ():
        complain(f"note: {note}")


def _check(mode: str, overrides: Sequence[str], *, print_notes: bool = True) -> None:
    """Check words and files before torch is imported, and print the notes. Raises ConfigError."""
    from expunge.cli.compose import check

    notes = check(mode, overrides).notes
    show_notes(notes if print_notes else ())


def run_study(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Run a study, and print its results."""
    from expunge.core.console import Console

    _check("run", parsed.overrides)
    from expunge.pipelines.study.handle import load_study

    silent = parsed.quiet or parsed.json
    console = Console(quiet=silent)
    study = load_study(parsed.overrides, parsed.plugin)
    show_notes(() if silent else study.notes)
    command = shlex.join(["expunge", *(word for word in words if word not in ("-q", "--quiet", "--json"))])
    result = study.run(console=console, command=command, example=None if silent else complain)
    page = result.folder / "report.html"
    if parsed.json:
        say_json({"report": str(page), "results": result.table(), "failures": dict(result.failures)})
        return 1 if result.failures else 0
    from expunge.report.text import to_rich

    for report in result.reports.values():
        console.print(to_rich(report))
    for label, reason in result.failures.items():
        complain(f"failed: {label}: {reason}")
    say(f"report: {page}")
    if not parsed.quiet:
        again = command_line("results", parsed.overrides, parsed)
        say(f"next:   open the page, or `{again}`; `expunge ui` shows all studies and compares models")
    return 1 if result.failures else 0


def plan_study(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Print the jobs of a study and the estimated work."""
    from expunge.cli.commands.plan import mode_of, show_plan

    if _has_hydra(parsed):
        parsed.mode, parsed.overrides = mode_of(parsed.overrides)
        _apply_hydra(parsed)
        if parsed.cfg:
            return _show_settings(parsed)
        parsed.overrides = [parsed.mode, *parsed.overrides]
    return show_plan(parsed.overrides, parsed)


def run_single(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Run one job (`train`, `unlearn` or `eval`), and print its metrics."""
    from expunge.core.console import Console

    if getattr(parsed, "refresh", None):
        return _refresh(parsed.refresh, parsed.overrides)
    _apply_hydra(parsed)
    if parsed.cfg and parsed.multirun:
        raise ConfigError("--cfg job: shows the settings of one job; leave --multirun out and give each key one value")
    if parsed.cfg:
        return _show_settings(parsed)
    push = getattr(parsed, "push", None)
    if push is not None or getattr(parsed, "public", False):
        _check_push(parsed)
    if parsed.multirun:
        from expunge.cli.multirun import run_all

        return run_all(parsed.mode, parsed.overrides, Console())
    _check(parsed.mode, parsed.overrides, print_notes=False)
    from expunge.pipelines.study.job_handle import load_job

    job = load_job(parsed.mode, parsed.overrides)
    if push is not None:
        from expunge.cli.commands.push import check_new_repository

        check_new_repository(parsed, str(job.prepared.single.model.source))
    show_notes(job.notes)
    silent = parsed.quiet or parsed.json or not here().first
    console = Console(quiet=silent)
    done = job.run(console=console, example=None if silent else complain)
    address = ""
    if push is not None and here().first:
        from expunge.cli.commands.push import push_job

        address = push_job(parsed, done, job.prepared, shlex.join(["expunge", *words]))
    if parsed.json and here().first:
        numbers = {"folder": str(done.folder), "metrics": dict(done.summary), "reasons": dict(done.reasons)}
        say_json(numbers | ({"pushed": address} if address else {}))
        return 0
    if done.verdict is not None:
        from expunge.report.verdicts import folded

        console.print(f"{folded(done.verdict, console.width)}\n", highlight=False, markup=False)
    notes = {why: k for k, why in enumerate(dict.fromkeys(done.reasons.values()), 1)}
    for name, value in done.summary.items():
        mark = f" ({notes[done.reasons[name]]})" if name in done.reasons else ""
        console.print(f"{name:28} {'-' if value is None else format(value, '.4g')}{mark}", highlight=False)
    for why, k in notes.items():
        console.print(f"({k}) {why}", highlight=False, markup=False, soft_wrap=True)
    show_notes(done.notes)
    if here().first:
        say(f"written: {done.folder}")
        if not parsed.quiet:
            from expunge.cli.next_command import next_command

            say(f"next:    {next_command(parsed.mode, parsed, done.folder, job.prepared.single.model.source)}")
    return 0


def _has_hydra(parsed: argparse.Namespace) -> bool:
    return bool(parsed.config_name or parsed.config_dir or parsed.config_path or parsed.cfg)


def _apply_hydra(parsed: argparse.Namespace) -> None:
    """Replace the words by those of Hydra's options, if the command has such options. Raises ConfigError."""
    if _has_hydra(parsed):
        from expunge.cli.hydra_options import with_hydra_options

        parsed.overrides = with_hydra_options(parsed)


def _check_push(parsed: argparse.Namespace) -> None:
    """Raise ConfigError for a wrong `--push`."""
    from expunge.cli.commands.push import check_push
    from expunge.core.errors import ConfigError

    check_push(parsed)
    if parsed.push is not None and parsed.multirun:
        raise ConfigError("--push: uploads one model; leave out --multirun")


def _refresh(named: Sequence[str], overrides: Sequence[str]) -> int:
    from expunge.core.errors import ConfigError
    from expunge.pipelines.study.refresh import missing_numbers, refresh

    settings = [w for w in named if "=" in w and not Path(w).exists()]
    values = {"retain_logs_path": "", "eval.extras": "", "eval.metrics": ""}
    for word in (*settings, *overrides):
        key, _, value = word.partition("=")
        if key not in values:
            raise ConfigError(
                f"--refresh: {word}: the settings of a finished folder are fixed (allowed: retain_logs_path=FILE, "
                "eval.extras=[GROUP,...], eval.metrics=[NAME,...])"
            )
        values[key] = value
    lists = {key: [w.strip() for w in values[key].strip("[]").split(",") if w.strip()] for key in values}
    extras, metrics = (lists[key] if values[key] else None for key in ("eval.extras", "eval.metrics"))
    for place in (w for w in named if w not in settings):
        summary = refresh(Path(place), values["retain_logs_path"] or None, extras, metrics)
        say(f"{place}: {sum(v is not None for v in summary.values())} of {len(summary)} metrics have a number")
        reasons = missing_numbers(Path(place))
        for reason, metrics_without in reasons.items():
            say(f"no number: {', '.join(metrics_without)}: {reason}")
        if any(" of the rows " in reason for reason in reasons):
            say("next:    --refresh reads no model; run its config.yaml again by experiment=FILE task_name=NAME")
    return 0


def export_study(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Write a study as scripts for a cluster. Raises ConfigError if the folder is not empty."""
    from expunge.core.errors import ConfigError

    if parsed.out.exists() and (not parsed.out.is_dir() or any(parsed.out.iterdir())):
        raise ConfigError(f"--out: {parsed.out} is not empty; name a new or empty folder")
    _check("run", parsed.overrides)
    from expunge.pipelines.study.handle import load_study

    *scripts, queue = load_study(parsed.overrides, parsed.plugin).export_slurm(parsed.out)
    summary = f"{len(scripts)} stages; submit them all with: sh {shlex.quote(str(queue))}"
    say(summary if scripts else "nothing to submit: every job of this study is done")
    return 0


def run_job(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Run one task of a job file."""
    from expunge.engine.worker import run_task

    return run_task(parsed.file, parsed.index)


def import_project(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Write another project's experiments or checkpoint in the form of this package."""
    from expunge.cli.commands.import_command import import_checkpoint, import_experiments, import_study

    if parsed.source == "llama2c":
        return import_checkpoint(parsed.configs, parsed.tokenizer, parsed.out)
    if parsed.source == "openunlearning":
        return import_experiments(parsed.configs, parsed.experiment, parsed.out)
    return import_study(parsed.configs, parsed.top, parsed.out)


def verify_store(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Compare stored files with their checksums."""
    from expunge.cli.commands.store import verify

    return verify(parsed.overrides, parsed.plugin, parsed.store)


def collect_garbage(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Remove stored results that no named study needs."""
    from expunge.cli.commands.store import collect, trash

    if parsed.undo or parsed.empty_trash:
        return trash(parsed.overrides, parsed.plugin, parsed.store, undo=parsed.undo)
    if parsed.store is not None:
        from expunge.core.errors import ConfigError

        raise ConfigError("--store: only with --undo or --empty-trash; otherwise the studies name their store")
    return collect(parsed.overrides, parsed.plugin, parsed.keep, dry_run=parsed.dry_run, yes=parsed.yes)


def query_results(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Print or upload the results of studies."""
    from expunge.cli.commands.push import check_push
    from expunge.cli.commands.results import push_table, show_results

    check_push(parsed)
    if parsed.push is not None:
        return push_table(parsed, shlex.join(["expunge", *words]))
    return show_results(parsed.overrides, parsed.query, parsed.format)


def write_report(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Write the report of a study, and serve it if requested."""
    from expunge.cli.reporting import report

    return report(parsed)


def show_help(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Print the type, default and meaning of a setting."""
    from expunge.cli.commands.help import show_key

    return show_key(parsed.key)


def print_config(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Print the resolved settings of a command."""
    _apply_hydra(parsed)
    return _show_settings(parsed)


def _show_settings(parsed: argparse.Namespace) -> int:
    from expunge.cli.commands.help import show_config, show_difference

    if parsed.diff is not None:
        return show_difference(parsed.mode, parsed.overrides, parsed.diff)
    return show_config(parsed.mode, parsed.overrides, docs=parsed.docs)


def list_names(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Print the available names, or the page of one."""
    from expunge.cli.catalogue import show

    return show(parsed.what, parsed.name, as_json=parsed.json)


def print_completion(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Print the completion script of a shell."""
    from expunge.cli.arguments import LISTS, build_parser
    from expunge.cli.completion import completion_script

    say(completion_script(parsed.shell, build_parser(""), LISTS))
    return 0
