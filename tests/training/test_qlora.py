"""Adapters on quantised weights. bitsandbytes has a backend for the CPU, so all but the half-precision run is real."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.methods import objective
from expunge.models.config import ModelArgs
from expunge.models.load import Bits, load_model
from expunge.training import lora
from expunge.training.config import TrainArgs
from expunge.training.loop import TrainResult, train
from expunge.training.lora import LoraArgs, check_quantize, saved_form, with_lora

CPU = torch.device("cpu")
SHORT = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "logging_steps": 1, "learning_rate": 1e-2}
IDS = torch.tensor([[1, 5, 9, 14, 3, 2], [1, 8, 8, 30, 41, 2]])
BOTH = pytest.mark.parametrize("bits", ["nf4", "int8"])


@pytest.fixture
def source(make_model: Callable[..., Any], tmp_path: Path) -> str:
    """A folder with a tiny model."""
    pytest.importorskip("bitsandbytes")
    make_model().save_pretrained(tmp_path / "plain")
    return str(tmp_path / "plain")


def quantised(source: str, bits: Bits, device: torch.device = CPU, **keys: Any) -> Any:
    reloaded_model = load_model(source, ModelArgs(), device=device, quantize=bits)
    return with_lora(reloaded_model, LoraArgs(r=4, quantize=bits, **keys), seed=0)


def run(model: Any, rows: Any, name: str, keys: dict[str, Any], bits: Bits, **args: Any) -> TrainResult:
    settings = TrainArgs(**{**SHORT, **args}, lora=LoraArgs(r=4, quantize=bits))
    return train(model, objective(name, keys), rows, settings, pad_id=0)


def split(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Copies of the adapters, and of everything else, quantised bytes included."""
    named = {n: p.detach().clone() for n, p in model.named_parameters()}
    return {n: p for n, p in named.items() if "lora_" in n}, {n: p for n, p in named.items() if "lora_" not in n}


@BOTH
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_learn_over_frozen_quantised_weights(source, rows, bits: Bits, checkpointing: bool) -> None:
    model = quantised(source, bits)
    before, content = split(model)
    stored = {torch.uint8 if bits == "nf4" else torch.int8}
    assert {p.dtype for n, p in content.items() if "_proj" in n} == stored
    assert {p.dtype for n, p in content.items() if "_proj" not in n} == {torch.float32}
    assert {p.dtype for p in before.values()} == {torch.float32}
    keys = {"gamma": 0.01, "alpha": 1.0}  # hides the forget term: the retain rows' own loss must fall
    done = run(model, rows, "NPO", keys, bits, activation_checkpointing=checkpointing, num_train_epochs=15)
    after, still = split(model)
    assert all(not torch.equal(after[n], before[n]) for n in before)
    assert all(torch.equal(still[n], content[n]) for n in content)
    first, last = (sum(h["retain"] for h in part) / 4 for part in (done.history[:4], done.history[-4:]))
    assert last < 0.8 * first


@BOTH
def test_the_reference_is_the_same_quantised_network(source, rows, bits: Bits) -> None:
    """At the first step NPO is 2/beta log 2 and the divergence is nothing, so the reference has the same rounding."""
    model = quantised(source, bits)
    done = run(model, rows, "NPO", {"beta": 0.5, "retain_loss_type": "KL"}, bits, max_steps=3)
    assert done.history[0]["forget"] == pytest.approx(2 / 0.5 * math.log(2), rel=1e-4)
    assert done.history[0]["retain"] == pytest.approx(0.0, abs=1e-6)
    assert done.history[-1]["retain"] > 1e-4


@BOTH
def test_adapters_are_merged_into_the_weights_as_they_were(source, rows, bits: Bits, tmp_path: Path) -> None:
    model = quantised(source, bits)
    run(model, rows, "GradDiff", {}, bits, num_train_epochs=3)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    a, b = (getattr(layer, f"lora_{x}")["default"].weight.detach().double() for x in "AB")

    def reload() -> Any:
        return load_model(source, ModelArgs(), device=CPU)

    plain = saved_form(model, LoraArgs(r=4, quantize=bits), reload)
    targets = reload().model.layers[1].mlp.down_proj.weight.double() + 32 / 4 * b @ a
    torch.testing.assert_close(plain.model.layers[1].mlp.down_proj.weight.double(), targets, rtol=0, atol=1e-6)
    plain.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    again = load_model(str(tmp_path / "saved"), ModelArgs(), device=CPU)
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=IDS).logits, plain(input_ids=IDS).logits)
        assert not torch.allclose(again(input_ids=IDS).logits, reload()(input_ids=IDS).logits, atol=1e-2)
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in reload().named_parameters()]


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit:UserWarning")
def test_merged_into_quantised_weights_a_small_update_would_be_lost(source) -> None:
    """Why the full-precision weights are loaded again: an update of a hundredth of the grid's step leaves no byte
    changed."""
    pytest.importorskip("bitsandbytes")
    model = quantised(source, "nf4", target_modules=("down_proj",))
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    with torch.no_grad():
        layer.lora_A["default"].weight.fill_(1e-3)
        layer.lora_B["default"].weight.fill_(1e-2)
    before = layer.base_layer.weight.detach().clone()
    layer.merge()
    assert torch.equal(layer.base_layer.weight, before)


def test_four_bits_train_after_a_forward_without_gradients(make_model, tmp_path: Path) -> None:
    """bitsandbytes repacks weights of these widths for inference on a CPU, and a backward after that gives zeros."""
    pytest.importorskip("bitsandbytes")
    make_model(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    model = quantised(str(tmp_path), "nf4")
    with torch.no_grad():
        first = model(input_ids=IDS).logits
    torch.testing.assert_close(model.train()(input_ids=IDS).logits, first)
    model(input_ids=IDS, labels=IDS).loss.backward()
    inputs = {n: p.grad.abs().max().item() for n, p in model.named_parameters() if "lora_B" in n}
    assert inputs and min(inputs.values()) > 0


@BOTH
def test_a_row_says_the_same_in_any_batch_in_training_and_in_evaluation(source, bits: Bits) -> None:
    model = quantised(source, bits)
    with torch.no_grad():
        together, alone, training = (
            m(input_ids=ids).logits[:1] for m, ids in ((model, IDS), (model, IDS[:1]), (model.train(), IDS))
        )
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(training, together, rtol=0, atol=1e-5)


def test_without_bitsandbytes_one_line_says_so(make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model().save_pretrained(tmp_path)
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^trainer\.args\.lora\.quantize: nf4 needs bitsandbytes, .*expunge\[quant\]"
    ):
        check_quantize(LoraArgs(quantize="nf4"))
    check_quantize(LoraArgs())
    check_quantize(None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        ConfigError, match=r"^trainer\.args\.lora\.quantize: int8 needs bitsandbytes: .*expunge\[quant\]"
    ):
        load_model(str(tmp_path), ModelArgs(), device=CPU, quantize="int8")


def test_a_device_it_has_nothing_for_is_told(source, monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes

    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    with pytest.raises(ConfigError, match=r"^trainer\.args\.lora\.quantize: nf4: bitsandbytes \S+ .* cpu$"):
        load_model(source, ModelArgs(), device=CPU, quantize="nf4")


def test_quantisation_counts_in_the_fingerprint_and_its_absence_leaves_no_trace() -> None:
    plain, four = (TrainArgs(lora=LoraArgs(quantize=bits)) for bits in (None, "nf4"))
    assert "quantize" not in plain.identity["lora"]
    assert fingerprint(plain.identity) != fingerprint(four.identity)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@BOTH
def test_on_a_gpu_in_half_precision(source, rows, bits: Bits) -> None:
    model = quantised(source, bits, torch.device("cuda"))
    before, content = split(model)
    args = {"bf16": True, "activation_checkpointing": True, "num_train_epochs": 15}
    done = run(model, rows, "NPO", {"gamma": 0.01, "alpha": 1.0}, bits, **args)
    after, still = split(model)
    assert all(not torch.equal(after[n], before[n]) for n in before)
    assert all(torch.equal(still[n], content[n]) for n in content)
    first, last = (sum(h["retain"] for h in part) / 4 for part in (done.history[:4], done.history[-4:]))
    assert last < 0.8 * first
    plain = saved_form(model, LoraArgs(r=4, quantize=bits), lambda: load_model(source, ModelArgs(), device=CPU))
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
