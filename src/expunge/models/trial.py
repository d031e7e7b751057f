"""Build the model of a folder without weights: find a configuration that no class accepts before any job."""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from importlib import metadata
from pathlib import Path

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.models.config import ModelArgs, looks_local

LOADED = ".loaded"  # in a store: an empty file for each configuration that was loaded
OWN = ("job.json", "expunge.json")  # folders that jobs have written from a model that could be loaded


def try_configuration(source: str, args: ModelArgs, key: str, store: Path | None = None) -> None:
    """Raise ConfigError if a local folder's configuration describes no model that can be built.

    Folders of jobs are left out, and so are models with code of their own and quantised ones, which their libraries
    build only with weights. Folders that `remember_loaded` has noted in the store are not tried again.
    """
    folder = Path(source).expanduser()
    if not looks_local(source) or any((folder / name).is_file() for name in OWN):
        return
    text = (folder / "config.json").read_text(encoding="utf-8")
    settings = json.loads(text)
    if settings.get("auto_map") or settings.get("quantization_config"):
        return
    if store is not None and _mark(text, args, store).exists():
        return
    fault = _fault(str(folder.resolve()), text, args.attn_implementation)
    if fault is not None:
        raise ConfigError(f"{key}: {source}/config.json describes no model that can be built: {fault}")


def remember_loaded(source: str, args: ModelArgs, store: Path) -> None:
    """Note in a store that a folder's configuration could be built. A store that cannot be written is left as it is."""
    config = Path(source).expanduser() / "config.json"
    with contextlib.suppress(OSError):
        mark = _mark(config.read_text(encoding="utf-8"), args, store)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _mark(text: str, args: ModelArgs, store: Path) -> Path:
    return store / LOADED / fingerprint([text, args.attn_implementation, metadata.version("transformers")])


@functools.lru_cache(maxsize=64)
def _fault(folder: str, text: str, attention: str | None) -> str | None:
    """Return why a configuration cannot be built. text: its contents, so that an edited file is read again."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            config = AutoConfig.from_pretrained(folder)
            AutoModelForCausalLM.from_config(config)
    except Exception as error:  # each architecture checks its settings in its own way
        return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return None
