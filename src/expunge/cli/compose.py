"""Configuration: shipped files, a user's files and the words of a command line become one plain tree.

All three go through one loader with the same rules (`config_files`), typed by the config dataclasses (`schema`).
Everything here runs without torch, so a wrong word is reported at once.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.cli.composition import Composition
from expunge.cli.config_files import CONF, method_settings, open_file, options
from expunge.cli.effects import notes_on_effects
from expunge.cli.field_docs import fields_of
from expunge.cli.references import resolve
from expunge.cli.schema import GROUPS, OWN_FILES, check_tree, flat, hint_of, is_text, members, tree_of, unknown_key
from expunge.cli.words import NAMES, REFERRED, Verbatim, Word, has_references, parse_value, split_words
from expunge.core.decode import below_key, decode, merge, value_at
from expunge.core.errors import ConfigError, nearest
from expunge.core.renamed import rename_keys, rename_value
from expunge.models.config import MODEL_KEY, TOKENIZER_KEY, TOKENIZERS, looks_local
from expunge.models.options import with_options
from expunge.pipelines.study.task_config import TaskConfig, decode_task
from expunge.training.config import TrainArgs

# The settings that name the data of one benchmark, and those of the group `data`.
DATA_KEYS = ("forget_split", "retain_split", "holdout_split", "data_split", "train_split", "forget", "retain")
DATA_GROUP = ("root", "args")
PLAIN_MODEL = "llama-1m"  # has no template settings; the folder replaces its preset

__all__ = ["CONF", "Composed", "check", "compose", "options", "settings", "single_tree", "study_tree"]


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
    composed = compose(mode, overrides)
    return _whole(composed.tree), list(composed.notes)


def settings(mode: str, overrides: Sequence[str]) -> Composed:
    """Compose and check all settings of a command, also of a job without a name. Raises ConfigError."""
    composed = check(mode, overrides, unnamed=True)
    return composed if mode == "run" else Composed(_whole(composed.tree), composed.notes)


def check(mode: str, overrides: Sequence[str], *, unnamed: bool = False) -> Composed:
    """Compose and check every key and value that can be checked without torch. Raises ConfigError.

    unnamed: see `compose`.
    """
    composed = compose(mode, overrides, unnamed=unnamed)
    measures = next((w for w in overrides if w.lstrip("+").startswith("experiment=eval/")), None)
    if measures is not None and mode in ("train", "unlearn"):
        raise ConfigError(f"{measures}: measures a model; write expunge eval")
    if mode == "run":
        from expunge.pipelines.study.config import decode_study

        study = decode_study(composed.tree)
        _check_methods(composed.tree)
        _check_files(study)
        return composed
    from expunge.pipelines.study.single_config import SingleJob

    job = decode_task(SingleJob, composed.tree)
    decode(TrainArgs, dict(job.trainer.args), where="trainer.args")
    _check_method_keys(job.trainer.handler, job.trainer.method_args)
    _check_files(job)
    return composed


def compose(mode: str, overrides: Sequence[str], *, unnamed: bool = False) -> Composed:
    """Compose the configuration of a command: "run" (a study), "train", "unlearn" or "eval". Raises ConfigError.

    The method's own defaults are not filled in. Later words win over earlier ones, words over files.
    unnamed: accept a job without task_name, which is then `???`.
    """
    plain_words = list(overrides)
    notes: list[str] = []
    if any(word.lstrip("+").startswith("compat=") for word in overrides):
        from expunge.cli.projects import with_compat

        plain_words, notes = with_compat(overrides, mode)
    if mode != "run":
        from expunge.interop.open_unlearning.data_words import check_experiment
        from expunge.interop.open_unlearning.words import translate, with_split

        plain_words, more = translate(plain_words, mode)
        check_experiment(mode, overrides)
        notes += more
        if mode == "train":
            plain_words, notes = with_split(plain_words, notes)
    group = "study" if mode == "run" else "experiment"
    typed_words = split_words(plain_words, group)
    keys = rename_keys(mode, [word.key for word in typed_words], notes)
    words = [Word(key, one.text, one.value, one.remove) for key, one in zip(keys, typed_words, strict=True)]
    _check_groups(mode, words)
    choices: dict[str, str | None] = {}
    for word in words:
        if word.key in GROUPS[mode]:
            value = None if word.remove else parse_value(mode, word.key, word.text)
            choices[word.key] = None if value is None else str(value)
    if (name := str(choices.get("trainer"))).endswith(".yaml") and not Path(name).is_file():
        choices["trainer"] = name.removesuffix(".yaml")  # as Hydra reads it
    plain = "model" not in choices and _names_a_folder(words)
    files = Composition(mode, choices, other_model=PLAIN_MODEL if plain else None)
    tree = _for_benchmark(mode, files.run(), words, notes)
    if plain and TOKENIZER_KEY not in files.user_keys:
        tree = _with_own_tokenizer(tree, words)
    typed = {"trainer"} & choices.keys()
    for word in words:
        if word.key not in GROUPS[mode]:
            tree = _apply(mode, tree, word, notes)
            typed.add(word.key)
    if mode != "run" and not isinstance(tree.get("task_name"), str):
        missing: Any = Verbatim("???") if unnamed else "???"
        tree["task_name"] = missing if tree.get("task_name") is None else tree["task_name"]
    tree = resolve(tree, None if mode == "run" else functools.partial(_elsewhere, mode, tree))
    if isinstance(tree.get("model"), Mapping):
        tree["model"] = with_options(tree["model"])
    if mode == "run":
        tree = _with_models(mode, tree)
    else:
        tree = _with_whole_steps(tree)
        from expunge.interop.open_unlearning.translation import is_theirs, notes_on_bounds

        notes += notes_on_bounds(mode, tree)
        if (experiment := choices.get("experiment")) and is_theirs(experiment):
            from expunge.interop.open_unlearning.differences import notes_on_differences

            typed_model = MODEL_KEY in files.user_keys | typed
            notes += notes_on_differences(mode, experiment, tree, typed_model, files.files_model)
    notes += [*files.notes, *notes_on_effects(mode, tree, files.user_keys - files.written_keys | typed)]
    return Composed(tree, tuple(dict.fromkeys(notes)))


def _elsewhere(mode: str, tree: dict[str, Any], name: str) -> tuple[Mapping[str, Any], str]:
    """Return the tree, with the method's defaults if the key is one of its settings, and the key's present name."""
    (name,) = rename_keys(mode, [name], [])
    return _whole(tree) if name.startswith("trainer.method_args.") else tree, name


def _for_benchmark(mode: str, tree: dict[str, Any], words: Sequence[Word], notes: list[str]) -> dict[str, Any]:
    """Return the tree of the files without their data settings, if a word names another benchmark than the files."""
    files = tree.get("benchmark")
    name = next((word.text for word in reversed(words) if word.key == "benchmark" and not word.remove), files)
    if name == files:
        return tree
    default = tree_of(mode)
    own = {key: tree[key] for key in DATA_KEYS if key in tree and tree[key] != default.get(key)}
    own |= {f"data.{key}": v for key, v in tree["data"].items() if key in DATA_GROUP and v != default["data"][key]}
    if not own:
        return tree
    listed = ", ".join(f"{k}={v}" if isinstance(v, str) else k for k, v in own.items())
    notes.append(f"benchmark={name}: the settings of {files}'s data are left out: {listed}")
    data = {**tree["data"], **{key: default["data"][key] for key in DATA_GROUP}}
    return {**tree, **{key: default.get(key) for key in DATA_KEYS if key in tree}, "data": data}


def _with_whole_steps(tree: dict[str, Any]) -> dict[str, Any]:
    """Replace a share of all steps in `evaluate.steps` by the epochs or steps between two evaluations."""
    args = tree["trainer"]["args"]
    steps = (args.get("evaluate") or {}).get("steps")
    if not isinstance(steps, float) or not 0 < steps < 1:
        return tree
    whole = args.get("max_steps", -1)
    between = {"every": None, "steps": math.ceil(steps * whole)} if whole > 0 else {
        "every": steps * args["num_train_epochs"], "steps": None
    }  # fmt: skip
    whole_steps: dict[str, Any] = merge(tree, {"trainer": {"args": {"evaluate": between}}})
    return whole_steps


def _names_a_folder(words: Sequence[Word]) -> bool:
    """Return whether the words name a local model folder. It has its own chat template, not a shipped model's."""
    source = next((word.text for word in reversed(words) if word.key == MODEL_KEY), None)
    return source is not None and looks_local(source)


def _with_own_tokenizer(tree: dict[str, Any], words: Sequence[Word]) -> dict[str, Any]:
    """Return the tree without the tokenizer that the files name, if the folder that the words name has its own."""
    folder = Path(os.path.expanduser(next(word.text for word in reversed(words) if word.key == MODEL_KEY)))
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return tree
    own: dict[str, Any] = merge(tree, {"model": {"tokenizer_args": {"pretrained_model_name_or_path": None}}})
    return own


def _check_groups(mode: str, words: Sequence[Word]) -> None:
    """Raise ConfigError for an experiment or a trainer in a study, and for a study in a single job."""
    for key in {word.key for word in words} & {"study", "experiment", "trainer", "model"}:
        if mode == "run" and key not in ("study", "model"):
            raise ConfigError(f"{key}: is for `expunge train`, `unlearn` and `eval`; a study names its `methods`")
        own = next(word.text for word in reversed(words) if word.key == key)
        values = own.split(",")
        if mode != "run" and len(values) > 1 and all(v.removesuffix(".yaml") in options(key) for v in values):
            raise ConfigError(f"{key}={own}: several values; -m runs a job for each")
        if key == "study" and mode != "run":
            raise ConfigError(f"study: is for `expunge run` and `plan`; `expunge {mode}` takes experiment=NAME")


def _apply(mode: str, tree: dict[str, Any], word: Word, notes: list[str]) -> dict[str, Any]:
    """Lay one word over the tree. Raises ConfigError for an unknown key or a value that cannot be read."""
    known = hint_of(mode, word.key)
    if known is None:
        raise ConfigError(_unknown(mode, word.key, tree))
    if word.remove:
        present = value_at(tree, word.key)
        if word.text and present is not None and parse_value(mode, word.key, word.text) != present:
            raise ConfigError(f"~{word.key}={word.text}: its value is {present}; write ~{word.key}")
        return _without(tree, word.key.split("."))
    if is_text(known):
        notes += _quoted(mode, word, tree)
    value = rename_value(mode, word.key, parse_value(mode, word.key, word.text), notes)
    if isinstance(value, Mapping) and not any(member is Any for member in members(known)):
        check_tree(mode, value, "", prefix=f"{word.key}.")
    laid: dict[str, Any] = merge(tree, below_key(word.key, value))
    return laid


def _quoted(mode: str, word: Word, tree: Mapping[str, Any]) -> list[str]:
    """Return a note for a text in quotes: earlier versions removed them, now they are part of the value.

    Raises ConfigError for a name with a reference to an unknown key.
    """
    text = word.text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]:
        return [f"{word.key}: the quotes are part of the value {text}; only the shell removes quotes"]
    if mode != "run" and REFERRED.search(text) and not has_references(mode, word.key, text):
        unknown = next(
            (n for n in REFERRED.findall(text) if hint_of(mode, n) is None and "." in n and ":" not in n), ""
        )
        if word.key in NAMES and unknown:
            raise ConfigError(f"{word.key}={text}: {_unknown(mode, unknown, tree)}")
        return [f"{word.key}: the value {text} is read unchanged; only task_name and paths.output_dir have references"]
    return []


def _without(tree: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    out = dict(tree)
    if len(parts) == 1:
        out.pop(parts[0], None)
    elif isinstance(out.get(parts[0]), Mapping):
        out[parts[0]] = _without(out[parts[0]], parts[1:])
    return out


def _unknown(mode: str, key: str, tree: Mapping[str, Any]) -> str:
    """Return one line for an unknown key. In a free group (method_args), the hint is its present keys."""
    from expunge.cli.projects import answer_of

    if key.isupper():
        return f"{key}: unknown key; write a variable of the environment before the command: {key}=... expunge {mode}"
    if mode != "run" and (answer := answer_of(key)):
        return f"{key}: unknown key; {answer}"
    if mode == "run" and (owners := [name for name, own in method_settings().items() if key in own]):
        entry = f"methods=[{{trainer: {owners[0]}, method_args: {{{key}: ...}}}}]"
        return f"{key}: unknown key; a setting of a method is in its entry, such as '{entry}'"
    line = unknown_key(mode, key)
    helps = key in OWN_FILES or "(allowed" in line or "did you mean" in line
    return line if helps else f"{key}: unknown key{nearest(key, list(flat(tree)))}"


def _with_models(mode: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Replace the names on a grid's axis `model` by their settings. Raises ConfigError."""
    grid = tree.get("grid")
    names = grid.get("model") if isinstance(grid, Mapping) else None
    if not isinstance(names, list):
        return tree
    models: dict[str, Any] = {}
    for name in names:
        if not isinstance(name, str) or name not in options("model"):
            raise ConfigError(f"grid.model: no model named {name!r}{nearest(str(name), options('model'))}")
        file = open_file(mode, "model", name, None, [])
        empty = {"preset": None, "model_args": {"pretrained_model_name_or_path": None}}
        models[name] = {"model": merge(empty, file.tree)}
    return {**tree, "grid": {**tree["grid"], "model": models}}


def _whole(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of a job with the method's defaults. Raises ConfigError."""
    return {**tree, "trainer": _with_method_defaults(tree["trainer"])}


def _with_method_defaults(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trainer's settings over the method's defaults. This imports torch. Raises ConfigError."""
    from expunge.core.fingerprints import canonical
    from expunge.methods.objective import objective

    loss = objective(trainer["handler"])
    shared = canonical(loss.weights)
    if loss.spec.retain_loss_type is None:
        shared = {k: shared[k] for k in ("gamma", "compat")}
    defaults = {**canonical(loss.method), **shared}
    args = trainer.get("method_args") or {}
    for key in args:
        if key not in defaults:
            names = [f"trainer.method_args.{name}" for name in defaults]
            raise ConfigError(f"trainer.method_args.{key}: unknown key{nearest(f'trainer.method_args.{key}', names)}")
    return {**trainer, "method_args": merge(defaults, args)}


def _check_methods(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError for a method of a study that is the name of no loss, weight edit or wrapper."""
    for i, entry in enumerate(tree.get("methods") or ()):
        name = entry.get("trainer") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or name in method_settings():
            continue  # most names are of losses, and import no other registry
        from expunge.methods.weight_edits.api import weight_edit_registry
        from expunge.models.wrapper_api import wrapper_registry
        from expunge.training.in_memory.method_kinds import other_kind

        known = [*method_settings(), *weight_edit_registry(), *wrapper_registry()]
        if name not in known:
            kind = other_kind(name)
            hint = f"; {kind}" if kind else nearest(name, known)
            raise ConfigError(f"methods[{i}].trainer: no method named {name!r}{hint}")


def _check_method_keys(handler: str, args: Mapping[str, Any]) -> None:
    own = method_settings().get(handler)
    if own is None:
        return
    known = [*own, *fields_of("methods/objective.py", "TermWeights")]
    for key in args:
        if key not in known:
            names = [f"trainer.method_args.{name}" for name in known]
            raise ConfigError(f"trainer.method_args.{key}: unknown key{nearest(f'trainer.method_args.{key}', names)}")


def _check_files(task: TaskConfig) -> None:
    """Raise ConfigError for an unknown benchmark and for a local model folder that does not exist."""
    from expunge.benchmarks.api import find_benchmark
    from expunge.models.config import check_source
    from expunge.pipelines.study.task_config import benchmark_config

    spec = find_benchmark(task.benchmark)
    if task.benchmark == "custom":  # reads the user's files without torch, so faults are reported early
        spec.make(benchmark_config(task))
    if task.model.source:
        check_source(task.model.source, MODEL_KEY)
