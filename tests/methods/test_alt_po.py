from __future__ import annotations

import pytest

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective


def test_the_loss_is_that_of_dpo_and_the_weights_are_its_own(side) -> None:
    view = LossInputs(
        forget=side([[-1.0, -2.0], [-4.0]]),
        forget_ref=side([[-0.5, -0.5], [-1.0]]),
        alternate=side([[-2.0], [-3.0]]),
        alternate_ref=side([[-4.0], [-1.0]]),
        retain=side([[-1.0], [-3.0]]),
    )
    alt, dpo = objective("AltPO", {"beta": 0.3}), objective("DPO", {"beta": 0.3})
    assert alt.needs == dpo.needs
    assert alt(view).parts["forget"].item() == dpo(view).parts["forget"].item()
    assert alt(view).total.item() == pytest.approx(dpo(view).total.item() + 2.0, rel=1e-15)  # alpha 2, NLL_r = 2
    assert alt.identity != dpo.identity


def test_a_wrong_beta_is_told() -> None:
    with pytest.raises(ConfigError, match=r"beta: must be a number > 0, got -1"):
        objective("AltPO", {"beta": -1})
