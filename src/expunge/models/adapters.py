"""Models with adapters of peft as plain models: their adapters merged into the weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.models.config import ADAPTER, looks_local, model_name
from expunge.models.load import save_model


def without_adapters(model: Any, where: str = "model") -> Any:
    """Return the plain model of one with adapters, merged in a copy; any other model itself.

    Attacks and comparisons of weights read this: they must reach every weight, as those of a plain model do. Adapters
    that are switched off are removed. Quantised weights are too coarse to merge into, so they keep their adapters.

    Raises ConfigError for adapters that are no change of weights, such as prompts.
    """
    if not hasattr(model, "peft_config") or _is_quantized(model):
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


def save_to_share(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model as `save_model` does, for other machines.

    Adapters are merged in a copy if their base model is not on the hub, because nobody else could load them. If they
    cannot be merged (prompts, quantised weights), they name their base model without its path.
    """
    configs = list(getattr(model, "peft_config", {}).values())
    local = any(looks_local(config.base_model_name_or_path or ".") for config in configs)
    fixed = any(config.is_prompt_learning for config in configs) or _is_quantized(model)
    save_model(without_adapters(model) if local and not fixed else model, tokenizer, folder)
    file = folder / ADAPTER
    if local and file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
        config["base_model_name_or_path"] = model_name(base) if base else ""
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _is_quantized(model: Any) -> bool:
    return bool(getattr(model.get_base_model() if hasattr(model, "peft_config") else model, "is_quantized", False))
