"""Damaged files of a model folder are one line before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.models.config import check_source
from expunge.models.folder_settings import unapplied_generation

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 400,
}
SIZES = [
    ("hidden_size", -1),
    ("hidden_size", "64"),
    ("hidden_size", 10**30),
    ("hidden_size", True),
    ("num_attention_heads", 0),
    ("num_hidden_layers", 10**9),
    ("num_key_value_heads", 0),
    ("vocab_size", 10**12),
    ("head_dim", [16, -1]),
    ("rms_norm_eps", "x"),
    ("rms_norm_eps", float("nan")),
    ("num_experts", 10**15),
    ("num_key_value_heads", 7),
    ("quantization_config", 7),
    ("quantization_config", {"quant_method": [1]}),
    ("model_type", 7),
    ("auto_map", 7),
    ("text_config", {"hidden_size": -1}),
]
INDEX = "model.safetensors.index.json"


def folder_of(place: Path, **changes: Any) -> str:
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (place / "model.safetensors").write_bytes(b"x")
    return str(place)


@pytest.mark.parametrize(("key", "value"), SIZES)
def test_a_size_that_no_model_has(tmp_path: Path, key: str, value: Any) -> None:
    named = "hidden_size" if key == "text_config" else key
    with pytest.raises(ConfigError, match=rf"MODEL: .*config.json: .*{named}"):
        check_source(folder_of(tmp_path / "m", **{key: value}), "MODEL")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "", "not JSON"),
        ("config.json", "[1]", "expected a group of keys"),
        ("config.json", "[" * 100_000, "not JSON"),
        ("generation_config.json", "{", "not JSON"),
        ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id: should be the number of a token"),
        ("generation_config.json", '{"eos_token_id": [2, null]}', "eos_token_id: should be the number of a token"),
        ("generation_config.json", '{"pad_token_id": 1.5}', "pad_token_id: should be the number of a token"),
        ("config.json", '{"bos_token_id": {"a": 1}}', "bos_token_id: should be the number of a token"),
        ("tokenizer_config.json", "{", "not JSON"),
        (INDEX, "{", "not JSON"),
        (INDEX, '{"weight_map": 7}', "should name the file of each tensor"),
        (INDEX, '{"weight_map": {}}', "should name the file of each tensor"),
        (INDEX, '{"weight_map": {"a": "../out.safetensors"}}', "which is not a file of this folder"),
        (INDEX, '{"weight_map": {"a": "/etc/passwd"}}', "which is not a file of this folder"),
        (INDEX, '{"weight_map": {"a": "modl.safetensors"}}', "did you mean 'model.safetensors'"),
    ],
)
def test_a_damaged_file(tmp_path: Path, name: str, content: str, message: str) -> None:
    source = folder_of(tmp_path / "m")
    (tmp_path / "m" / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        check_source(source, "MODEL")
    assert "\n" not in str(error.value)


def test_settings_that_change_greedy_texts_are_named(tmp_path: Path) -> None:
    assert unapplied_generation(tmp_path) == []
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"repetition_penalty": 1.1, "num_beams": 1, "temperature": 0.7, "suppress_tokens": []}))
    assert unapplied_generation(tmp_path) == ["repetition_penalty=1.1"]
    for content in ("[", "[1]", '{"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": null}'):
        file.write_text(content)
        assert unapplied_generation(tmp_path) == []
