"""The gradients of several answers' losses in one backward pass, one for each answer.

Hooks record the input of each module and the gradient of the loss in its output. Their product for each row of the
batch is the row's gradient of the weight. The backward itself computes no gradient that sums over rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


class NotByAnswer(Exception):
    """The model mixes rows of a batch, so their gradients cannot be separated (experts, weights outside modules)."""


class PerAnswer:
    """Records the gradients of B rows.

    row_N: the row of each position that the LM head reads, ascending; it reads no other position.
    """

    def __init__(self, model: Any, n_rows: int, row_N: Tensor) -> None:
        self.n_rows = n_rows
        self._records: list[tuple[Any, Tensor, Tensor]] = []
        self._head = model.get_output_embeddings()
        self._counts = torch.bincount(row_N, minlength=n_rows).tolist()
        self._modules = [m for m in model.modules() if any(p is not None for p in m.parameters(recurse=False))]

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Record a forward and its backward within the block. The forward may raise NotByAnswer."""
        handles = [m.register_forward_hook(self._record) for m in self._modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Tensor:
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(out, Tensor):
            raise NotByAnswer(type(module).__name__)
        inputs = args[0].detach()
        if module is not self._head and (inputs.dim() < 2 or len(inputs) != self.n_rows or len(out) != self.n_rows):
            raise NotByAnswer(type(module).__name__)
        output = out if out.requires_grad else out.detach().requires_grad_().clone()
        output.register_hook(lambda slope: self._records.append((module, inputs, slope.detach())))
        return output

    def of_weights(self) -> dict[int, Tensor]:
        """Return, after the backward, id of a weight -> its gradients, (B, *shape)."""
        out: dict[int, Tensor] = {}
        records, self._records = self._records, []
        for module, inputs, slope in records:
            if type(module) is nn.Embedding:  # after the head, which may have the same weight
                _add_embedding(out, module, inputs, slope)
                continue
            for name, by_row in self._of_module(module, inputs, slope).items():
                key = id(getattr(module, name))
                out[key] = out[key].add_(by_row) if key in out else by_row
        return out

    def _of_module(self, module: Any, inputs: Tensor, slope: Tensor) -> dict[str, Tensor]:
        if module is self._head:
            return _of_head(module, inputs[0].split(self._counts), slope[0].split(self._counts))
        if type(module) is nn.Linear:
            return _of_linear(module, inputs.flatten(1, -2), slope.flatten(1, -2))
        return _of_any(module, inputs, slope)


def _of_linear(module: nn.Linear, input_BTI: Tensor, slope_BTO: Tensor) -> dict[str, Tensor]:
    gradients = {"weight": slope_BTO.transpose(1, 2) @ input_BTI}
    return gradients if module.bias is None else gradients | {"bias": slope_BTO.sum(1)}


def _of_head(module: Any, inputs: Sequence[Tensor], slope: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the gradients of a linear head, which reads the scored positions of all rows one after another."""
    if not isinstance(module, nn.Linear):
        raise NotByAnswer(type(module).__name__)
    by_row = slope[0].new_empty(len(slope), *module.weight.shape)
    for out, g, s in zip(by_row, inputs, slope, strict=True):
        torch.mm(s.T, g, out=out)
    gradients = {"weight": by_row}
    return gradients if module.bias is None else gradients | {"bias": torch.stack([s.sum(0) for s in slope])}


def _add_embedding(out: dict[int, Tensor], module: nn.Embedding, ids_BT: Tensor, slope_BTD: Tensor) -> None:
    """Add the gradient of an embedding, whose weight is large and whose rows are mostly unread."""
    b, d = len(ids_BT), slope_BTD.shape[-1]
    rows = module.num_embeddings
    key = id(module.weight)
    if key not in out:
        out[key] = slope_BTD.new_zeros(b, rows, d)
    place_N = (ids_BT + rows * torch.arange(b, device=ids_BT.device)[:, None]).flatten()
    slope_ND = slope_BTD.flatten(0, -2)
    if module.padding_idx is not None:  # it has no gradient in autograd either
        kept_N = ids_BT.flatten() != module.padding_idx
        place_N, slope_ND = place_N[kept_N], slope_ND[kept_N]
    out[key].view(b * rows, d).index_add_(0, place_N, slope_ND)


def _of_any(module: nn.Module, inputs: Tensor, slope: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a module that treats rows alike, such as a norm: its forward again, row by row."""
    weights = {name: p.detach() for name, p in module.named_parameters(recurse=False)}

    def loss(values: dict[str, Tensor], row: Tensor, slope_of_row: Tensor) -> Tensor:
        out: Tensor = functional_call(module, values, (row[None],))
        return (out[0] * slope_of_row).sum()

    of_rows: Callable[..., dict[str, Tensor]] = vmap(grad(loss), in_dims=(None, 0, 0))
    return of_rows(weights, inputs, slope)
