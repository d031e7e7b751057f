"""The commands of `expunge` and their arguments."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from expunge import __version__
from expunge.cli.commands.short import (
    collect_garbage,
    export_study,
    import_project,
    list_names,
    plan_study,
    print_completion,
    print_config,
    query_results,
    run_job,
    run_single,
    run_study,
    show_help,
    verify_store,
    write_report,
)
from expunge.cli.parser import Parser, ShowVersion, add_push

DESCRIPTION = "Make a language model forget chosen data, and measure whether it forgot."

EPILOG = """\
examples:
  expunge run study=quickstart
  expunge plan study=tofu_tiny data.root=FOLDER
  expunge unlearn experiment=unlearn/tofu/default trainer=NPO task_name=X \
trainer.method_args.beta=0.1 model.model_args.pretrained_model_name_or_path=saves/finetune/full \
retain_logs_path=saves/eval/retain/TOFU_EVAL.json
"""

EXAMPLES = {
    "train": "experiment=finetune/tofu/default",
    "unlearn": "experiment=unlearn/tofu/default",
    "eval": "experiment=eval/tofu/default",
}

# The lists of `expunge list`.
LISTS = ("studies", "experiments", "models", "methods", "metrics", "audits", "benchmarks")

# Modules of further commands, each with a function `add_<command>`.
ELSEWHERE = (
    "compare",
    "leaderboard",
    "data",
    "judge",
    "inspect",
    "erase",
    "audit",
    "semeval_arguments",
    "memory",
    "passport",
    "ui",
)


def build_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of all commands. If `command` is none of this file's, the other files are read as well."""
    parser = Parser(prog="expunge", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action=ShowVersion, version=f"expunge {__version__}")
    parser.set_defaults(plugin=[])
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
            module = importlib.import_module(f"expunge.cli.commands.{name}")
            getattr(module, f"add_{name.partition('_')[0]}")(commands)
    return parser


def _add_studies(commands: Any) -> None:
    """Add `run` and `plan`, and the single jobs: `train`, `unlearn`, `eval`."""
    for name, does, text in (
        ("run", run_study, "run a study: full -> retain -> unlearn -> score -> metrics -> report"),
        ("plan", plan_study, "show the jobs of a study or of a single job and the estimated work, without running"),
        ("train", run_single, "fine-tune one model"),
        ("unlearn", run_single, "unlearn from one model, and measure it"),
        ("eval", run_single, "measure one model"),
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
        if does is run_single:
            text = "a job for each combination of the values listed: trainer.args.learning_rate=1e-5,1e-4"
            sub.add_argument("-m", "--multirun", action="store_true", help=text)
        if name != "run":
            _add_hydra(sub)
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
    sub.set_defaults(command=export_study)
    sub = commands.add_parser("job", description="Run one task of a job file of an exported study.")
    sub.add_argument("file", type=Path, help="the job file of a stage")
    sub.add_argument("--index", required=True, type=int, help="the task's number, from 0")
    sub.set_defaults(command=run_job)


def _add_report(commands: Any) -> None:
    text = "write the report of a study from its present results, and serve it while it runs"
    sub = commands.add_parser("report", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="+", metavar="key=value", help="a study, such as study=quickstart")
    _add_plugin(sub)
    sub.add_argument("--serve", type=int, metavar="PORT", help="serve it on this machine only; 0: any free port")
    sub.add_argument(
        "--figures", metavar="svg,pdf,png", help="write the figures as files, too (needs expunge[figures])"
    )
    sub.set_defaults(command=write_report)


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
    sub.set_defaults(command=import_project)


def _add_upkeep(commands: Any) -> None:
    text = "check the stored files against their checksums"
    sub = commands.add_parser("verify", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="the study")
    sub.add_argument("--store", type=Path, metavar="DIR", help="check a whole store, in place of a study's artifacts")
    _add_plugin(sub)
    sub.set_defaults(command=verify_store)
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
    sub.set_defaults(command=collect_garbage)


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
    sub.set_defaults(command=query_results)


def _add_lists(commands: Any) -> None:
    """Add `list`, and `completion`."""
    text = "list the available names, or show the page of one name"
    sub = commands.add_parser("list", help=text, description=f"{text[0].upper()}{text[1:]}.")
    _add_plugin(sub)
    sub.add_argument("what", metavar="WHAT", choices=LISTS, help=f"one of: {', '.join(LISTS)}")
    sub.add_argument("name", nargs="?", help="show this one's page")
    sub.add_argument("--json", action="store_true", help="print as JSON")
    sub.set_defaults(command=list_names)
    text = "print the completion script of a shell, such as: source <(expunge completion bash)"
    sub = commands.add_parser("completion", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("shell", choices=("bash", "zsh", "fish"))
    sub.set_defaults(command=print_completion)


def _add_help(commands: Any) -> None:
    text = "show the meaning of a setting, a command, a method or another name"
    sub = commands.add_parser("help", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument(
        "key", nargs="?", metavar="WORD", help="such as train.learning_rate, erase or NPO; without one, the groups"
    )
    sub.set_defaults(command=show_help)
    text = "print the resolved settings of a command as YAML, ready to run again"
    sub = commands.add_parser("config", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("mode", choices=("run", "train", "unlearn", "eval"), help="the command")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="its settings")
    sub.add_argument("--docs", action="store_true", help="put each key's documentation above it")
    sub.add_argument("--diff", metavar="PROFILE", help="show only the settings that profile=PROFILE would change")
    _add_plugin(sub)
    _add_hydra(sub)
    sub.set_defaults(command=print_config)


def _add_hydra(sub: argparse.ArgumentParser) -> None:
    """Add the options of Hydra, which a command of another project may have."""
    for option, short in (("--config-name", "-cn"), ("--config-dir", "-cd"), ("--config-path", "-cp"), ("--cfg", "-c")):
        sub.add_argument(option, short, help=argparse.SUPPRESS)


def _add_plugin(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--allow-env", action="store_true", help="let config files read variables by ${oc.env:NAME}")
    sub.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="load a file of methods or metrics of your own"
    )
