"""Configuration words of earlier releases: the one table OLD -> NEW, for studies, single jobs and command-line flags.

An old word works for one release, with a one-line notice. It is refused next to its new name, because one of the two
values would be lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.errors import ConfigError

# Settings of a training run, wherever one stands: train, unlearn, trainer.args, methods[].args, a grid, a search.
TRAIN_ARGS: Mapping[str, str] = {
    "head_chunk": "logits_chunk_size",
    "loss_limit": "max_loss",
    "finegrained_log_iters": "dense_logging_steps",
    "step": "grad_transform",
    "step_args": "grad_transform_args",
}
# Keys by their whole name.
KEYS: Mapping[str, str] = {
    "eval.rows.part": "eval.split",
    "eval.rows.share": "eval.split_share",
    "eval.rows.seed": "eval.split_seed",
    "keep.weights": "store.keep_weights",
}
# Keys of an entry of `methods`.
METHOD: Mapping[str, str] = {"of": "from"}
# Options by command.
FLAGS: Mapping[str, Mapping[str, str]] = {
    "erase": {
        "--keep": "--retain",
        "--unseen": "--holdout",
        "--floor": "--min-utility",
        "--target": "--max-residual",
        "--full-data": "--train-data",
    },
    "inside": {"--against": "--compare-with"},
    "inspect": {"--against": "--compare-with"},
}

# Commands.
COMMANDS: Mapping[str, str] = {name: f"list {name}" for name in ("methods", "metrics", "benchmarks", "audits")}

RUN = re.compile(r"(?:^|\.)(?:train|unlearn|trainer\.args|args)$")
INNER = re.compile(rf"((?:^|\.)(?:train|unlearn|trainer\.args|(?<!data\.)args)\.)({'|'.join(TRAIN_ARGS)})(?=\.|$)")


def rename_key(mode: str, key: str, notes: list[str]) -> str:
    """Return the present name of a dotted key, and add a notice to `notes` if it has changed."""
    new = INNER.sub(lambda m: f"{m[1]}{TRAIN_ARGS[m[2]]}", key)
    if new.startswith("eval.") or mode == "run":
        new = KEYS.get(new, new)
    if new != key:
        _notice(key, new, notes)
    return new


def rename_keys(mode: str, keys: Sequence[str], notes: list[str]) -> list[str]:
    """Return the present names of the keys of one command line, in order."""
    names = [rename_key(mode, key, notes) for key in keys]
    for key, name in zip(keys, names, strict=True):
        if key != name and name in keys:
            _notice(key, name, notes, both=True)
    return names


def rename_tree(mode: str, tree: Mapping[Any, Any], prefix: str, notes: list[str]) -> dict[str, Any]:
    """Return a tree with present names; `prefix` is the dotted key that the tree stands at."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        full = f"{prefix}.{key}" if prefix else str(key)
        new = key
        if isinstance(key, str):
            if RUN.search(prefix) and prefix != "data.args" and key in TRAIN_ARGS:
                new = TRAIN_ARGS[key]
            elif "." in key:
                new = rename_key(mode, key, [])
            elif prefix == "methods" and key in METHOD:
                new = METHOD[key]
        if new != key:
            _notice(full, f"{prefix}.{new}" if prefix else str(new), notes, both=new in tree)
        out[new] = _renamed(mode, value, full, notes)
    return _moved(mode, out, prefix, notes)


def _renamed(mode: str, value: Any, at: str, notes: list[str]) -> Any:
    if isinstance(value, Mapping):
        return rename_tree(mode, value, at, notes)
    if isinstance(value, list):
        return [_renamed(mode, item, at, notes) for item in value]
    return value


def rename_value(mode: str, key: str, value: Any, notes: list[str]) -> Any:
    """Return the value of a key with present names in the groups of keys that it holds."""
    return _renamed(mode, value, key, notes)


def _moved(mode: str, tree: dict[str, Any], prefix: str, notes: list[str]) -> dict[str, Any]:
    """Move keys that changed their group, at the top of a study or a job."""
    if prefix:
        return tree
    for old, new in KEYS.items():
        path, target = old.split("."), new.split(".")
        if path[0] == "keep" and mode != "run":
            continue
        here: Any = tree
        for part in path[:-1]:
            here = here.get(part) if isinstance(here, dict) else None
        if not isinstance(here, dict) or path[-1] not in here:
            continue
        value = here.pop(path[-1])
        group = {} if tree.get(target[0]) is None else tree[target[0]]
        _notice(old, new, notes, both=isinstance(group, dict) and target[1] in group)
        if isinstance(group, dict):
            tree[target[0]] = {**group, target[1]: value}
    if isinstance(tree.get("eval"), dict) and tree["eval"].get("rows") == {}:
        del tree["eval"]["rows"]
    if mode == "run" and tree.get("keep") == {}:
        del tree["keep"]
    return tree


def rename_flags(words: Sequence[str], notes: list[str]) -> list[str]:
    """Return a command line with the present names of its command and its options."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command in COMMANDS:
        _notice(f"`expunge {command}`", f"`expunge {COMMANDS[command]}`", notes)
        at = list(words).index(command)
        words = [*words[:at], *COMMANDS[command].split(), *words[at + 1 :]]
    table = FLAGS.get(command, {})
    out = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in table:
            both = any(other.partition("=")[0] == table[name] for other in words)
            _notice(f"{command} {name}", table[name], notes, both=both)
            word = f"{table[name]}{equals}{value}"
        out.append(word)
    return out


def _notice(old: str, new: str, notes: list[str], *, both: bool = False) -> None:
    """Add a notice of an old name. Raises ConfigError if its present name is set as well."""
    if both:
        raise ConfigError(f"{old}: is the old name of {new}, which is set as well; leave {old} out")
    text = f"{old} is now {new}; the old name works for this release"
    if text not in notes:
        notes.append(text)
