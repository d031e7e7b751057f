from __future__ import annotations

import pytest

from expunge.methods import LossInputs, objective
from expunge.methods.finetune import Finetune


def test_it_is_the_token_mean_loss_of_its_rows(side) -> None:
    # (1 + 2 + 6) / 3 = 3
    terms = objective("finetune")(LossInputs(retain=side([[-1.0, -2.0], [-6.0]])))
    assert terms.total.item() == pytest.approx(3.0, rel=1e-15)
    assert set(terms.parts) == {"retain"}


def test_it_has_no_forget_side() -> None:
    assert objective("finetune").needs.forget is None
    with pytest.raises(NotImplementedError, match="no forget term"):
        Finetune().forget_loss(LossInputs())
