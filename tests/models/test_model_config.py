from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.models.config import (
    ModelConfig,
    TokenizerArgs,
    check_source,
    looks_local,
)
from expunge.models.identity import source_identity, tokenizer_identity


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"preset": "llama-8"}, r"no preset named 'llama-8'; did you mean 'llama-8m'\?"),
        ({"preset": "llama-8m", "vocab_size": 100}, r"vocab_size: must be between 260"),
        ({"model_args": {"dtype": "float8"}}, r"model\.model_args\.dtype: "),
        ({"model_args": {"torch_dtype": "float32"}}, r"torch_dtype: unknown key; did you mean 'dtype'\?"),
    ],
)
def test_wrong_settings_end_in_one_line(data: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        decode(ModelConfig, data, where="model")
    assert "\n" not in str(caught.value)


def test_tokenizer_source_is_the_model_s_unless_named() -> None:
    config = decode(ModelConfig, {"model_args": {"pretrained_model_name_or_path": "a/b"}})
    assert (config.source, config.tokenizer_source) == ("a/b", "a/b")
    own = ModelConfig(tokenizer_args=TokenizerArgs(pretrained_model_name_or_path="c/d"))
    assert (own.source, own.tokenizer_source) == (None, "c/d")


def test_a_model_that_is_named_wins_over_the_preset() -> None:
    named = decode(ModelConfig, {"preset": "llama-8m", "model_args": {"pretrained_model_name_or_path": "a/b"}})
    assert (named.scratch, named.source) == (None, "a/b")
    assert ModelConfig(preset="llama-8m").scratch == "llama-8m"


def test_looks_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(looks_local(s) for s in ("./a", "/a", "~/a", "a/b/c", "saves/x", str(tmp_path)))
    assert not any(looks_local(s) for s in ("gpt2", "locuslab/tofu"))
    (tmp_path / "gpt2").mkdir()
    assert looks_local("gpt2")


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, text in {"config.json": "{}", "model.safetensors": "w", "tokenizer.json": "t"}.items():
        (folder / name).write_text(text)
    return folder


def test_identity_is_the_contents_not_the_place(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    b = Path(shutil.copytree(a, tmp_path / "deep" / "b"))
    (b / "expunge.json").write_text("made on another day")
    (b / "generation_config.json").write_text("{}")
    assert source_identity(str(a), None) == source_identity(str(b), None)
    assert tokenizer_identity(str(a), None) == tokenizer_identity(str(b), None)
    (b / "model.safetensors").write_text("v")
    assert source_identity(str(a), None) != source_identity(str(b), None)
    assert tokenizer_identity(str(a), None) == tokenizer_identity(str(b), None)
    (b / "tokenizer.json").write_text("u")
    assert tokenizer_identity(str(a), None) != tokenizer_identity(str(b), None)
    assert source_identity("locuslab/m", "abc") == {"hub": "locuslab/m", "revision": "abc"}
    assert tokenizer_identity("locuslab/m", None) == {"hub": "locuslab/m", "revision": None}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("generation_config.json", '{"eos_token_id": [1, 2]}'),
        ("chat_template.jinja", "{{ messages }}"),
        ("additional_chat_templates/tools.jinja", "{{ tools }}"),
        ("added_tokens.json", '{"<new>": 7}'),
        ("modeling_own.py", "x = 1"),
        ("vocab.txt", "a"),
    ],
)
def test_every_file_that_decides_numbers_is_part_of_the_identity(tmp_path: Path, name: str, text: str) -> None:
    a = make(tmp_path / "a")
    before = source_identity(str(a), None), tokenizer_identity(str(a), None)
    (a / name).parent.mkdir(exist_ok=True)
    (a / name).write_text(text)
    assert source_identity(str(a), None) != before[0]
    assert (tokenizer_identity(str(a), None) != before[1]) == (name != "generation_config.json")


def test_the_version_that_wrote_generation_settings_does_not_count(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    identities = []
    for version in ("4.40.0", "5.0.0"):
        settings = f'{{"eos_token_id": [1, 2], "_from_model_config": true, "transformers_version": "{version}"}}'
        (a / "generation_config.json").write_text(settings)
        identities.append(source_identity(str(a), None))
    assert identities[0] == identities[1]
    (a / "generation_config.json").write_text('{"eos_token_id": [1, 3]}')
    assert source_identity(str(a), None) != identities[0]


def test_check_source_leaves_hub_ids_alone(tmp_path: Path) -> None:
    check_source("locuslab/m", "k")
    check_source(str(make(tmp_path / "a")), "k")
    with pytest.raises(ConfigError, match=r"^k: no folder "):
        check_source(str(tmp_path / "b"), "k")


def test_a_preset_has_no_weights_to_load() -> None:
    with pytest.raises(ConfigError, match="MODEL: llama-8m is the shape of a model from scratch and has no weights"):
        check_source("llama-8m", "MODEL")
