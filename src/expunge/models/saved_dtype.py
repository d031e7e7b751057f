"""The dtype of a model's files, which by default is the dtype of the trained model's files."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from expunge.core.on_use import transformers
from expunge.models.config import looks_local, weights_source

_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
SOURCE = "source"


def stored_dtype(source: str) -> str | None:
    """Return the dtype that most weights of a model have in its files: float32, bfloat16 or float16.

    Reads the headers of the safetensors files of a folder, and of a hub id its configuration. None if there is no such
    dtype (quantised weights), or if it is unknown.
    """
    source = weights_source(source)
    if not looks_local(source):
        try:
            dtype = getattr(transformers.AutoConfig.from_pretrained(source, trust_remote_code=False), "dtype", None)
        except (OSError, ValueError, KeyError):
            return None  # loading the model reports the error
        name = str(dtype).removeprefix("torch.")
        return name if name in _NAMES.values() else None
    sizes: Counter[str] = Counter()
    for path in Path(source).expanduser().glob("*.safetensors"):
        if path.name.startswith("adapter_"):
            continue
        for tensor in _header(path).values():
            first, last = tensor["data_offsets"]
            sizes[tensor["dtype"]] += last - first
    return _NAMES.get(sizes.most_common(1)[0][0]) if sizes else None


def dtype_to_save(setting: str, source: str) -> str | None:
    """Return the dtype for a trained model's files: the setting; for `source` that of the initial model's files."""
    return stored_dtype(source) if setting == SOURCE else setting


def _header(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file by name, without their data."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header
