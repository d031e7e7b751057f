"""Models with adapters, and frozen models: audits and inspect read and attack them as the merged, plain model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from library_facts import FACTS, FORGET, RETAIN
from peft import LoraConfig, PromptTuningConfig, get_peft_model

import expunge

RELEARN = {"name": "relearn", "rows": 1, "steps": [0, 3], "ways": ["same_rows"], "learning_rate": 1e-2}


def adapted(model: Any, *, merge: bool = False) -> Any:
    """Return a copy with adapters that change the model, or with these adapters merged."""
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(copy.deepcopy(model), config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, p in wrapped.named_parameters():
        if "lora_" in name:
            p.data.normal_(0, 0.1, generator=generator)
    return wrapped.merge_and_unload() if merge else wrapped


def value(model: Any, tokenizer: Any, audit: Any) -> float:
    finding = expunge.audit(model, tokenizer, [audit], forget=FORGET, retain=RETAIN)
    return float(next(iter(finding.values()))[0].value)


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's


@pytest.mark.parametrize("audit", [RELEARN, {"name": "quantize", "forms": ["int4"]}], ids=["relearn", "quantize"])
def test_an_audit_attacks_all_weights_of_a_model_with_adapters(audit: Any, full: Any, tokenizer: Any) -> None:
    wrapped, plain = adapted(full), adapted(full, merge=True).requires_grad_(True)
    before = copy.deepcopy(wrapped.state_dict())
    assert value(wrapped, tokenizer, audit) == pytest.approx(value(plain, tokenizer, audit), rel=1e-3)
    after = wrapped.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not [n for n, p in wrapped.named_parameters() if p.requires_grad != ("lora_" in n)]


def test_relearning_trains_a_frozen_model(full: Any, tokenizer: Any) -> None:
    free = value(full, tokenizer, RELEARN)
    full.requires_grad_(False)
    assert value(full, tokenizer, RELEARN) == free
    full.model.norm.requires_grad_(True)
    assert value(full, tokenizer, RELEARN) == free
    assert [n for n, p in full.named_parameters() if p.requires_grad] == ["model.norm.weight"]


@pytest.mark.parametrize("off", [False, True], ids=["on", "off"])
def test_inspect_compares_adapters_with_the_base(off: bool, full: Any, tokenizer: Any) -> None:
    wrapped, plain = adapted(full), copy.deepcopy(full) if off else adapted(full, merge=True)
    if off:
        wrapped.base_model.disable_adapter_layers()
    mine, theirs = (
        expunge.inspect(one, tokenizer, forget=FACTS[:4], retain=FACTS[4:], reference=full).to_pandas()
        for one in (wrapped, plain)
    )
    assert mine["drift"].tolist() == pytest.approx(theirs["drift"].tolist())
    assert mine["lens model"].tolist() == pytest.approx(theirs["lens model"].tolist(), abs=1e-4)
    assert bool(mine["drift"].sum() == 0) is off


def test_prompts_cannot_be_merged(full: Any, tokenizer: Any) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(expunge.ConfigError, match="model: ") as error:
        expunge.inspect(get_peft_model(full, config), tokenizer, forget=FORGET, reference=full)
    assert "\n" not in str(error.value)


def test_a_configuration_that_peft_rejects_is_one_line(full: Any, tokenizer: Any) -> None:
    with pytest.raises(expunge.ConfigError, match=r"^peft_config: Target modules \{'qproj'\} not found[^\n]*$"):
        expunge.unlearn(
            full, FORGET, retain=RETAIN, tokenizer=tokenizer, peft_config=LoraConfig(target_modules=["qproj"])
        )
