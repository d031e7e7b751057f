from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.methods import LossInputs, Quantity, ScoredPositions, TermWeights, objective
from expunge.methods.objective import kl_to_reference, retain_loss

GOLDEN = Path(__file__).parent.parent / "golden" / "losses"


def random_logits(n: int, v: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(n, v, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def side_of(logit_side, logits: torch.Tensor):
    return logit_side(logits, torch.zeros(len(logits), dtype=torch.long), torch.zeros(len(logits), dtype=torch.long))


def test_kl_is_zero_at_the_reference_and_positive_elsewhere(logit_side) -> None:
    ref = random_logits(6, 11, seed=0)
    same = side_of(logit_side, ref + 5.0)  # softmax does not see a shift
    assert kl_to_reference(side_of(logit_side, ref), same).item() == pytest.approx(0.0, abs=1e-14)
    for seed in range(1, 30):
        other = side_of(logit_side, random_logits(6, 11, seed))
        assert kl_to_reference(side_of(logit_side, ref), other).item() > 0.1


def test_the_gradient_of_kl_in_closed_form_and_by_differences(logit_side) -> None:
    # d/d logits of mean_N KL(p_ref || p) = (p - p_ref) / N
    ref = random_logits(3, 5, seed=0)
    logits = random_logits(3, 5, seed=1).requires_grad_()
    kl_to_reference(side_of(logit_side, ref), side_of(logit_side, logits)).backward()
    expected = (logits.detach().softmax(-1) - ref.softmax(-1)) / 3
    torch.testing.assert_close(logits.grad, expected, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(
        lambda x: kl_to_reference(side_of(logit_side, ref), side_of(logit_side, x)), (logits,)
    )


def test_the_order_of_positions_does_not_count_for_kl(logit_side) -> None:
    ref, now = random_logits(6, 11, seed=0), random_logits(6, 11, seed=1)
    turn = torch.tensor([3, 0, 5, 1, 4, 2])
    one = kl_to_reference(side_of(logit_side, ref), side_of(logit_side, now)).item()
    assert one == pytest.approx(kl_to_reference(side_of(logit_side, ref[turn]), side_of(logit_side, now[turn])).item())


def test_what_was_not_served_is_an_error_of_the_caller(side) -> None:
    with pytest.raises(ValueError, match="not provided"):
        retain_loss(TermWeights(retain_loss_type="NLL"), LossInputs())
    with pytest.raises(ValueError, match="logits, which were not provided"):
        retain_loss(TermWeights(retain_loss_type="KL"), LossInputs(retain=side([[-1.0]]), retain_ref=side([[-1.0]])))


@pytest.mark.parametrize(
    ("name", "args", "line"),
    [
        ("NPO", {"bta": 1}, "trainer.method_args.bta: NPO has no such setting; did you mean 'beta'?"),
        ("NPO", {"beta": 0}, "trainer.method_args.beta: must be a number > 0, got 0"),
        ("NPO", {"beta": -1.5}, "trainer.method_args.beta: must be a number > 0, got -1.5"),
        ("NPO", {"beta": "small"}, "trainer.method_args.beta: should be a valid number, got 'small'"),
        ("NPO", {"gamma": True}, "trainer.method_args.gamma: should be a number, got True"),
        ("NPO", {"alpha": -1}, "trainer.method_args.alpha: must be a number >= 0, got -1"),
        ("NPO", {"compat": "tofu"}, "trainer.method_args.compat: should be 'paper' or 'openunlearning', got 'tofu'"),
        ("GradDiff", {"retain_loss_type": "KLD"}, "trainer.method_args.retain_loss_type: should be 'NLL', 'KL',"),
        ("GradDiff", {"retain_loss_type": "EMBED_DIFF"}, "trainer.method_args.retain_loss_type: EMBED_DIFF compares"),
        (
            "GradAscent",
            {"alpha": 1},
            "trainer.method_args.alpha: GradAscent has no such setting (allowed: compat, gamma)",
        ),
        ("GradAscent", {"gamma": 0}, "trainer.method_args: GradAscent has nothing to minimise with these weights"),
        ("GradDiff", {"gamma": 0, "alpha": 0}, "trainer.method_args: GradDiff has nothing to minimise"),
        ("finetune", {"alpha": 0}, "trainer.method_args: finetune has nothing to minimise with these weights"),
        ("npo", {}, "trainer.handler: no method named 'npo'; did you mean 'NPO'?"),
    ],
)
def test_wrong_settings_are_told_in_one_line(name: str, args: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        objective(name, args)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_numbers_written_as_text_are_read() -> None:
    loss = objective("NPO", {"beta": "5e-2", "alpha": "2"})
    assert (loss.method.beta, loss.weights.alpha) == (0.05, 2.0)


def test_the_needs_follow_the_retain_loss() -> None:
    def retain(**args: Any) -> tuple[Quantity | None, Quantity | None, ScoredPositions]:
        needs = objective("GradDiff", args).needs
        return needs.retain, needs.retain_ref, needs.retain_positions

    assert retain() == (Quantity.LOGPS, None, ScoredPositions.ANSWER)
    assert retain(retain_loss_type="KL") == (Quantity.LOGITS, Quantity.LOGITS, ScoredPositions.ANSWER)
    assert retain(retain_loss_type="KL", compat="openunlearning") == (
        Quantity.LOGITS,
        Quantity.LOGITS,
        ScoredPositions.ALL,
    )
    assert retain(compat="openunlearning") == (Quantity.LOGPS, None, ScoredPositions.ANSWER)
    assert retain(alpha=0)[:2] == (None, None)
    assert retain(retain_loss_type="KL", alpha=0)[:2] == (None, None)


def test_every_setting_counts_for_the_identity() -> None:
    inputs: list[tuple[str, dict[str, Any]]] = [
        ("NPO", {}),
        ("NPO", {"beta": 0.2}),
        ("NPO", {"gamma": 2}),
        ("NPO", {"alpha": 2}),
        ("NPO", {"retain_loss_type": "KL"}),
        ("NPO", {"retain_loss_type": "KL", "compat": "openunlearning"}),
        ("GradDiff", {}),
    ]
    prints = [fingerprint(objective(name, args).identity) for name, args in inputs]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprint(objective("NPO", {"beta": "0.1", "gamma": 1}).identity)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda p: p.stem)
def test_golden_cases(path: Path, side, logit_side) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    view = LossInputs(**{name: build(inputs, side, logit_side) for name, inputs in case["view"].items()})
    terms = objective(case["method"], case["args"])(view)
    assert terms.total.item() == pytest.approx(case["loss"], rel=1e-12)
    assert {k: v.item() for k, v in terms.parts.items()} == pytest.approx(case["terms"], rel=1e-12)


def build(settings: dict[str, Any], side, logit_side):
    """Rows of token probabilities, or the distribution at each position with the token that stands there."""
    if "probs" in settings:
        return side([torch.tensor(row, dtype=torch.float64).log() for row in settings["probs"]])
    logits = torch.tensor(settings["distributions"], dtype=torch.float64).log()
    return logit_side(logits, torch.tensor(settings["tokens"]), torch.tensor(settings["rows"]))


def test_the_golden_cases_cover_the_methods_that_are_there() -> None:
    cases = [json.loads(p.read_text(encoding="utf-8")) for p in GOLDEN.glob("*.json")]
    assert {(c["method"], c["args"].get("retain_loss_type")) for c in cases} >= {
        ("GradAscent", None),
        ("GradDiff", None),
        ("GradDiff", "KL"),
        ("NPO", None),
        ("finetune", None),
    }


@pytest.mark.parametrize(("loss", "actual"), [(torch.zeros(2), r"a tensor of shape \(2,\)"), (1.5, "float")])
def test_a_loss_that_is_not_one_number_is_told(loss: object, actual: str, side) -> None:
    class Wrong:
        def forget_loss(self, view: LossInputs) -> object:
            return loss

    goal = dataclasses.replace(objective("GradAscent"), method=Wrong())
    with pytest.raises(ConfigError, match=rf"^method GradAscent: forget_loss returned {actual}; a loss is one number"):
        goal(LossInputs(forget=side([[-1.0, -2.0]])))


@pytest.mark.parametrize(
    "loss",
    [
        lambda view: view.forget.logits_NV.sum(),
        lambda view: torch.log_softmax(view.forget.logits_NV, -1).sum(),
        lambda view: view.forget.per_token(torch.sum).mean(),
        lambda view: view.retain.logps_N.mean(),
    ],
)
def test_a_loss_that_reads_an_input_beyond_its_requirements_is_told(loss: Any, side) -> None:
    goal = dataclasses.replace(objective("GradAscent"), method=SimpleNamespace(forget_loss=loss))
    with pytest.raises(
        ConfigError,
        match=r"^method GradAscent: its loss reads an input that is None \(.*\); its .* are forget='logps'$",
    ):
        goal(LossInputs(forget=side([[-1.0, -2.0]])))


def test_an_error_of_the_loss_itself_is_kept(side) -> None:
    def loss(view: LossInputs) -> Any:
        raise ValueError("beta is wrong")

    goal = dataclasses.replace(objective("GradAscent"), method=SimpleNamespace(forget_loss=loss))
    with pytest.raises(ValueError, match=r"^beta is wrong$"):
        goal(LossInputs(forget=side([[-1.0, -2.0]])))
