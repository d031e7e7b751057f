"""What every method owes: the order of rows does not count, a batch is its rows, gradients are finite."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.methods import LossInputs, Quantity, Requirements, ScoredPositions, SideOutputs, objective, registry

LENGTHS = [3, 1, 4, 2]
V, D = 128, 6

OF_MICRO_BATCHES = {"RepNoise", "CIR"}  # a distance of two samples is no mean, nor is a ratio of two means
CASES: list[tuple[str, dict[str, Any]]] = [
    (name, {})
    for name, spec in registry().items()
    if name != "finetune" and spec.needs.rollout is None  # rollouts come in groups: test_purge.py
] + [
    ("RMU", {"adaptive": True}),
    ("NPO", {"level": "token"}),
    ("WHP", {"target": "softmax"}),
    ("CEU", {"alpha": 1, "retain_loss_type": "JSD"}),
    ("GradDiff", {"retain_loss_type": "KL", "nll_weight": 0.5}),
    *[("FLAT", {"divergence": d}) for d in ("KL", "JS", "Pearson")],
]
cases = pytest.mark.parametrize(("name", "args"), CASES, ids=[f"{n}{list(a.values()) or ''}" for n, a in CASES])


def one_row(n: int, serve: Quantity, generator: torch.Generator, scale: float) -> SideOutputs:
    row_N = torch.zeros(n, dtype=torch.long)
    token_N = torch.randint(V, (n,), generator=generator)
    if serve in (Quantity.HIDDEN, Quantity.HIDDEN_LOGPS):
        hidden_ND = scale * torch.randn(n, D, generator=generator, dtype=torch.float64)
        n_logps = n if serve is Quantity.HIDDEN_LOGPS else 0
        logps_N = -scale * torch.rand(n_logps, generator=generator, dtype=torch.float64)
        return SideOutputs(logps_N, row_N, 1, token_N=token_N, hidden_ND=hidden_ND.requires_grad_())
    logits_NV = (scale * torch.randn(n, V, generator=generator, dtype=torch.float64)).requires_grad_()
    logps_N = torch.log_softmax(logits_NV, dim=-1).gather(-1, token_N[:, None])[:, 0]
    return SideOutputs(logps_N, row_N, 1, logits_NV=logits_NV, token_N=token_N)


def joined(rows: list[SideOutputs]) -> SideOutputs:
    def cat(key: str) -> Tensor | None:
        parts = [getattr(r, key) for r in rows]
        return None if parts[0] is None else torch.cat(parts)

    row_N = torch.cat([torch.full_like(r.row_N, i) for i, r in enumerate(rows)])
    first = SideOutputs(torch.cat([r.logps_N for r in rows]), row_N, len(rows))
    return dataclasses.replace(first, **{k: cat(k) for k in ("logits_NV", "token_N", "hidden_ND", "marked_N")})


def sides(needs: Requirements, scale: float = 2.0) -> dict[str, list[SideOutputs]]:
    """Rows of every side a method asks for; a reference has its side's tokens."""
    result: dict[str, list[SideOutputs]] = {}
    for name in ("forget", "alternate", "retain"):
        for key in (name, f"{name}_ref", f"{name}_teacher"):
            if (serve := getattr(needs, key, None)) is not None:
                generator = torch.Generator().manual_seed(sum(map(ord, key)))
                result[key] = [one_row(n, serve, generator, scale) for n in LENGTHS]
                if needs.marks:
                    result[key] = [dataclasses.replace(r, marked_N=r.token_N % 2 == 0) for r in result[key]]
    return result


def forget_of(result: Any, rows: dict[str, list[SideOutputs]], pick: list[int]) -> Tensor:
    view = LossInputs(**{k: joined([r[i] for i in pick]) for k, r in rows.items()}, memory={"epoch": 0})
    parts: Tensor = result(view).parts["forget"]
    return parts


@cases
def test_the_order_of_rows_does_not_count(name: str, args: dict[str, Any]) -> None:
    loss = objective(name, args)
    rows = sides(loss.needs)
    totals = []
    for pick in ([0, 1, 2, 3], [2, 0, 3, 1]):
        view = LossInputs(**{k: joined([r[i] for i in pick]) for k, r in rows.items()}, memory={"epoch": 0})
        totals.append(loss(view).total.item())
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)


@pytest.mark.parametrize(("name", "args"), [case for case in CASES if case[0] not in OF_MICRO_BATCHES])
def test_a_batch_is_the_mean_of_its_rows_alone(name: str, args: dict[str, Any]) -> None:
    loss = objective(name, args)
    rows = sides(loss.needs)
    whole = forget_of(loss, rows, [0, 1, 2, 3]).item()
    alone = torch.tensor([forget_of(loss, rows, [i]).item() for i in range(4)], dtype=torch.float64)
    mean = loss.means["forget"]
    assert mean.reduction != "micro_batch", f"declare reduction='token' or 'row' of {name}"
    weights = [mean.items({mean.side: [n]}) for n in LENGTHS]  # so the declared mean is checked, too
    w = torch.tensor(weights, dtype=torch.float64)
    assert whole == pytest.approx(((w * alone).sum() / w.sum()).item(), rel=1e-12)


@cases
@pytest.mark.parametrize("scale", [0.0, 2.0, 200.0])
def test_losses_and_gradients_are_finite(name: str, args: dict[str, Any], scale: float) -> None:
    loss = objective(name, args)
    rows = sides(loss.needs, scale)
    view = LossInputs(**{k: joined(r) for k, r in rows.items()}, memory={"epoch": 0})
    terms = loss(view)
    terms.total.backward()
    assert torch.isfinite(terms.total), terms
    for key in ("forget", "alternate", "retain"):
        for row in rows.get(key, []):
            leaf = row.hidden_ND if row.hidden_ND is not None else row.logits_NV
            assert leaf is not None and leaf.grad is not None, key  # every side asked for is used
            assert torch.isfinite(leaf.grad).all(), key


@pytest.mark.parametrize("spec", registry().values(), ids=lambda s: s.name)
def test_pages_are_plain_and_defaults_decode(spec: Any) -> None:
    assert "Loss: " in spec.page or spec.name in ("finetune", "DPO", "AltPO", "PDU"), spec.name
    loss = objective(spec.name)
    own = loss.needs.forget_positions is ScoredPositions.OWN
    assert (loss.needs.forget is Quantity.HIDDEN) == own == (loss.needs.layer is not None and spec.name != "RepNoise")
    for alias in spec.aliases:
        assert objective(alias).identity == loss.identity
