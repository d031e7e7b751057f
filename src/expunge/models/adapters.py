"""Models with adapters of peft as plain models: their adapters merged into the weights."""

from __future__ import annotations

import copy
from typing import Any

from expunge.core.errors import ConfigError


def without_adapters(model: Any, where: str = "model") -> Any:
    """Return the plain model of one with adapters, merged in a copy; any other model itself.

    Attacks and comparisons of weights read this: they must reach every weight, as those of a plain model do. Adapters
    that are switched off are removed. Quantised weights are too coarse to merge into, so they keep their adapters.

    Raises ConfigError for adapters that are no change of weights, such as prompts.
    """
    if not hasattr(model, "peft_config") or getattr(model.get_base_model(), "is_quantized", False):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise ConfigError(f"{where}: its adapters are prompts, which cannot be merged into the weights")
    plain = copy.deepcopy(model)
    layers = [m for m in plain.modules() if isinstance(m, BaseTunerLayer)]
    if layers and all(layer.disable_adapters for layer in layers):
        plain = plain.unload()
    return merged(plain) if hasattr(plain, "peft_config") else plain.requires_grad_(True).eval()


def merged(model: Any) -> Any:
    """Return the plain model with the adapters added into its weights; the wrapper cannot be used afterwards."""
    model.disable_input_require_grads()
    plain = model.merge_and_unload()
    for p in plain.parameters():
        p.requires_grad_(True)
    return plain.eval()
