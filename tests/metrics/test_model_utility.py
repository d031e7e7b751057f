"""Model utility names what it lacks; its numbers are in the golden cases."""

from __future__ import annotations

import pytest

from expunge.core.errors import ConfigError
from expunge.metrics.api import Metric
from expunge.metrics.compute import compute

PART = Metric("retain_Q_A_Prob", "probability", rows="retain", reads={"tokens": ("answer",)})


def test_missing_part_is_named_with_its_reason() -> None:
    result = compute([Metric("mu", "model_utility", parents={"prob": PART.name}), PART], {})["mu"]
    assert result.reason == "needs retain_Q_A_Prob, which is missing: no tokens records of the rows 'retain' were made"


def test_needs_parents() -> None:
    with pytest.raises(ConfigError, match="family model_utility needs parents"):
        compute([Metric("mu", "model_utility")], {})
