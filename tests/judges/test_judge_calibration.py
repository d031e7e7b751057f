from __future__ import annotations

import math

import pytest

from expunge.core.errors import DataError
from expunge.judges.calibration import calibrate


def test_by_hand() -> None:
    found = calibrate([0.95, 0.9, 0.2, 0.6, 0.1, 1.0, math.nan], [True, True, True, False, False, True, True])
    assert (found.n, found.n_missing, found.n_positive) == (6, 1, 4)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.false_positive_rate == pytest.approx(1 / 2)
    assert found.false_negative_rate == pytest.approx(1 / 4)
    assert found.auc == pytest.approx(7 / 8)  # of 8 pairs one is the wrong way round: .2 below .6
    assert found.brier == pytest.approx((0.05**2 + 0.1**2 + 0.8**2 + 0.6**2 + 0.1**2) / 6)
    # bins: [.9, 1] has .95 .9 1 all yes; .2 yes; .6 no; .1 no
    assert found.calibration_error == pytest.approx((3 * 0.05 + 0.8 + 0.6 + 0.1) / 6)
    assert [b.n for b in found.reliability] == [0, 1, 1, 0, 0, 0, 1, 0, 0, 3]
    assert math.isnan(found.reliability[0].observed)


def test_one_label_alone() -> None:
    found = calibrate([0.2, 0.8], [False, False])
    assert found.false_positive_rate == 0.5
    assert math.isnan(found.false_negative_rate)
    assert math.isnan(found.auc)


def test_wrong_input_is_one_line() -> None:
    with pytest.raises(DataError, match=r"^labels: 1 for 2 texts$"):
        calibrate([0.1, 0.2], [True])
    with pytest.raises(DataError, match=r"^calibrate: no labelled text has a score$"):
        calibrate([math.nan], [True])
