"""The objects that a caller passes are unchanged afterwards, except for the weights that were trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from library_facts import FORGET, RETAIN, SHORT
from peft import LoraConfig, get_peft_model

import expunge


def switches(model: Any) -> dict[str, Any]:
    """Return the configuration, the attributes of each module and its number of hooks."""
    return {
        "config": model.config.to_dict(),
        "attributes": [sorted(set(vars(m)) - {"_is_accelerate_prepared"}) for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "checkpointing": [vars(m).get("gradient_checkpointing") for m in model.modules()],
    }


def adapted(model: Any) -> Any:
    """Return the model with adapters whose embeddings pass gradients on, as activation checkpointing needs."""
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    wrapped.enable_input_require_grads()
    return wrapped


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
@pytest.mark.parametrize("prepare", [lambda model: model, adapted], ids=["plain", "adapters"])
@pytest.mark.parametrize("more", [{}, {"activation_checkpointing": True}], ids=["", "checkpointing"])
def test_training_changes_no_switch_of_the_model(
    more: dict[str, Any], prepare: Callable[[Any], Any], full: Any, tokenizer: Any
) -> None:
    model = prepare(full)
    before = switches(model)
    expunge.unlearn(model, FORGET, retain=RETAIN, tokenizer=tokenizer, **{**SHORT, "num_train_epochs": 1}, **more)
    assert switches(model) == before
    assert model.config.use_cache is True
