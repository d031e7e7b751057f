"""Configuration: shipped files, a user's files and the words of a command line become one plain tree.

All three go through one loader with the same rules (`config_files`), typed by the config dataclasses (`schema`).
Everything here runs without torch, so a wrong word is reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.cli.config_files import (
    CONF,
    Composition,
    check_tree,
    merge,
    method_settings,
    open_file,
    options,
    resolve,
)
from expunge.cli.effects import notes_on_effects
from expunge.cli.field_docs import fields_of, shipped_weight_edits
from expunge.cli.schema import GROUPS, flat, hint_of, is_text, members, unknown_key
from expunge.cli.vocabulary import translate, with_split
from expunge.cli.words import Word, parse_value, split_words
from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.core.renamed import rename_key, rename_value
from expunge.models.config import looks_local
from expunge.pipelines.study.config import TaskConfig, decode_study, decode_task
from expunge.pipelines.study.single_config import SingleJob
from expunge.training.config import TrainArgs

SOURCE = "model.model_args.pretrained_model_name_or_path"
PLAIN_MODEL = "llama-1m"  # has no template settings; the folder replaces its preset

__all__ = ["CONF", "Composed", "check", "compose", "options", "single_tree", "study_tree"]


@dataclass(frozen=True)
class Composed:
    """A composed configuration. notes: renamed words, and accepted words without effect."""

    tree: dict[str, Any]
    notes: tuple[str, ...]


def study_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the plain tree of `expunge run|plan study=... key=value ...`. Raises ConfigError.

    `study` is a shipped name or a YAML file.
    """
    return compose("run", overrides).tree


def single_tree(mode: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the plain tree of `expunge train|unlearn|eval ...` with the method's defaults, and notes.

    Raises ConfigError.
    """
    made = compose(mode, overrides)
    tree = {**made.tree, "trainer": _with_method_defaults(made.tree["trainer"])}
    return tree, list(made.notes)


def check(mode: str, overrides: Sequence[str]) -> Composed:
    """Compose and check every key and value that can be checked without torch. Raises ConfigError."""
    made = compose(mode, overrides)
    if mode == "run":
        study = decode_study(made.tree)
        _check_methods(made.tree)
        _check_files(study)
        return made
    job = decode_task(SingleJob, made.tree)
    decode(TrainArgs, dict(job.trainer.args), where="trainer.args")
    _check_method_keys(job.trainer.handler, job.trainer.method_args)
    _check_files(job)
    return made


def compose(mode: str, overrides: Sequence[str]) -> Composed:
    """Compose the configuration of a command: "run" (a study), "train", "unlearn" or "eval". Raises ConfigError.

    The method's own defaults are not filled in. Later words win over earlier ones, words over files.
    """
    notes: list[str] = []
    given = list(overrides)
    if mode != "run":
        given, notes = translate(given)
        if mode == "train":
            given, notes = with_split(given, notes)
    words = [_renamed(mode, word, notes) for word in split_words(given)]
    _check_groups(mode, words)
    choices: dict[str, str | None] = {}
    for word in words:
        if word.key in GROUPS[mode]:
            value = None if word.remove else parse_value(mode, word.key, word.text)
            choices[word.key] = None if value is None else str(value)
    if "model" not in choices and _names_a_folder(words):
        choices["model"] = PLAIN_MODEL
    files = Composition(mode, choices)
    tree = files.run()
    set_keys: set[str] = set(files.given)
    for word in words:
        if word.key not in GROUPS[mode]:
            tree = _apply(mode, tree, word, notes)
            set_keys.add(word.key)
    if mode != "run" and not isinstance(tree.get("task_name"), str):
        tree["task_name"] = "???" if tree.get("task_name") is None else tree["task_name"]
    tree = resolve(tree)
    if mode == "run":
        tree = _with_models(mode, tree)
    return Composed(tree, tuple(dict.fromkeys([*notes, *files.notes, *notes_on_effects(mode, tree, set_keys)])))


def _names_a_folder(words: Sequence[Word]) -> bool:
    """Return whether the words name a local model folder. It has its own chat template, not a shipped model's."""
    source = next((word.text for word in reversed(words) if word.key == SOURCE), None)
    return source is not None and looks_local(source)


def _renamed(mode: str, word: Word, notes: list[str]) -> Word:
    key = rename_key(mode, word.key, notes)
    return Word(key, word.text, word.value, word.remove)


def _check_groups(mode: str, words: Sequence[Word]) -> None:
    """A study has no experiment and no trainer, a single job no study. Raises ConfigError."""
    for key in {word.key for word in words} & {"study", "experiment", "trainer"}:
        if mode == "run" and key != "study":
            raise ConfigError(f"{key}: is for `expunge train`, `unlearn` and `eval`; a study names its `methods`")
        if key == "study" and mode != "run":
            raise ConfigError(f"study: is for `expunge run` and `plan`; `expunge {mode}` takes experiment=NAME")


def _apply(mode: str, tree: dict[str, Any], word: Word, notes: list[str]) -> dict[str, Any]:
    """Lay one word over the tree. Raises ConfigError for an unknown key or a value that cannot be read."""
    known = hint_of(mode, word.key)
    if known is None:
        raise ConfigError(_unknown(mode, word.key, tree))
    parts = word.key.split(".")
    if word.remove:
        return _without(tree, parts)
    if is_text(known):
        notes += _quoted(word)
    value = rename_value(mode, word.key, parse_value(mode, word.key, word.text), notes)
    if isinstance(value, Mapping) and not any(member is Any for member in members(known)):
        check_tree(mode, value, "", prefix=f"{word.key}.")
    made: Any = value
    for part in reversed(parts):
        made = {part: made}
    laid: dict[str, Any] = merge(tree, made)
    return laid


def _quoted(word: Word) -> list[str]:
    """A note for a text in quotes of its own: they were once taken off, and are now part of the value."""
    text = word.text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]:
        return [f"{word.key}: the quotes are part of the value {text}; only the shell takes quotes off"]
    return []


def _without(tree: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    out = dict(tree)
    if len(parts) == 1:
        out.pop(parts[0], None)
    elif isinstance(out.get(parts[0]), Mapping):
        out[parts[0]] = _without(out[parts[0]], parts[1:])
    return out


def _unknown(mode: str, key: str, tree: Mapping[str, Any]) -> str:
    """One line for an unknown key; near a free group of the tree (method_args), its present keys are the hint."""
    line = unknown_key(mode, key)
    return line if "(allowed" in line else f"{key}: unknown key{nearest(key, list(flat(tree)))}"


def _with_models(mode: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Replace the names on a grid's axis `model` by the settings they stand for. Raises ConfigError."""
    grid = tree.get("grid")
    names = grid.get("model") if isinstance(grid, Mapping) else None
    if not isinstance(names, list):
        return tree
    made: dict[str, Any] = {}
    for name in names:
        if not isinstance(name, str) or name not in options("model"):
            raise ConfigError(f"grid.model: no model named {name!r}{nearest(str(name), options('model'))}")
        file = open_file(mode, "model", name, None, [])
        empty = {"preset": None, "model_args": {"pretrained_model_name_or_path": None}}
        made[name] = {"model": merge(empty, file.tree)}
    return {**tree, "grid": {**tree["grid"], "model": made}}


def _with_method_defaults(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trainer's settings over the method's defaults. This imports torch. Raises ConfigError."""
    from expunge.core.fingerprints import canonical
    from expunge.methods.objective import objective

    chosen = objective(trainer["handler"])
    shared = canonical(chosen.weights)
    if chosen.spec.retain_loss_type is None:
        shared = {k: shared[k] for k in ("gamma", "compat")}
    defaults = {**canonical(chosen.method), **shared}
    given = trainer.get("method_args") or {}
    for key in given:
        if key not in defaults:
            names = [f"trainer.method_args.{name}" for name in defaults]
            raise ConfigError(f"trainer.method_args.{key}: unknown key{nearest(f'trainer.method_args.{key}', names)}")
    return {**trainer, "method_args": merge(defaults, given)}


def _check_methods(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError for a method of a study that no loss and no weight edit has the name of."""
    import sys

    if "expunge.methods" in sys.modules:  # a plugin is loaded, and the registries are asked later
        return
    known = [*method_settings(), *shipped_weight_edits()]
    for i, entry in enumerate(tree.get("methods") or ()):
        name = entry.get("trainer") if isinstance(entry, Mapping) else None
        if isinstance(name, str) and name not in known:
            raise ConfigError(f"methods[{i}].trainer: no method named {name!r}{nearest(name, known)}")


def _check_method_keys(handler: str, given: Mapping[str, Any]) -> None:
    own = method_settings().get(handler)
    if own is None:
        return
    known = [*own, *fields_of("methods/objective.py", "TermWeights")]
    for key in given:
        if key not in known:
            names = [f"trainer.method_args.{name}" for name in known]
            raise ConfigError(f"trainer.method_args.{key}: unknown key{nearest(f'trainer.method_args.{key}', names)}")


def _check_files(task: TaskConfig) -> None:
    """Raise ConfigError for an unknown benchmark and for a local model folder that is not there."""
    from expunge.benchmarks.api import find_benchmark
    from expunge.models.config import check_source
    from expunge.pipelines.study.config import benchmark_config

    spec = find_benchmark(task.benchmark)
    if task.benchmark == "custom":  # read without torch: what is wrong with a file of one's own is told at once
        spec.make(benchmark_config(task))
    if task.model.source:
        check_source(task.model.source, "model.model_args.pretrained_model_name_or_path")
