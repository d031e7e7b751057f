"""Saved models load in transformers 4.45 with equal logits and equal token ids."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

from expunge.models.build import train_tokenizer
from expunge.models.load import save_model

TEXTS = ["a small text of some words", "another text with 12 digits"] * 4
SIZES: dict[str, Any] = {
    "vocab_size": 280, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
NEOX = {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5}

CHAT = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
TURNS = [{"role": "user", "content": "a text"}]


def default(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


FAMILIES: dict[str, Any] = {
    "llama": lambda: hf.LlamaConfig(**SIZES, rope_parameters=default(5e5)),
    "llama3": lambda: hf.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "qwen2": lambda: hf.Qwen2Config(**SIZES, rope_parameters=default(1e6)),
    "mistral": lambda: hf.MistralConfig(**SIZES, rope_parameters=default(7e4)),
    "gemma2": lambda: hf.Gemma2Config(**SIZES, head_dim=16, rope_parameters=default(3e4)),
    "phi3": lambda: hf.Phi3Config(**SIZES, rope_parameters=default(5e4)),
    "neox": lambda: hf.GPTNeoXConfig(
        **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, rope_parameters=NEOX
    ),
}

READER = """
import json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__
assert __version__.startswith("4.45."), __version__
for folder, text, ids, turns, chat_ids in json.loads(sys.argv[1]):
    kept = load_file(folder + ".safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(kept["ids"]).logits, kept["logits"], rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.apply_chat_template(turns) == chat_ids
print("equal")
"""


def saved(family: str, folder: Path) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    tokenizer = train_tokenizer(TEXTS, 280, max_length=64)
    tokenizer.chat_template = CHAT
    save_model(model, tokenizer, folder)
    return model, tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_both_forms_are_written_and_the_model_is_the_same(family: str, tmp_path: Path) -> None:
    model, _ = saved(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    theta = config["rope_parameters"]["rope_theta"]
    assert config.get("rope_theta", config.get("rotary_emb_base")) == theta
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert ("rope_scaling" in config) == (family == "llama3")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_two_kinds_of_layers_keep_both_bases(tmp_path: Path) -> None:
    from expunge.models.folder_settings import add_older_forms

    both = {"full_attention": default(1e6), "sliding_attention": default(1e4)}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"rope_parameters": both, "dtype": "bfloat16"}}))
    add_older_forms(tmp_path)
    inner = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert (inner["rope_theta"], inner["rope_local_base_freq"], inner["torch_dtype"]) == (1e6, 1e4, "bfloat16")


@pytest.mark.parametrize("templates", [CHAT, {"default": CHAT, "tool_use": "tools: " + CHAT}], ids=["one", "two"])
def test_the_chat_template_is_a_file_and_a_setting(templates: Any, tmp_path: Path) -> None:
    model = hf.AutoModelForCausalLM.from_config(FAMILIES["llama"]())
    tokenizer = train_tokenizer(TEXTS, 280, max_length=64)
    tokenizer.chat_template = templates
    save_model(model, tokenizer, tmp_path)
    setting = json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]
    named = setting if isinstance(setting, str) else {entry["name"]: entry["template"] for entry in setting}
    again = hf.AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert named == again == templates


@pytest.mark.slow
def test_transformers_4_45_reads_the_same_model(tmp_path: Path) -> None:
    """Install the old version into an environment of its own, and compare logits and ids there."""
    venv.create(tmp_path / "old", with_pip=True)
    python = tmp_path / "old" / "bin" / "python"
    site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (tmp_path / "old" / site / "zz_shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    targets = (("--no-deps", "transformers==4.45.2", "tokenizers==0.20.3", "huggingface_hub==0.26.5"), ("requests",))
    for words in targets:
        if subprocess.run([str(python), "-m", "pip", "install", "-q", *words], capture_output=True).returncode:
            pytest.skip("transformers 4.45 cannot be installed here")
    jobs = []
    for family in FAMILIES:
        model, tokenizer = saved(family, tmp_path / family)
        ids = torch.arange(3, 43)[None].contiguous()
        with torch.no_grad():
            save_file({"ids": ids, "logits": model(ids).logits.contiguous()}, tmp_path / f"{family}.safetensors")
        chat_ids = tokenizer.apply_chat_template(TURNS, return_dict=False)
        jobs.append((str(tmp_path / family), TEXTS[0], tokenizer(TEXTS[0])["input_ids"], TURNS, chat_ids))
    reader = subprocess.run(
        [str(python), "-W", "ignore", "-c", READER, json.dumps(jobs)], capture_output=True, text=True, check=False
    )
    assert reader.stdout.strip().endswith("equal"), reader.stderr[-2000:]
