"""Predictions of intermediate layers: their states through the final norm and the LM head.

The logit lens uses layer l's states directly: log p_l(y) = log softmax(head(norm(h_l)))[y]. The tuned lens (Belrose et
al. 2023, arXiv:2303.08112) first applies an affine map per layer, h + A_l h + b_l. It is fitted so that
KL(p_model || p_l) is small on other rows; the model itself is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import ConfigError, JobError
from expunge.core.records import Floats
from expunge.interpretability.hidden import check_layers, hidden_states, states_at
from expunge.interpretability.inputs import AnalysisInputs, device_of, forward, row_means
from expunge.interpretability.model_layout import model_layout
from expunge.models.packed import FrozenLmHead, token_logps

CHUNK = 4096  # tokens per chunk of logits


class Unembed:
    """Maps hidden states to logits_NV by a model's final norm and a frozen copy of its head."""

    def __init__(self, model: Any) -> None:
        self._norm, self._head = model_layout(model).norm, FrozenLmHead(model)
        self.dtype = next(model.parameters()).dtype

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Return logits in the model's dtype."""
        return self._head(self._norm(hidden_ND.to(self.dtype)))

    def check(self, model: Any, inputs: AnalysisInputs) -> None:
        """Raise JobError unless the last block's states yield the model's own logits, on one batch."""
        with torch.no_grad():
            _, batch = next(inputs.batches(model))
            own = self(states_at(model, batch, [len(model_layout(model).blocks) - 1])[0])
            expected = forward(model, batch).logits_NV
        if not torch.allclose(own.float(), expected.float(), rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
            raise JobError(
                "this architecture has further operations after its last block than its final norm and LM head, so a "
                "lens cannot read intermediate layers"
            )


@dataclass(frozen=True)
class TunedLens:
    """Affine maps of L layers: A_LDD and b_LD. losses: mean KL of each on its training rows, after fitting."""

    layers: tuple[int, ...]
    A_LDD: Tensor
    b_LD: Tensor
    losses: tuple[float, ...]

    def __call__(self, hidden_ND: Tensor, k: int) -> Tensor:
        """Map the states of the k-th of its layers."""
        A, b = self.A_LDD[k].to(hidden_ND), self.b_LD[k].to(hidden_ND)
        return hidden_ND + hidden_ND @ A.T + b


@dataclass(frozen=True)
class LensLine:
    """One row at one layer: mean log p of its tokens in nats, and the share that is the layer's first choice."""

    row_id: int
    layer: int
    logp: float
    accuracy: float


@dataclass(frozen=True)
class LensResult:
    """Means over rows, by layer. lens: "logit" or "tuned"."""

    lens: str
    layers: tuple[int, ...]
    logp: tuple[float, ...]
    accuracy: tuple[float, ...]
    lines: tuple[LensLine, ...]


@dataclass(frozen=True)
class TokenLine:
    """One token of a row at one layer: log p of the token in nats, after the tokens before it. position: from 0."""

    row_id: int
    position: int
    token: str
    layer: int
    logp: float


@dataclass(frozen=True)
class TokenLens:
    """Log-probabilities of single tokens by layer, row after row."""

    layers: tuple[int, ...]
    lines: tuple[TokenLine, ...]


def lens_scores(
    model: Any, inputs: AnalysisInputs, *, lens: TunedLens | None = None, layers: Sequence[int] | None = None
) -> LensResult:
    """Compute log-probabilities of the counted tokens at each layer, by the logit lens or a fitted one.

    Raises:
        JobError: If the last layer does not yield the model's own logits.
        ConfigError: If the model or the lens does not have a layer.
    """
    selected = check_layers(model, layers if lens is None else (layers or lens.layers))
    if lens is not None and not set(selected) <= set(lens.layers):
        raise ConfigError(f"layers: the lens was fitted to layers {list(lens.layers)}, got {list(selected)}")
    unembed = Unembed(model)
    unembed.check(model, inputs)
    logps, hits = _logps(model, inputs, unembed, selected, lens)
    logp_LR, hit_LR = row_means(logps, inputs), row_means(hits, inputs)
    lines = tuple(
        LensLine(row_id, layer, float(logp_LR[k, i]), float(hit_LR[k, i]))
        for i, row_id in enumerate(inputs.row_ids)
        for k, layer in enumerate(selected)
    )
    means = tuple(map(float, logp_LR.mean(axis=1))), tuple(map(float, hit_LR.mean(axis=1)))
    return LensResult("logit" if lens is None else "tuned", selected, *means, lines)


def lens_tokens(
    model: Any, inputs: AnalysisInputs, tokenizer: Any, *, layers: Sequence[int] | None = None
) -> TokenLens:
    """Compute the log-probability of each counted token at each layer, by the logit lens.

    Raises:
        JobError: If the last layer does not yield the model's own logits.
        ConfigError: If the model does not have a layer.
    """
    selected = check_layers(model, layers)
    unembed = Unembed(model)
    unembed.check(model, inputs)
    logps, _ = _logps(model, inputs, unembed, selected, None)
    lines = []
    for i, row_id in enumerate(inputs.row_ids):
        for k, place in enumerate(inputs.positions(i, "own")):
            text = tokenizer.decode([inputs.rows[i].ids[place]])
            column = logps[:, inputs.offsets[i] + k]
            lines += [TokenLine(row_id, k, text, layer, float(p)) for layer, p in zip(selected, column, strict=True)]
    return TokenLens(selected, tuple(lines))


def _logps(
    model: Any, inputs: AnalysisInputs, unembed: Unembed, selected: Sequence[int], lens: TunedLens | None
) -> tuple[Floats, Floats]:
    """Return log p and whether it is the first choice, for each layer and counted token: two of (L, N)."""
    n = int(inputs.offsets[-1])
    logps, hits = torch.empty(len(selected), n, dtype=torch.float64), torch.empty(len(selected), n, dtype=torch.float64)
    model.eval()
    with torch.no_grad():
        for rows_of_batch, batch in inputs.batches(model):
            places = torch.from_numpy(inputs.flat(rows_of_batch))
            states = states_at(model, batch, selected)
            for k, layer in enumerate(selected):
                for start in range(0, len(places), CHUNK):
                    at, tokens = places[start : start + CHUNK], batch.token_N[start : start + CHUNK]
                    hidden = states[k, start : start + CHUNK]
                    logits = unembed(hidden if lens is None else lens(hidden, lens.layers.index(layer)))
                    logps[k, at] = token_logps(logits, tokens).double().cpu()
                    hits[k, at] = (logits.argmax(-1) == tokens).double().cpu()
    return logps.numpy(), hits.numpy()


def fit_lens(
    model: Any,
    inputs: AnalysisInputs,
    *,
    layers: Sequence[int] | None = None,
    steps: int = 250,
    learning_rate: float = 1e-3,
    batch_tokens: int = 512,
    seed: int = 0,
) -> TunedLens:
    """Fit an affine map for each layer to the model's own next-token distribution, by Adam from the identity.

    Fit on other rows than the lens is scored on. By default every layer but the last, which needs none. `seed`
    determines the order of the tokens. The settings are ours; the paper trains longer, with SGD.

    Raises:
        ConfigError: If steps or sizes are below 1, or there is no layer to fit.
    """
    if steps < 1 or batch_tokens < 1 or not 0 < learning_rate < math.inf:
        raise ConfigError("fit_lens: steps and batch_tokens must be at least 1, learning_rate a number > 0")
    depth = len(model_layout(model).blocks)
    selected = check_layers(model, range(depth - 1) if layers is None else layers)
    if not selected:
        raise ConfigError("fit_lens: no layer to fit; the default is every layer but the last")
    states = hidden_states(model, inputs, at="predicts", layers=[*selected, depth - 1])
    unembed = Unembed(model)
    unembed.check(model, inputs)
    device, n = device_of(model), states.values_LND.shape[1]
    final = states.values_LND[-1]
    As, bs, losses = [], [], []
    for layer in selected:
        hidden = states.values_LND[states.layers.index(layer)]
        A = torch.zeros(hidden.shape[-1], hidden.shape[-1], dtype=hidden.dtype, device=device, requires_grad=True)
        b = torch.zeros(hidden.shape[-1], dtype=hidden.dtype, device=device, requires_grad=True)
        adam = torch.optim.Adam([A, b], lr=learning_rate)
        order = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            pick = torch.randperm(n, generator=order)[:batch_tokens]
            loss = _divergence(unembed, final[pick].to(device), hidden[pick].to(device), A, b).mean()
            adam.zero_grad()
            A.grad, b.grad = torch.autograd.grad(loss, [A, b])
            adam.step()
        As.append(A.detach().cpu())
        bs.append(b.detach().cpu())
        with torch.no_grad():
            parts = [
                _divergence(unembed, final[i : i + CHUNK].to(device), hidden[i : i + CHUNK].to(device), A, b).sum()
                for i in range(0, n, CHUNK)
            ]
        losses.append(float(torch.stack(parts).sum() / n))
    return TunedLens(selected, torch.stack(As), torch.stack(bs), tuple(losses))


def _divergence(unembed: Unembed, final_ND: Tensor, hidden_ND: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Return KL(p_model || p_lens) of each token in nats, shape (N,)."""
    with torch.no_grad():
        model_logp = torch.log_softmax(_wide(unembed(final_ND)), -1)
    lens_logp = torch.log_softmax(_wide(unembed(hidden_ND + hidden_ND @ A.T + b)), -1)
    return (model_logp.exp() * (model_logp - lens_logp)).sum(-1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
