from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.core.errors import JobError
from expunge.data.batch import collate
from expunge.evaluation.observation import capabilities
from expunge.methods.api import Quantity, ScoredPositions
from expunge.training.phases import ForwardSpec
from expunge.training.reference import (
    ResidentReference,
    StoredReference,
    head_for,
    keep,
    load_reference,
    mass_outside,
    reference,
    save_reference,
)

LOGPS = ForwardSpec(Quantity.LOGPS)
LOGITS = ForwardSpec(Quantity.LOGITS)
ASKS = [LOGPS, LOGITS, ForwardSpec(Quantity.HIDDEN, ScoredPositions.OWN, "model.layers.0")]


@pytest.mark.parametrize("what", ASKS, ids=lambda what: what.serve.value)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_stored_equals_a_resident_copy(make_model, rows, what: ForwardSpec, batch: int) -> None:
    model = make_model()
    resident = ResidentReference(model, what)
    head = head_for(model, what, None)
    stored_reference = keep(model, rows["retain"], [9, 3, 3, 0, 5, 10], what, pad_id=0, head=head, batch=batch)
    stored = StoredReference(stored_reference, what, head)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)  # the reference is the model as it was
    for numbers in ([3, 9], [0, 3, 3, 10, 5], [5]):
        b = collate([rows["retain"][i] for i in numbers], pad_id=0, positions=what.positions.value)
        actual, expected = stored.side(numbers, b), resident.side(numbers, b)
        torch.testing.assert_close(actual.logps_N, expected.logps_N, rtol=1e-5, atol=1e-5)
        assert actual.row_N.tolist() == expected.row_N.tolist()
        assert actual.n_rows == len(numbers)
        assert not actual.logps_N.requires_grad
        assert actual.token_N is not None and actual.token_N.tolist() == b.token_N.tolist()
        for name, serve in (("logits_NV", Quantity.LOGITS), ("hidden_ND", Quantity.HIDDEN)):
            mine, theirs = getattr(actual, name), getattr(expected, name)
            if what.serve is serve:
                assert len(mine) == len(b.row_N)
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
                assert not mine.requires_grad
            else:
                assert mine is None and theirs is None


def test_reference_is_read_without_dropout_and_the_mode_is_given_back(make_model, rows) -> None:
    model = make_model(attention_dropout=0.5)
    for training in (True, False):
        model.train(training)
        first, second = (reference(model, rows["forget"], [0, 1], LOGPS, pad_id=0) for _ in range(2))
        b = collate(rows["forget"][:2], pad_id=0)
        assert torch.equal(first.side([0, 1], b).logps_N, second.side([0, 1], b).logps_N)
        assert model.training is training


def test_only_wanted_rows_are_read(make_model, rows) -> None:
    model = make_model()
    capabilities(model)  # its observation is no reading of rows
    calls: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _m, _a, keys: calls.append(len(keys["input_ids"])), with_kwargs=True
    )
    stored = reference(model, rows["retain"], [4, 4, 2, 4], LOGPS, pad_id=0)
    handle.remove()
    assert calls == [2]
    with pytest.raises(JobError, match="other tokens"):
        stored.side([3], collate(rows["retain"][3:4], pad_id=0))


def test_resident_leaves_the_model_trainable(make_model) -> None:
    model = make_model()
    ResidentReference(model, LOGPS)
    assert all(p.requires_grad for p in model.parameters())


def test_a_second_model_is_kept_only_where_padding_counts(make_model, rows) -> None:
    model = make_model()
    kinds = {w: type(reference(model, rows["retain"], [0], w, pad_id=0)) for w in ASKS}
    assert set(kinds.values()) == {StoredReference}
    every = ForwardSpec(Quantity.LOGITS, ScoredPositions.ALL)
    assert isinstance(reference(model, rows["retain"], [0], every, pad_id=0), ResidentReference)


@pytest.mark.parametrize("topk", [None, 5])
@pytest.mark.parametrize("what", ASKS, ids=lambda what: what.serve.value)
def test_from_a_folder_come_the_same_bits(
    make_model, rows, what: ForwardSpec, topk: int | None, tmp_path: Path
) -> None:
    model = make_model()
    here = reference(model, rows["retain"], range(11), what, pad_id=0, topk=topk)
    stored_reference = keep(model, rows["retain"], range(11), what, pad_id=0, topk=topk)
    (tmp_path / "own").mkdir()
    save_reference(tmp_path / "own", stored_reference)
    save_reference(tmp_path, stored_reference, head_of=model if topk is None else None)
    other = make_model()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    own = load_reference(tmp_path / "own", what, model)
    teacher = load_reference(tmp_path, what, other)  # read by a run that trains another model
    for numbers in ([3, 9], [0, 3, 3, 10, 5]):
        b = collate([rows["retain"][i] for i in numbers], pad_id=0, positions=what.positions.value)
        want = here.side(numbers, b)
        for stored in (own, teacher):
            actual = stored.side(numbers, b)
            for name in ("logps_N", "logits_NV", "hidden_ND"):
                mine, theirs = getattr(actual, name), getattr(want, name)
                assert (mine is None and theirs is None) or torch.equal(mine, theirs), name


def test_all_logits_are_the_exact_reference(make_model, rows) -> None:
    model = make_model()
    exact = reference(model, rows["retain"], range(11), LOGITS, pad_id=0)
    b = collate(rows["retain"], pad_id=0)
    for k in (67, 1000):
        all_of_it = reference(model, rows["retain"], range(11), LOGITS, pad_id=0, topk=k)
        actual, want = all_of_it.side(range(11), b), exact.side(range(11), b)
        torch.testing.assert_close(actual.logits_NV, want.logits_NV, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(actual.logps_N, want.logps_N, rtol=1e-5, atol=1e-5)
    assert not mass_outside(keep(model, rows["retain"], [1], LOGITS, pad_id=0, topk=67)).any()


def test_the_largest_logits_are_kept_and_the_rest_is_shared_evenly(make_model, rows) -> None:
    """And what the settings' page promises: total variation at most r, and KL at most r log(V - k)."""
    model = make_model()
    b = collate(rows["retain"], pad_id=0)
    exact = reference(model, rows["retain"], range(11), LOGITS, pad_id=0).side(range(11), b)
    before = None
    for k in (1, 4, 20, 60):
        stored_reference = keep(model, rows["retain"], range(11), LOGITS, pad_id=0, topk=k)
        actual = StoredReference(stored_reference, LOGITS).side(range(11), b)
        p, q = (torch.softmax(s.logits_NV.double(), -1) for s in (exact, actual))
        at = p.topk(k, dim=-1).indices
        torch.testing.assert_close(q.gather(-1, at), p.gather(-1, at), rtol=1e-5, atol=1e-9)
        rest = torch.ones_like(p, dtype=torch.bool).scatter(-1, at, False)
        r = (p * rest).sum(-1)
        torch.testing.assert_close(mass_outside(stored_reference).double(), r, rtol=1e-4, atol=1e-6)
        even = (r / (67 - k))[:, None].expand(-1, 67 - k)
        torch.testing.assert_close(q[rest].view(len(q), -1), even, rtol=1e-4, atol=1e-9)
        variation = (p - q).abs().sum(-1) / 2
        assert (variation <= r + 1e-6).all()
        assert ((p * (p / q).log()).sum(-1) <= r * max(torch.log(torch.tensor(67.0 - k)).item(), 0) + 1e-6).all()
        mean = variation.mean().item()
        assert before is None or mean < before
        before = mean
    assert before is not None and before < 0.01
