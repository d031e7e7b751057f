"""The memory of a run on paper, against sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.core.errors import ConfigError
from expunge.models.config import ModelArgs, ModelConfig
from expunge.pipelines.study_jobs.memory import ParameterCounts, estimate_memory, estimate_scoring, shape_in, shape_of
from expunge.training.config import TrainArgs
from expunge.training.lora import LoraArgs

# a layer: q, o 8*8 each, k, v 8*4 each, the MLP 3*8*16: 576; norms 16; outside: 2*10*8 + 8
SMALL = ParameterCounts(hidden=8, inner=16, layers=2, vocabulary=10, keys=4, tied=False)


def test_parameters() -> None:
    assert SMALL.parameters == 2 * (576 + 16) + 168 == 1352
    assert shape_of("Llama-3.1-8B").parameters == 8_030_261_248  # as its model card counts


def test_the_parts_of_full_training() -> None:
    args = TrainArgs(per_device_train_batch_size=3, logits_chunk_size=4)
    m = estimate_memory(SMALL, args, "ddp", length=5)
    assert (m.weights, m.gradients, m.optimizer, m.casts) == (4 * 1352, 4 * 1352, 8 * 1352, 0)
    assert m.activations == 3 * 2 * 5 * 2 * 4 * (64 + 8 + 64)
    assert m.logits == 4 * 2 * 4 * 10
    assert m.total == sum((m.weights, m.gradients, m.optimizer, m.casts, m.activations, m.logits))


def test_shards() -> None:
    args = TrainArgs()
    ddp, fsdp, zero2, zero3 = (
        estimate_memory(SMALL, args, s, processes=4) for s in ("ddp", "fsdp2", "zero2", "zero3")
    )  # fmt: skip
    assert (ddp.weights, ddp.gradients) == (4 * 1352, 8 * 1352)
    assert fsdp == zero3
    assert (fsdp.weights, fsdp.gradients, fsdp.optimizer) == (1352 + 4 * (168 + 2 * 576), 1352, 2 * 1352)
    assert (zero2.weights, zero2.gradients, zero2.optimizer) == (4 * 1352, 1352, 2 * 1352)


def test_adapters() -> None:
    """r (in + out) of q, k, v, o and the MLP: 16 + 12 + 12 + 16 + 3 * 24 = 128 a layer and rank."""
    lora = TrainArgs(lora=LoraArgs(r=2), bf16=True, activation_checkpointing=True)
    m = estimate_memory(SMALL, lora, "ddp")
    assert (m.weights, m.gradients, m.optimizer, m.casts) == (4 * 1352 + 4 * 512, 4 * 512, 8 * 512, 2 * 576)
    quantised = estimate_memory(SMALL, TrainArgs(lora=LoraArgs(r=2, quantize="nf4")), "ddp")
    assert quantised.weights == pytest.approx(1152 * 0.516 + 4 * 200 + 4 * 512)


@pytest.mark.parametrize(("optim", "weight", "state"), [
    ("adamw_torch_8bit", 4, 2), ("adamw_torch_4bit", 4, 1), ("adamw_torch_8bit_stochastic", 2, 2),
])  # fmt: skip
def test_optimizers_of_fewer_bits(optim: str, weight: int, state: int) -> None:
    m = estimate_memory(SMALL, TrainArgs(optim=optim), "ddp")
    assert (m.weights, m.gradients, m.optimizer) == (weight * 1352, weight * 1352, state * 1352)


def test_all_weights_of_8b_fit_80_gb_with_an_8_bit_optimizer_and_a_fifth_free() -> None:
    args = {"bf16": True, "activation_checkpointing": True, "per_device_train_batch_size": 4}
    of = shape_of("Llama-3.1-8B")
    plain, eight, stochastic = (
        estimate_memory(of, TrainArgs(**args, optim=optim), "ddp").total / 80e9
        for optim in ("adamw_torch", "adamw_torch_8bit", "adamw_torch_8bit_stochastic")
    )
    assert plain > eight > 1 > 0.8 > stochastic


def test_shapes_of_folders_and_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 10,'
        ' "num_attention_heads": 4, "num_key_value_heads": 2}'
    )
    assert shape_of(str(tmp_path)) == SMALL
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    with pytest.raises(ConfigError, match="is not a configuration of a Llama-like model"):
        shape_of(str(tmp_path))
    with pytest.raises(ConfigError, match=r"no known model 'Llama-3\.1-8'; did you mean 'Llama-3\.1-8B'"):
        shape_of("Llama-3.1-8")


def test_names_in_hub_ids_and_what_is_no_such_model(tmp_path: Path) -> None:
    assert shape_of("meta-llama/Llama-3.2-1B-Instruct") == shape_of("Llama-3.2-1B")
    with pytest.raises(ConfigError, match=r"'SmolLM2-135M'.*; a folder with a config.json, or a hub id such as OWN"):
        shape_of("SmolLM2-135M")
    for name in ("Llama-3.2-1Bx", "Llama-3.2-11B", "someone/else"):
        with pytest.raises(ConfigError, match="no known model"):
            shape_of(name)
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "num_local_experts": 4}')
    with pytest.raises(ConfigError, match="a mixture of experts"):
        shape_of(str(tmp_path))


def test_the_shape_of_a_configured_model() -> None:
    assert shape_in(ModelConfig(preset="llama-64k", vocab_size=300)).vocabulary == 300
    assert shape_in(ModelConfig(preset="llama-64k")) == shape_of("llama-64k")
    source = ModelConfig(preset="llama-64k", model_args=ModelArgs(pretrained_model_name_or_path="x/Llama-2-7b-hf"))
    assert shape_in(source) == shape_of("Llama-2-7b")


def test_what_scoring_holds() -> None:
    """A token in a layer: 8*8 + 2*4 + 4*16 = 136 numbers; in the cache 2 layers of a key and a value: 2*2*4 = 16."""
    small = {"length": 10, "n_rows": 3}  # 30 tokens, fewer than a batch takes
    m = estimate_scoring(SMALL, "tokens", **small)
    assert (m.weights, m.gradients) == (4 * 1352, 0)
    assert m.activations == 4 * (30 * 136 + 2 * 30 * 16)
    assert m.logits == 4 * 30 * 10 + 3 * 4 * 30 * 10
    m = estimate_scoring(SMALL, "texts", **small, width=2)
    assert (m.weights, m.activations, m.logits) == (2 * 1352, 2 * 30 * (136 + 16), 2 * 3 * 10)
    m = estimate_scoring(SMALL, "grads", **small)
    assert (m.gradients, m.activations) == (3 * 4 * 1352, 4 * 30 * 2 * 136)
    m = estimate_scoring(SMALL, "agreement", **small)
    assert (m.weights, m.logits) == (2 * 4 * 1352, 2 * 4 * 30 * 10 + 3 * 4 * 30 * 10)


def test_scoring_is_flat_in_the_number_of_rows() -> None:
    """Batches bound it: 8192 tokens read, or 2^28 logits, whichever is less."""
    shape = shape_of("Llama-3.1-8B")
    for kind in ("tokens", "texts", "samples", "grads", "agreement"):
        most = estimate_scoring(shape, kind)
        assert estimate_scoring(shape, kind, n_rows=10**6) == most
        assert estimate_scoring(shape, kind, n_rows=1).total <= most.total
    assert estimate_scoring(shape, "tokens").logits == 4 * 2**28 + 3 * 4 * 2**24
