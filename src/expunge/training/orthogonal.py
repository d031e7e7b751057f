"""Orthogonal adapters for continual requests (O3, Gao et al. 2024, arXiv:2407.10223).

A run with `lora.orthogonal` adds to its loss

    orthogonal * mean over layers of the sum over modules of ||E A^T||_F^2,

where A (r, d_in) is the module's adapter and E the adapters A of all earlier requests, one below the other. So a
request changes the weights along other inputs than the requests before. The adapters of a request are merged into the
weights. Their A stay next to the model, in `request_adapters.safetensors`, where the next request reads them. The
authors keep the adapters apart and weigh them for each prompt by a detector; that part is not here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from expunge.core import distributed
from expunge.core.errors import ConfigError

FILE = "request_adapters.safetensors"
_PARAMETER = re.compile(r"(.*)\.lora_A\.[^.]+\.weight")
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_log = logging.getLogger(__name__)


def adapter_inputs(model: Any) -> dict[str, Tensor]:
    """Return the matrix A (r, d_in) of each adapter, by the name of its module in the plain model."""
    base = model.get_base_model()
    names = {id(module): name for name, module in base.named_modules()}
    modules = dict(model.named_modules())
    matches = ((_PARAMETER.fullmatch(name), p) for name, p in model.named_parameters())
    return {names[id(modules[match[1]])]: p for match, p in matches if match is not None}


def earlier_adapters(folder: Path) -> dict[str, Tensor]:
    """Return the adapters A of the requests that a model's folder has forgotten, (sum of r, d_in) for each module.

    Empty for a model without such requests. Raises ConfigError for a damaged file.
    """
    if not (folder / FILE).is_file():
        return {}
    try:
        return safetensors.torch.load_file(folder / FILE)
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"model {folder}: {FILE} is damaged: {error}; run the earlier request again") from None


def overlap(model: Any, earlier: Mapping[str, Tensor], weight: float) -> Callable[[], Tensor]:
    """Return a function that computes the weighted overlap of a model's present adapters with earlier ones; a scalar.

    Raises ConfigError if the two have no module in common, or other shapes.
    """
    now = adapter_inputs(model)
    pairs = [(earlier[name].to(a.device, a.dtype), a) for name, a in now.items() if name in earlier]
    if not pairs:
        raise ConfigError(
            f"trainer.args.lora.orthogonal: the earlier requests have adapters on other modules "
            f"({', '.join(list(earlier)[:2])}, ...); choose the same lora.target_modules"
        )
    if wrong := [a for e, a in pairs if e.shape[-1] != a.shape[-1]]:
        raise ConfigError(
            f"trainer.args.lora.orthogonal: the earlier adapters have another width than {wrong[0].shape}"
        )
    n_layers = len({_layer(name) for name in now if name in earlier})
    return lambda: weight * torch.stack([(e @ a.T).square().sum() for e, a in pairs]).sum() / n_layers


def orthogonality(model: Any, folder: Path | None, weight: float) -> Callable[[], Tensor] | None:
    """Return the term of a run that starts from a model's folder; None for the first request, which has no such term.

    Raises ConfigError if the weights are in shards.
    """
    if distributed.sharded():
        raise ConfigError("trainer.args.lora.orthogonal: reads whole adapters, and these are in shards; leave it out")
    earlier = {} if folder is None else earlier_adapters(folder)
    if not earlier:
        _log.info("lora.orthogonal: the start model has no adapters of earlier requests, so there is nothing to avoid")
        return None
    return overlap(model, earlier, weight)


def save_adapters(model: Any, start: Path | None, folder: Path) -> None:
    """Write the adapters A of this request below those of the earlier ones, for the next request."""
    earlier = {} if start is None else earlier_adapters(start)
    now = {name: a.detach().cpu().contiguous() for name, a in adapter_inputs(model).items()}
    rows = {name: [x for x in (earlier.get(name), now.get(name)) if x is not None] for name in {**earlier, **now}}
    safetensors.torch.save_file(
        {name: torch.cat([x.float() for x in parts]) for name, parts in rows.items()}, folder / FILE
    )


def _layer(name: str) -> str:
    """Return the name of a module's layer: the part up to its first number."""
    match = _LAYER.search(name)
    return name if match is None else name[: match.end()]
