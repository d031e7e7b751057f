from __future__ import annotations

import math

import pytest

from expunge.core.errors import DataError
from expunge.judges.calibration import calibrate


def test_by_hand() -> None:
    result = calibrate([0.95, 0.9, 0.2, 0.6, 0.1, 1.0, math.nan], [True, True, True, False, False, True, True])
    assert (result.n, result.n_missing, result.n_positive) == (6, 1, 4)
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.false_positive_rate == pytest.approx(1 / 2)
    assert result.false_negative_rate == pytest.approx(1 / 4)
    assert result.auc == pytest.approx(7 / 8)  # of 8 pairs one is the wrong way round: .2 below .6
    assert result.brier == pytest.approx((0.05**2 + 0.1**2 + 0.8**2 + 0.6**2 + 0.1**2) / 6)
    # bins: [.9, 1] has .95 .9 1 all yes; .2 yes; .6 no; .1 no
    assert result.calibration_error == pytest.approx((3 * 0.05 + 0.8 + 0.6 + 0.1) / 6)
    assert [b.n for b in result.reliability] == [0, 1, 1, 0, 0, 0, 1, 0, 0, 3]
    assert math.isnan(result.reliability[0].observed)


def test_one_label_alone() -> None:
    result = calibrate([0.2, 0.8], [False, False])
    assert result.false_positive_rate == 0.5
    assert math.isnan(result.false_negative_rate)
    assert math.isnan(result.auc)


def test_wrong_input_is_one_line() -> None:
    with pytest.raises(DataError, match=r"^labels: 1 for 2 texts$"):
        calibrate([0.1, 0.2], [True])
    with pytest.raises(DataError, match=r"^calibrate: no labelled text has a score$"):
        calibrate([math.nan], [True])
