"""Low-rank adapters, by peft. Importing this module loads neither torch nor peft.

The reference of a LoRA run is the same network before its first step. An adapter starts as the zero map, so a second
copy is not necessary. With `quantize` that network, and so the reference, has quantised weights.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, JobError, nearest, one_line
from expunge.core.names import AdaptedName


@strict
@dataclass(frozen=True, kw_only=True)
class LoraArgs:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): W x + (lora_alpha / r) B A dropout(x); A, B are trained."""

    r: int = 16
    """The rank of the adapters."""
    lora_alpha: float = 32.0
    """The scale of the adapters, divided by r."""
    lora_dropout: float = 0.0
    """The dropout before the adapters."""
    target_modules: Literal["all-linear"] | tuple[AdaptedName, ...] = "all-linear"
    """all-linear (every linear module but the LM head, Conv1D of GPT-2 included), or the last parts of module names,
    such as [q_proj, v_proj].
    """
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained with the adapters."""
    quantize: Literal["nf4", "int8"] | None = None
    """Quantise the frozen linear weights to 4 bits (nf4) or 8 (int8) during training (QLoRA, arXiv:2305.14314). The
    saved model is the full-precision weights plus the adapters. None: not quantised.
    """
    orthogonal: float = 0.0
    """The weight of the overlap with the adapters of earlier requests (O3, arXiv:2407.10223; the authors use 0.1). It
    acts from the second request of a chain on (`requests`). 0: no such term.
    """

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError("r must be at least 1")
        if not 0 < self.lora_alpha < math.inf:
            raise ValueError("lora_alpha must be a number > 0")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError("lora_dropout must be at least 0 and less than 1")
        if not 0 <= self.orthogonal < math.inf:
            raise ValueError("orthogonal must be a number >= 0")
        if not self.target_modules:
            raise ValueError("target_modules must be all-linear or a list of module names")


def check_quantize(args: LoraArgs | None) -> None:
    """Raise ConfigError if `quantize` is set and bitsandbytes is not installed. Imports nothing."""
    if args is not None and args.quantize is not None and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"trainer.args.lora.quantize: {args.quantize} needs bitsandbytes, which is not installed; "
            "pip install 'expunge[quant]', or leave quantize out"
        )


def with_lora(model: Any, args: LoraArgs, seed: int) -> Any:
    """Return the model under a peft wrapper: its own weights frozen, new adapters drawn from `seed` alone.

    Raises ConfigError if a target module does not exist, or shares its weights with the embeddings.
    """
    from peft import LoraConfig

    targets: Any = args.target_modules
    if not isinstance(targets, str):
        _check_targets(model, targets)
        targets = list(targets)
    config = LoraConfig(
        r=args.r,
        lora_alpha=args.lora_alpha,  # type: ignore[arg-type]  # peft divides it by r, so it accepts any number
        lora_dropout=args.lora_dropout,
        target_modules=targets,
        bias=args.bias,
        task_type="CAUSAL_LM",
        fan_in_fan_out=_transposed(model, targets),
    )
    return with_adapters(model, config, seed)


def with_adapters(model: Any, config: Any, seed: int) -> Any:
    """Return the model under a peft wrapper of any peft configuration, its adapters drawn from `seed` alone.

    Raises ConfigError if the model has adapters already, or peft rejects the configuration.
    """
    import torch
    from peft import get_peft_model

    if hasattr(model, "peft_config"):
        raise ConfigError("peft_config: the model has adapters already; merge them (merge_and_unload), or leave it out")
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # peft reads an attribute by the name it had before transformers renamed it
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # a model may have linear modules of both layouts; peft decides it for each module, and warns
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(model, config)
        except (ValueError, TypeError, KeyError) as error:  # peft's errors about target modules are ValueErrors
            raise ConfigError(f"peft_config: {one_line(error)}") from None
    # Checkpointed layers pass gradients on only if their inputs require one, and the embeddings are frozen.
    wrapped.enable_input_require_grads()
    return wrapped.eval()


def saved_form(model: Any, args: LoraArgs, reload: Callable[[], Any]) -> Any:
    """Return the plain model that a run with adapters saves; the wrapper cannot be used afterwards.

    Adapters of a quantised run are moved to the full-precision weights from `reload` and merged there. A sum with
    quantised weights would be rounded to their grid, and most of the update would be lost.
    """
    from expunge.models.adapters import merged

    return merged(model) if args.quantize is None else merged_copy(model, args, reload)


def merged_copy(model: Any, args: LoraArgs, reload: Callable[[], Any]) -> Any:
    """Return a plain model: the current adapters merged into the weights from `reload`; training can continue."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    from expunge.models.adapters import merged

    trained = {name: p.detach().cpu() for name, p in get_peft_model_state_dict(model).items()}
    plain = with_lora(reload(), args, seed=0)
    result: Any = set_peft_model_state_dict(plain, trained)
    if result.unexpected_keys:
        raise JobError(f"lora: the full-precision model has no place for {result.unexpected_keys[0]}")
    return merged(plain)


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapters in peft's format, without the path of the base model, which is local to this machine."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = ""  # peft replaces None by the path on saving
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form that names the base model's folder


def _linear_modules(model: Any) -> dict[str, Any]:
    """Return the modules that can have adapters, by name: torch's linear ones and GPT-2's Conv1D."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}


def _transposed(model: Any, targets: Any) -> bool:
    """Return whether a target module stores its weight as (in, out), as Conv1D does."""
    from transformers.pytorch_utils import Conv1D

    return any(
        isinstance(m, Conv1D) and (isinstance(targets, str) or name.rpartition(".")[2] in targets or name in targets)
        for name, m in _linear_modules(model).items()
    )


def _check_targets(model: Any, targets: tuple[str, ...]) -> None:
    linear = _linear_modules(model)
    embeddings = model.get_input_embeddings().weight
    for i, target in enumerate(targets):
        modules = [m for name, m in linear.items() if name == target or name.endswith(f".{target}")]
        key = f"trainer.args.lora.target_modules[{i}]"
        if not modules:
            names = {name.rpartition(".")[2] for name in linear}
            raise ConfigError(f"{key}: the model has no linear module {target!r}{nearest(target, names)}")
        if any(m.weight is embeddings for m in modules):
            raise ConfigError(
                f"{key}: {target!r} shares its weights with the embeddings, so an adapter on it cannot be merged"
            )
