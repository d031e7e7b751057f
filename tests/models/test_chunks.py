"""Chunks against whole logits, in float64: the same values and the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.batch import Batch, collate
from expunge.data.encoder import Encoded
from expunge.models import chunks as module
from expunge.models.chunks import ChunkedLogits
from expunge.models.packed import BatchPositions, FrozenLmHead, LmHead, packed_forward, plain_head, token_logps

SIZES = [1, 3, 7, 100]


@pytest.fixture(params=["long strips", "strips of two"])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much of a chunk is in hand at once; 67 is the vocabulary."""
    if request.param == "strips of two":
        monkeypatch.setattr(module, "_strip_size", lambda device: 2 * 67)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    lengths = ((9, 3), (4, 1), (13, 8), (6, 0))
    return collate(
        [Encoded(tuple(torch.randint(3, 67, (n,), generator=generator).tolist()), p) for n, p in lengths], pad_id=0
    )


def at(b: Batch) -> BatchPositions:
    return BatchPositions(b.ids_BT, b.mask_BT, b.row_N, b.pos_N)


def by_chunks(model: Any, b: Batch, size: int) -> ChunkedLogits:
    packed = packed_forward(model, at(b), use_mask=False, n_head=0)
    return ChunkedLogits(LmHead(model), packed.hidden_ND, size, packed.autocast)


def divergence(now_NV: Tensor, ref_NV: Tensor, weight_N: Tensor) -> Tensor:
    logp, logref = now_NV.log_softmax(-1), ref_NV.log_softmax(-1)
    return weight_N * (logref.exp() * (logref - logp)).sum(-1)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, grad in one.items():
        torch.testing.assert_close(grad, other[name], rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_model_s_own_logits(model: Any, size: int, strips: None) -> None:
    """Two quantities of one forward, as a forget and a retain side have them; every parameter's gradient."""
    model, b = model.double(), batch()
    first, n = 6, len(b.token_N)
    ref_NV = torch.randn(n, 67, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight_N = torch.linspace(0.1, 2.0, n, dtype=torch.float64)
    whole_NV = packed_forward(model, at(b), use_mask=False).logits_NV
    expected = [token_logps(whole_NV[:first], b.token_N[:first])]
    expected.append(divergence(whole_NV[first:], ref_NV[first:], weight_N[first:]))

    one, two = by_chunks(model, b, size).split([first, n - first])
    actual = [one.per_token(token_logps, [b.token_N[:first].__getitem__])]
    actual.append(two.per_token(divergence, [ref_NV[first:].__getitem__, weight_N[first:].__getitem__]))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    same(gradients(model, actual[0].sum() - actual[1].mean()), gradients(model, expected[0].sum() - expected[1].mean()))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads_with_a_bias(tied: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    linear = torch.nn.Linear(4, 9, dtype=torch.float64)
    embedding = linear.weight if tied else torch.nn.Parameter(torch.randn(9, 4, dtype=torch.float64))
    token_N = torch.arange(11) % 9
    head = LmHead(_Bare(linear))
    matches = []
    for size in (0, 3):
        values = ChunkedLogits(head, hidden + embedding[token_N], size).per_token(token_logps, [token_N.__getitem__])
        matches.append(torch.autograd.grad(values.square().sum(), [hidden, embedding, linear.weight, linear.bias]))
    for whole, chunked in zip(*matches, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-10, atol=1e-12)


class _Bare:
    """A model of which only the head is read."""

    def __init__(self, head: torch.nn.Module) -> None:
        self.head = head
        self.config = self

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def get_text_config(self) -> _Bare:
        return self


def counted() -> tuple[list[int], Callable[..., Tensor]]:
    """token_logps, and how many rows each call was given."""
    rows: list[int] = []

    def fn(logits_NV: Tensor, token_N: Tensor) -> Tensor:
        rows.append(len(logits_NV))
        return token_logps(logits_NV, token_N)

    return rows, fn


def toy(n: int = 10) -> tuple[torch.nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    linear = torch.nn.Linear(4, 9, bias=False, dtype=torch.float64)
    return linear, torch.randn(n, 4, dtype=torch.float64, requires_grad=True), torch.arange(n) % 9


def test_no_more_than_a_chunk_at_a_time_and_again_in_the_backward() -> None:
    linear, hidden, token_N = toy()
    rows, fn = counted()
    values = ChunkedLogits(LmHead(_Bare(linear)), hidden, 4).per_token(fn, [token_N.__getitem__])
    assert rows == [4, 4, 2]
    values.sum().backward()
    assert rows == [4, 4, 2] * 2
    with torch.no_grad():
        ChunkedLogits(LmHead(_Bare(linear)), hidden, 4).per_token(fn, [token_N.__getitem__])
    assert rows == [4, 4, 2] * 3


def test_a_head_that_is_not_trained_is_run_once() -> None:
    linear, hidden, token_N = toy()
    whole = torch.autograd.grad(token_logps(linear(hidden), token_N).square().sum(), hidden)[0]
    linear.requires_grad_(False)
    rows, fn = counted()
    values = ChunkedLogits(LmHead(_Bare(linear)), hidden, 4).per_token(fn, [token_N.__getitem__])
    values.square().sum().backward()
    assert rows == [4, 4, 2]
    torch.testing.assert_close(hidden.grad, whole, rtol=1e-12, atol=1e-14)


def test_a_backward_that_stops_before_the_head_leaves_nothing_behind() -> None:
    linear, hidden, token_N = toy()
    values = ChunkedLogits(LmHead(_Bare(linear)), hidden, 4).per_token(token_logps, [token_N.__getitem__])
    torch.autograd.grad(values.sum(), hidden, retain_graph=True)
    for _ in range(2):
        (actual,) = torch.autograd.grad(values.sum(), linear.weight, retain_graph=True)
        (expected,) = torch.autograd.grad(token_logps(linear(hidden), token_N).sum(), linear.weight)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_a_value_that_no_logit_changes_has_no_gradient() -> None:
    linear, hidden, _ = toy()
    values = ChunkedLogits(LmHead(_Bare(linear)), hidden, 4).per_token(lambda z: z.detach().sum(-1), [])
    values.sum().backward()
    assert hidden.grad is not None and hidden.grad.abs().max() == 0


def test_a_reference_s_part_is_a_constant() -> None:
    linear, hidden, _ = toy()
    other = ChunkedLogits(LmHead(_Bare(linear)), hidden.detach().clone().requires_grad_(), 0)
    part = other.part(slice(2, 5))
    assert not part.requires_grad
    torch.testing.assert_close(part, linear(other.hidden_ND)[2:5])
    assert other.vocabulary == 9


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_that_of_the_model_s_forward(model: Any, kind: torch.dtype) -> None:
    """Off where the loss is computed, as the Trainer has it; the weights' gradients are float32."""
    b, result = batch(), []
    for size in (0, 3):
        with torch.autocast("cpu", dtype=kind):
            product = by_chunks(model, b, size)
        assert product.autocast is kind
        values = product.per_token(token_logps, [b.token_N.__getitem__])
        assert values.dtype == torch.float32
        result.append((values.detach(), gradients(model, values.mean())))
    torch.testing.assert_close(result[0][0], result[1][0], rtol=1e-2, atol=1e-2)
    whole, chunked = (torch.cat([g.flatten() for g in f[1].values()]) for f in result)
    assert chunked.dtype == torch.float32
    assert float((whole - chunked).norm() / whole.norm()) < 2e-2
    with torch.autocast("cpu", dtype=kind):
        theirs = packed_forward(model, at(b), use_mask=False)
    assert LmHead(model).gives(theirs)


def test_half_precision_weights_are_summed_in_float32() -> None:
    """128 chunks whose share of a weight's gradient is below half a unit of bfloat16's last place of their sum."""
    linear = torch.nn.Linear(1, 2, bias=False, dtype=torch.bfloat16)
    torch.nn.init.zeros_(linear.weight)
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    token_N = torch.zeros(1024, dtype=torch.long)
    values = ChunkedLogits(LmHead(_Bare(linear)), hidden, 1).per_token(token_logps, [token_N.__getitem__])
    values.sum().backward()
    assert linear.weight.grad is not None and linear.weight.grad.dtype == torch.bfloat16
    assert linear.weight.grad[:, 0].tolist() == [
        512.0,
        -512.0,
    ]  # (1 - 1/2) at each of 1024; by bfloat16 it stops at 128


def test_heads_that_are_more_than_a_product_are_not_plain(model: Any) -> None:
    assert plain_head(model)
    handle = model.get_output_embeddings().register_forward_hook(lambda *_: None)
    assert not plain_head(model)
    handle.remove()
    assert plain_head(model)
    assert not plain_head(_Bare(torch.nn.Sequential(torch.nn.Linear(2, 2))))


def test_a_frozen_head_that_is_not_trained_is_shared() -> None:
    linear, _, _ = toy()
    assert FrozenLmHead(_Bare(linear)).weight is not linear.weight
    linear.requires_grad_(False)
    assert FrozenLmHead(_Bare(linear)).weight is linear.weight
