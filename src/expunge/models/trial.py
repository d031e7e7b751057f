"""Build the model of a folder without weights and load its tokenizer, in a limited process, before any job."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import canonical, fingerprint
from expunge.core.limited import LimitError, ProcessLimits, run_limited
from expunge.core.on_use import import_model_base, transformers
from expunge.models.config import ModelConfig, adapter_base, looks_local, tokenizer_folder
from expunge.models.identity import pinned, pinned_revision, refuse_parts, small_files, tokenizer_identity
from expunge.models.options import configuration_options

LOADED = ".loaded"  # in a store: an empty file for each configuration and tokenizer that was loaded
OWN = ("job.json", "expunge.json")  # folders that jobs have written from a model that could be loaded
PROGRAM = Path(__file__).with_name("trial_child.py")
CPU_S = 120  # imports and a large vocabulary need about 10 s
WALL_S = 600.0  # on a busy machine
MEMORY = 6 << 30  # a vocabulary of 260,000 tokens needs less than 1.5 GB
VERSIONS = ("transformers", "tokenizers")
MODEL_KEY = "model.model_args.pretrained_model_name_or_path"
TOKENIZER_KEY = "model.tokenizer_args.pretrained_model_name_or_path"


def try_model(model: ModelConfig, store: Path | None = None) -> None:
    """Raise ConfigError if a model's configuration describes no model, or its tokenizer cannot be loaded.

    The small files of a hub id are downloaded for it, not the weights; without a connection they are left out. So are
    folders of jobs, models with code of their own, and quantised ones, which their libraries build only with weights.
    The store notes the sources that could be loaded; these are not tried again.
    """
    source, named = model.source, model.tokenizer_source
    model = pinned(model)
    commit = model.model_args.revision
    if source is not None and (base := adapter_base(source)):
        source, commit = base, None if looks_local(base) else pinned_revision(base, None)
    place = None if source is None else _folder(source, commit)
    if place is not None and source is not None and not looks_local(source):
        refuse_parts(source, lambda name: (place / name).is_file())
    config = None if place is None else _configuration(place)
    revision = model.tokenizer_args.revision
    tokens = None if named is None or model.tokenizer_args.trust_remote_code else _tokenizer(named, revision)
    how = {
        "attention": model.model_args.attn_implementation,
        "options": canonical(configuration_options(model.model_args.options)),
        "tokenizer_options": canonical(model.tokenizer_args.options),
    }
    marks = _marks(config, how, tokens)
    if store is not None and all((store / LOADED / mark).exists() for mark in marks):
        return
    folder = None if config is None or place is None else str(place.resolve())
    tokenizer = None if tokens is None else str(tokens[0])
    if folder is None and tokenizer is None:
        return
    faults = _faults(folder, tokenizer, json.dumps(how), marks)
    if faults.get("limit"):
        raise ConfigError(f"{MODEL_KEY}: {source}: loading it without weights {faults['limit']}")
    if faults.get("model"):
        options = ", ".join(f"model.model_args.{name}" for name in how["options"])
        changed = f" with {options}" if options else ""
        raise ConfigError(
            f"{MODEL_KEY}: {source}/config.json{changed} describes no model that can be built: {faults['model']}"
        )
    if faults.get("tokenizer"):
        raise ConfigError(f"{TOKENIZER_KEY}: the tokenizer of {named} cannot be loaded: {faults['tokenizer']}")
    if store is not None:
        with contextlib.suppress(OSError):  # a store that cannot be written is left as it is
            (store / LOADED).mkdir(parents=True, exist_ok=True)
            for mark in marks:
                (store / LOADED / mark).touch()


def _folder(source: str, revision: str | None) -> Path | None:
    """Return the folder of a model's small files; None for a hub id whose files are not to be had."""
    return Path(source).expanduser() if looks_local(source) else small_files(source, revision)


def _configuration(folder: Path) -> str | None:
    """Return the configuration of a folder to try; None if there is nothing to try."""
    if any((folder / name).is_file() for name in OWN):
        return None
    text = (folder / "config.json").read_text(encoding="utf-8")
    settings = json.loads(text)
    return None if settings.get("auto_map") or settings.get("quantization_config") else text


def _tokenizer(source: str, revision: str | None) -> tuple[Path, Any] | None:
    """Return the folder and the identity of a tokenizer to try; None if there is nothing to try."""
    place = tokenizer_folder(source)
    folder = _folder(place, revision)
    if folder is None or any((folder / name).is_file() for name in OWN) or not folder.is_dir():
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("auto_map"):
            return None
    return folder.resolve(), tokenizer_identity(place, revision)


def _marks(config: str | None, how: Mapping[str, Any], tokens: tuple[Path, Any] | None) -> tuple[str, ...]:
    """Return the names of the notes on a configuration and a tokenizer, by their contents and the libraries."""
    versions = [metadata.version(name) for name in VERSIONS]
    attention, options = how["attention"], how["options"]
    parts = [] if config is None else [["model", config, attention, *([options] if options else [])]]
    own = how["tokenizer_options"]
    parts += [] if tokens is None else [["tokenizer", tokens[1], *([own] if own else [])]]
    return tuple(fingerprint([*part, versions]) for part in parts)


def _import_transformers() -> None:
    """Import the modules of a trial, which loading a model needs afterwards."""
    import_model_base()
    _ = transformers.AutoConfig, transformers.AutoModelForCausalLM, transformers.AutoTokenizer


@functools.lru_cache(maxsize=64)
def _faults(folder: str | None, tokenizer: str | None, how: str, marks: tuple[str, ...]) -> dict[str, str | None]:
    """Return the faults of a model and a tokenizer.

    how: the settings of loading, as JSON. marks: the contents of the files, so that an edited file is tried again.
    """
    request = {"model": folder, "tokenizer": tokenizer, **json.loads(how)}
    try:
        first = None if "torch" in sys.modules else _import_transformers
        return dict(run_limited(PROGRAM, request, ProcessLimits(CPU_S, WALL_S, MEMORY), fork_after=first) or {})
    except LimitError as error:
        return {"limit": str(error)}
