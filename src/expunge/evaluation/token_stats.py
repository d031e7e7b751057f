"""Compute vocabulary statistics of scored tokens, a chunk at a time, into columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from expunge.evaluation.config import FLOAT32_LOGITS

CHUNK = {"cpu": 2**18}  # logits converted to float32 at a time: as many as fit a processor's cache

Index = npt.NDArray[np.int64]


def rows_at_a_time(logits_NV: Tensor) -> int:
    """Return the number of rows of logits to convert to float32 at a time."""
    return max(1, CHUNK.get(logits_NV.device.type, FLOAT32_LOGITS) // logits_NV.shape[-1])


def empty_columns(n: int, dtype: torch.dtype) -> dict[str, np.ndarray[Any, Any]]:
    """Return empty columns for the statistics of n tokens: in float64 for a model in float64, else in float32."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    return {
        "logp": np.zeros(n, kind),
        "mean": np.zeros(n, kind),
        "var": np.zeros(n, kind),
        "is_argmax": np.zeros(n, bool),
    }


def fill(
    columns: Mapping[str, np.ndarray[Any, Any]], logits_UV: Tensor, which_N: Index, token_N: Index, slot_N: Index
) -> None:
    """Write the statistics of N tokens to their slots.

    logits_UV: U predictions. which_N: the prediction of each token, ascending; several tokens may share one.
    """
    rows = rows_at_a_time(logits_UV)
    for first in range(0, len(logits_UV), rows):
        low, high = np.searchsorted(which_N, [first, first + rows])
        if low == high:
            continue
        which = torch.from_numpy(which_N[low:high] - first).to(logits_UV.device)
        token = torch.from_numpy(token_N[low:high]).to(logits_UV.device)
        statistics = _statistics(logits_UV[first : first + rows], which, token)
        for name, column in zip(("logp", "mean", "var", "is_argmax"), statistics, strict=True):
            columns[name][slot_N[low:high]] = column.cpu().numpy()


def _statistics(logits_UV: Tensor, which_N: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log p of each token; mean and variance of log p(v) under v ~ p; whether the token is the greedy choice.

    If a logit is NaN, the first three are NaN, and no token is the greedy choice.
    """
    wide = logits_UV if logits_UV.dtype == torch.float64 else logits_UV.float()
    best_U = greedy(wide)
    below_UV = wide - wide.gather(1, best_U[:, None])  # log p up to a number of each row
    times_UV = torch.softmax(wide, dim=-1)
    log_z_U = -times_UV.gather(1, best_U[:, None])[:, 0].log()  # that number: the largest p is 1 / sum_v exp(below_v)
    times_UV *= below_UV  # p times x, whose sum is the mean, and in the same place p times x^2
    mean_U = times_UV.sum(-1)
    times_UV *= below_UV
    var_U = (times_UV.sum(-1) - mean_U.square()).clamp(min=0)
    mean_U -= log_z_U
    logp_N = below_UV[which_N, token_N] - log_z_U[which_N]
    is_argmax_N = (best_U[which_N] == token_N) & ~mean_U[which_N].isnan()
    return logp_N, mean_U[which_N], var_U[which_N], is_argmax_N


def greedy(logits_UV: Tensor) -> Tensor:
    """Return the id of the largest logit of each row, the first of equal ones, shape (U,)."""
    if logits_UV.device.type == "cpu" and logits_UV.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(logits_UV.numpy().argmax(-1))  # torch's own is ten times slower there
    return logits_UV.argmax(-1)
