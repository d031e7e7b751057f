from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from expunge.data.encoder import Encoded
from expunge.methods import Objective, objective
from expunge.models.config import ModelArgs
from expunge.models.load import load_model
from expunge.training.batching import LossInputBuilder
from expunge.training.phases import SIDES, TrainingSample, spec_for
from expunge.training.reference import reference

SAMPLES = [TrainingSample(2, 5), TrainingSample(0, 1), TrainingSample(3, 5), TrainingSample(6, 10)]
CPU = torch.device("cpu")


def server(goal: Objective, rows: Any, ref_model: Any, samples: list[TrainingSample] = SAMPLES) -> LossInputBuilder:
    """As the training loop makes it."""
    references: dict[str, Any] = {}
    for side in SIDES:
        what = spec_for(goal.needs, side, ref=True)
        if what is not None:
            references[side] = reference(ref_model, rows[side], [getattr(s, side) for s in samples], what, pad_id=0)
    return LossInputBuilder(goal.needs, rows, references, pad_id=0)


def gradient(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def differentiate(goal: Objective, model: Any, rows: Any, samples: list[TrainingSample], ref_model: Any = None) -> Any:
    model.zero_grad()
    terms = goal(server(goal, rows, ref_model or model, samples).view(model, samples, device=CPU))
    terms.total.backward()
    return terms, gradient(model)


def plain_nll(model: Any, rows: list[Encoded]) -> torch.Tensor:
    """Token-mean loss of the answers, each row by itself."""
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        first = max(row.n_prompt, 1)
        losses.append(F.cross_entropy(logits[first - 1 : -1], torch.tensor(row.ids[first:]), reduction="none"))
    return torch.cat(losses).mean()


def test_one_forward_for_both_sides_equals_two(make_model, rows) -> None:
    model = make_model()
    n_forwards = []
    handle = model.register_forward_pre_hook(lambda *_: n_forwards.append(1))
    both, joint = differentiate(objective("GradDiff", {"gamma": 0.7, "alpha": 1.3}), model, rows, SAMPLES)
    handle.remove()
    assert len(n_forwards) == 1
    forget, g_forget = differentiate(objective("GradAscent"), model, rows, SAMPLES)
    retain, g_retain = differentiate(objective("finetune"), model, rows, SAMPLES)
    torch.testing.assert_close(both.parts["forget"], forget.total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(both.parts["retain"], retain.total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(both.total, 0.7 * forget.total + 1.3 * retain.total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(joint, 0.7 * g_forget + 1.3 * g_retain, rtol=1e-5, atol=1e-6)


def test_equals_a_plain_computation(make_model, rows) -> None:
    model = make_model()
    terms, actual = differentiate(objective("GradDiff"), model, rows, SAMPLES)
    model.zero_grad()
    forget = plain_nll(model, [rows["forget"][s.forget] for s in SAMPLES])
    retain = plain_nll(model, [rows["retain"][s.retain] for s in SAMPLES])
    (retain - forget).backward()
    torch.testing.assert_close(terms.total, retain - forget, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actual, gradient(model), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("compat", ["paper", "openunlearning"])
def test_kl_to_itself_is_nothing(make_model, rows, compat: str) -> None:
    args = {"retain_loss_type": "KL", "compat": compat, "gamma": 0.0}
    terms, actual = differentiate(objective("GradDiff", args), make_model(), rows, SAMPLES)
    assert abs(float(terms.parts["retain"].detach())) < 1e-6
    assert float(actual.abs().max()) < 1e-5


def test_npo_starts_at_ln_2(make_model, rows) -> None:
    terms, _ = differentiate(objective("NPO", {"beta": 0.1, "alpha": 0.0}), make_model(), rows, SAMPLES)
    assert float(terms.total.detach()) == pytest.approx(20 * 0.6931472, rel=1e-5)


def test_all_positions_equals_a_plain_computation(make_model, rows) -> None:
    model, old = make_model(), make_model()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    goal = objective("GradDiff", {"retain_loss_type": "KL", "compat": "openunlearning", "gamma": 0.0})
    terms, actual = differentiate(goal, model, rows, SAMPLES, old)

    choice = [rows["retain"][s.retain] for s in SAMPLES]
    width = max(len(r.ids) for r in choice)
    ids = torch.tensor([[*r.ids, *[0] * (width - len(r.ids))] for r in choice])
    mask = torch.tensor([[1] * len(r.ids) + [0] * (width - len(r.ids)) for r in choice])
    model.zero_grad()
    logp = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1).flatten(0, 1)
    with torch.no_grad():
        ref = old(input_ids=ids, attention_mask=mask).logits.log_softmax(-1).flatten(0, 1)
    expected = F.kl_div(logp, ref, reduction="batchmean", log_target=True)
    expected.backward()
    torch.testing.assert_close(terms.parts["retain"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actual, gradient(model), rtol=1e-4, atol=1e-6)


def test_sides_not_asked_for_are_not_served(make_model, rows) -> None:
    goal = objective("finetune")
    view = server(goal, rows, None).view(make_model(), SAMPLES, device=CPU)
    assert view.forget is None and view.forget_ref is None and view.retain_ref is None
    assert view.retain is not None and view.retain.logits_NV is None
    assert view.retain.n_rows == len(SAMPLES)


ENTRIES = [
    ("grad_ascent", "paper"),
    ("grad_diff_nll", "paper"),
    ("grad_diff_kl", "openunlearning"),
    ("grad_diff_kl", "paper"),
    ("npo_nll", "paper"),
    ("npo_kl", "openunlearning"),
    ("npo_kl", "paper"),
]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "compat"), ENTRIES)
def test_golden_losses_and_gradients(shared: Path, name: str, compat: str) -> None:
    """OpenUnlearning's own numbers; with compat=paper the corrected ones, where it has a known defect."""
    folder = shared / "golden" / "visible"
    entry = json.loads((folder / "losses" / "losses.json").read_text())[name]
    expected = entry["corrected"] if compat == "paper" and "corrected" in entry else entry
    rows = _golden_rows(json.loads((folder / "losses" / "batch.json").read_text()))
    model, old = (
        load_model(str(folder / "tiny_llama" / which), ModelArgs(), device=CPU) for which in ("current", "full")
    )
    goal = objective(entry["trainer"], entry["hyperparameters"] | {"compat": compat})
    terms, actual = differentiate(goal, model, rows, [TrainingSample(i, i) for i in range(4)], old)
    assert float(terms.total.detach()) == pytest.approx(expected["loss"], rel=1e-4)
    assert float(actual.norm()) == pytest.approx(expected["grad_l2_total"], rel=1e-4)
    for part, numbers in expected["terms"].items():
        assert float(terms.parts[part].detach()) == pytest.approx(numbers["value"], rel=1e-4), part
    named = dict(model.named_parameters())
    for tensor, norm in expected["grad_l2_named"].items():
        assert float(named[tensor].grad.norm()) == pytest.approx(norm, rel=1e-4), tensor


def _golden_rows(batch: dict[str, Any]) -> dict[str, list[Encoded]]:
    out: dict[str, list[Encoded]] = {}
    for side in ("forget", "retain"):
        part = batch[side]
        out[side] = []
        for ids, mask, labels in zip(part["input_ids"], part["attention_mask"], part["labels"], strict=True):
            n = sum(mask)
            out[side].append(Encoded(tuple(ids[:n]), sum(label == -100 for label in labels[:n])))
    return out
