"""The gradients of several answers' losses in one backward pass, one for each answer.

What a weight's gradient is made of (what went into its module, and the slope of the loss in what came out) is caught on
the way, and put together for each row of the batch apart. So the backward computes no gradient that sums over rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


class NotByAnswer(Exception):
    """The model computes in a way that rows of a batch cannot be told apart in (experts, weights used by hand)."""


class PerAnswer:
    """Catches the gradients of B rows.

    row_N: the row of each position that the LM head reads, ascending; it sees no other position.
    """

    def __init__(self, model: Any, n_rows: int, row_N: Tensor) -> None:
        self.n_rows = n_rows
        self._heard: list[tuple[Any, Tensor, Tensor]] = []
        self._head = model.get_output_embeddings()
        self._counts = torch.bincount(row_N, minlength=n_rows).tolist()
        self._modules = [m for m in model.modules() if any(p is not None for p in m.parameters(recurse=False))]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While open, a forward and its backward are listened to. Raises NotByAnswer in the forward."""
        handles = [m.register_forward_hook(self._hear) for m in self._modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hear(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Tensor:
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(out, Tensor):
            raise NotByAnswer(type(module).__name__)
        given = args[0].detach()
        if module is not self._head and (given.dim() < 2 or len(given) != self.n_rows or len(out) != self.n_rows):
            raise NotByAnswer(type(module).__name__)
        heard = out if out.requires_grad else out.detach().requires_grad_().clone()
        heard.register_hook(lambda slope: self._heard.append((module, given, slope.detach())))
        return heard

    def of_weights(self) -> dict[int, Tensor]:
        """Once the backward has run: id of a weight -> its gradients, (B, *shape)."""
        out: dict[int, Tensor] = {}
        heard, self._heard = self._heard, []
        for module, given, slope in heard:
            if type(module) is nn.Embedding:  # after the head, which may have the same weight
                _add_embedding(out, module, given, slope)
                continue
            for name, by_row in self._of_module(module, given, slope).items():
                key = id(getattr(module, name))
                out[key] = out[key].add_(by_row) if key in out else by_row
        return out

    def _of_module(self, module: Any, given: Tensor, slope: Tensor) -> dict[str, Tensor]:
        if module is self._head:
            return _of_head(module, given[0].split(self._counts), slope[0].split(self._counts))
        if type(module) is nn.Linear:
            return _of_linear(module, given.flatten(1, -2), slope.flatten(1, -2))
        return _of_any(module, given, slope)


def _of_linear(module: nn.Linear, given_BTI: Tensor, slope_BTO: Tensor) -> dict[str, Tensor]:
    found = {"weight": slope_BTO.transpose(1, 2) @ given_BTI}
    return found if module.bias is None else found | {"bias": slope_BTO.sum(1)}


def _of_head(module: Any, given: Sequence[Tensor], slope: Sequence[Tensor]) -> dict[str, Tensor]:
    """Of a linear head, which reads the scored positions of all rows one after another."""
    if not isinstance(module, nn.Linear):
        raise NotByAnswer(type(module).__name__)
    by_row = slope[0].new_empty(len(slope), *module.weight.shape)
    for out, g, s in zip(by_row, given, slope, strict=True):
        torch.mm(s.T, g, out=out)
    found = {"weight": by_row}
    return found if module.bias is None else found | {"bias": torch.stack([s.sum(0) for s in slope])}


def _add_embedding(out: dict[int, Tensor], module: nn.Embedding, ids_BT: Tensor, slope_BTD: Tensor) -> None:
    """Add to what is there of its weight, where the weight is large and few of its rows are read."""
    b, d = len(ids_BT), slope_BTD.shape[-1]
    rows = module.num_embeddings
    key = id(module.weight)
    if key not in out:
        out[key] = slope_BTD.new_zeros(b, rows, d)
    place_N = (ids_BT + rows * torch.arange(b, device=ids_BT.device)[:, None]).flatten()
    slope_ND = slope_BTD.flatten(0, -2)
    if module.padding_idx is not None:  # which has no gradient, as autograd has it
        kept_N = ids_BT.flatten() != module.padding_idx
        place_N, slope_ND = place_N[kept_N], slope_ND[kept_N]
    out[key].view(b * rows, d).index_add_(0, place_N, slope_ND)


def _of_any(module: nn.Module, given: Tensor, slope: Tensor) -> dict[str, Tensor]:
    """Of a module that treats rows alike, such as a norm: its forward once more, with a gradient for each row."""
    weights = {name: p.detach() for name, p in module.named_parameters(recurse=False)}

    def loss(values: dict[str, Tensor], row: Tensor, slope_of_row: Tensor) -> Tensor:
        out: Tensor = functional_call(module, values, (row[None],))
        return (out[0] * slope_of_row).sum()

    of_rows: Callable[..., dict[str, Tensor]] = vmap(grad(loss), in_dims=(None, 0, 0))
    return of_rows(weights, given, slope)
