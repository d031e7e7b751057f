from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.core.errors import JobError
from expunge.data.batch import Batch, collate
from expunge.data.encoder import Encoded
from expunge.models.packed import BatchPositions, FrozenLmHead, PackedOutput, bare, packed_forward, token_logps


def batch(side: str, **keys: Any) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = [
        Encoded(tuple(torch.randint(3, 67, (n,), generator=generator).tolist()), n_prompt)
        for n, n_prompt in ((9, 3), (4, 1), (13, 12), (6, 0))
    ]
    return collate(rows, pad_id=0, padding_side=side, **keys)


def positions(b: Batch) -> BatchPositions:
    return BatchPositions(b.ids_BT, b.mask_BT, b.row_N, b.pos_N)


def alone(model: Any, b: Batch) -> torch.Tensor:
    """Logits of each row run by itself, unpadded, with the model's plain forward; the scored ones, (N, V)."""
    out = []
    for row in range(b.n_rows):
        start = int(b.mask_BT[row].nonzero()[0])
        logits = model(input_ids=b.ids_BT[row][b.mask_BT[row]][None]).logits[0]
        out.append(logits[b.pos_N[b.row_N == row] - start])
    return torch.cat(out)


@pytest.mark.parametrize(("side", "use_mask"), [("right", False), ("right", True), ("left", True)])
def test_equals_the_plain_forward(model: Any, side: str, use_mask: bool) -> None:
    b = batch(side)
    with torch.no_grad():
        packed = packed_forward(model, positions(b), use_mask=use_mask)
        expected = alone(model, b)
    assert packed.logits_NV.shape == (len(b.token_N), 67)
    torch.testing.assert_close(packed.logits_NV, expected, rtol=1e-5, atol=2e-5)


def test_head_reads_scored_positions_only(model: Any) -> None:
    b = batch("right")
    shapes = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: shapes.append(tuple(out.shape)))
    packed_forward(model, positions(b), use_mask=False)
    handle.remove()
    assert shapes == [(1, len(b.token_N), 67)]


def test_gradients_equal_those_of_the_plain_forward(model: Any) -> None:
    b = batch("right")
    grads = []
    for logits in (
        lambda: packed_forward(model, positions(b), use_mask=False).logits_NV,
        lambda: alone(model, b),
    ):
        model.zero_grad()
        token_logps(logits(), b.token_N).sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4 * float(grads[1].abs().max()))


def test_hook_is_gone_afterwards_even_after_an_error(model: Any) -> None:
    b = batch("right")
    ids = b.ids_BT[:, :5]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        packed_forward(model, positions(b), use_mask=False)
        with pytest.raises(IndexError):
            packed_forward(model, BatchPositions(b.ids_BT + 1000, b.mask_BT, b.row_N, b.pos_N), use_mask=False)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_frozen_head_equals_the_model_s_logits(model: Any) -> None:
    b = batch("right")
    head = FrozenLmHead(model)
    with torch.no_grad():
        packed = packed_forward(model, positions(b), use_mask=False)
        head.check(packed)
        torch.testing.assert_close(head(packed.hidden_ND), packed.logits_NV, rtol=1e-6, atol=1e-6)
        for p in model.parameters():
            p.add_(0.5)
        torch.testing.assert_close(head(packed.hidden_ND), packed.logits_NV, rtol=1e-6, atol=1e-6)  # a copy
    assert not head(packed.hidden_ND).requires_grad


def test_frozen_head_refuses_logits_it_cannot_make(model: Any) -> None:
    b = batch("right")
    with torch.no_grad():
        packed = packed_forward(model, positions(b), use_mask=False)
    with pytest.raises(JobError, match=r"^this architecture changes its logits[^\n]*retain_loss_type=NLL$"):
        FrozenLmHead(model).check(PackedOutput(packed.logits_NV * 1.1 + 0.1, packed.hidden_ND))


def test_model_without_a_head_is_refused() -> None:
    class Headless:
        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(JobError, match=r"^Headless has no output embeddings"):
        packed_forward(Headless(), positions(batch("right")), use_mask=False)


def test_bare_looks_under_wrappers() -> None:
    inner = torch.nn.Linear(2, 2)
    assert bare(torch.nn.DataParallel(inner)) is inner
    assert bare(inner) is inner


def test_token_logps_are_float32_at_least() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    tokens = torch.tensor([2, 0])
    expected = logits.double().log_softmax(-1)[torch.arange(2), tokens]
    torch.testing.assert_close(token_logps(logits.double(), tokens), expected)
    low = token_logps(logits.bfloat16(), tokens)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), expected, rtol=1e-6, atol=1e-6)
