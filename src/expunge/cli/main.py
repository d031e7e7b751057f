"""The command line. Each command imports what it needs when it runs, so that `expunge --help` is quick."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge import __version__
from expunge.cli.data import add_data
from expunge.cli.erase import add_erase
from expunge.cli.inspect import add_inspect
from expunge.cli.judge import add_judge
from expunge.cli.memory import add_memory
from expunge.cli.passport import add_passport
from expunge.cli.semeval_arguments import add_semeval
from expunge.core.distributed import here, launched
from expunge.core.errors import ExpungeError
from expunge.core.renamed import rename_flags

DESCRIPTION = "Make a language model forget chosen data, and measure whether it did."
EPILOG = """\
examples:
  expunge run study=quickstart
  expunge plan study=tofu_tiny data.root=FOLDER
  expunge unlearn experiment=unlearn/tofu/default trainer=NPO trainer.method_args.beta=0.1 task_name=X \\
      model.model_args.pretrained_model_name_or_path=saves/train/full retain_logs_path=saves/eval/retain/TOFU_EVAL.json
"""


EXAMPLES = {
    "train": "experiment=finetune/tofu/default",
    "unlearn": "experiment=unlearn/tofu/default",
    "eval": "experiment=eval/tofu/default",
}

# The system does not let a file be written: told in one line, whatever the command. (Jobs say it themselves.)
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a job failed, 2 wrong input, 130 interrupted."""
    notices: list[str] = []
    words = rename_flags(list(sys.argv[1:] if argv is None else argv), notices)
    parsed = _parsed(words)
    _notes(notices)
    try:
        if parsed.plugin or _installed_plugins():
            from expunge.core.plugins import load_plugins

            load_plugins(parsed.plugin)
        if launched().world > 1:
            from expunge.cli.distributed_launch import in_several

            return in_several(parsed, words)
        code = int(parsed.command(parsed, words))
        sys.stdout.flush()  # a reader that is gone is found out here, and not at the end of the program
        return code
    except ExpungeError as error:
        print(f"expunge: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # who reads has seen enough (| head); what is left unsaid must not fail at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        print(f"expunge: error: cannot write {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("expunge: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The words of a command. Settings may stand anywhere: argparse alone takes only those that stand together."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(words)
    taken = next(
        (taken for name in ("overrides", "settings") if (taken := getattr(parsed, name, None)) is not None), None
    )
    wrong = [word for word in rest if taken is None or word.startswith("-") or "=" not in word]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if taken is not None:
        taken += rest
    return parsed


def _installed_plugins() -> bool:
    from importlib.metadata import entry_points

    return bool(entry_points(group="expunge.plugins"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="expunge", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"expunge {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_studies(commands)
    _add_clusters(commands)
    _add_report(commands)
    _add_import(commands)
    _add_upkeep(commands)
    _add_results(commands)
    add_data(commands)
    add_judge(commands)
    add_inspect(commands)
    add_erase(commands)
    add_semeval(commands)
    add_memory(commands)
    add_passport(commands)
    _add_lists(commands)
    _add_help(commands)
    return parser


def _add_studies(commands: Any) -> None:
    """`run` and `plan`, and the single jobs: `train`, `unlearn`, `eval`."""
    for name, does, text in (
        ("run", _run, "run a study: full -> retain -> unlearn -> score -> metrics -> report"),
        ("plan", _plan, "show a study's jobs (hit, missing, blocked) and the estimated work, without running"),
        ("train", _single, "fine-tune one model"),
        ("unlearn", _single, "unlearn from one model, and measure it"),
        ("eval", _single, "measure one model"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        such = EXAMPLES.get(name, "study=quickstart")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help=f"settings, such as {such}")
        _add_plugin(sub)
        sub.add_argument("--config-name", help=argparse.SUPPRESS)  # pasted from other projects' commands
        sub.set_defaults(command=does, mode=name)
        if name == "plan":
            sub.add_argument("--json", action="store_true", help="print as JSON")
            sub.add_argument("--all", action="store_true", help="list every job, however many there are")
        if does is _single:
            text = "a job for each combination of the values listed: trainer.args.learning_rate=1e-5,1e-4"
            sub.add_argument("-m", "--multirun", action="store_true", help=text)
        if name == "eval":
            sub.add_argument(
                "--refresh",
                nargs="+",
                metavar="FOLDER",
                help="compute the metrics of written folders again from their records, without a model; "
                "retain_logs_path=FILE gives another retain log, eval.extras=[GROUP] and eval.metrics=[NAME] "
                "further metrics",
            )


def _add_clusters(commands: Any) -> None:
    """`export`, and `job`, which the scripts of an exported study call."""
    text = "write a study as scripts for a cluster"
    sub = commands.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("target", choices=("slurm",), help="sbatch scripts, and queue.sh that submits them")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="the study, and its launch.slurm settings")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder for the scripts")
    _add_plugin(sub)
    sub.set_defaults(command=_export)
    sub = commands.add_parser("job", description="Run one task of a job file of an exported study.")
    sub.add_argument("file", type=Path, help="the job file of a stage")
    sub.add_argument("--index", required=True, type=int, help="which of its tasks, from 0")
    sub.set_defaults(command=_job, plugin=[])


def _add_report(commands: Any) -> None:
    text = "write the report of a study as far as it has run, and serve it while it runs"
    sub = commands.add_parser("report", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="+", metavar="key=value", help="a study, such as study=quickstart")
    _add_plugin(sub)
    sub.add_argument("--serve", type=int, metavar="PORT", help="serve it on this machine only; 0: any free port")
    sub.add_argument(
        "--figures", metavar="svg,pdf,png", help="write the figures as files, too (needs expunge[figures])"
    )
    sub.set_defaults(command=_report)


def _add_import(commands: Any) -> None:
    text = "write another project's experiment as a study file"
    sub = commands.add_parser("import", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("source", choices=("arcsf",), help="whose files")
    sub.add_argument("configs", type=Path, metavar="PATH/configs", help="the project's configs folder")
    sub.add_argument("--top", metavar="NAME", help="the top config, where there are several")
    sub.add_argument("--out", required=True, type=Path, metavar="STUDY.yaml", help="the study file to write")
    sub.set_defaults(command=_import, plugin=[])


def _add_upkeep(commands: Any) -> None:
    text = "check the stored files against their checksums"
    sub = commands.add_parser("verify", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="the study")
    sub.add_argument("--store", type=Path, metavar="DIR", help="all of a store, in place of a study's artifacts")
    _add_plugin(sub)
    sub.set_defaults(command=_verify)
    text = "remove from the store what the named studies do not reach, and weights by a policy"
    sub = commands.add_parser("gc", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="+", metavar="key=value", help="every study that is to stay: study=A study=B")
    sub.add_argument(
        "--keep",
        choices=("all", "best", "last", "none"),
        default="all",
        help="whose weights stay, of the unlearned models (default: all); records and metrics always do",
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would go, and how many bytes, and remove nothing")
    _add_plugin(sub)
    sub.set_defaults(command=_gc)


def _add_results(commands: Any) -> None:
    text = "query the results of a study, or of all studies that have run"
    sub = commands.add_parser("results", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="a study; without one, all under saves/study")
    _add_plugin(sub)
    sub.add_argument(
        "--query", metavar="SQL", help="SQL over the tables `results` (a line per run and number) and `means`"
    )
    sub.add_argument(
        "--format",
        choices=("csv", "latex", "markdown", "json"),
        help="default: a table for the terminal; LaTeX needs its package booktabs",
    )
    sub.set_defaults(command=_results)


def _add_lists(commands: Any) -> None:
    """What there is: methods, metrics, benchmarks, audits."""
    for name, text in (
        ("methods", "list the unlearning methods"),
        ("metrics", "list the metric families"),
        ("benchmarks", "list the benchmarks"),
        ("audits", "list what a study can try to bring the forgotten back"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        _add_plugin(sub)
        sub.add_argument("name", nargs="?", help="show this one's page")
        sub.add_argument("--json", action="store_true", help="print as JSON")
        sub.set_defaults(command=_list, what=name)


def _add_help(commands: Any) -> None:
    text = "what a setting means: its type, default and use"
    sub = commands.add_parser("help", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("key", nargs="?", metavar="KEY", help="such as train.learning_rate; without one, the groups")
    sub.set_defaults(command=_help, plugin=[])
    text = "print the resolved settings of a command as YAML, which runs again as it is"
    sub = commands.add_parser("config", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("mode", choices=("run", "train", "unlearn", "eval"), help="the command")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="its settings")
    sub.add_argument("--docs", action="store_true", help="put each key's documentation above it")
    _add_plugin(sub)
    sub.set_defaults(command=_config)


def _add_plugin(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="load a file of methods or metrics of your own"
    )


def _notes(notes: Sequence[str]) -> None:
    for note in notes if here().first else ():
        print(f"note: {note}", file=sys.stderr)


def _check(mode: str, overrides: Sequence[str], *, told: bool = True) -> None:
    """Check words and files before torch is imported, and print the notes. Raises ConfigError."""
    from expunge.cli.compose import check

    notes = check(mode, overrides).notes
    _notes(notes if told else ())


def _run(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from rich.console import Console

    _check("run", parsed.overrides)
    from expunge.cli.api import load_study

    console = Console()
    study = load_study(parsed.overrides, parsed.plugin)
    _print_example(study.graph.setting)
    _notes(study.notes)
    result = study.run(console=console, command=shlex.join(["expunge", *words]))
    from expunge.report.text import to_rich

    for report in result.reports.values():
        console.print(to_rich(report))
    for label, reason in result.failures.items():
        console.print(f"failed: {label}: {reason}", markup=False, style="red")
    console.print(f"report: {result.folder / 'report.html'}", highlight=False, soft_wrap=True)
    return 1 if result.failures else 0


def _print_example(setting: Any) -> None:
    """Show on standard error how one example becomes tokens."""
    from expunge.pipelines.study.template_example import print_example

    print_example(setting, lambda line: print(line, file=sys.stderr))


def _plan(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from rich.console import Console

    _check("run", parsed.overrides)
    from expunge.cli.api import load_study
    from expunge.cli.display import LISTED, plan_kinds, plan_memory, plan_summary, plan_table

    study = load_study(parsed.overrides, parsed.plugin)
    _notes(study.notes)
    planned = study.plan()
    if parsed.json:
        print(json.dumps([_planned(p) for p in planned], indent=1))
        return 0
    console = Console()
    if parsed.all or len(planned) <= LISTED:
        console.print(plan_table(planned))
    console.print(plan_kinds(planned))
    console.print(plan_summary(planned), highlight=False)
    if memory := plan_memory(planned):
        console.print(memory, highlight=False, markup=False)
    if study.swept is not None:
        waits = "the trials of the sweep; the study with what they choose follows when they are done"
        for line in study.swept.stage.notes or (waits,):
            console.print(line, highlight=False, markup=False)
    return 0


def _planned(p: Any) -> dict[str, Any]:
    return {
        "job": p.job.name,
        "kind": p.job.kind,
        "label": p.job.label,
        "key": p.job.key,
        "state": p.state,
        "parents": [parent.key for parent in p.job.parents.values()],
        "tokens": p.job.estimate.tokens,
        "seconds": p.seconds,
        "bytes": p.job.estimate.bytes,
        "memory": p.job.estimate.memory or None,
    }


def _single(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from rich.console import Console

    if getattr(parsed, "refresh", None):
        return _refresh(parsed.refresh, parsed.overrides)
    if parsed.config_name and Path(parsed.config_name).stem != parsed.mode:
        from expunge.core.errors import ConfigError

        raise ConfigError(f"--config-name={parsed.config_name}: `expunge {parsed.mode}` reads {parsed.mode}.yaml")
    if parsed.multirun:
        from expunge.cli.multirun import run_all

        return run_all(parsed.mode, parsed.overrides, Console())
    _check(parsed.mode, parsed.overrides, told=False)
    from expunge.cli.api import load_job

    job = load_job(parsed.mode, parsed.overrides)
    _notes(job.notes)
    if job.prepared.setting is not None and here().first:
        _print_example(job.prepared.setting)
    console = Console(quiet=not here().first)
    done = job.run(console=console)
    notes = {why: k for k, why in enumerate(dict.fromkeys(done.reasons.values()), 1)}
    for name, value in done.summary.items():
        said = f" ({notes[done.reasons[name]]})" if name in done.reasons else ""
        console.print(f"{name:28} {'-' if value is None else format(value, '.4g')}{said}", highlight=False)
    for why, k in notes.items():
        console.print(f"({k}) {why}", highlight=False, markup=False, soft_wrap=True)
    _notes(done.notes)
    console.print(f"written: {done.folder}", highlight=False, soft_wrap=True)
    return 0


def _refresh(named: Sequence[str], overrides: Sequence[str]) -> int:
    from expunge.core.errors import ConfigError
    from expunge.pipelines.study.refresh import refresh

    settings = [w for w in named if "=" in w and not Path(w).exists()]
    given = {"retain_logs_path": "", "eval.extras": "", "eval.metrics": ""}
    for word in (*settings, *overrides):
        key, _, value = word.partition("=")
        if key not in given:
            raise ConfigError(
                f"--refresh: {word}: a folder keeps the settings it was made with (allowed: retain_logs_path=FILE, "
                "eval.extras=[GROUP,...], eval.metrics=[NAME,...])"
            )
        given[key] = value
    lists = {key: [w.strip() for w in given[key].strip("[]").split(",") if w.strip()] for key in given}
    extras, metrics = (lists[key] if given[key] else None for key in ("eval.extras", "eval.metrics"))
    for place in (w for w in named if w not in settings):
        summary = refresh(Path(place), given["retain_logs_path"] or None, extras, metrics)
        print(f"{place}: {sum(v is not None for v in summary.values())} of {len(summary)} metrics have a number")
    return 0


def _export(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.errors import ConfigError

    if parsed.out.exists() and (not parsed.out.is_dir() or any(parsed.out.iterdir())):
        raise ConfigError(f"--out: {parsed.out} already holds something; name a new or empty folder")
    _check("run", parsed.overrides)
    from expunge.cli.api import load_study

    *scripts, queue = load_study(parsed.overrides, parsed.plugin).export_slurm(parsed.out)
    told = f"{len(scripts)} stages; submit them all with: sh {shlex.quote(str(queue))}"
    print(told if scripts else "nothing to submit: every job of this study is done")
    return 0


def _job(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.engine.worker import run_task

    return run_task(parsed.file, parsed.index)


def _import(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.import_command import import_study

    return import_study(parsed.configs, parsed.top, parsed.out)


def _verify(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.store_commands import verify

    return verify(parsed.overrides, parsed.plugin, parsed.store)


def _gc(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.store_commands import collect

    return collect(parsed.overrides, parsed.plugin, parsed.keep, dry_run=parsed.dry_run)


def _results(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.results_command import show_results

    return show_results(parsed.overrides, parsed.query, parsed.format)


def _report(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.reporting import report

    return report(parsed.overrides, parsed.plugin, parsed.serve, parsed.figures)


def _help(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.help_command import show_key

    return show_key(parsed.key)


def _config(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.help_command import show_config

    return show_config(parsed.mode, parsed.overrides, docs=parsed.docs)


def _list(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.catalogue import show

    return show(parsed.what, parsed.name, as_json=parsed.json)


if __name__ == "__main__":
    sys.exit(main())
