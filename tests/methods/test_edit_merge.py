"""The merging rules, by hand on vectors of three, and against peft's."""

from __future__ import annotations

import pytest
import torch
from peft.utils import merge_utils

from expunge.methods.weight_edits import make_weight_edit
from expunge.methods.weight_edits.merge import prune

BASE = {"w": torch.tensor([10.0, 10.0, 10.0])}


def models(*deltas: list[float]) -> list[dict[str, torch.Tensor]]:
    return [{"w": BASE["w"] + torch.tensor(d)} for d in deltas]


def merged(name: str, deltas: list[list[float]], **settings: object) -> list[float]:
    return (make_weight_edit(name, settings)(BASE, models(*deltas))["w"] - BASE["w"]).tolist()


def test_linear() -> None:
    assert merged("linear", [[1.0, -2.0, 0.0], [3.0, 2.0, 1.0]]) == [4.0, 0.0, 1.0]
    assert merged("linear", [[1.0, -2.0, 0.0], [3.0, 2.0, 1.0]], weights=[0.5, -1.0]) == [-2.5, -3.0, -1.0]


def test_magnitude_prune() -> None:
    # 2 of 3 are kept (floor of 0.8 * 3): the smallest of each goes
    assert merged("magnitude_prune", [[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]]) == [4.0, -2.0, -1.0]
    assert merged("magnitude_prune", [[1.0, -2.0, 0.5]], density=0.1) == [0.0, -2.0, 0.0]  # one at least
    assert merged("magnitude_prune", [[1.0, -2.0, 0.5]], density=1.0, weights=[2.0]) == [2.0, -4.0, 1.0]


def test_ties() -> None:
    # Trimmed to two each: (4, -2, 0) and (-1, 0, 3). Sums (3, -2, 3), so the signs are + - +.
    # First entry: only 4 agrees, so 4 and not 3; second: -2 alone; third: 3 alone.
    assert merged("ties", [[4.0, -2.0, 1.0], [-1.0, 0.5, 3.0]]) == [4.0, -2.0, 3.0]
    # Untrimmed, the third entry has two that agree: their mean is 2. The second: sum -1.5, so -2 alone.
    assert merged("ties", [[4.0, -2.0, 1.0], [-1.0, 0.5, 3.0]], density=1.0) == [4.0, -2.0, 2.0]


def test_ties_weights_scale_what_agrees_and_do_not_vote() -> None:
    # The vote of (3, -2) is + whatever the weights; 3 * 0.5 alone agrees in entry 1, and 1 * 0.5, 1 * 10 in entry 2.
    actual = merged("ties", [[3.0, 1.0, 0.0], [-2.0, 1.0, 0.0]], density=1.0, weights=[0.5, 10.0])
    assert actual == [1.5, 5.25, 0.0]


def test_ties_of_an_even_vote_is_nothing() -> None:
    assert merged("ties", [[2.0, 1.0, 0.0], [-2.0, 1.0, 0.0]], density=1.0) == [0.0, 1.0, 0.0]


def test_of_equal_magnitudes_the_earlier_stays() -> None:
    assert prune(torch.tensor([1.0, -2.0, 2.0, 2.0]), 0.5).tolist() == [0.0, -2.0, 2.0, 0.0]
    assert prune(torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize("density", [0.3, 0.8, 0.95])
def test_the_same_as_peft(density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(30, 20, generator=generator)
    deltas = [torch.randn(30, 20, generator=generator) for _ in range(3)]
    weights, others = (0.7, 1.0, 1.3), [{"w": base + d} for d in deltas]
    w = torch.tensor(weights)
    for name, theirs in (("ties", merge_utils.ties), ("magnitude_prune", merge_utils.magnitude_prune)):
        ours = make_weight_edit(name, {"density": density, "weights": weights})({"w": base}, others)["w"] - base
        torch.testing.assert_close(ours, theirs(deltas, w, density=density), rtol=1e-5, atol=2e-6)


def test_dare_drops_and_rescales() -> None:
    base = {"w": torch.zeros(200, 100)}
    edit = make_weight_edit("dare", {"density": 0.25})(base, [{"w": torch.full((200, 100), 3.0)}])["w"]
    assert sorted(set(edit.flatten().tolist())) == [0.0, 12.0]
    share = float((edit != 0).float().mean())
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 20000) ** 0.5
    assert float(edit.mean()) == pytest.approx(3.0, rel=0.07)


def test_dare_is_a_function_of_seed_name_and_place() -> None:
    base, other = {"a": torch.zeros(50), "b": torch.zeros(50)}, {"b": torch.ones(50), "a": torch.ones(50)}
    rule = make_weight_edit("dare", {"density": 0.5, "seed": 1})
    first, turned = rule(base, [other]), rule(dict(reversed(base.items())), [other])
    assert torch.equal(first["a"], turned["a"]) and torch.equal(first["b"], turned["b"])
    assert not torch.equal(first["a"], first["b"])
    assert not torch.equal(first["a"], make_weight_edit("dare", {"density": 0.5, "seed": 2})(base, [other])["a"])
    both = rule(base, [other, other])["a"]
    assert set(both.tolist()) == {0.0, 2.0, 4.0}  # the two models' masks differ


def test_dare_with_ties_and_full_density_is_ties_untrimmed() -> None:
    deltas = [[4.0, -2.0, 1.0], [-1.0, 0.5, 3.0]]
    assert merged("dare", deltas, density=1.0, combine="ties") == merged("ties", deltas, density=1.0)
    assert merged("dare", deltas, density=1.0) == merged("linear", deltas)
