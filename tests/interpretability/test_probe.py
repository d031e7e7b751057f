from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from expunge.core.errors import ConfigError, DataError
from expunge.data.encoder import Encoded
from expunge.interpretability.hidden import HiddenStates, hidden_states
from expunge.interpretability.inputs import AnalysisInputs
from expunge.interpretability.probe import ProbeResult, compare, probe, split

R = 300


def states(planted: float, seed: int = 0) -> tuple[HiddenStates, list[bool]]:
    """Two layers of noise; in layer 1 a direction holds the attribute, `planted` deviations apart."""
    draw = np.random.default_rng(seed)
    has = np.random.default_rng(99).random(R) < 0.4
    values = draw.standard_normal((2, R, 12))
    values[1] += planted * (2 * has[:, None] - 1) * np.ones(12) / math.sqrt(12)
    return HiddenStates(torch.from_numpy(values), (0, 1), torch.arange(R)), has.tolist()


def test_a_planted_feature_is_found_where_it_lies_and_nowhere_else() -> None:
    product, has = states(3.0)
    result = probe(product, {"twist": has})
    there, elsewhere = result.at("twist", 1), result.at("twist", 0)
    assert there.auc > 0.99
    assert there.accuracy > 0.95
    assert there.ci_low <= there.accuracy <= there.ci_high
    assert abs(elsewhere.auc - 0.5) < 0.15
    for line in (there, elsewhere):
        assert abs(line.shuffled_auc - 0.5) < 0.2
        assert (line.n_train, line.n_test, line.n_positive) == (210, 90, sum(has))
    test = split(R, None, 0.3, 0)
    assert there.floor == pytest.approx(1 - np.asarray(has)[test].mean())


def test_the_same_attribute_in_three_models() -> None:
    full, retain, deep, shallow = (probe(*_named(states(x, seed))) for x, seed in ((3, 0), (0, 1), (0.05, 2), (2.5, 3)))
    assert compare(full, full, retain).lines[1].kept == 1.0
    assert compare(retain, full, retain).lines[1].kept == 0.0
    assert compare(shallow, full, retain).lines[1].kept > 0.9
    assert compare(deep, full, retain).lines[1].kept < 0.4
    turned = compare(full, retain, full).lines[1]
    assert math.isnan(turned.kept)
    assert turned.reason == "the target model's probe is no better than that of the model that never learned"


def _named(states: tuple[HiddenStates, list[bool]]) -> tuple[HiddenStates, dict[str, list[bool]]]:
    return states[0], {"twist": states[1]}


def test_in_a_model_a_word_of_the_prompt_can_be_read(make_model: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    has = [bool(x) for x in (torch.rand(80, generator=draw) < 0.5)]
    rows = [Encoded((1, 9 if h else 8, *torch.randint(10, 67, (6,), generator=draw).tolist()), 1) for h in has]
    result = probe(hidden_states(make_model(0), AnalysisInputs(tuple(rows), 0), at="last", last=7), {"nine": has})
    assert result.at("nine", 0).auc > 0.9


def test_several_attributes_do_not_touch_each_other() -> None:
    result, has = states(3.0)
    other = [i % 2 == 0 for i in range(R)]
    alone = probe(result, {"twist": has})
    assert set(alone.lines) < set(probe(result, {"even": other, "twist": has}).lines)


def test_the_split_keeps_groups_together_and_depends_on_the_seed() -> None:
    groups = [f"author {i // 10}" for i in range(60)]
    test = split(60, groups, 0.3, 0)
    assert test.sum() == 20
    assert all(len({test[i] for i in range(60) if groups[i] == g}) == 1 for g in groups)
    assert (split(60, None, 0.3, 0) == split(60, None, 0.3, 0)).all()
    assert (split(60, None, 0.3, 0) != split(60, None, 0.3, 1)).any()


def test_twice_the_same() -> None:
    result, has = states(1.0)
    assert probe(result, {"a": has}) == probe(result, {"a": has})


def test_an_attribute_that_all_rows_have_is_missing_with_a_reason() -> None:
    result, _ = states(0.0)
    line = probe(result, {"all": [True] * R}).lines[0]
    assert math.isnan(line.accuracy)
    assert line.reason == "all of the 210 training rows have it"
    few = [False] * R
    few[int(np.flatnonzero(~split(R, None, 0.3, 0))[0])] = True
    assert probe(result, {"one": few}).lines[0].reason == "none of the 90 test rows have it"


def test_wrong_input_is_one_line() -> None:
    result, has = states(0.0)
    with pytest.raises(DataError, match=r"^labels: 'a' has 299 values, there are 300 rows$"):
        probe(result, {"a": has[1:]})
    with pytest.raises(DataError, match=r"^probe: expected one vector per row"):
        probe(HiddenStates(result.values_LND, (0, 1), torch.zeros(R)), {"a": has})
    with pytest.raises(ConfigError, match=r"^test_share must be between 0 and 1, got 1.0$"):
        probe(result, {"a": has}, test_share=1.0)
    with pytest.raises(DataError, match=r"^probe: 1 group cannot be split"):
        probe(result, {"a": has}, groups=["x"] * R)
    with pytest.raises(DataError, match=r"^compare: the three models' probes differ"):
        compare(probe(result, {"a": has}), probe(result, {"a": has}, seed=1), probe(result, {"a": has}))
    with pytest.raises(ConfigError, match=r"^no probe of 'b' at layer 0$"):
        ProbeResult(0, 0.3, ()).at("b", 0)
