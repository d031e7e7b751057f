"""One forward that computes logits at scored positions only.

The LM head is given the hidden states of the scored positions and no others, so no [B, T, V] tensor ever exists. A
hook on the head does it, and the model's own code runs after it, so logit scaling and soft-capping stay as they are.
Where the logits are wanted some at a time (`models.chunks`), the head is given no position at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.core.errors import ConfigError, JobError, nearest
from expunge.models.capabilities import capabilities_of, forward_options, logits_in


@dataclass(frozen=True)
class BatchPositions:
    """Where to read: row and position of each of N predictions in a [B, T] batch."""

    ids_BT: Tensor
    mask_BT: Tensor
    row_N: Tensor
    pos_N: Tensor


@dataclass(frozen=True)
class PackedOutput:
    """logits_NV at the scored positions, and the hidden states the head read, hidden_ND.

    autocast: the type that automatic mixed precision had the head compute in; None where it was off.
    """

    logits_NV: Tensor
    hidden_ND: Tensor
    autocast: torch.dtype | None = None


def bare(model: Any) -> Any:
    """The model under wrappers such as DistributedDataParallel."""
    while hasattr(model, "module"):
        model = model.module
    return model


def packed_forward(model: Any, at: BatchPositions, *, use_mask: bool, n_head: int | None = None) -> PackedOutput:
    """Run the model once; logits at the N positions of `at`, and the hidden states there.

    n_head: run the head on the first so many positions only, and have logits there alone. With 0 it still takes part,
    on no position, so that what wraps the model sees that every parameter is used.
    use_mask=False is right for right-padded rows under causal attention when no padding position is read: real tokens
    never see what comes after them, and attention without a mask is faster.

    A model that was observed to give other numbers in padded batches (`models.capabilities`) reads each row by itself.
    """
    can = capabilities_of(model)
    if can.masked if use_mask else can.padded:
        return forward_at_once(model, at, use_mask=use_mask, n_head=n_head, head=can.head)
    parts, order = [], []
    for one, index_N in _single_rows(at).values():
        wanted = None if n_head is None else int((index_N < n_head).sum())
        parts.append(forward_at_once(model, one, use_mask=False, n_head=wanted, head=can.head))
        order.append(index_N)
    if not parts:
        return forward_at_once(model, at, use_mask=use_mask, n_head=n_head, head=can.head)
    place_N = torch.cat(order).argsort()
    logits, hidden = torch.cat([p.logits_NV for p in parts]), torch.cat([p.hidden_ND for p in parts])
    return PackedOutput(logits if n_head is not None else logits[place_N], hidden[place_N], parts[0].autocast)


def _single_rows(at: BatchPositions) -> dict[int, tuple[BatchPositions, Tensor]]:
    """Each row with scored positions as a batch of one without padding, and which of the N positions are its own.

    Padding at the right stays as far as a position in it is scored; one at the left of the row counts as its first.
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
    """`packed_forward` in one forward, whatever was observed of the model.

    head: the LM head reads the scored positions only. Otherwise all logits are computed, and there are no hidden
    states: hidden_ND has width 0.
    """
    extra: dict[str, Any] = {"use_cache": False}
    if use_mask:
        extra["attention_mask"] = at.mask_BT.long()
        # Counted from a row's first token, on into the padding at its right, as a model counts by itself.
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
    """What the LM head was given in a forward: the hidden states, and the type automatic mixed precision had set."""

    hidden_ND: Tensor
    autocast: torch.dtype | None = None


@contextlib.contextmanager
def head_at(model: Any, row_N: Tensor, pos_N: Tensor, *, n_head: int | None = None) -> Iterator[LmHeadInput]:
    """While open, a forward's logits have shape [1, N, V]: the LM head reads these N positions and no others.

    n_head: it reads the first so many of them only. Yields what the forward fills with all N hidden states.
    """
    head = bare(model).get_output_embeddings()
    if head is None:
        raise JobError(f"{type(model).__name__} has no output embeddings to read logits from")
    read = LmHeadInput()

    def pick(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # a model that is spread over devices reads its head on another one than its first layer
        read.hidden_ND = args[0][row_N.to(args[0].device), pos_N.to(args[0].device)]
        device = read.hidden_ND.device.type
        read.autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return (read.hidden_ND[:n_head].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield read
    finally:
        handle.remove()


class _StopForward(Exception):
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
        raise ConfigError(f"{key}: the model has no module {name!r}{nearest(name, filter(None, modules))}")
    return modules[found[0]]


def layer_output(model: Any, at: BatchPositions, layer: str) -> Tensor:
    """Output of one module at the N positions, hidden_ND; what comes after the module is not run.

    Rows must be right-padded. Raises ConfigError if the model has no module of that name.
    """
    module = find_module(model, layer, key="trainer.method_args.module_regex")
    if capabilities_of(model).padded or len(at.ids_BT) == 1:
        return _layer_output(model, module, at)
    alone = list(_single_rows(at).values())
    place_N = torch.cat([index_N for _, index_N in alone]).argsort()
    return torch.cat([_layer_output(model, module, one) for one, _ in alone])[place_N]


def _layer_output(model: Any, module: Any, at: BatchPositions) -> Tensor:
    kept: list[Tensor] = []

    def stop(_module: Any, _args: Any, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        kept.append(out[at.row_N, at.pos_N])
        raise _StopForward

    handle = module.register_forward_hook(stop)
    try:
        model(input_ids=at.ids_BT, **forward_options(model, use_cache=False))
    except _StopForward:
        pass
    finally:
        handle.remove()
    return kept[0]


class LmHead:
    """A model's LM head, with what the model's own code does to the logits after it: logits from hidden states.

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
        """logits_NV of hidden states the head's model would have read, computed in the type `autocast` if given."""
        weight, bias = self.cast(autocast)
        return self.finish(F.linear(hidden_ND.to(weight.dtype), weight, bias), autocast)

    def cast(self, autocast: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the type that the logits are computed in."""
        if autocast is None or self.weight.dtype == torch.float64:
            return self.weight, self.bias
        return self.weight.to(autocast), None if self.bias is None else self.bias.to(autocast)

    def finish(self, logits: Tensor, autocast: torch.dtype | None = None) -> Tensor:
        """What the model does to the head's output; in float32 again after mixed precision, as the Trainer has it."""
        if self._times is not None:
            logits = logits * self._times
        if self._over is not None:
            logits = logits / self._over
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits if autocast is None else wide(logits)

    def gives(self, packed: PackedOutput) -> bool:
        """Whether this head gives the logits that the whole model gave."""
        theirs = packed.logits_NV
        mine = self(packed.hidden_ND[: len(theirs)], packed.autocast)
        within = max(1e-3, 2 * torch.finfo(packed.autocast or mine.dtype).eps)
        return torch.allclose(mine.to(theirs.dtype), theirs, rtol=within, atol=within)


class UnknownLmHead(Exception):
    """The model changes its logits after the LM head in a way that `LmHead` does not know."""


class FrozenLmHead(LmHead):
    """A frozen copy of a model's LM head: reference logits from stored hidden states, without a second model."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.weight = _frozen(self.weight)
        self.bias = None if self.bias is None else _frozen(self.bias)

    def check(self, packed: PackedOutput) -> None:
        """Raise JobError unless this head gives the logits that the whole model gave."""
        if not self.gives(packed):
            raise JobError(
                "this architecture changes its logits after the LM head in a way that is not known here, so a KL "
                "reference cannot be stored; use trainer.method_args.retain_loss_type=NLL"
            )


def _frozen(x: Tensor) -> Tensor:
    """A copy; the tensor itself where it is not trained."""
    return x.detach().clone() if x.requires_grad else x


def plain_head(model: Any) -> bool:
    """Whether the LM head is a linear module and nothing else: no adapter, hook or other forward is put on it.

    False as well if the model was observed not to read it at chosen positions (`models.capabilities`).
    """
    if not capabilities_of(model).head:
        return False
    head = bare(model).get_output_embeddings()
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(head) is nn.Linear and "forward" not in vars(head) and not any(getattr(head, h) for h in hooks)


def wide(x: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def token_logps(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """log p of each token, in float32 at least: shape (N,)."""
    return -F.cross_entropy(wide(logits_NV), token_N, reduction="none")
