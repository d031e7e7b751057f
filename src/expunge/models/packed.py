"""One forward that computes logits at scored positions only.

The LM head receives only the hidden states of the scored positions, so no [B, T, V] tensor ever exists. A hook on the
head selects them, and the model's own code runs after it, so logit scaling and soft-capping stay the same. If the
logits are computed in chunks (`models.chunks`), the head receives no position at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.core.errors import JobError
from expunge.core.names import find_name
from expunge.models.capabilities import capabilities_of, forward_options, logits_in


@dataclass(frozen=True)
class BatchPositions:
    """The row and position of each of N predictions in a [B, T] batch."""

    ids_BT: Tensor
    mask_BT: Tensor
    row_N: Tensor
    pos_N: Tensor


@dataclass(frozen=True)
class PackedOutput:
    """logits_NV at the scored positions, and the input of the LM head there, hidden_ND.

    autocast: the type of the head's product under automatic mixed precision; None if it is off.
    """

    logits_NV: Tensor
    hidden_ND: Tensor
    autocast: torch.dtype | None = None


def bare(model: Any) -> Any:
    """Return the model under wrappers such as DistributedDataParallel."""
    while hasattr(model, "module"):
        model = model.module
    return model


def packed_forward(model: Any, at: BatchPositions, *, use_mask: bool, n_head: int | None = None) -> PackedOutput:
    """Run the model once; return logits at the N positions of `at`, and the hidden states there.

    A model that gives other numbers in padded batches (`models.capabilities`) reads each row by itself.

    Args:
        model: A causal language model.
        at: The batch and the positions.
        use_mask: False is correct for right-padded rows under causal attention if no padding position is read. Real
            tokens never attend to later ones, and attention without a mask is faster.
        n_head: Run the head on the first `n_head` positions only, and return logits there alone. With 0 the head runs
            on no position, so that wrappers of the model still see every parameter used.
    """
    can = capabilities_of(model)
    if can.masked if use_mask else can.padded:
        return forward_at_once(model, at, use_mask=use_mask, n_head=n_head, head=can.head)
    parts, order = [], []
    for one, index_N in single_rows(at).values():
        n_own = None if n_head is None else int((index_N < n_head).sum())
        parts.append(forward_at_once(model, one, use_mask=False, n_head=n_own, head=can.head))
        order.append(index_N)
    if not parts:
        return forward_at_once(model, at, use_mask=use_mask, n_head=n_head, head=can.head)
    place_N = torch.cat(order).argsort()
    logits, hidden = torch.cat([p.logits_NV for p in parts]), torch.cat([p.hidden_ND for p in parts])
    return PackedOutput(logits if n_head is not None else logits[place_N], hidden[place_N], parts[0].autocast)


def single_rows(at: BatchPositions) -> dict[int, tuple[BatchPositions, Tensor]]:
    """Return each row with scored positions as a batch of one without padding, and the indices of its positions.

    Padding on the right stays up to the last scored position; a position in the padding on the left becomes the first.
    """
    out: dict[int, tuple[BatchPositions, Tensor]] = {}
    for row in at.row_N.unique().tolist():
        index_N = (at.row_N == row).nonzero()[:, 0]
        real = at.mask_BT[row].nonzero()[:, 0]
        low = int(real[0])
        high = max(int(real[-1]), int(at.pos_N[index_N].max())) + 1
        pos_N = (at.pos_N[index_N] - low).clamp(min=0)
        ids, mask = at.ids_BT[row : row + 1, low:high], torch.ones_like(at.mask_BT[row : row + 1, low:high])
        out[row] = (BatchPositions(ids, mask, torch.zeros_like(pos_N), pos_N), index_N)
    return out


def forward_at_once(
    model: Any, at: BatchPositions, *, use_mask: bool, n_head: int | None = None, head: bool = True
) -> PackedOutput:
    """Run `packed_forward` in one forward, regardless of the model's capabilities.

    head: the LM head reads the scored positions only. Otherwise all logits are computed, and there are no hidden
    states: hidden_ND has width 0.
    """
    extra: dict[str, Any] = {"use_cache": False}
    if use_mask:
        extra["attention_mask"] = at.mask_BT.long()
        # Counted from a row's first token, and on in the padding on its right, as a model counts by itself.
        first_B1 = at.mask_BT.int().argmax(1, keepdim=True)
        extra["position_ids"] = (torch.arange(at.mask_BT.shape[1], device=first_B1.device) - first_B1).clamp(min=0)
    options = forward_options(model, **extra)
    if not head:
        logits_BTV = logits_in(model(input_ids=at.ids_BT, **options))
        logits_NV = logits_BTV[at.row_N.to(logits_BTV.device), at.pos_N.to(logits_BTV.device)]
        return PackedOutput(logits_NV[:n_head], logits_NV.new_zeros(len(logits_NV), 0))
    with head_at(model, at.row_N, at.pos_N, n_head=n_head) as read:
        out = model(input_ids=at.ids_BT, **options)
    return PackedOutput(logits_NV=logits_in(out)[0], hidden_ND=read.hidden_ND, autocast=read.autocast)


class LmHeadInput:
    """The input of the LM head in a forward: the hidden states, and the type of automatic mixed precision."""

    hidden_ND: Tensor
    autocast: torch.dtype | None = None


@contextlib.contextmanager
def head_at(model: Any, row_N: Tensor, pos_N: Tensor, *, n_head: int | None = None) -> Iterator[LmHeadInput]:
    """Make the LM head read only these N positions within the block: a forward's logits have shape [1, N, V].

    n_head: the head reads only the first `n_head` of them. Yields an object that receives all N hidden states.
    """
    head = bare(model).get_output_embeddings()
    if head is None:
        raise JobError(f"{type(model).__name__} has no output embeddings to read logits from")
    read = LmHeadInput()

    def pick(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # the head of a model on several devices is on another one than the first layer
        read.hidden_ND = args[0][row_N.to(args[0].device), pos_N.to(args[0].device)]
        device = read.hidden_ND.device.type
        read.autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return (read.hidden_ND[:n_head].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield read
    finally:
        handle.remove()


def find_module(model: Any, name: str, *, key: str) -> Any:
    """Return a module by its name, or by the end of its name, because wrappers such as peft's add a prefix.

    Raises ConfigError, at `key`, if the model has no module of that name, or several with that ending.
    """
    modules = dict(bare(model).named_modules())
    return modules[find_name(modules, name, key)]


class LmHead:
    """A model's LM head with the model's own scaling and soft-capping: logits from hidden states.

    weight, bias: the model's own, so that gradients reach them.
    """

    def __init__(self, model: Any) -> None:
        head = bare(model).get_output_embeddings()
        self.weight: Tensor = head.weight
        self.bias: Tensor | None = getattr(head, "bias", None)
        config = bare(model).config.get_text_config()
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._times = getattr(config, "logit_scale", None)
        self._over = getattr(config, "logits_scaling", None)

    def __call__(self, hidden_ND: Tensor, autocast: torch.dtype | None = None) -> Tensor:
        """Return logits_NV of hidden states, computed in the type `autocast` if it is set."""
        weight, bias = self.cast(autocast)
        return self.finish(F.linear(hidden_ND.to(weight.dtype), weight, bias), autocast)

    def cast(self, autocast: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias in the type of the product."""
        if autocast is None or self.weight.dtype == torch.float64:
            return self.weight, self.bias
        return self.weight.to(autocast), None if self.bias is None else self.bias.to(autocast)

    def finish(self, logits: Tensor, autocast: torch.dtype | None = None) -> Tensor:
        """Scale and soft-cap the head's output as the model does; in float32 after mixed precision."""
        if self._times is not None:
            logits = logits * self._times
        if self._over is not None:
            logits = logits / self._over
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits if autocast is None else wide(logits)

    def gives(self, packed: PackedOutput) -> bool:
        """Return whether this head gives the logits of the whole model."""
        theirs = packed.logits_NV
        mine = self(packed.hidden_ND[: len(theirs)], packed.autocast)
        within = max(1e-3, 2 * torch.finfo(packed.autocast or mine.dtype).eps)
        return torch.allclose(mine.to(theirs.dtype), theirs, rtol=within, atol=within)


class UnknownLmHead(Exception):
    """The model changes its logits after the LM head in a way that `LmHead` does not support."""


class FrozenLmHead(LmHead):
    """A frozen copy of a model's LM head: reference logits from stored hidden states, without a second model."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.weight = _frozen(self.weight)
        self.bias = None if self.bias is None else _frozen(self.bias)

    def check(self, packed: PackedOutput) -> None:
        """Raise JobError unless this head gives the logits of the whole model."""
        if not self.gives(packed):
            raise JobError(
                "this architecture changes its logits after the LM head in an unsupported way, so a KL reference "
                "cannot be stored; use trainer.method_args.retain_loss_type=NLL"
            )


def _frozen(x: Tensor) -> Tensor:
    """Return a copy; the tensor itself if it is not trained."""
    return x.detach().clone() if x.requires_grad else x


def plain_head(model: Any) -> bool:
    """Return whether the LM head is a plain linear module, without adapter, hook or replaced forward.

    False also for a model whose head cannot run at some positions only (`models.capabilities`).
    """
    if not capabilities_of(model).head:
        return False
    head = bare(model).get_output_embeddings()
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(head) is nn.Linear and "forward" not in vars(head) and not any(getattr(head, h) for h in hooks)


def wide(x: Tensor) -> Tensor:
    """Return the tensor in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def token_logps(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """Return log p of each token, in float32 at least, shape (N,)."""
    return -F.cross_entropy(wide(logits_NV), token_N, reduction="none")
