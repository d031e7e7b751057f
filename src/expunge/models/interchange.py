"""Saved models that older versions of transformers read with equal numbers.

transformers 5 writes rotary settings under `rope_parameters`, the dtype under `dtype`, and a tokenizer class that
versions before 5 do not know. Those versions ignore `rope_parameters` and compute with a default base, silently. So a
saved folder contains both forms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.files import write_text

OLD_ROTARY_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
NEW_TOKENIZER_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")


def add_older_forms(folder: Path) -> None:
    """Add the fields that transformers 4.45 reads to a saved configuration, and name a tokenizer class that it knows.

    Args:
        folder: A folder from `save_pretrained` of a model and a tokenizer.
    """
    config_file, tokenizer_file = folder / "config.json", folder / "tokenizer_config.json"
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        _write(config_file, _with_older_fields(config))
    if tokenizer_file.is_file():
        settings = json.loads(tokenizer_file.read_text(encoding="utf-8"))
        if settings.get("tokenizer_class") in NEW_TOKENIZER_CLASSES:
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            _write(tokenizer_file, settings)


def _with_older_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, and those nested in it, with the older fields."""
    out = {k: _with_older_fields(v) if k.endswith("_config") and isinstance(v, dict) else v for k, v in config.items()}
    if isinstance(out.get("dtype"), str):
        out.setdefault("torch_dtype", out["dtype"])
    rotary = out.get("rope_parameters")
    if isinstance(rotary, dict) and rotary:
        names = OLD_ROTARY_NAMES.get(str(out.get("model_type")), {})
        for name, value in _older_rotary(rotary).items():
            out.setdefault(names.get(name, name), value)
    return out


def _older_rotary(rotary: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rope_theta`, `rope_scaling` and their relatives. Models with two kinds of layers name each kind."""
    if isinstance(rotary.get("full_attention"), dict):
        out = _older_rotary(rotary["full_attention"])
        local = rotary.get("sliding_attention")
        if isinstance(local, dict) and "rope_theta" in local:
            out["rope_local_base_freq"] = local["rope_theta"]
        return out
    out = {name: rotary[name] for name in ("rope_theta", "partial_rotary_factor") if name in rotary}
    kind = rotary.get("rope_type", "default")
    if kind != "default":
        out["rope_scaling"] = {k: v for k, v in rotary.items() if k not in ("rope_theta", "partial_rotary_factor")}
    return out


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
