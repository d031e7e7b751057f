from __future__ import annotations

from typing import Any

import pytest
import torch
from key_value_toy import Toy, ToyStatistics, cases, tensor

from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoded
from expunge.evaluation.edit_statistics import search_targets
from expunge.methods.weight_edits import Moments, TargetSearch, make_weight_edit
from expunge.methods.weight_edits.alphaedit import AlphaEdit
from expunge.methods.weight_edits.memit import MEMIT

MEASURED = cases("memit")
INPUTS = MEASURED["targets"]["inputs"]
MODULES = ("layers.0.mlp.down", "layers.1.mlp.down")


@pytest.fixture
def toy() -> tuple[Toy, ToyStatistics]:
    model = Toy(INPUTS["parameters"])
    prompts = [prompt for prompt, _ in INPUTS["rows"]]
    return model, ToyStatistics(model, prompts, INPUTS["covariance"], MEASURED["targets"]["outputs"])


@pytest.mark.parametrize(
    ("rule", "measured"),
    [
        (MEMIT(modules=MODULES, covariance_weight=2.0), MEASURED["update"]["outputs"]),
        (AlphaEdit(modules=MODULES, threshold=0.6, ridge=0.3), cases("alphaedit")["update"]["outputs"]),
    ],
    ids=["MEMIT", "AlphaEdit"],
)
def test_updates_equal_the_authors(toy: Any, rule: Any, measured: dict[str, Any]) -> None:
    model, statistics = toy
    base = model.state_dict()
    edited = rule(base, statistics)
    assert {name for name in base if not torch.equal(base[name], edited[name])} == set(measured)
    for name, delta in measured.items():
        torch.testing.assert_close(edited[name] - base[name], tensor(delta), rtol=1e-8, atol=1e-10)


def test_targets_equal_those_of_the_authors_code() -> None:
    rows = [Encoded((*prompt, *target), len(prompt)) for prompt, target in INPUTS["rows"]]
    search = TargetSearch(steps=8, rate=0.5, decay=0.5, clamp=0.75)
    result = search_targets(Toy(INPUTS["parameters"]).eval(), rows, "layers.1", search, 0)
    torch.testing.assert_close(result, tensor(MEASURED["targets"]["outputs"]), rtol=1e-10, atol=1e-12)


class OneKey:
    """One key (1, 2), a state that lacks (3, 0), and retained keys along one axis."""

    def __init__(self, covariance: list[list[float]]) -> None:
        self.covariance = tensor(covariance)

    def states(self, name: str, of: Any, at: Any, changed: Any) -> Any:
        return tensor([[1.0, 2.0]] if name.endswith(":input") else [[5.0, 0.0]])

    def moments(self, names: Any, of: Any, at: Any) -> Any:
        return {name: Moments(1, self.covariance.sum(0), self.covariance) for name in names}

    def targets(self, name: str, search: Any) -> Any:
        return tensor([[8.0, 0.0]])


def test_one_key_by_hand() -> None:
    # MEMIT: (I + k k^T)^-1 k = k / (1 + 5), so D = (3, 0)^T (1, 2) / 6
    base = {"l.0.w.weight": torch.zeros(3, 2, dtype=torch.float64)[:2]}
    edited = MEMIT(modules=("l.0.w",), covariance_weight=1.0)(base, OneKey([[1, 0], [0, 1]]))
    assert edited["l.0.w.weight"].flatten().tolist() == pytest.approx([0.5, 1.0, 0, 0], rel=1e-14)
    # AlphaEdit: only the second axis is free, P k = (0, 2). (P k k^T + I)^-1 P k: rows (1, 0), (2, 5) -> (0, 2/5)
    edited = AlphaEdit(modules=("l.0.w",), threshold=0.5, ridge=1.0)(base, OneKey([[1, 0], [0, 0]]))
    assert edited["l.0.w.weight"].flatten().tolist() == pytest.approx([0, 1.2, 0, 0], abs=1e-14)


def test_retained_keys_keep_their_outputs_in_the_null_space(toy: Any) -> None:
    model, statistics = toy
    unused = torch.zeros(6, 6, dtype=torch.float64)
    unused[0, 0] = 4.0  # the only direction that retained keys have
    statistics.covariance = [unused, unused]
    edited = AlphaEdit(modules=MODULES, threshold=0.5, ridge=0.1)(model.state_dict(), statistics)
    delta = edited[f"{MODULES[0]}.weight"] - model.state_dict()[f"{MODULES[0]}.weight"]
    assert delta[:, 0].abs().max() < 1e-12 < delta[:, 1:].abs().max()


def test_a_weight_that_is_kept_transposed_gets_the_transposed_update() -> None:
    key = OneKey([[1, 0], [0, 1]])
    key.targets = lambda name, search: tensor([[8.0, 0.0, 1.0]])
    states = key.states
    key.states = lambda name, *a: states(name, *a) if name.endswith(":input") else tensor([[5.0, 0.0, 1.0]])
    rule = MEMIT(modules=("l.0.w",), covariance_weight=1.0)
    (plain,) = rule({"l.0.w.weight": torch.zeros(3, 2)}, key).values()
    (turned,) = rule({"l.0.w.weight": torch.zeros(2, 3)}, key).values()
    assert torch.equal(plain, turned.T) and plain.abs().sum() > 0


def test_errors_name_the_setting(toy: Any) -> None:
    model, statistics = toy
    with pytest.raises(ConfigError, match=r"^MEMIT.modules: the model has no tensor 'layers.0.mlp.dwn.weight'"):
        MEMIT(modules=("layers.0.mlp.dwn",))(model.state_dict(), statistics)
    with pytest.raises(ConfigError, match=r"^AlphaEdit.threshold: 1e-06 leaves no direction .* eigenvalue is 0.000355"):
        AlphaEdit(modules=MODULES, threshold=1e-6)(model.state_dict(), statistics)
    for name, args, message in (
        ("MEMIT", {"modules": ["head"]}, r"^edit_args.modules: must be inside numbered layers.*block"),
        ("MEMIT", {"modules": ["l.0.w:input"]}, r"^edit_args.modules: must name modules, not their inputs"),
        ("MEMIT", {"covariance_weight": 0}, r"^edit_args.covariance_weight: must be a number > 0"),
        ("AlphaEdit", {"ridge": 0}, r"^edit_args.ridge: must be a number > 0"),
        ("AlphaEdit", {"value_steps": 0}, r"^edit_args.value_steps: must be at least 1"),
        ("LUNAR", {"strength": 0}, r"^edit_args.strength: must be a number > 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_weight_edit(name, args)
