"""A module that a loss reads, and that the model lacks, is an error that names the setting."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import expunge
from expunge.methods.objective import objective
from expunge.training.phases import read_modules

SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}


def test_the_library_names_the_setting_of_a_missing_module() -> None:
    world = expunge.demo_world()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(world.tokenizer), **SMALL))
    words = {"retain": world.retain, "tokenizer": world.tokenizer, "max_steps": 1, "learning_rate": 1e-3}
    with pytest.raises(
        expunge.ConfigError, match=r"^RMUConfig\.module_regex: the model has no module 'model.layers.7'"
    ):
        expunge.unlearn(model, world.forget, method="RMU", **words)
    done = expunge.unlearn(model, world.forget, method="RMU", module_regex="model.layers.1", **words)
    assert len(done.to_pandas()) == 1


@pytest.mark.parametrize(("method", "key"), [("RMU", "m.module_regex"), ("RepNoise", "m.layers")])
def test_the_modules_of_a_loss_have_the_key_of_their_setting(method: str, key: str) -> None:
    assert {name.key for name in read_modules(objective(method, {}), "m")} == {key}
