from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.methods import objective
from expunge.models.adapters import merged
from expunge.models.packed import find_module
from expunge.training.config import TrainArgs
from expunge.training.loop import TrainResult, train
from expunge.training.lora import LoraArgs, save_adapter, with_lora

SHORT = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "logging_steps": 1, "learning_rate": 1e-2}
IDS = torch.tensor([[1, 5, 9, 14, 3, 2], [1, 8, 8, 30, 41, 2]])


def adapters(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n}


def run(model: Any, rows: Any, name: str, keys: dict[str, Any] | None = None, **args: Any) -> TrainResult:
    return train(model, objective(name, keys), rows, TrainArgs(**{**SHORT, **args}, lora=LoraArgs(r=4)), pad_id=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("step", [None, "gru"])
def test_adapters_are_trained_and_nothing_else(make_model, rows, checkpointing: bool, step: str | None) -> None:
    model = with_lora(make_model(), LoraArgs(r=4), seed=0)
    base = {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" not in n}
    before = adapters(model)
    # an alpha that hides the forget term, so that the loss that must fall is the retain rows' own
    args = {"activation_checkpointing": checkpointing, "num_train_epochs": 15, "grad_transform": step}
    done = run(model, rows, "NPO", {"gamma": 0.01, "alpha": 1.0}, **args)
    after = adapters(model)
    assert all(not torch.equal(after[n], before[n]) for n in before)
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)
    first, last = (sum(h["retain"] for h in part) / 4 for part in (done.history[:4], done.history[-4:]))
    assert last < 0.8 * first


def test_checkpointing_gives_the_same_run(make_model, rows) -> None:
    ends = []
    for checkpointing in (False, True):
        model = with_lora(make_model(), LoraArgs(r=4), seed=0)
        run(model, rows, "GradDiff", num_train_epochs=1, activation_checkpointing=checkpointing)
        ends.append(torch.cat([p.flatten() for p in adapters(model).values()]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_the_reference_is_the_network_before_training(make_model, rows) -> None:
    """Without a second copy: at the first step NPO is 2/beta log 2, and the divergence is nothing."""
    model = with_lora(make_model(), LoraArgs(r=4), seed=0)
    done = run(model, rows, "NPO", {"beta": 0.5, "retain_loss_type": "KL"}, max_steps=3)
    assert done.history[0]["forget"] == pytest.approx(2 / 0.5 * math.log(2), rel=1e-4)
    assert done.history[0]["retain"] == pytest.approx(0.0, abs=1e-6)
    assert done.history[-1]["retain"] > 1e-5


def test_a_merged_model_says_what_the_adapters_said(make_model, rows) -> None:
    model = with_lora(make_model(), LoraArgs(r=4), seed=0)
    run(model, rows, "GradDiff", num_train_epochs=3)
    with torch.no_grad():
        adapted = model(input_ids=IDS).logits
        plain = merged(model)
        torch.testing.assert_close(plain(input_ids=IDS).logits, adapted, rtol=1e-5, atol=1e-5)
    fresh = make_model()
    assert not torch.allclose(fresh(input_ids=IDS).logits, adapted, atol=1e-2)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in fresh.named_parameters()]
    assert not isinstance(plain, PeftModel) and all(p.requires_grad for p in plain.parameters())


def test_a_layer_is_found_under_the_wrapper(make_model, rows) -> None:
    model = with_lora(make_model(), LoraArgs(r=4), seed=0)
    assert find_module(model, "model.layers.1", key="k") is model.base_model.model.model.layers[1]
    with pytest.raises(ConfigError, match=r"^k: 'mlp' is the end of 2 modules' names"):
        find_module(model, "mlp", key="k")
    with pytest.raises(ConfigError, match=r"^k: the model has no module 'model\.layers\.7'"):
        find_module(model, "model.layers.7", key="k")
    before = adapters(model)
    run(model, rows, "RMU", {"module_regex": r"model\.layers\.0"}, max_steps=2)
    changed = {n for n, p in adapters(model).items() if not torch.equal(p, before[n])}
    assert changed and all(".layers.0." in n for n in changed)


def test_the_draw_is_a_function_of_the_seed(make_model) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second, other = (adapters(with_lora(make_model(), LoraArgs(r=4), seed=s)) for s in (1, 1, 2))
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())


def test_targets(make_model) -> None:
    model = with_lora(make_model(), LoraArgs(r=4, target_modules=("q_proj", "v_proj")), seed=0)
    assert len(adapters(model)) == 2 * 2 * 2
    with pytest.raises(
        ConfigError, match=r"target_modules\[1\]: the model has no linear module 'qproj'; did you mean 'q_proj'"
    ):
        with_lora(make_model(), LoraArgs(target_modules=("v_proj", "qproj")), seed=0)
    with pytest.raises(ConfigError, match="'lm_head' shares its weights with the embeddings"):
        with_lora(make_model(), LoraArgs(target_modules=("lm_head",)), seed=0)


@pytest.mark.parametrize("targets", ["all-linear", ("c_attn", "c_fc")])
def test_gpt2s_linear_modules_take_adapters(rows, targets: Any) -> None:
    """They are no torch.nn.Linear: their class is Conv1D, with the weight as (in, out)."""
    torch.manual_seed(0)
    shape = {"vocab_size": 67, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    plain = transformers.GPT2LMHeadModel(config).eval()
    before = plain(IDS).logits.detach()
    model = with_lora(plain, LoraArgs(r=4, target_modules=targets), seed=0)
    named = {n.rpartition(".lora_A")[0].rpartition(".")[2] for n, _ in model.named_modules() if ".lora_A.default" in n}
    assert named == ({"c_attn", "c_fc", "c_proj"} if targets == "all-linear" else {"c_attn", "c_fc"})
    run(model, rows, "GradDiff", num_train_epochs=2)
    trained = model(IDS).logits.detach()
    assert float((trained - before).abs().max()) > 1e-3
    torch.testing.assert_close(merged(model)(IDS).logits, trained, rtol=1e-4, atol=1e-4)


def test_one_key_of_lora_leaves_the_others_at_their_defaults() -> None:
    """`trainer.args.lora.r=2` alone: composed, it is a group with that key."""
    assert decode(TrainArgs, {"lora": {"r": 2}}, where="trainer.args").lora == LoraArgs(r=2)
    assert decode(TrainArgs, {"lora": {}}, where="trainer.args").lora == LoraArgs()
    with pytest.raises(ConfigError, match=r"^trainer\.args\.lora\.rank: unknown key"):
        decode(TrainArgs, {"lora": {"rank": 2}}, where="trainer.args")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft, on loading
def test_the_adapter_is_saved_without_where_the_base_lay(make_model, tmp_path: Path) -> None:
    source = make_model()
    source.config._name_or_path = "/somewhere/private"
    source.name_or_path = "/somewhere/private"
    model = with_lora(source, LoraArgs(r=4), seed=0)
    save_adapter(model, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    for file in (tmp_path / "adapter").iterdir():
        assert b"/somewhere/private" not in file.read_bytes(), file.name
    again = PeftModel.from_pretrained(make_model(), tmp_path / "adapter")
    assert all(torch.equal(p, adapters(again)[n]) for n, p in adapters(model).items())


def test_settings_are_checked_and_count_only_where_set() -> None:
    task = decode(TrainArgs, {"lora": {"r": 8, "target_modules": ["q_proj"]}}, where="train")
    assert task.lora == LoraArgs(r=8, target_modules=("q_proj",))
    assert fingerprint(task.identity) != fingerprint(TrainArgs().identity) == fingerprint(TrainArgs(lora=None).identity)
    for keys, words in (
        ({"r": 0}, r"r: must be at least 1"),
        ({"lora_alpha": 0}, r"lora_alpha: must be a number > 0"),
        ({"lora_dropout": 1}, r"lora_dropout: must be at least 0 and less than 1"),
        ({"target_modules": []}, r"target_modules: must be all-linear or a list"),
        ({"bias": "some"}, r"bias: "),
        ({"rank": 3}, r"rank: unknown key"),
    ):
        with pytest.raises(ConfigError, match=rf"^train\.lora\.{words}"):
            decode(TrainArgs, {"lora": keys}, where="train")
