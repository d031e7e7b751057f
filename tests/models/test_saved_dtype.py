"""What is saved has the dtype that came in; the weights in memory keep theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from expunge.models.config import ModelArgs
from expunge.models.dtypes import dtype_to_save, stored_dtype
from expunge.models.load import load_model, save_model

CPU = torch.device("cpu")


class NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        """Nothing to save."""


def small(tied: bool = True) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=67, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_the_dtype_that_came_in_goes_out(tmp_path: Path, name: str, tied: bool) -> None:
    small(tied).to(getattr(torch, name)).save_pretrained(tmp_path / "in")
    assert stored_dtype(str(tmp_path / "in")) == name
    assert dtype_to_save("source", str(tmp_path / "in")) == name
    assert dtype_to_save("float32", str(tmp_path / "in")) == "float32"
    model = load_model(str(tmp_path / "in"), ModelArgs(), device=CPU)
    assert model.dtype is torch.float32
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 1e-2)
    original = {n: p.detach().clone() for n, p in model.named_parameters()}
    save_model(model, NoTokenizer(), tmp_path / "out", dtype=name)
    files = {p.name: load_file(p) for p in (tmp_path / "out").glob("*.safetensors")}
    saved = {n: t for part in files.values() for n, t in part.items()}
    before = load_file(tmp_path / "in" / "model.safetensors")
    assert {n: (t.dtype, t.shape) for n, t in saved.items()} == {n: (t.dtype, t.shape) for n, t in before.items()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == name
    assert all(p.dtype is torch.float32 and torch.equal(p, original[n]) for n, p in model.named_parameters())
    again = load_model(str(tmp_path / "out"), ModelArgs(), device=CPU)
    for n, p in again.named_parameters():
        assert torch.equal(p, original[n].to(getattr(torch, name)).float()), n


def test_without_a_dtype_the_model_is_saved_as_it_is(tmp_path: Path) -> None:
    save_model(small(), NoTokenizer(), tmp_path)
    assert stored_dtype(str(tmp_path)) == "float32"


def test_most_weights_decide(tmp_path: Path) -> None:
    model = small().to(torch.bfloat16)
    model.model.norm.float()
    model.save_pretrained(tmp_path)
    assert stored_dtype(str(tmp_path)) == "bfloat16"
    assert stored_dtype(str(tmp_path / "nothing")) is None
