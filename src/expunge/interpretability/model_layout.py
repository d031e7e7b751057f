"""Layout of a decoder: its blocks, the norm before the LM head, and the output projection of each MLP.

The search uses shapes and kinds, not a list of architectures. Users of the result check it (`lens.Unembed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from expunge.core.errors import JobError
from expunge.models.packed import bare


@dataclass(frozen=True)
class LayerPart:
    """Location of a parameter: its block (from 0; None outside the blocks) and its name there."""

    layer: int | None
    module: str


@dataclass(frozen=True)
class ModelLayout:
    """The blocks of a decoder, first to last, the name of their list, and the norm after them."""

    blocks: tuple[nn.Module, ...]
    prefix: str
    norm: nn.Module

    def part(self, parameter: str) -> LayerPart:
        """Return the location of a parameter."""
        inside = parameter.removeprefix(f"{self.prefix}.") if parameter.startswith(f"{self.prefix}.") else ""
        index, _, rest = inside.partition(".")
        return LayerPart(int(index), rest) if index.isdigit() else LayerPart(None, parameter)


def model_layout(model: Any) -> ModelLayout:
    """Find the blocks and the final norm. Raises JobError for a model without a list of its blocks."""
    inner = bare(model)
    depth = int(inner.config.get_text_config().num_hidden_layers)
    modules = dict(inner.named_modules())
    lists = [n for n, m in modules.items() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise JobError(f"{type(inner).__name__} has no list of {depth} blocks, so its layers cannot be read")
    prefix = lists[0]
    parent = modules[prefix.rpartition(".")[0]]
    norms = [m for m in parent.children() if "norm" in type(m).__name__.lower()]
    listed: Any = modules[prefix]
    return ModelLayout(tuple(listed), prefix, norms[-1] if norms else nn.Identity())


def mlp_outputs(model: Any) -> dict[str, int]:
    """Return the weight of each block's MLP that writes to the residual stream, by name, with its neurons' axis.

    A slice of the weight along that axis is the contribution of one neuron. Raises JobError for blocks without such a
    weight (mixtures of experts store theirs in one tensor).
    """
    body = model_layout(model)
    axes: dict[str, int] = {}
    for layer, block in enumerate(body.blocks):
        here = {n: m for n, m in block.named_modules() if _is_output(m, n)}
        if not here:
            raise JobError(f"block {layer} of {type(bare(model)).__name__} has no MLP with separate neurons")
        name = list(here)[-1]
        axes[f"{body.prefix}.{layer}.{name}.weight"] = 1 if isinstance(here[name], nn.Linear) else 0
    return axes


def _is_output(module: nn.Module, name: str) -> bool:
    """Return whether a module is a narrowing projection outside attention: nn.Linear, or GPT-2's transposed Conv1D."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.dim() != 2 or "attn" in name or "attention" in name:
        return False
    if isinstance(module, nn.Linear):
        return bool(weight.shape[1] > weight.shape[0])
    return type(module).__name__ == "Conv1D" and bool(weight.shape[0] > weight.shape[1])
