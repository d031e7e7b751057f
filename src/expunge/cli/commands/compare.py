"""`expunge compare A B`: two models, or the models of two studies, example by example; and a page."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.lists import width
from expunge.cli.run_folders import words_of_folder
from expunge.core.errors import ConfigError, nearest
from expunge.core.files import check_place, write_text
from expunge.core.terminal import say, say_json

if TYPE_CHECKING:
    from expunge.metrics.api import MetricResult

    Models = dict[str, Mapping[str, MetricResult]]
FOLDER = Path("saves/compare")
OPERAND = (
    "an evaluation log (..._EVAL.json), a folder with one, a study (NAME or FILE.yaml), a folder of saves/study "
    "(NAME-HASH, NAME-latest), or one of its models (NAME:LABEL); a study's further words in quotes: 'study=NAME "
    "seeds.unlearn=[0,1]'"
)


def add_compare(commands: Any) -> None:
    """Add `compare` to the commands of a parser."""
    text = "compare two models, or two studies, example by example; write a page"
    sub = commands.add_parser("compare", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("a", metavar="A", help=f"the first: {OPERAND}")
    sub.add_argument("b", metavar="B", help="the second one")
    sub.add_argument("--metrics", metavar="NAME,...", help="compare only these (default: all that both have)")
    sub.add_argument("--out", type=Path, metavar="FILE.html", help=f"the page (default: {FOLDER}/A-B.html)")
    sub.add_argument("--json", action="store_true", help="print the differences as JSON, nothing else")
    sub.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help=argparse.SUPPRESS)
    sub.set_defaults(command=_compare)


def _compare(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    first, directions = _models(parsed.a, "A")
    second, more = _models(parsed.b, "B")
    out = parsed.out or FOLDER / f"{_short(parsed.a)}-{_short(parsed.b)}.html"
    check_place(out.parent, "--out", writable=True)
    names = None if parsed.metrics is None else [name.strip() for name in parsed.metrics.split(",")]
    from expunge.evaluation.compare import compare
    from expunge.report.compare_page import ComparedPair, compare_page, paired

    pairs = [
        ComparedPair(name, a, b, first[a], second[b], compare(first[a], second[b], metrics=names))
        for name, a, b in paired(first, second, parsed.a, parsed.b)
    ]
    write_text(out, compare_page(pairs, {**more, **directions}, shlex.join(["expunge", *words])))
    if parsed.json:
        lines = [{"models": pair.name, **dataclasses.asdict(d)} for pair in pairs for d in pair.comparison.values()]
        say_json({"page": str(out), "differences": lines}, indent=1)
        return 0
    for pair in pairs:
        _print(pair)
    say(f"page: {out}")
    say("next: open it; it has each example's difference")
    return 0


def _print(pair: Any) -> None:
    from expunge.report.differences import cells_of

    say(f"{pair.name}: second minus first")
    name_width = max(14, min(34, max(map(len, pair.comparison)), width() - 46))
    for d in pair.comparison.values():
        a, b, difference, interval, p, p_holm, n = cells_of(d)
        evidence = f"{interval} p={p} (Holm {p_holm}) n={n}" if interval else ""
        if len(d.metric) > name_width:
            say(f"  {d.metric}")
        name = "" if len(d.metric) > name_width else d.metric
        say(f"  {name:{name_width}} {a} -> {b}  {difference} {evidence}".rstrip())
    say()


def _models(text: str, where: str) -> tuple[Models, Mapping[str, str]]:
    """Return the models that an operand names with their results, and the directions of metrics."""
    path = Path(text).expanduser()  # os.path: the words of a study may be too long for a file name
    if path.suffix == ".json" and os.path.isfile(path):
        return _log(path, path.parent.name or path.stem), {}
    if os.path.isdir(path) and not words_of_folder(text):
        logs = sorted(path.glob("*EVAL.json")) or sorted(path.glob("*/*EVAL.json"))
        if len(logs) != 1:
            logs_named = ", ".join(str(log) for log in logs)
            raise ConfigError(
                f"{where}: {text}: {f'has several logs; name one: {logs_named}' if logs else 'has no ..._EVAL.json'}"
            )
        return _log(logs[0], path.name), {}
    return _study(text, where)


def _log(path: Path, name: str) -> Models:
    from expunge.metrics.results import read_results

    return {name: read_results(path)[0]}


def _study(text: str, where: str) -> tuple[Models, Mapping[str, str]]:
    from expunge.cli.config_files import options, study_hint

    words = shlex.split(text) if "=" in text.partition(":")[0] else [f"study={text}"]
    *words, last = words
    last, label = _without_label(last)
    name = next((w for w in (*words, last) if w.startswith("study=")), "").removeprefix("study=")
    is_shipped = name in options("study")
    of_folder = [] if is_shipped or words else words_of_folder(name)
    if not (is_shipped or of_folder or os.path.isfile(Path(name).expanduser())):
        raise ConfigError(f"{where}: {text!r} is no file, no folder and no study{study_hint(name)}")
    from expunge.pipelines.study.handle import load_study
    from expunge.report.drawing import named_runs

    handle = load_study(of_folder or [*words, last])
    stored = handle.stored()
    if not stored.runs:
        raise ConfigError(f"{where}: {stored.study} has no results in {handle.store.root} yet; run it first")
    runs = {name: run for run, name in named_runs(stored)}
    if label:
        own = {name: run for name, run in runs.items() if label in (name, run.label)}
        if not own:
            raise ConfigError(f"{where}: {stored.study} has no model {label!r}{nearest(label, runs)}")
        runs = own
    return {name: run.results for name, run in runs.items()}, stored.directions


def _without_label(word: str) -> tuple[str, str]:
    """Return a word without the label of a model at its end, and the label. A colon in brackets is part of a value."""
    value, colon, label = word.rpartition(":")
    is_inside = any(label.count(close) > label.count(opening) for opening, close in ("[]", "{}"))
    return (value, label) if colon and not is_inside else (word, "")


def _short(text: str) -> str:
    """Return an operand as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.removeprefix("study=")).strip("-.")[-60:] or "model"
