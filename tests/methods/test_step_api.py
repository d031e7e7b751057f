from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from toy_ask import Toy, vector

from expunge.core.errors import ConfigError
from expunge.methods.grad_transforms import (
    find_step,
    grad_transform,
    grad_transform_identity,
    grad_transform_registry,
    make_grad_transform,
    needed,
    spec_of,
)
from expunge.methods.grad_transforms.vectors import add, dot, moved, norm, over, running_mean


def test_every_file_of_the_folder_is_registered_with_a_page() -> None:
    assert list(grad_transform_registry()) == ["blur", "cir", "gru", "latent", "mudman", "sam", "tar"]
    for spec in grad_transform_registry().values():
        assert "Formula:" in spec.page and "Pitfalls:" in spec.page and "Try: expunge " in spec.page, spec.name
        assert spec.paper.startswith("arXiv:")


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"^args\.grad_transform: no gradient transform named 'smm'; did you mean 'sam'\?"
    ):
        make_grad_transform("smm", {}, "args")


def test_wrong_settings_are_named_with_their_key() -> None:
    with pytest.raises(ConfigError, match=r"^args\.grad_transform_args\.rh: unknown key; did you mean 'rho'"):
        make_grad_transform("sam", {"rh": 1}, "args")
    with pytest.raises(ConfigError, match=r"^args\.grad_transform_args\.rho: must be a number > 0, got 0"):
        make_grad_transform("sam", {"rho": 0}, "args")
    with pytest.raises(ConfigError, match=r"^args\.grad_transform_args\.layer: missing"):
        make_grad_transform("latent", {}, "args")


def test_identity_covers_name_revision_and_every_setting() -> None:
    assert grad_transform_identity(make_grad_transform("sam", {"rho": 0.5})) == {
        "name": "sam",
        "revision": 2,
        "args": {"rho": 0.5, "at": "forget"},
    }


def test_an_unregistered_rule_is_refused_and_a_name_is_taken_once() -> None:
    @dataclass(frozen=True)
    class Odd:
        pass

    with pytest.raises(ConfigError, match="gradient transform: Odd is not registered"):
        spec_of(Odd())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gradient transform sam: registered twice"):
        grad_transform("sam", revision=1, needs=(), paper="none")(Odd)
    assert find_step("sam").cls.__name__ == "SAM"


def test_arithmetic_is_over_all_tensors_together() -> None:
    a, b = [vector(1.0, 2.0), vector(2.0)], [vector(3.0, -1.0), vector(4.0)]
    assert dot(a, b).item() == 3 - 2 + 8
    assert norm(a).item() == 3.0  # sqrt(1 + 4 + 4)
    assert [x.tolist() for x in add(a, b, -2.0)] == [[-5.0, 4.0], [-6.0]]
    assert over(vector(3.0, 3.0), vector(2.0, 0.0)).tolist() == [1.5, 0.0]


def test_sums_of_half_precision_are_taken_in_float32() -> None:
    ones = [torch.ones(5000, dtype=torch.float16)]  # their sum passes what float16 counts exactly
    assert dot(ones, ones).item() == 5000.0
    assert add(ones, ones)[0].dtype == torch.float16


def test_the_running_mean_by_hand() -> None:
    memory: dict[str, object] = {}
    assert running_mean(memory, "m", [vector(4.0)], 0.75)[0].item() == 4.0
    assert running_mean(memory, "m", [vector(8.0)], 0.75)[0].item() == 5.0  # 3/4 of 4 and 1/4 of 8
    assert running_mean(memory, "m", [vector(1.0)], 0.75)[0].item() == 4.0
    assert running_mean({}, "m", [vector(1.0)], 0.0)[0].item() == 1.0


def test_moved_gives_the_bits_back_even_after_an_error() -> None:
    p = torch.tensor([0.1, 1e8, -3e-20], requires_grad=True)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), moved([p], [torch.tensor([1.0, 0.3, 5.0])]):
        assert p[0].item() == pytest.approx(1.1)
        raise RuntimeError("inside")
    assert torch.equal(p, before)
    assert p.requires_grad


def test_a_stack_changes_the_forget_gradient_in_the_order_written() -> None:
    """SAM over f = x^2 / 2 + 4y with rho 5, then GRU. By hand, at (3, 4) with the retain gradient (0, -1)."""
    params = [vector(3.0, 4.0)]
    toy = Toy(params, lambda p: p[0][0] ** 2 / 2 + 4 * p[0][1], lambda p: -p[0][1])
    stack = make_grad_transform(["sam", "gru"], {"sam": {"rho": 5.0}})
    # f' = (3, 4), length 5, so delta = (3, 4): f'(x + delta) = (6, 4). <(6, 4), (0, -1)> = -4 < 0: the conflict
    # -4 * (0, -1) = (0, 4) goes, (6, 0) remains; plus the retain gradient
    (actual,) = stack(toy, toy.params, {})
    assert actual.tolist() == [6.0, -1.0]
    assert grad_transform_identity(stack)["stack"][0]["args"]["rho"] == 5.0
    assert needed(stack) == ("forget", "retain")


@pytest.mark.parametrize(
    ("names", "args", "words"),
    [
        (["gru", "sam"], {}, r"^t\.grad_transform\[0\]: gru reads the retain gradient as well, so it must be the last"),
        (["latent", "gru"], {"latent": {"layer": "a"}}, r"^t\.grad_transform\[1\]: gru reads whole steps and latent"),
        (["sam", "sam"], {}, r"^t\.grad_transform: expected different transforms"),
        (["sam", "grv"], {}, r"^t\.grad_transform\[1\]: no gradient transform named 'grv'; did you mean 'gru'"),
        (["sam", "gru"], {"rho": 1}, r"^t\.grad_transform_args\.rho: not in the stack"),
        (["sam"], {"sam": {"rho": -1}}, r"^t\.grad_transform_args\.sam\.rho: must be a number > 0, got -1$"),
    ],
)
def test_a_stack_that_cannot_run_is_refused(names: list[str], args: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_grad_transform(names, args, "t")
