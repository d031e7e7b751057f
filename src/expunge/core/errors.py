"""Errors that a user can act on: one line each, with the problem, the place, and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

# Names that people type from other libraries, where the letters do not lead to ours.
USUAL_NAMES: Mapping[str, str] = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "n_epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "wd": "weight_decay",
    "max_tokens": "max_new_tokens",
    "system": "system_prompt",
    "tokenizer": "processing_class",
    "metrics": "eval_metrics",
}
SHORTEST_PART = 3  # letters of a part of a name that is enough for a hint


class ExpungeError(Exception):
    """Base of every error that is printed as one line, without a traceback. The exit code is `exit_code`."""

    exit_code = 1


class UserError(ExpungeError):
    """Wrong input (a key, a value, a file, a row), detected before any weight is read. Exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """A wrong key or value in a configuration."""


class DataError(UserError):
    """A wrong file or row."""


class JobError(ExpungeError):
    """A job that started and could not finish: a loss that is not finite, a missing parent, a full disk."""


@contextmanager
def keys_named(names: Mapping[str, str]) -> Iterator[None]:
    """Rename keys of the command line at the start of ConfigErrors: `names` maps each to an argument in Python."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        for key, name in names.items():
            if message.startswith((f"{key}.", f"{key}:")):
                raise ConfigError(name + message.removeprefix(key)) from None
        raise


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line; the name of its class without a message."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank; the name of its class without one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def kind_of(value: object) -> str:
    """Return the type of a value for messages: "a Linear", "an int", "an NPOConfig", "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    spelt = name[:2].isupper() and name[0] in "FHLMNRSX"  # letters whose names begin with a vowel
    return f"{'an' if spelt or name[0].lower() in 'aeiou' else 'a'} {name}"


def as_list(value: Any, where: str) -> list[Any]:
    """Return the items of a list. Raises ConfigError for a text, which would be read as its letters, and for others."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        shown = f"; write [{value!r}]" if isinstance(value, str) else ""
        raise ConfigError(f"{where}: expected a list, got {kind_of(value)}{shown}")
    return list(value)


def as_texts(value: Any, where: str) -> list[str]:
    """Return the items of a list of texts. Raises ConfigError for others."""
    texts = as_list(value, where)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(f"{where}[{i}]: expected a text, got {kind_of(text)}")
    return texts


def as_path(value: Any, where: str, *, folder: bool = False) -> Path:
    """Return a path with its `~` expanded. Raises ConfigError for another type, and for a file instead of a folder."""
    if not isinstance(value, str | PathLike) or value == "":
        raise ConfigError(f"{where}: expected a path, got {'an empty text' if value == '' else kind_of(value)}")
    path = Path(value).expanduser()
    if folder and path.exists() and not path.is_dir():
        raise ConfigError(f"{where}: {path} is a file; name a folder")
    return path


def nearest(name: str, allowed: Iterable[str], *, similar: bool = False, most: int = 24) -> str:
    """Return a hint for a wrong name: "; did you mean 'X'?" if one is near, and the allowed names.

    A usual name of other libraries (`lr`) leads to ours (`learning_rate`), if that is allowed.
    Of more than `most` names the first are listed. similar: the most similar, if there are some; these are also
    listed if several contain the wrong name.
    """
    names = sorted(str(a) for a in allowed if str(a) != str(name))  # a folder in place of a file has the same name
    close = _close(name, names)
    group, dot, last = str(name).rpartition(".")
    best: str | None = f"{group}{dot}{USUAL_NAMES.get(last.lower(), '')}"
    if best not in names:
        best = close[0] if close else None
    hint = f"; did you mean '{best}'?" if best else ""
    if not names:
        return hint
    similar = similar or (len(close) > 1 and str(name).lower() in close[0].lower())
    some = names if len(names) <= most else close if similar and close else names[:most]
    listed = ", ".join(some) + (f", ... ({len(names)} in all)" if len(some) < len(names) else "")
    return f"{hint} (allowed: {listed})"


def nearest_name(name: str, allowed: Iterable[str]) -> str:
    """Return the allowed name that is nearest to a wrong one, or "" if none is near."""
    return next(iter(_close(name, sorted(allowed))), "")


def _close(name: str, names: list[str]) -> list[str]:
    """Return up to eight similar names, the nearest first. Upper and lower case count as equal.

    Without a similar one: the names that contain this one, such as `SmolLM2-135M-Instruct` for `smollm2`.
    """
    lower = str(name).lower()
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(lower, list(by_lower), n=8, cutoff=0.55)
    if not close and len(lower) >= SHORTEST_PART:
        close = [one for one in by_lower if lower in one][:8]
    return [by_lower[one] for one in close]
