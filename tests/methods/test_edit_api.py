from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods.weight_edits import make_weight_edit, weight_edit, weight_edit_registry
from expunge.methods.weight_edits.api import seeded

F = torch.tensor([1.0, 2.0])


def test_every_edit_is_registered_with_a_page() -> None:
    assert list(weight_edit_registry()) == [
        "AlphaEdit",
        "dare",
        "linear",
        "LUNAR",
        "magnitude_prune",
        "MEMIT",
        "noise",
        "quantize",
        "task_vector",
        "ties",
    ]
    for spec in weight_edit_registry().values():
        assert "Formula:" in spec.page and "Pitfalls:" in spec.page, spec.name


def test_wrong_names_and_settings_are_answered_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^edit: no edit named 'tie'; did you mean 'ties'\?"):
        make_weight_edit("tie", {})
    with pytest.raises(ConfigError, match=r"^edit_args\.densty: unknown key; did you mean 'density'"):
        make_weight_edit("ties", {"densty": 0.5})
    with pytest.raises(ConfigError, match="edit ties: registered twice"):

        @weight_edit("ties", revision=1, others="", paper="none")
        @dataclass(frozen=True)
        class Other:
            pass


READERS = ["dare", "linear", "magnitude_prune", "task_vector", "ties"]


@pytest.mark.parametrize("name", READERS)
def test_models_that_differ_are_refused_by_the_tensors_name(name: str) -> None:
    rule, base = make_weight_edit(name, {}), {"layer.weight": F, "layer.bias": F}
    with pytest.raises(ConfigError, match=r"has no tensor 'layer\.bias', which the base has"):
        rule(base, [{"layer.weight": F}])
    with pytest.raises(ConfigError, match=r"'extra'"):
        rule(base, [{**base, "extra": F}])
    with pytest.raises(ConfigError, match=r"'layer\.bias' has shape \(1,\), in the base it has \(2,\)"):
        rule(base, [{**base, "layer.bias": F[:1]}])


@pytest.mark.parametrize("name", ["dare", "linear", "magnitude_prune", "ties"])
def test_the_second_of_two_models_is_named_and_weights_are_counted(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^model 2: has no tensor 'w'"):
        make_weight_edit(name, {})({"w": F}, [{"w": F}, {}])
    with pytest.raises(ConfigError, match=r"^weights: 1 given for 2 models"):
        make_weight_edit(name, {"weights": [1.0]})({"w": F}, [{"w": F}, {"w": F}])
    with pytest.raises(ConfigError, match="no models to merge"):
        make_weight_edit(name, {})({"w": F}, [])
    with pytest.raises(ConfigError, match=r"^edit_args\.weights: must be a list of finite numbers"):
        make_weight_edit(name, {"weights": []})


@pytest.mark.parametrize("name", ["dare", "magnitude_prune", "ties"])
@pytest.mark.parametrize("density", [0, -0.1, 1.1])
def test_density_is_a_share(name: str, density: float) -> None:
    with pytest.raises(ConfigError, match=r"^edit_args\.density: must be greater than 0 and at most 1"):
        make_weight_edit(name, {"density": density})


@pytest.mark.parametrize("name", READERS)
def test_nothing_given_is_changed_and_what_comes_back_is_new(name: str) -> None:
    base = {"w": F.clone(), "steps": torch.tensor([7])}
    other = {"w": F + 1, "steps": torch.tensor([9])}
    edit = make_weight_edit(name, {})(base, [other])
    assert torch.equal(base["w"], F) and torch.equal(other["w"], F + 1)
    assert not torch.equal(edit["w"], F)
    assert edit["steps"].tolist() == [7]  # whole numbers are the base's
    edit["steps"].zero_()
    assert base["steps"].tolist() == [7]


def test_half_precision_is_computed_wide_and_cast_back() -> None:
    # in bfloat16 256 + 1 is 256: three differences of 1 would each be lost
    base = {"w": torch.tensor([256.0], dtype=torch.bfloat16)}
    others = [{"w": torch.tensor([258.0], dtype=torch.bfloat16)}] * 3
    edit = make_weight_edit("linear", {"weights": [0.5, 0.5, 0.5]})(base, others)["w"]
    assert edit.dtype == torch.bfloat16 and edit.item() in (258.0, 260.0)  # 259 rounds to an even neighbour


def test_tied_names_get_one_result() -> None:
    tied = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    edit = make_weight_edit("noise", {"a": 0.5})({"embed": tied, "head": tied, "other": tied.clone()}, [])
    assert edit["embed"] is edit["head"]
    assert not torch.equal(edit["embed"], edit["other"])


def test_draws_depend_on_seed_and_names_alone() -> None:
    first = torch.rand(5, generator=seeded(0, "a", 1))
    assert torch.equal(first, torch.rand(5, generator=seeded(0, "a", 1)))
    for other in (seeded(1, "a", 1), seeded(0, "b", 1), seeded(0, "a", 2), seeded(0, "a1")):
        assert not torch.equal(first, torch.rand(5, generator=other))
