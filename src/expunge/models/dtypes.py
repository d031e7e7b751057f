"""The dtype of a model's files, and whether a CPU computes in bfloat16 or only converts to float32 and back."""

from __future__ import annotations

import functools
import json
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from expunge.core.on_use import torch, transformers
from expunge.models.config import looks_local, weights_source

CPUINFO = Path("/proc/cpuinfo")
_FLAGS = re.compile(r"^(?:flags|Features)\s*:.*\b(?:avx512_bf16|amx_bf16|bf16)\b", re.MULTILINE)  # x86 and ARM
NO_INSTRUCTIONS = "this CPU has no bfloat16 instructions (AVX512-BF16, AMX or ARM's)"


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Return whether this machine's CPU has instructions for products of bfloat16 numbers."""
    try:  # the kernel's list of instructions; torch takes a second to import, which a stored result does not need
        return _FLAGS.search(CPUINFO.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:
        pass  # another operating system
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def training_note(device: str, bf16: bool) -> str | None:
    """Return a line about `trainer.args.bf16` on a device; None if there is nothing to say."""
    if not bf16 or device != "cpu":
        return None
    if cpu_has_bfloat16():
        return "trainer.args.bf16: this CPU trains in bfloat16 over float32 weights; set it to false for float32"
    return f"trainer.args.bf16: {NO_INSTRUCTIONS}; it trains in float32"


def scoring_note(device: str, dtype: str) -> str | None:
    """Return a line about `model.model_args.dtype` on a device; None if there is nothing to say."""
    if dtype != "bfloat16" or device != "cpu":
        return None
    if cpu_has_bfloat16():
        return "model.model_args.dtype=bfloat16: scores and generations are computed in bfloat16 on this CPU"
    return f"model.model_args.dtype=bfloat16: {NO_INSTRUCTIONS}; float32 is several times faster"


def arithmetic_notes(device: str, *, bf16: bool = False, dtype: str = "float32") -> list[str]:
    """Return lines for a report about work that a CPU did: training with `bf16`, or scoring weights of a `dtype`."""
    notes = []
    if device == "cpu" and bf16:
        how = "bfloat16 over float32 weights" if cpu_has_bfloat16() else f"float32, because {NO_INSTRUCTIONS}"
        notes.append(f"Models were trained on a CPU in {how}.")
    if device == "cpu" and dtype == "bfloat16":
        notes.append("Scores and generations were computed in bfloat16 on a CPU.")
    return notes


_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
SOURCE = "source"


def stored_dtype(source: str) -> str | None:
    """Return the dtype that most weights of a model have in its files: float32, bfloat16 or float16.

    Reads the headers of the safetensors files of a folder, and of a hub id its configuration. None if there is no such
    dtype (quantised weights), or if it is unknown.
    """
    source = weights_source(source)
    if not looks_local(source):
        from expunge.core.hub import cache_if_unreachable

        try:
            with cache_if_unreachable():
                config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError):
            return None  # loading the model reports the error
        name = str(getattr(config, "dtype", None)).removeprefix("torch.")
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
