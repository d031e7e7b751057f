"""Our losses against numbers measured by running OpenUnlearning (../shared/golden/visible/losses)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.methods import LossInputs, Objective, Quantity, ScoredPositions, SideOutputs, objective

pytestmark = pytest.mark.shared

# name of the golden entry, our arguments, whether it is the peer's number (or the one corrected to the paper)
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("grad_ascent", {}, True),
    ("grad_diff_nll", {}, True),
    ("grad_diff_kl", {}, False),
    ("grad_diff_kl", {"compat": "openunlearning"}, True),
    ("npo_nll", {}, True),
    ("npo_kl", {}, False),
    ("npo_kl", {"compat": "openunlearning"}, True),
    ("dpo_nll", {}, True),
    ("simnpo", {}, True),
    ("simnpo_delta", {}, True),
    ("rmu", {}, False),
    ("rmu", {"compat": "openunlearning"}, True),
    ("undial", {}, False),
    ("undial", {"compat": "openunlearning"}, True),
    ("undial_retain", {}, False),
    ("undial_retain", {"compat": "openunlearning"}, True),
    ("ceu", {}, True),
    ("ceu_skip0", {}, True),
    ("wga", {}, True),
    ("satimp", {}, True),
    ("pdu", {}, False),
    ("pdu", {"compat": "openunlearning"}, True),
]
SIDES = ("forget", "alternate", "retain")
REL = 1e-4  # the suggested tolerance of the golden set's own page, float32 on other kernels


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "visible"


@pytest.fixture(scope="module")
def losses(golden: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((golden / "losses" / "losses.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def batch(golden: Path) -> dict[str, dict[str, Tensor]]:
    read = json.loads((golden / "losses" / "batch.json").read_text(encoding="utf-8"))
    return {side: {k: torch.tensor(v) for k, v in read[side].items()} for side in SIDES}


@pytest.fixture(scope="module")
def memory(golden: Path) -> dict[str, Any]:
    """What the loop and RMU keep: the epoch, and a control vector of length 1 (the stored one is scaled by 2)."""
    read = json.loads((golden / "losses" / "rmu_control_vector.json").read_text(encoding="utf-8"))
    scaled = torch.tensor(read["control_vector"] if isinstance(read, dict) else read, dtype=torch.float64).flatten()
    return {"epoch": 0, "control": (scaled / 2).float()}


@pytest.fixture(scope="module")
def models(golden: Path) -> dict[str, nn.Module]:
    from transformers import AutoModelForCausalLM

    return {
        name: AutoModelForCausalLM.from_pretrained(golden / "tiny_llama" / name, dtype=torch.float32).eval()
        for name in ("current", "full")
    }


def serve(
    model: nn.Module, rows: dict[str, Tensor], serve: Quantity, positions: ScoredPositions, layer: str | None
) -> SideOutputs:
    """The side of a padded batch: position t says what stands at t + 1 (or at t, for `OWN`)."""
    inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    labels_BT = torch.cat([rows["labels"][:, 1:], torch.full_like(rows["labels"][:, :1], -100)], dim=1)
    if positions is ScoredPositions.OWN:
        labels_BT = torch.cat([torch.full_like(labels_BT[:, :1], -100), rows["labels"][:, 1:]], dim=1)
    at = torch.ones_like(labels_BT, dtype=torch.bool) if positions is ScoredPositions.ALL else labels_BT != -100
    row_N, _ = torch.nonzero(at, as_tuple=True)
    labels_N, n_rows = labels_BT[at], len(labels_BT)
    if serve is Quantity.HIDDEN:
        assert layer is not None
        hidden_BTD = layer_output(model, inputs, layer)
        return SideOutputs(hidden_BTD.new_zeros(0), row_N, n_rows, token_N=labels_N, hidden_ND=hidden_BTD[at])
    logits_NV = model(**inputs).logits[at]
    token_N = labels_N.clamp(min=0)
    logps_N = torch.log_softmax(logits_NV, dim=-1).gather(-1, token_N[:, None])[:, 0]
    labelled_N = labels_N != -100 if positions is ScoredPositions.ALL else None
    rest = logits_NV if serve is Quantity.LOGITS else None
    return SideOutputs(logps_N, row_N, n_rows, logits_NV=rest, token_N=token_N, labelled_N=labelled_N)


def layer_output(model: nn.Module, source: dict[str, Tensor], layer: str) -> Tensor:
    survivors: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        survivors.append(output[0] if isinstance(output, tuple) else output)

    handle = model.get_submodule(layer).register_forward_hook(keep)
    model(**source)
    handle.remove()
    return survivors[0]


def view_of(
    result: Objective,
    models: dict[str, nn.Module],
    batch: dict[str, dict[str, Tensor]],
    memory: dict[str, Any],
) -> LossInputs:
    needs, sides = result.needs, {}
    for name in SIDES:
        where = getattr(needs, f"{name}_positions", ScoredPositions.ANSWER)
        now, ref = getattr(needs, name), getattr(needs, f"{name}_ref")
        if now is not None:
            sides[name] = serve(models["current"], batch[name], now, where, needs.layer)
        if ref is not None:
            with torch.no_grad():
                sides[f"{name}_ref"] = serve(models["full"], batch[name], ref, where, needs.layer)
    return LossInputs(**sides, memory=dict(memory))


def grad_norm(loss: Tensor, model: nn.Module) -> float:
    grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    return sum(g.double().pow(2).sum().item() for g in grads if g is not None) ** 0.5


@pytest.mark.parametrize(
    ("entry", "args", "theirs"), CASES, ids=[f"{c[0]}-{'peer' if c[2] else 'paper'}" for c in CASES]
)
def test_loss_terms_and_gradients(
    entry: str,
    args: dict[str, Any],
    theirs: bool,
    losses: dict[str, Any],
    batch: dict[str, dict[str, Tensor]],
    models: dict[str, nn.Module],
    memory: dict[str, Any],
) -> None:
    case = losses[entry]
    expected = case if theirs else case["corrected"]
    loss = objective(case["trainer"], case["hyperparameters"] | args)
    terms = loss(view_of(loss, models, batch, memory))
    assert terms.total.item() == pytest.approx(expected["loss"], rel=REL)
    assert grad_norm(terms.total, models["current"]) == pytest.approx(expected["grad_l2_total"], rel=REL)
    # the peer also computes a retain term of weight 0; ours is not
    used = {k: v for k, v in expected["terms"].items() if k == "forget" or loss.weights.alpha > 0}
    assert set(terms.parts) == set(used)
    for name, term in used.items():
        assert terms.parts[name].item() == pytest.approx(term["value"], rel=REL), name
        assert grad_norm(terms.parts[name], models["current"]) == pytest.approx(term["grad_l2_total"], rel=REL), name


ALONE = [
    ("grad_ascent", {}),
    ("grad_diff_nll", {}),
    ("npo_nll", {}),
    ("dpo_nll", {}),
    ("simnpo", {}),
    ("simnpo_delta", {}),
    ("rmu", {}),
    ("rmu", {"compat": "openunlearning"}),  # one row alone: no difference between the two
    ("undial_retain", {"compat": "openunlearning"}),
    ("ceu", {}),
    ("wga", {}),
    ("satimp", {}),
    ("pdu", {"compat": "openunlearning"}),
]


@pytest.mark.parametrize(("entry", "args"), ALONE, ids=[f"{e}-{a.get('compat', 'paper')}" for e, a in ALONE])
def test_rows_alone(
    entry: str,
    args: dict[str, Any],
    losses: dict[str, Any],
    batch: dict[str, dict[str, Tensor]],
    models: dict[str, nn.Module],
    memory: dict[str, Any],
) -> None:
    case = losses[entry]
    loss = objective(case["trainer"], case["hyperparameters"] | args)
    for i in range(4):
        alone = {}
        for name, rows in batch.items():
            width = int(rows["attention_mask"][i].sum())
            alone[name] = {k: v[i : i + 1, :width] for k, v in rows.items()}
        with torch.no_grad():
            parts = loss(view_of(loss, models, alone, memory)).parts
        for name, values in case["rows_at_batch_1"].items():
            assert parts[name].item() == pytest.approx(values[i], rel=REL), (name, i)


def test_the_dual_variable_of_two_calls(
    losses: dict[str, Any], batch: dict[str, dict[str, Tensor]], models: dict[str, nn.Module]
) -> None:
    case = losses["pdu"]
    loss = objective("PDU", case["hyperparameters"] | {"compat": "openunlearning"})
    view = view_of(loss, models, batch, {"epoch": 0})
    assert loss(view).total.item() == pytest.approx(case["loss"], rel=REL)
    assert view.memory["dual"].item() == pytest.approx(case["dual"]["preferences_after_call_1"][1], rel=REL)
    assert loss(view).total.item() == pytest.approx(case["dual"]["loss_call_2_same_batch"], rel=REL)
    assert view.memory["dual"].item() == pytest.approx(case["dual"]["preferences_after_call_2"][1], rel=REL)
