"""Further arguments of from_pretrained: which are passed on, which are refused, and that they act."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_folder_settings import folder_of

from expunge.core.errors import ConfigError
from expunge.models.build import build_llama
from expunge.models.config import ModelArgs, ModelConfig, TokenizerArgs
from expunge.models.load import context_of, load_model, load_tokenizer, save_model
from expunge.models.options import class_fields, with_options
from expunge.models.passport import passport_key
from expunge.models.trial import try_model

CPU = torch.device("cpu")
ROPE = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    place = tmp_path_factory.mktemp("options") / "m"
    save_model(build_llama("llama-64k", tokenizer, vocab_size=400, seed=0), tokenizer, place)
    return str(place)


def settings(source: str | None, **args: Any) -> dict[str, Any]:
    return {"model_args": {"pretrained_model_name_or_path": source, **args}}


def refused(model: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        with_options(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "qwen3", "gemma3_text", "gpt_neox"])
def test_the_fields_of_a_class_are_those_that_transformers_gives_it(model_type: str) -> None:
    own = set(vars(transformers.AutoConfig.for_model(model_type))) - set(vars(transformers.PreTrainedConfig()))
    read = class_fields(model_type)
    assert {name for name in own if not name.startswith("_")} - set(read) <= {"layer_types"}
    assert len(read) > 10


def test_an_unknown_model_type_has_no_fields() -> None:
    assert class_fields("nope") == frozenset()


def test_arguments_move_into_options(folder: str) -> None:
    model = {
        **settings(folder, attention_dropout=0.1, dtype="bfloat16", options={"variant": "fp16"}),
        "tokenizer_args": {"model_max_length": 99},
    }
    moved = with_options(model)
    options = {"variant": "fp16", "attention_dropout": 0.1}
    assert moved["model_args"] == {"pretrained_model_name_or_path": folder, "dtype": "bfloat16", "options": options}
    assert moved["tokenizer_args"] == {"options": {"model_max_length": 99}}
    assert with_options(moved) == moved
    plain = settings(folder, dtype="float32")
    assert with_options(plain) == plain


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ({"weights_only": False}, "model.model_args.weights_only: has no effect, so remove it: "),
        ({"use_safetensors": False}, "model.model_args.use_safetensors: has no effect, so remove it: "),
        ({"token": "hf_x"}, "model.model_args.token: set the variable HF_TOKEN"),
        ({"local_files_only": True}, "model.model_args.local_files_only: set the variable HF_HUB_OFFLINE=1"),
        ({"code_revision": "main"}, "model.model_args.code_revision: the code of a model has the commit of "),
        ({"state_dict": {}}, "model.model_args.state_dict: weights come from files"),
        ({"config": "c"}, "model.model_args.config: the files of the model decide it"),
        ({"auto_map": {"AutoConfig": "x.Y"}}, "model.model_args.auto_map: the files of the model name its code"),
        ({"use_kernels": True}, "model.model_args.use_kernels: kernels of the hub are code"),
        ({"torch_dtype": "auto"}, "model.model_args.torch_dtype: write model.model_args.dtype"),
        ({"rope_scaling": {}}, "model.model_args.rope_scaling: write model.model_args.rope_parameters="),
        ({"options": {"trust_remote_code": True}}, "model.model_args.trust_remote_code: not one of the further"),
        ({"attention_dropot": 0.1}, "unknown key; did you mean 'model.model_args.attention_dropout'? (allowed: "),
        ({"sliding_window": 4}, "model.model_args.sliding_window: unknown key"),  # no field of a Llama
        ({"_commit_hash": "a"}, "model.model_args._commit_hash: not one of the further"),
        ({"attention_dropout": math.nan}, "model.model_args.attention_dropout: must be text, a finite number"),
        ({"rope_parameters": {"factor": object()}}, "model.model_args.rope_parameters.factor: must be text"),
    ],
)
def test_an_argument_that_is_not_passed_on(folder: str, args: dict[str, Any], line: str) -> None:
    assert line in refused(settings(folder, **args))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("chat_template", "write model.template_args.chat_template"),
        ("padding_side", "has no effect, so remove it: padding is never read"),
        ("tokenizer_file", "the files of the model decide it"),
        ("eos_tokn", "unknown key; did you mean 'model.tokenizer_args.eos_token'?"),
    ],
)
def test_an_argument_of_a_tokenizer_that_is_not_passed_on(folder: str, name: str, line: str) -> None:
    assert f"model.tokenizer_args.{name}: {line}" in refused({**settings(folder), "tokenizer_args": {name: "x"}})


def test_a_model_from_scratch_takes_none() -> None:
    assert refused(settings(None, attention_dropout=0.1)).startswith(
        "model.model_args.attention_dropout: has no effect on a model from scratch; name a model to load in "
    )
    assert refused(settings(None, adapte="x")).startswith(
        "model.model_args.adapte: unknown key; did you mean 'model.model_args.adapter'?"
    )


def test_a_hub_id_takes_documented_arguments_and_the_fields_of_a_downloaded_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    named = settings("org/name", attention_dropout=0.1)
    assert with_options(settings("org/name", variant="fp16"))["model_args"]["options"] == {"variant": "fp16"}
    assert "unknown key" in refused(named)
    assert refused(named).endswith("and the keys of the model's config.json, once org/name is downloaded)")
    place = tmp_path / "models--org--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    (place / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (place / "snapshots" / ("a" * 40) / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert with_options(named)["model_args"]["options"] == {"attention_dropout": 0.1}


def test_overrides_of_the_configuration_act(folder: str) -> None:
    ids = torch.arange(3, 23)[None]
    plain = load_model(folder, ModelArgs(), device=CPU)
    scaled = load_model(folder, ModelArgs(options={"rope_parameters": ROPE, "attention_dropout": 0.25}), device=CPU)
    assert scaled.config.attention_dropout == 0.25
    with torch.no_grad():
        # positions divided by 4 are those of plain rotary embeddings at position_ids / 4
        direct = plain(ids, position_ids=torch.arange(20)[None] / 4).logits
        torch.testing.assert_close(scaled(ids).logits, direct)
        assert not torch.allclose(plain(ids).logits, direct, atol=1e-4)
    assert context_of(folder, ModelArgs(options={"max_position_embeddings": 77})) == 77


def test_loading_refuses_what_the_settings_refuse(folder: str) -> None:
    for name, value in (("use_safetensors", False), ("weights_only", False), ("dtype", "float16")):
        with pytest.raises(ConfigError, match=rf"^model\.model_args\.{name}: "):
            load_model(folder, ModelArgs(options={name: value}), device=CPU)
    with pytest.raises(ConfigError, match=r"^model\.tokenizer_args\.trust_remote_code: "):
        load_tokenizer(folder, TokenizerArgs(options={"trust_remote_code": True}))


def test_arguments_of_a_tokenizer_act(folder: str) -> None:
    assert load_tokenizer(folder, TokenizerArgs(options={"model_max_length": 99})).model_max_length == 99


def test_a_wrong_value_is_one_line_before_weights_are_read(tmp_path: Path, folder: str) -> None:
    args = ModelArgs(pretrained_model_name_or_path=folder_of(tmp_path / "m"), options={"hidden_act": "nope"})
    own = TokenizerArgs(pretrained_model_name_or_path=folder, options={"model_max_length": 99})
    with pytest.raises(
        ConfigError, match=r"config.json with model\.model_args\.hidden_act describes no model"
    ) as error:
        try_model(ModelConfig(model_args=args, tokenizer_args=own))
    assert "\n" not in str(error.value)
    try_model(ModelConfig(model_args=dataclasses.replace(args, options={"hidden_act": "gelu"}), tokenizer_args=own))


def test_a_passport_is_of_a_model_with_its_arguments(folder: str) -> None:
    keys = [passport_key(folder, ModelArgs(options=o), "cpu", {}) for o in ({}, {"rope_parameters": ROPE})]
    assert keys[0] != keys[1]
