"""The command line. Each command imports its modules when it runs, so that `expunge --help` is quick."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge import __version__
from expunge.cli.environment import environment_readable
from expunge.cli.outputs import check_outputs
from expunge.cli.parser import START, Parser
from expunge.cli.push import add_push
from expunge.core.distributed import here, launched
from expunge.core.errors import ExpungeError, UserError
from expunge.core.process_age import process_began
from expunge.core.renamed import rename_flags
from expunge.core.terminal import complain, say

DESCRIPTION = "Make a language model forget chosen data, and measure whether it forgot."
EPILOG = """\
examples:
  expunge run study=quickstart
  expunge plan study=tofu_tiny data.root=FOLDER
  expunge unlearn experiment=unlearn/tofu/default trainer=NPO trainer.method_args.beta=0.1 task_name=X \\
      model.model_args.pretrained_model_name_or_path=saves/finetune/full \\
      retain_logs_path=saves/eval/retain/TOFU_EVAL.json
"""


EXAMPLES = {
    "train": "experiment=finetune/tofu/default",
    "unlearn": "experiment=unlearn/tofu/default",
    "eval": "experiment=eval/tofu/default",
}

# The next useful command after a single job.
NEXT = {
    "train": "expunge unlearn experiment=unlearn/tofu/default task_name=NAME "
    "model.model_args.pretrained_model_name_or_path={folder}",
    "unlearn": "expunge compare A B: this folder and another one with the same evaluation",
    "eval": "expunge compare A B: this folder and another one with the same evaluation",
}

# The lists of `expunge list`.
LISTS = ("studies", "experiments", "models", "methods", "metrics", "audits", "benchmarks")

# Modules of further commands, each with a function `add_<command>`.
ELSEWHERE = (
    "compare_command",
    "leaderboard_command",
    "data",
    "judge",
    "inspect",
    "erase",
    "semeval_arguments",
    "memory",
    "passport",
    "ui_command",
)

# The system refuses to write a file: one line for every command. (Jobs raise their own errors.)
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 1 a job failed, 2 wrong input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        say(START.rstrip())
        return 0
    try:
        words, parsed = _read(words)
        # Without words from a caller the process has no other task, so its age is the command's.
        parsed.program, parsed.began = argv is None, process_began() if argv is None else time.monotonic()
        with environment_readable(getattr(parsed, "allow_env", False)):
            check_outputs(parsed)
            _load_plugins(parsed.plugin)
            if launched().world > 1:
                from expunge.cli.distributed_launch import run_distributed

                return run_distributed(parsed, words)
            code = int(parsed.command(parsed, words))
        sys.stdout.flush()  # raises BrokenPipeError here, not at the end of the program
        return code
    except ExpungeError as error:
        complain(f"expunge: error: {error}")
        return error.exit_code
    except BrokenPipeError:  # the reader has closed the pipe (| head); the last flush must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        complain("expunge: interrupted; run the same command again to continue")
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            complain(f"expunge: error: {error.filename!s:.60}...: {error.strerror}")
            return 2
        if isinstance(error, OSError) and error.errno in REFUSED:
            complain(f"expunge: error: cannot write {error.filename or 'a file'}: {error.strerror}")
            return 1
        from expunge.cli.crash import report_crash

        return report_crash(error, words)


def _read(words: Sequence[str]) -> tuple[list[str], argparse.Namespace]:
    """Return the words of a command under their present names, and the parsed command."""
    for word in words:
        if "\0" in word or (not word.isascii() and word.encode("utf-8", "replace").decode() != word):
            raise UserError(f"{word!r:.80}: is not UTF-8 text, or contains NUL")
    notices: list[str] = []
    named = rename_flags(list(words), notices)
    parsed = _parsed(named)
    _notes(notices)
    return named, parsed


def _load_plugins(files: Sequence[str]) -> None:
    from importlib.metadata import entry_points

    if files or entry_points(group="expunge.plugins"):
        from expunge.core.plugins import load_plugins

        load_plugins(files)


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command. Settings may stand anywhere: argparse alone accepts only consecutive ones."""
    parser = _parser(next((word for word in words if not word.startswith("-")), ""))
    parsed, rest = parser.parse_known_args(words)
    settings = next(
        (settings for name in ("overrides", "settings") if (settings := getattr(parsed, name, None)) is not None), None
    )
    if rest and not rest[0].startswith("-") and getattr(parsed, "name", "") is None:
        parsed.name = rest.pop(0)  # argparse reads no optional word that follows an option
    wrong = [word for word in rest if settings is None or word.startswith("-") or "=" not in word]
    if wrong:
        from expunge.cli.projects import PUBLISHED

        names = [word.lstrip("-").partition("=")[0] for word in wrong]
        hints = "".join(f"; write {PUBLISHED[name]}=... for {name}" for name in names if name in PUBLISHED)
        parsed.parser.error(f"unrecognized arguments: {' '.join(wrong)}{hints}")
    if settings is not None:
        settings += rest
    return parsed


def _parser(command: str) -> argparse.ArgumentParser:
    parser = Parser(
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
    _add_lists(commands)
    _add_help(commands)
    if command not in commands.choices:  # only then are the files of the other commands read
        for name in ELSEWHERE:
            module = importlib.import_module(f"expunge.cli.{name}")
            getattr(module, f"add_{name.partition('_')[0]}")(commands)
    return parser


def _add_studies(commands: Any) -> None:
    """Add `run` and `plan`, and the single jobs: `train`, `unlearn`, `eval`."""
    for name, does, text in (
        ("run", _run, "run a study: full -> retain -> unlearn -> score -> metrics -> report"),
        ("plan", _plan, "show the jobs of a study or of a single job and the estimated work, without running"),
        ("train", _single, "fine-tune one model"),
        ("unlearn", _single, "unlearn from one model, and measure it"),
        ("eval", _single, "measure one model"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        such = EXAMPLES.get(name, "study=quickstart")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help=f"settings, such as {such}")
        _add_plugin(sub)
        sub.set_defaults(command=does, mode=name, docs=False, diff=None)
        text = "print as JSON" if name == "plan" else "print one JSON object on standard output, nothing else"
        sub.add_argument("--json", action="store_true", help=text)
        if name == "plan":
            sub.add_argument("--all", action="store_true", help="list every job, without a limit")
        else:
            sub.add_argument("-q", "--quiet", action="store_true", help="no progress and no tables; only the place")
        if name in ("train", "unlearn"):
            add_push(sub, "the model")
        if does is _single:
            text = "a job for each combination of the values listed: trainer.args.learning_rate=1e-5,1e-4"
            sub.add_argument("-m", "--multirun", action="store_true", help=text)
            for option in ("--config-name", "--config-dir", "--config-path", "--cfg"):  # pasted from other projects
                sub.add_argument(option, help=argparse.SUPPRESS)
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
    """Add `export`, and `job`, which the scripts of an exported study call."""
    text = "write a study as scripts for a cluster"
    sub = commands.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("target", choices=("slurm",), help="sbatch scripts, and queue.sh that submits them")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="the study, and its launch.slurm settings")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder for the scripts")
    _add_plugin(sub)
    sub.set_defaults(command=_export)
    sub = commands.add_parser("job", description="Run one task of a job file of an exported study.")
    sub.add_argument("file", type=Path, help="the job file of a stage")
    sub.add_argument("--index", required=True, type=int, help="the task's number, from 0")
    sub.set_defaults(command=_job, plugin=[])


def _add_report(commands: Any) -> None:
    text = "write the report of a study from its present results, and serve it while it runs"
    sub = commands.add_parser("report", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="+", metavar="key=value", help="a study, such as study=quickstart")
    _add_plugin(sub)
    sub.add_argument("--serve", type=int, metavar="PORT", help="serve it on this machine only; 0: any free port")
    sub.add_argument(
        "--figures", metavar="svg,pdf,png", help="write the figures as files, too (needs expunge[figures])"
    )
    sub.set_defaults(command=_report)


def _add_import(commands: Any) -> None:
    text = "write another project's experiments as files of ours, or its checkpoint as a model folder"
    sub = commands.add_parser("import", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("source", choices=("arcsf", "llama2c", "openunlearning"), help="the other project")
    sub.add_argument("configs", type=Path, metavar="PATH", help="its configs folder; llama2c: a ckpt.pt")
    sub.add_argument("--top", metavar="NAME", help="arcsf: the top config, if there are several")
    sub.add_argument("--experiment", metavar="NAME", help="openunlearning: one experiment; all without it")
    sub.add_argument("--tokenizer", type=Path, metavar="PATH", help="llama2c: tok8192.model, or a tokenizer's folder")
    text = "the file or model folder to write; a folder for all experiments of openunlearning"
    sub.add_argument("--out", required=True, type=Path, metavar="PATH", help=text)
    sub.set_defaults(command=_import, plugin=[])


def _add_upkeep(commands: Any) -> None:
    text = "check the stored files against their checksums"
    sub = commands.add_parser("verify", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="the study")
    sub.add_argument("--store", type=Path, metavar="DIR", help="check a whole store, in place of a study's artifacts")
    _add_plugin(sub)
    sub.set_defaults(command=_verify)
    text = "remove results from the store that the named studies do not need, and weights by a policy"
    sub = commands.add_parser("gc", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="every study that is to stay: study=A study=B")
    sub.add_argument("--yes", action="store_true", help="do not ask before results of studies not named are removed")
    other = sub.add_mutually_exclusive_group()
    other.add_argument("--undo", action="store_true", help="bring back the results that the last gc removed")
    other.add_argument("--empty-trash", action="store_true", help="free the space of the results that gc removed")
    sub.add_argument(
        "--store", type=Path, metavar="DIR", help="the store, for --undo and --empty-trash (default: saves/store)"
    )
    sub.add_argument(
        "--keep",
        choices=("all", "best", "last", "none"),
        default="all",
        help="the unlearned models whose weights stay (default: all); records and metrics always stay",
    )
    other.add_argument(
        "--dry-run", action="store_true", help="list the files to remove and their bytes, without removing them"
    )
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
    add_push(sub, "the table of results, as a dataset,")
    sub.set_defaults(command=_results)


def _add_lists(commands: Any) -> None:
    """Add `list`, and `completion`."""
    text = "list the available names, or show the page of one name"
    sub = commands.add_parser("list", help=text, description=f"{text[0].upper()}{text[1:]}.")
    _add_plugin(sub)
    sub.add_argument("what", metavar="WHAT", choices=LISTS, help=f"one of: {', '.join(LISTS)}")
    sub.add_argument("name", nargs="?", help="show this one's page")
    sub.add_argument("--json", action="store_true", help="print as JSON")
    sub.set_defaults(command=_list)
    text = "print the completion script of a shell, such as: source <(expunge completion bash)"
    sub = commands.add_parser("completion", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("shell", choices=("bash", "zsh", "fish"))
    sub.set_defaults(command=_completion, plugin=[])


def _add_help(commands: Any) -> None:
    text = "show the type, default and meaning of a setting"
    sub = commands.add_parser("help", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("key", nargs="?", metavar="KEY", help="such as train.learning_rate; without one, the groups")
    sub.set_defaults(command=_help, plugin=[])
    text = "print the resolved settings of a command as YAML, ready to run again"
    sub = commands.add_parser("config", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("mode", choices=("run", "train", "unlearn", "eval"), help="the command")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="its settings")
    sub.add_argument("--docs", action="store_true", help="put each key's documentation above it")
    sub.add_argument("--diff", metavar="PROFILE", help="show only the settings that profile=PROFILE would change")
    _add_plugin(sub)
    sub.set_defaults(command=_config)


def _add_plugin(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--allow-env", action="store_true", help="let config files read variables by ${oc.env:NAME}")
    sub.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="load a file of methods or metrics of your own"
    )


def _notes(notes: Sequence[str]) -> None:
    for note in notes if here().first else ():
        complain(f"note: {note}")


def _check(mode: str, overrides: Sequence[str], *, print_notes: bool = True) -> None:
    """Check words and files before torch is imported, and print the notes. Raises ConfigError."""
    from expunge.cli.compose import check

    notes = check(mode, overrides).notes
    _notes(notes if print_notes else ())


def _run(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.console import Console

    _check("run", parsed.overrides)
    from expunge.pipelines.study.handle import load_study

    silent = parsed.quiet or parsed.json
    console = Console(quiet=silent)
    study = load_study(parsed.overrides, parsed.plugin)
    _notes(() if silent else study.notes)
    command = shlex.join(["expunge", *(word for word in words if word not in ("-q", "--quiet", "--json"))])
    result = study.run(console=console, command=command, example=None if silent else complain)
    page = result.folder / "report.html"
    if parsed.json:
        say(
            json.dumps({"report": str(page), "results": result.table(), "failures": dict(result.failures)}, default=str)
        )
        return 1 if result.failures else 0
    from expunge.report.text import to_rich

    for report in result.reports.values():
        console.print(to_rich(report))
    for label, reason in result.failures.items():
        complain(f"failed: {label}: {reason}")
    say(f"report: {page}")
    if not parsed.quiet:
        say(f"next:   {_next_of_study(parsed.overrides)}")
    return 1 if result.failures else 0


def _next_of_study(overrides: Sequence[str]) -> str:
    """Return the useful commands after a study."""
    words = shlex.join(overrides)
    return f"open the page, or `expunge results {words}`; `expunge ui` shows all studies and compares models"


def _plan(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.plan_command import show_plan

    return show_plan(parsed.overrides, parsed.plugin, as_json=parsed.json, every_job=parsed.all)


def _single(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.console import Console

    if getattr(parsed, "refresh", None):
        return _refresh(parsed.refresh, parsed.overrides)
    from expunge.cli.hydra_options import with_hydra_options

    parsed.overrides = with_hydra_options(parsed)
    if parsed.cfg:
        return _config(parsed, words)
    push = getattr(parsed, "push", None)
    if parsed.mode != "eval":
        _check_push(parsed)
    if parsed.multirun:
        from expunge.cli.multirun import run_all

        return run_all(parsed.mode, parsed.overrides, Console())
    _check(parsed.mode, parsed.overrides, print_notes=False)
    from expunge.pipelines.study.handle import load_job

    job = load_job(parsed.mode, parsed.overrides)
    _notes(job.notes)
    silent = parsed.quiet or parsed.json or not here().first
    console = Console(quiet=silent)
    done = job.run(console=console, example=None if silent else complain)
    address = ""
    if push is not None and here().first:
        from expunge.cli.push import push_job

        address = push_job(parsed, done, job.prepared, shlex.join(["expunge", *words]))
    if parsed.json and here().first:
        numbers = {"folder": str(done.folder), "metrics": dict(done.summary), "reasons": dict(done.reasons)}
        say(json.dumps(numbers | ({"pushed": address} if address else {})))
        return 0
    if done.verdict is not None:
        console.print(f"{done.verdict}\n", highlight=False, markup=False)
    notes = {why: k for k, why in enumerate(dict.fromkeys(done.reasons.values()), 1)}
    for name, value in done.summary.items():
        mark = f" ({notes[done.reasons[name]]})" if name in done.reasons else ""
        console.print(f"{name:28} {'-' if value is None else format(value, '.4g')}{mark}", highlight=False)
    for why, k in notes.items():
        console.print(f"({k}) {why}", highlight=False, markup=False, soft_wrap=True)
    _notes(done.notes)
    if here().first:
        say(f"written: {done.folder}")
    console.print(
        f"next:    {NEXT[parsed.mode].format(folder=done.folder)}", highlight=False, markup=False, soft_wrap=True
    )
    return 0


def _check_push(parsed: argparse.Namespace) -> None:
    """Raise ConfigError for a wrong `--push`."""
    from expunge.cli.push import check_push
    from expunge.core.errors import ConfigError

    check_push(parsed)
    if parsed.push is not None and parsed.multirun:
        raise ConfigError("--push: uploads one model; leave out --multirun")


def _refresh(named: Sequence[str], overrides: Sequence[str]) -> int:
    from expunge.core.errors import ConfigError
    from expunge.pipelines.study.refresh import refresh

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
    return 0


def _export(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.errors import ConfigError

    if parsed.out.exists() and (not parsed.out.is_dir() or any(parsed.out.iterdir())):
        raise ConfigError(f"--out: {parsed.out} is not empty; name a new or empty folder")
    _check("run", parsed.overrides)
    from expunge.pipelines.study.handle import load_study

    *scripts, queue = load_study(parsed.overrides, parsed.plugin).export_slurm(parsed.out)
    summary = f"{len(scripts)} stages; submit them all with: sh {shlex.quote(str(queue))}"
    say(summary if scripts else "nothing to submit: every job of this study is done")
    return 0


def _job(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.engine.worker import run_task

    return run_task(parsed.file, parsed.index)


def _import(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.import_command import import_checkpoint, import_experiments, import_study

    if parsed.source == "llama2c":
        return import_checkpoint(parsed.configs, parsed.tokenizer, parsed.out)
    if parsed.source == "openunlearning":
        return import_experiments(parsed.configs, parsed.experiment, parsed.out)
    return import_study(parsed.configs, parsed.top, parsed.out)


def _verify(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.store_commands import verify

    return verify(parsed.overrides, parsed.plugin, parsed.store)


def _gc(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.store_commands import collect, trash

    if parsed.undo or parsed.empty_trash:
        return trash(parsed.overrides, parsed.plugin, parsed.store, undo=parsed.undo)
    if parsed.store is not None:
        from expunge.core.errors import ConfigError

        raise ConfigError("--store: only with --undo or --empty-trash; otherwise the studies name their store")
    return collect(parsed.overrides, parsed.plugin, parsed.keep, dry_run=parsed.dry_run, yes=parsed.yes)


def _results(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.push import check_push
    from expunge.cli.results_command import push_table, show_results

    check_push(parsed)
    if parsed.push is not None:
        return push_table(parsed, shlex.join(["expunge", *words]))
    return show_results(parsed.overrides, parsed.query, parsed.format)


def _report(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.reporting import report

    return report(parsed.overrides, parsed.plugin, parsed.serve, parsed.figures)


def _help(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.help_command import show_key

    return show_key(parsed.key)


def _config(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.help_command import show_config, show_difference

    if parsed.diff is not None:
        return show_difference(parsed.mode, parsed.overrides, parsed.diff)
    return show_config(parsed.mode, parsed.overrides, docs=parsed.docs)


def _list(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.catalogue import show

    return show(parsed.what, parsed.name, as_json=parsed.json)


def _completion(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.completion import completion_script

    say(completion_script(parsed.shell, _parser(""), LISTS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
