from __future__ import annotations

import math

import pytest
import torch
from key_value_toy import cases, tensor
from toy_ask import Toy, vector

from expunge.core.errors import ConfigError
from expunge.methods.grad_transforms import make_grad_transform
from expunge.methods.grad_transforms.tar import TAR
from expunge.methods.max_entropy import kl_to_uniform


def toy() -> Toy:
    """Forgetting is w^2/2, so its gradient tells where it was taken; relearning has a constant slope; retaining 5 w."""
    return Toy([vector(1.0)], lambda p: (p[0] ** 2).sum() / 2, lambda p: 5 * p[0].sum(), lambda p: (-p[0]).sum())


def test_the_gradients_along_the_attack_by_hand() -> None:
    # AdamW with a constant slope of -1 and weight decay 0.01 moves by lr (1 - 1e-8): w <- (1 - 0.01 lr) w + lr
    lr, w, path = 0.1, 1.0, []
    for _ in range(4):
        w = (1 - 0.01 * lr) * w + lr
        path.append(w)
    rule = TAR(steps=4, every=2, scale=3.0, weight_decay=0.5, adversary_lrs=(lr,))
    result = toy()
    (actual,) = rule(result, result.params, {})
    expected = 5 + 3 * (math.exp(-1.0) * path[1] + path[3])
    assert actual.item() == pytest.approx(expected, rel=1e-7)
    assert result.params[0].item() == 1.0
    assert result.asked.count("relearn") == 4 and result.asked.count("forget") == 2


def test_the_factors_equal_the_authors_and_plain_ones_sum_to_their_share() -> None:
    case = cases("tar")["schedule"]
    inputs = case["inputs"]
    rule = TAR(steps=inputs["steps"], every=1, weight_decay=inputs["decay"])
    assert rule.factors() == pytest.approx(case["outputs"], rel=1e-6)  # theirs are float32
    assert TAR(steps=8, every=4, weighted=False).factors() == [0, 0, 0, 1 / 8, 0, 0, 0, 1 / 8]


def test_the_papers_forget_term_is_the_method_me() -> None:
    # negative entropy = KL(p || uniform) - ln V
    case = cases("tar")["max_entropy"]
    logits = tensor(case["inputs"]["logits"])
    assert kl_to_uniform(logits).mean().item() - math.log(logits.shape[1]) == pytest.approx(case["outputs"], rel=1e-12)


def test_the_outer_gradient_equals_that_of_the_authors_loop() -> None:
    case = cases("tar")["loop"]
    inputs = case["inputs"]
    table = tensor(inputs["table"]).requires_grad_()

    def next_token(key: str) -> torch.Tensor:
        ids = torch.tensor(inputs[key])
        return torch.nn.functional.cross_entropy(table[ids[:-1]], ids[1:])

    terms = {
        "retain": lambda: next_token("retain"),
        "relearn": lambda: next_token("forget"),
        "forget": lambda: kl_to_uniform(table[torch.tensor(inputs["forget"])]).mean(),
    }
    rule = TAR(
        steps=inputs["steps"],
        every=inputs["every"],
        scale=inputs["scale"],
        weight_decay=inputs["decay"],
        adversary_lrs=(inputs["rate"],),
    )
    (actual,) = rule(lambda which: list(torch.autograd.grad(terms[which](), [table])), [table], {})
    torch.testing.assert_close(actual, tensor(case["outputs"]), rtol=1e-6, atol=1e-8)  # their factors are float32


def test_each_step_draws_a_rate_that_the_seed_determines() -> None:
    rule = TAR(steps=1, every=1, scale=1.0, adversary_lrs=(0.1, 0.2, 0.3))

    def rates(rule: TAR) -> list[float]:
        memory: dict[str, object] = {}
        out = []
        for _ in range(12):
            result = toy()
            out.append(round(rule(result, result.params, memory)[0].item() - 6, 6))
        return out

    assert len(set(rates(rule))) == 3
    assert rates(rule) == rates(rule) != rates(TAR(steps=1, every=1, scale=1.0, adversary_lrs=(0.1, 0.2, 0.3), seed=1))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"every": 65}, "every: must be at least 1 and at most steps"),
        ({"adversary_lrs": [0]}, "adversary_lrs: must be numbers > 0"),
        ({"steps": 0}, "steps: must be at least 1"),
    ],
)
def test_settings_are_checked(args: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"grad_transform_args.{message}"):
        make_grad_transform("tar", args)
