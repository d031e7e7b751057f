"""What is refused of a study before it is planned: seeds, names, resources of one kind of job."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.pipelines.study.config import decode_study


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": {"unlearn": [-1]}}, "seeds.unlearn: must be whole numbers from 0 to 2**32 - 1"),
        ({"seeds": {"train": [2**32]}}, "seeds.train: must be whole numbers"),
        ({"train": {"seed": -1}}, "train.seed: must be a whole number from 0"),
        ({"train": {"seed": 3}}, "train.seed: seeds are an axis of the study; list them in seeds.train"),
        ({"unlearn": {"seed": 3}}, "unlearn.seed: seeds are an axis of the study; list them in seeds.unlearn"),
        ({"name": "../../elsewhere"}, "name: must be the name of a folder"),
        ({"name": " "}, "name: must be the name of a folder"),
        ({"launch": {"slurm": {"by_kind": {"score": {"time_mn": 3}}}}}, "launch.slurm.by_kind.score.time_mn: unknown"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        decode_study({"name": "mine", **settings})
    assert str(error.value).startswith(message)
