"""The next useful command after a single job. It is complete, so that it can be pasted."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from expunge.cli.config_files import options
from expunge.cli.parser import command_line
from expunge.models.config import MODEL_KEY

SAME_DATA = ("benchmark", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain", "holdout")
ANY = "expunge ui"
"""The command after a job for which nothing nearer is known: it shows all results."""


def next_command(mode: str, parsed: argparse.Namespace, folder: Path, source: str | None) -> str:
    """Return the command that follows a job of `mode`, whose result is in `folder`.

    A trained model is unlearned. An unlearned or measured one is compared with another of the same evaluation. If
    there is none, its start model (`source`) is measured and compared.
    """
    words: Sequence[str] = parsed.overrides
    if mode == "train":
        common = _common_words(words, "unlearn", ("model.template_args.",))
        own = ["trainer=NPO", f"task_name={folder.name}_NPO", f"model={folder}"]
        return ANY if common is None else command_line("unlearn", [*common, *own], parsed)
    other = next(_others(folder), None)
    if other is not None:
        return command_line("compare", [str(other), str(folder)], parsed)
    common = _common_words(words, "eval", ("model.", "eval."), ("model", "retain_logs_path"))
    if mode == "eval" or common is None or source is None:
        return ANY
    common = [word for word in common if not word.startswith(f"{MODEL_KEY}=")]
    own = [f"{MODEL_KEY}={source}"] if f"model={source}" not in common else []
    return command_line("eval", [*common, *own, f"task_name={folder.name}_before"], parsed)


def _common_words(words: Sequence[str], mode: str, groups: Sequence[str], more: Sequence[str] = ()) -> list[str] | None:
    """Return the words that another job on the same data has. None: `mode` has no experiment of this kind."""
    out = []
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key == "experiment":
            value = f"{mode}/{value.partition('/')[2]}"
            if value not in options("experiment"):
                return None
            out.append(f"experiment={value}")
        elif key in (*SAME_DATA, *more) or key.startswith(("data.", "paths.store", *groups)):
            out.append(word)
    return out


def _others(folder: Path) -> Iterator[Path]:
    """Yield the folders next to this one whose models were measured on the same data with the same settings."""
    mine = _evaluation(folder)
    if mine is None:
        return
    places = {folder.parent, *(folder.parent.parent / mode for mode in ("eval", "unlearn"))}
    folders = {config.parent for place in places for config in place.glob("[!.]*/config.yaml")} - {folder}
    for other in sorted(folders, key=lambda one: (-one.stat().st_mtime, one)):
        if _evaluation(other) == mine:
            yield other


def _evaluation(folder: Path) -> list[str] | None:
    """Return the settings of a folder's evaluation as texts, or None if it has none.

    A job writes all settings in the same order. To parse hundreds of files would take longer than a cached evaluation.
    """
    if not any(folder.glob("*_EVAL.json")) and not any(folder.glob("evals/*_EVAL.json")):
        return None
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    settings = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    return [one for one in settings if one.partition(":")[0] in (*SAME_DATA, "data", "eval")]
