"""The objects that a caller passes are unchanged afterwards, except for the weights that were trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from library_facts import FORGET, RETAIN, SHORT
from peft import LoraConfig, get_peft_model

import expunge
from expunge.core.errors import ConfigError


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


@pytest.mark.parametrize("verb", ["evaluate", "audit", "inspect", "wrap"])
def test_no_verb_gives_the_tokenizer_a_pad_token(verb: str, full: Any, tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    own.pad_token = None
    data = {"forget": FORGET, "retain": RETAIN}
    if verb == "evaluate":
        expunge.evaluate(full, own, **data, metrics=["forget_Q_A_Prob"])
    elif verb == "audit":
        expunge.audit(full, own, [{"name": "relearn", "rows": 1, "steps": [0, 1]}], **data)
    elif verb == "inspect":
        expunge.inspect(full, own, "lens", **data)
    else:
        expunge.wrap(full, "in_context", tokenizer=own, **data)
    assert own.pad_token is None
    assert own.pad_token_id is None


def test_a_token_that_the_model_does_not_have_is_named_before_training(full: Any, tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    own.add_tokens([*(f"<{i}>" for i in range(320 - len(own))), "town 0"])  # the model has 320 rows
    with pytest.raises(expunge.ConfigError, match=r"forget row 0: token id 320 is beyond.*resize_token_embeddings"):
        expunge.UnlearnTrainer(full, forget_dataset=FORGET, retain_dataset=RETAIN, processing_class=own)
    with pytest.raises(expunge.ConfigError, match="alternate row 0: token id 320 is beyond"):
        expunge.unlearn(full, FORGET[1:], retain=RETAIN, tokenizer=own, method="DPO", refusals=["In town 0."], **SHORT)


def test_a_row_longer_than_the_context_is_named_before_training(full: Any, tokenizer: Any) -> None:
    long = [{"question": "Where?", "answer": "town " * 120}]
    full.config.max_position_embeddings = 64
    message = r"forget row 0: it has 141 tokens, but the model's context is 64; .*in Python, max_length of the template"
    with pytest.raises(expunge.DataError, match=message):
        expunge.UnlearnTrainer(full, forget_dataset=long, retain_dataset=RETAIN, processing_class=tokenizer)
    cut = expunge.UnlearnConfig(template={"max_length": 64})
    expunge.UnlearnTrainer(full, cut, forget_dataset=long, retain_dataset=RETAIN, processing_class=tokenizer)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            expunge.RMUConfig(module_regex="model.layers.7"),
            r"RMUConfig\.module_regex: the model has no module 'model\.layers\.7'",
        ),
        (expunge.UnlearnConfig(lora={"target_modules": ["qproj"]}), r"UnlearnConfig\.lora\.target_modules\[0\]: the"),
        (expunge.UnlearnConfig(), r"UnlearnConfig: NPO's loss depends on none .* requires_grad_\(True\)"),
    ],
    ids=["method", "adapters", "frozen"],
)
def test_a_setting_has_its_name_in_python(config: Any, message: str, full: Any, tokenizer: Any) -> None:
    if config == expunge.UnlearnConfig():
        full.requires_grad_(False)
    with pytest.raises(expunge.ConfigError, match=f"^{message}"):
        expunge.unlearn(full, FORGET, retain=RETAIN, tokenizer=tokenizer, args=config)


def test_a_compiled_model_is_the_model_in_it(full: Any, tokenizer: Any) -> None:
    compiled, original = torch.compile(full, backend="eager"), copy.deepcopy(full)
    settings = {**SHORT, "num_train_epochs": 1, "method": "RMU", "module_regex": "model.layers.1"}
    result = expunge.unlearn(compiled, FORGET, retain=RETAIN, tokenizer=tokenizer, **settings)
    assert result.model is full
    report = expunge.inspect(compiled, tokenizer, ["drift"], forget=FORGET, reference=original)
    assert report.to_pandas()["drift"].max() > 0


def test_a_compiled_part_is_named(full: Any, tokenizer: Any) -> None:
    full.model.layers[1] = torch.compile(full.model.layers[1], backend="eager")
    with pytest.raises(ConfigError, match=r"^model: torch.compile around model.layers.1 .*; call its compile\(\)"):
        expunge.evaluate(full, tokenizer, forget=FORGET)


def test_a_lens_reads_a_model_in_training_mode_without_dropout(full: Any, tokenizer: Any) -> None:
    for layer in full.model.layers:
        layer.self_attn.attention_dropout = 0.5
    plain = expunge.inspect(full, tokenizer, "lens", forget=FORGET)
    assert expunge.inspect(full.train(), tokenizer, "lens", forget=FORGET).to_pandas().equals(plain.to_pandas())
    assert full.training
