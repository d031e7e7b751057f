"""The places that a command writes: an output is not an input, and it can be written, before any work."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.files import check_place

PLACES = "paths"  # the group of settings that names outputs
MOST_CHARACTERS = 4096
WEIGHTS = (".safetensors", ".bin", ".index.json")  # endings of a model folder's weights and of their index


def check_output(out: Path, key: str, inputs: Mapping[str, Path], *, writable: bool = True) -> None:
    """Raise ConfigError if an output would replace an input, become part of a model folder, or cannot be written.

    Args:
        out: The file or folder to write.
        key: The option or setting that names it.
        inputs: The files and folders that the command reads, by their options or settings.
        writable: Whether the command writes now.
    """
    for name, path in inputs.items():
        if out.exists() and path.exists() and out.samefile(path):
            kind = "folder" if out.is_dir() else "file"
            raise ConfigError(f"{key}: {out} is an input ({name}) and would be replaced; name another {kind}")
        if out.is_file() and path.is_dir() and out.parent.samefile(path):
            raise ConfigError(f"{key}: {out} is a file of an input ({name}) and would be replaced; name another file")
        if _is_model(path) and _is_part(out.resolve(), path.resolve()):
            raise ConfigError(
                f"{key}: {out} lies in the model folder {path} ({name}) and would be part of the model; name a place "
                "outside that folder"
            )
    if _is_device(out):
        raise ConfigError(f"{key}: {out} is a device or a pipe and would be replaced; name a file or a folder")
    check_place(out if out.is_dir() else out.parent, key, writable=writable)


def is_aside(name: str) -> bool:
    """Return whether a subfolder of a model's folder has that model's measurements: `evals`, `evals_forget05`."""
    return name == "evals" or (name.startswith("evals_") and "." not in name)  # a file with an ending counts


def _is_part(out: Path, model: Path) -> bool:
    """Return whether an output would be in a model folder, and not with the model's measurements."""
    return model in out.parents and not is_aside(out.relative_to(model).parts[0])


def _is_model(path: Path) -> bool:
    """Return whether a path is a folder with the settings of a model and weights, or with an adapter."""
    if (path / "adapter_config.json").is_file():
        return True
    return (path / "config.json").is_file() and any(next(path.glob(f"*{end}"), None) for end in WEIGHTS)


def _is_device(out: Path) -> bool:
    """Return whether a path is something else than a file or a folder, or belongs to the system's own folders."""
    place = os.path.abspath(out)
    own = place.startswith(("/dev/", "/proc/", "/sys/")) and not place.startswith("/dev/shm/")
    return own or (out.exists() and not out.is_file() and not out.is_dir())


def named_paths(settings: Any) -> dict[str, Path]:
    """Return the existing files and folders that settings name, by their keys. Those of `paths` are outputs."""
    return {key: Path(text).expanduser() for key, text in _texts(settings, "") if _exists(text)}


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the texts in settings with their keys."""
    if isinstance(value, str | os.PathLike):
        yield key, os.fspath(value)
    elif dataclasses.is_dataclass(value):
        yield from _texts({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, key)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if key or name != PLACES:
                yield from _texts(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for i, each in enumerate(value):
            yield from _texts(each, f"{key}[{i}]")


def _exists(text: str) -> bool:
    if not text or len(text) > MOST_CHARACTERS or "\0" in text:
        return False
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # a name that is too long, or no such home
        return False
