"""One forward that computes logits at scored positions only.

The LM head is given the hidden states of the scored positions and no others, so no [B, T, V] tensor ever exists. A
hook on the head does it, and the model's own code runs after it, so logit scaling and soft-capping stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import ConfigError, JobError, nearest


@dataclass(frozen=True)
class Positions:
    """Where to read: row and position of each of N predictions in a [B, T] batch."""

    ids_BT: Tensor
    mask_BT: Tensor
    row_N: Tensor
    pos_N: Tensor


@dataclass(frozen=True)
class Packed:
    """logits_NV at the scored positions, and the hidden states the head read, hidden_ND."""

    logits_NV: Tensor
    hidden_ND: Tensor


def bare(model: Any) -> Any:
    """The model under wrappers such as DistributedDataParallel."""
    while hasattr(model, "module"):
        model = model.module
    return model


def packed_forward(model: Any, at: Positions, *, use_mask: bool) -> Packed:
    """Run the model once; logits at the N positions of `at`.

    use_mask=False is right for right-padded rows under causal attention when no padding position is read: real tokens
    never see what comes after them, and attention without a mask is faster.
    """
    extra: dict[str, Any] = {}
    if use_mask:
        extra["attention_mask"] = at.mask_BT.long()
        # Counted from a row's first token, on into the padding at its right, as a model counts by itself.
        first_B1 = at.mask_BT.int().argmax(1, keepdim=True)
        extra["position_ids"] = (torch.arange(at.mask_BT.shape[1], device=first_B1.device) - first_B1).clamp(min=0)
    with head_at(model, at.row_N, at.pos_N) as kept:
        out = model(input_ids=at.ids_BT, use_cache=False, **extra)
    return Packed(logits_NV=out.logits[0], hidden_ND=kept[0])


@contextlib.contextmanager
def head_at(model: Any, row_N: Tensor, pos_N: Tensor) -> Iterator[list[Tensor]]:
    """While open, a forward's logits have shape [1, N, V]: the LM head reads these N positions and no others.

    Yields a list that the forward puts the hidden states into which the head read, hidden_ND.
    """
    head = bare(model).get_output_embeddings()
    if head is None:
        raise JobError(f"{type(model).__name__} has no output embeddings to read logits from")
    kept: list[Tensor] = []

    def pick(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        kept.append(args[0][row_N, pos_N])
        return (kept[0].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield kept
    finally:
        handle.remove()


class _Stop(Exception):
    """Raised inside a forward to end it at a layer."""


def find_module(model: Any, name: str, *, key: str) -> Any:
    """A module by its name in the plain model: wrappers such as peft's put a prefix before it, so an ending will do.

    Raises ConfigError, at `key`, if the model has no module of that name, or several under its ending.
    """
    modules = dict(bare(model).named_modules())
    if name in modules:
        return modules[name]
    found = [n for n in modules if name and n.endswith(f".{name}")]
    if len(found) > 1:
        raise ConfigError(f"{key}: {name!r} is the end of {len(found)} modules' names: {', '.join(found[:3])}")
    if not found:
        raise ConfigError(f"{key}: the model has no module {name!r}{nearest(name, modules)}")
    return modules[found[0]]


def layer_output(model: Any, at: Positions, layer: str) -> Tensor:
    """Output of one module at the N positions, hidden_ND; what comes after the module is not run.

    Rows must be right-padded. Raises ConfigError if the model has no module of that name.
    """
    module = find_module(model, layer, key="trainer.method_args.module_regex")
    kept: list[Tensor] = []

    def stop(_module: Any, _args: Any, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        kept.append(out[at.row_N, at.pos_N])
        raise _Stop

    handle = module.register_forward_hook(stop)
    try:
        model(input_ids=at.ids_BT, use_cache=False)
    except _Stop:
        pass
    finally:
        handle.remove()
    return kept[0]


class FrozenHead:
    """A frozen copy of a model's LM head: reference logits from stored hidden states, without a second model."""

    def __init__(self, model: Any) -> None:
        head = bare(model).get_output_embeddings()
        self._weight = head.weight.detach().clone()
        bias = getattr(head, "bias", None)
        self._bias = None if bias is None else bias.detach().clone()
        config = bare(model).config.get_text_config()
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._times = getattr(config, "logit_scale", None)
        self._over = getattr(config, "logits_scaling", None)

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """logits_NV of hidden states the head's model would have read."""
        logits = torch.nn.functional.linear(hidden_ND.to(self._weight.dtype), self._weight, self._bias)
        if self._times is not None:
            logits = logits * self._times
        if self._over is not None:
            logits = logits / self._over
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def check(self, packed: Packed) -> None:
        """Raise JobError unless this head gives the logits that the whole model gave."""
        if not torch.allclose(self(packed.hidden_ND), packed.logits_NV.to(self._weight.dtype), rtol=1e-3, atol=1e-3):
            raise JobError(
                "this architecture changes its logits after the LM head in a way that is not known here, so a KL "
                "reference cannot be stored; use trainer.method_args.retain_loss_type=NLL"
            )


def token_logps(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """log p of each token, in float32 at least: shape (N,)."""
    wide = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return -torch.nn.functional.cross_entropy(wide, token_N, reduction="none")
