from __future__ import annotations

import pytest
import torch
from toy_ask import Toy, fixed, vector

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.methods.grad_transforms import needed
from expunge.methods.grad_transforms.mudman import MUDMAN

FORGET = [vector(3.0, -1.0, 2.0), vector(4.0, 7.0)]
RETAIN = [vector(0.5, 1.0, -2.0), vector(1.0, 0.0)]  # same sign: the first of each; sign(0) is no sign of 7


def flat(gradient) -> list[float]:
    return torch.cat(gradient).tolist()


def test_the_mask_keeps_entries_of_equal_sign() -> None:
    toy = fixed(FORGET, RETAIN)
    actual = MUDMAN(forget_norm=None, keep_retain=False)(toy, toy.params, {})
    assert flat(actual) == [3.0, 0.0, 0.0, 4.0, 0.0]


def test_the_norm_is_over_all_parameters_and_taken_before_the_mask() -> None:
    # (3, -1, 2, 4, 7) has norm sqrt(79); what the mask leaves, (3, 4), keeps its share of it
    toy = fixed(FORGET, RETAIN)
    actual = MUDMAN(forget_norm=79**0.5 * 2, keep_retain=False)(toy, toy.params, {})
    assert flat(actual) == pytest.approx([6.0, 0.0, 0.0, 8.0, 0.0], rel=1e-14)


def test_the_retain_gradient_is_added() -> None:
    toy = fixed(FORGET, RETAIN)
    assert flat(MUDMAN(forget_norm=79**0.5)(toy, toy.params, {})) == pytest.approx([3.5, 1.0, -2.0, 5.0, 0.0])


def test_where_nothing_agrees_only_retaining_is_left() -> None:
    toy = fixed([vector(1.0, -1.0)], [vector(-2.0, 3.0)])
    assert flat(MUDMAN()(toy, toy.params, {})) == [-2.0, 3.0]


def test_with_momentum_signs_are_those_of_the_running_mean() -> None:
    rule, memory = MUDMAN(forget_norm=None, momentum=0.5, keep_retain=False), {}
    toy = fixed([vector(1.0)], [vector(4.0)])
    rule(toy, toy.params, memory)
    toy = fixed([vector(1.0)], [vector(-2.0)])  # the mean is 1
    assert flat(rule(toy, toy.params, memory)) == [1.0]
    assert flat(rule(toy, toy.params, {})) == [0.0]


def adversary(**keys: object) -> tuple[MUDMAN, Toy]:
    """Forgetting is w^2/2, so its gradient tells where it was taken; relearning is (w - 9)^2/2; retaining agrees."""
    toy = Toy(
        [vector(1.0)], lambda p: (p[0] ** 2).sum() / 2, lambda p: p[0].sum(), lambda p: ((p[0] - 9) ** 2).sum() / 2
    )
    return MUDMAN(**{"forget_norm": None, "keep_retain": False, "adversary_lr": 0.5, "fork_every": 3, **keys}), toy


def test_the_forget_gradient_is_the_adversarys_who_relearns_and_begins_anew() -> None:
    # lr 1/2 halves the distance to 9 each time: 1, 5, 7, and then a new copy of the weights, meanwhile at 2
    rule, toy = adversary()
    memory: dict[str, object] = {}
    before = toy.params[0].detach().clone()
    actual = [flat(rule(toy, toy.params, memory))[0] for _ in range(3)]
    assert actual == [1.0, 5.0, 7.0]
    assert torch.equal(toy.params[0], before) and toy.params[0].requires_grad
    with torch.no_grad():
        toy.params[0].fill_(2.0)
    assert [flat(rule(toy, toy.params, memory))[0] for _ in range(2)] == [2.0, 5.5]
    assert toy.asked[:3] == ["retain", "forget", "relearn"]


def test_more_relearning_steps_take_the_adversary_further() -> None:
    rule, toy = adversary(relearn_steps=2)
    memory: dict[str, object] = {}
    assert [flat(rule(toy, toy.params, memory))[0] for _ in range(3)] == [1.0, 7.0, 8.5]


def test_without_meta_learning_nothing_is_relearnt() -> None:
    rule, toy = adversary(meta=False)
    memory: dict[str, object] = {}
    assert [flat(rule(toy, toy.params, memory))[0] for _ in range(3)] == [1.0, 1.0, 1.0]
    assert "relearn" not in toy.asked and "relearn" not in needed(rule)
    assert needed(adversary()[0]) == ("forget", "retain", "relearn")


def test_the_weights_come_back_if_asking_fails() -> None:
    rule, toy = adversary()
    memory: dict[str, object] = {}
    rule(toy, toy.params, memory)

    def fail(params: object) -> torch.Tensor:
        assert toy.params[0].item() == 5.0  # the adversary's
        raise RuntimeError("inside")

    toy.terms["forget"] = fail
    with pytest.raises(RuntimeError, match="inside"):
        rule(toy, toy.params, memory)
    assert toy.params[0].item() == 1.0


def test_the_retain_gradient_is_taken_at_the_weights_themselves() -> None:
    toy = Toy([vector(1.0)], None, lambda p: (p[0] ** 2).sum() / 2, lambda p: -8 * p[0].sum())
    rule, memory = MUDMAN(adversary_lr=1.0, momentum=0.0), {}
    assert [flat(rule(toy, toy.params, memory))[0] for _ in range(2)] == [1.0, 1.0]


@pytest.mark.parametrize(
    "keys",
    [
        {"forget_norm": 0},
        {"forget_norm": -1},
        {"momentum": 1},
        {"adversary_lr": 0},
        {"relearn_steps": 0},
        {"fork_every": 1},
    ],
)
def test_settings_are_checked(keys) -> None:
    with pytest.raises(ConfigError, match=rf"^grad_transform_args\.{next(iter(keys))}: must be "):
        decode(MUDMAN, keys, where="grad_transform_args")
