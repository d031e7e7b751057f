"""Where things lie in a decoder: its blocks, the norm before the LM head, the projection each MLP ends with.

Found by shape and kind, not by a list of architectures. What is found is checked where it is used (`lens.Unembed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from expunge.core.errors import JobError
from expunge.models.packed import bare


@dataclass(frozen=True)
class LayerPart:
    """Where a parameter lies: its block (counted from 0; None outside the blocks) and its name there."""

    layer: int | None
    module: str


@dataclass(frozen=True)
class ModelLayout:
    """The blocks of a decoder, first to last, the name of the list they stand in, and the norm after them."""

    blocks: tuple[nn.Module, ...]
    prefix: str
    norm: nn.Module

    def part(self, parameter: str) -> LayerPart:
        """Where the parameter of a name lies."""
        inside = parameter.removeprefix(f"{self.prefix}.") if parameter.startswith(f"{self.prefix}.") else ""
        index, _, rest = inside.partition(".")
        return LayerPart(int(index), rest) if index.isdigit() else LayerPart(None, parameter)


def model_layout(model: Any) -> ModelLayout:
    """Find the blocks and the final norm. Raises JobError for a model that has no list of its blocks."""
    inner = bare(model)
    depth = int(inner.config.get_text_config().num_hidden_layers)
    modules = dict(inner.named_modules())
    found = [n for n, m in modules.items() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not found:
        raise JobError(f"{type(inner).__name__} has no list of {depth} blocks, so its layers cannot be read")
    prefix = found[0]
    parent = modules[prefix.rpartition(".")[0]]
    norms = [m for m in parent.children() if "norm" in type(m).__name__.lower()]
    listed: Any = modules[prefix]
    return ModelLayout(tuple(listed), prefix, norms[-1] if norms else nn.Identity())


def mlp_outputs(model: Any) -> dict[str, int]:
    """The weight of each block's MLP that writes to the residual stream, by name; the value is its neurons' axis.

    Slicing the weight along that axis gives what one neuron adds. Raises JobError for blocks that have no such weight
    (mixtures of experts keep theirs in one tensor).
    """
    body = model_layout(model)
    found: dict[str, int] = {}
    for layer, block in enumerate(body.blocks):
        here = {n: m for n, m in block.named_modules() if _is_output(m, n)}
        if not here:
            raise JobError(f"block {layer} of {type(bare(model)).__name__} has no MLP whose neurons can be told apart")
        name = list(here)[-1]
        found[f"{body.prefix}.{layer}.{name}.weight"] = 1 if isinstance(here[name], nn.Linear) else 0
    return found


def _is_output(module: nn.Module, name: str) -> bool:
    """A projection outside attention that narrows: an nn.Linear, or GPT-2's Conv1D, which is stored transposed."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.dim() != 2 or "attn" in name or "attention" in name:
        return False
    if isinstance(module, nn.Linear):
        return bool(weight.shape[1] > weight.shape[0])
    return type(module).__name__ == "Conv1D" and bool(weight.shape[0] > weight.shape[1])
