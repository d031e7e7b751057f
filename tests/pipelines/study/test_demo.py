"""The small world for tutorials: its target model knows the forget examples, its retain model does not."""

from __future__ import annotations

import pytest

import expunge


@pytest.mark.slow
def test_the_models_differ_in_what_they_know() -> None:
    world = expunge.demo_world()
    assert (len(world.forget), len(world.retain)) == (8, 16)
    assert not {row.question for row in world.holdout} & {row.question for row in world.forget}
    target, retain = (
        expunge.evaluate(model, world.tokenizer, forget=world.forget, metrics=["forget_Q_A_Prob"])["forget_Q_A_Prob"]
        for model in (world.target_model(), world.retain_model())
    )
    assert target > 0.5 > 0.1 > retain


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(expunge.ConfigError, match=r"author.*authors"):
        expunge.demo_world(author=3)
