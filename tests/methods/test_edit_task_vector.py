from __future__ import annotations

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods.weight_edits import make_weight_edit
from expunge.methods.weight_edits.task_vector import TaskVector

THETA, REINFORCED = {"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([1.5, -4.0])}


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, [1.0, -2.0]), (1.0, [0.5, 0.0]), (3.0, [-0.5, 4.0])])
def test_the_way_back_by_hand(alpha: float, expected: list[float]) -> None:
    assert TaskVector(alpha=alpha)(THETA, [REINFORCED])["w"].tolist() == expected


def test_exactly_one_other_model_is_read_and_alpha_is_checked() -> None:
    for others in ([], [REINFORCED, REINFORCED]):
        with pytest.raises(ConfigError, match=f"exactly one other model, the reinforced one, got {len(others)}"):
            TaskVector()(THETA, others)
    with pytest.raises(ConfigError, match=r"^edit_args\.alpha: must be a number >= 0"):
        make_weight_edit("task_vector", {"alpha": -1})
