from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.names import WeightPattern
from expunge.core.on_use import torch
from expunge.methods.grad_transforms.api import GradientRequest, grad_transform
from expunge.methods.grad_transforms.vectors import add, norm, over, scaled

if TYPE_CHECKING:
    from torch import Tensor


@grad_transform("cir", revision=1, needs=("forget",), paper="arXiv:2509.11816", fidelity="code")
@strict
@dataclass(frozen=True, kw_only=True)
class IrrelevantCollapse:
    """Collapse of irrelevant representations (Sondej and Yang 2025, arXiv:2509.11816), around any loss.

    Idea: an update along directions that most tokens share harms other texts, and relearning undoes it easily. Remove
    these directions from the inputs of each weight and from the gradients of its outputs.
    Formula: dW = sum over tokens of (B g)(A a)^T = B G A^T;  g = forget_norm dW / ||dW|| + g_r
        a, g  input of the module and gradient of its output at a token; G is the plain gradient, sum of g a^T
        A     removes the mean of a, then each of the first `n_inputs` - 1 principal components, one after the other
        B     the same for g, with `n_outputs`
        ||dW||  the norm over all weights
    The directions come from the last `refresh` steps. The first `refresh` steps only collect: their forget part is 0.
    Only weights of `modules` forget; all others get the retain gradient alone.

    Projections and product equal the authors' code on the same tensors (theirs approximates the components). Defaults
    are theirs, except `refresh`: they collect for one epoch. Our reading: the tokens are all that the loss reaches, and
    the retain gradient is part of the same step; theirs is a step of its own.

    Pitfalls: with optim=sgd and a learning rate of 1, forget_norm is the length of an update; Adam divides much of it
    out. Each module keeps two matrices of its widths.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=CIR task_name=mine +trainer.args.grad_transform=cir
    """

    modules: WeightPattern = r".*\.(gate|up|down)_proj"
    """Regular expression of the whole names of the linear modules that forget."""
    n_inputs: int = 24
    """Directions to remove from the inputs: the mean and the first components; 0 removes none."""
    n_outputs: int = 36
    """Directions to remove from the gradients of the outputs."""
    refresh: int = 16
    """Optimiser steps whose tokens give the directions of the following steps."""
    forget_norm: float | None = 0.2
    """Norm of the forget gradient over all weights; null does not change it."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.modules)
        except re.error as error:
            raise ValueError(f"modules must be a regular expression: {error}") from None
        for key in ("n_inputs", "n_outputs"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must be a whole number >= 0")
        if self.refresh < 1:
            raise ValueError("refresh must be at least 1")
        if self.forget_norm is not None and not 0 < self.forget_norm < float("inf"):
            raise ValueError("forget_norm must be a number > 0, or null")

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """Return the collapsed, normalised forget gradient, plus the retain gradient, per parameter."""
        names = [name for name in gradient.names if re.fullmatch(self.modules, name.removesuffix(".weight"))]
        if not names:
            raise ConfigError(f"grad_transform_args.modules: no trained weight's module matches {self.modules!r}")
        forget, tokens = gradient.with_tokens("forget", [name.removesuffix(".weight") for name in names])
        names = [name for name in names if name.removesuffix(".weight") in tokens]
        step = memory["cir_step"] = memory.get("cir_step", -1) + 1
        if step and step % self.refresh == 0:
            for name in names:  # the loss runs the same modules in every step
                for side, n in (("in", self.n_inputs), ("out", self.n_outputs)):
                    count, total, square = memory.pop(f"cir_sum_{side}/{name}")
                    memory[f"cir_{side}/{name}"] = directions(count, total, square, n)
        for name in names:
            for side, x_ND in zip(("in", "out"), tokens[name.removesuffix(".weight")], strict=True):
                _collect(memory, f"cir_sum_{side}/{name}", x_ND.double())
        ready = step >= self.refresh
        changed = [
            collapsed(g, memory[f"cir_in/{name}"], memory[f"cir_out/{name}"])
            if ready and name in names
            else torch.zeros_like(g)
            for name, g in zip(gradient.names, forget, strict=True)
        ]
        if self.forget_norm is not None:
            size = norm(changed)
            changed = scaled(changed, over(size.new_tensor(self.forget_norm), size))
        return add(changed, gradient("retain"))


def _collect(memory: dict[str, Any], key: str, x_ND: Tensor) -> None:
    """Add the tokens to the sums of a key: their number, their sum and the sum of their outer products."""
    n, total, square = memory.get(key, (0, 0, 0))
    memory[key] = (n + len(x_ND), total + x_ND.sum(0), square + x_ND.T @ x_ND)


def directions(n: int, sum_D: Tensor, square_DD: Tensor, count: int) -> Tensor:
    """Return unit directions, (count, D) or fewer: the mean of n vectors, then their first principal components.

    sum_D, square_DD: the sum of the vectors, and of their outer products. A direction of length 0 is left out.
    """
    if count == 0 or n == 0:
        return sum_D.new_zeros(0, len(sum_D))
    mean_D = sum_D / n
    values_D, vectors_DD = torch.linalg.eigh(square_DD / n - torch.outer(mean_D, mean_D))
    known = values_D > values_D[-1].clamp(min=0) * 1e-12
    components = vectors_DD[:, known].flip(-1).T[: count - 1]
    rows = torch.cat([mean_D[None], components])
    lengths = rows.norm(dim=-1, keepdim=True)
    unit: Tensor = (rows / lengths.clamp(min=torch.finfo(rows.dtype).tiny))[lengths[:, 0] > 0]
    return unit


def collapsed(gradient_ED: Tensor, inputs_KD: Tensor, outputs_KE: Tensor) -> Tensor:
    """Return B G A^T: the gradient of a weight without the directions, which are removed one after the other.

    A weight that is kept as (inputs, outputs) is recognised by its shape; a square one is taken as (outputs, inputs).
    """
    turned = gradient_ED.shape != (outputs_KE.shape[1], inputs_KD.shape[1])
    out: Tensor = (gradient_ED.T if turned else gradient_ED).double()
    for c_D in inputs_KD:
        out = out - torch.outer(out @ c_D, c_D)
    for c_E in outputs_KE:
        out = out - torch.outer(c_E, c_E @ out)
    return (out.T if turned else out).to(gradient_ED.dtype)
