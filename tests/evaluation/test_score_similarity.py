"""Similarity by a tiny random encoder: mean pooling, padding, empty texts, folders that hold no encoder."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from expunge.core.errors import ConfigError
from expunge.core.records import SIMILARITY, GeneratedText, GeneratedTexts, similarity_records
from expunge.data.examples import ExampleSet
from expunge.evaluation.similarity import Embedder, score_similarity


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random two-layer encoder with the rows' tokenizer."""
    result = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(result)
    tokenizer.save_pretrained(result)
    return result


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder(str(folder), torch.device("cpu"))


def test_vectors_are_the_mean_over_a_texts_own_tokens(folder: Path, embedder: Embedder, tokenizer: Any) -> None:
    texts = ["Ana.", "It was written in Paris, by the sea."]
    plain = BertModel.from_pretrained(folder).eval()
    result = embedder(texts)
    for text in texts:
        with torch.inference_mode():
            hidden = plain(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].mean(0)
        expected = torch.nn.functional.normalize(hidden.double(), dim=0)
        assert torch.allclose(result[text], expected, atol=1e-5)
        assert result[text].norm().item() == pytest.approx(1.0)


def test_padding_does_not_count(embedder: Embedder) -> None:
    texts = ["Ana.", "It was written in Paris, by the sea, over many years."]
    together, apart = embedder(texts), embedder(texts, token_budget=1)
    assert all(torch.allclose(together[t], apart[t], atol=1e-6) for t in texts)


def test_a_long_text_is_cut_where_the_encoder_ends(embedder: Embedder) -> None:
    assert embedder(["sea " * 500])["sea " * 500].isfinite().all()


def test_cosines_of_generations(embedder: Embedder, rows: ExampleSet) -> None:
    output = [rows[0].answers["answer"], "Something else.", ""]
    texts = [GeneratedText(0, k, "", generation, "", 1, True) for k, generation in enumerate(output)]
    named = GeneratedTexts(texts, {0: rows[0].answers})
    table = score_similarity(embedder, named, ("answer", "paraphrase", "perturbed_7"))
    assert table.schema == SIMILARITY
    near = similarity_records(table)
    assert near["answer"][0, 0] == pytest.approx(1.0)
    assert -1.0 <= near["answer"][0, 1] < 1.0
    assert math.isnan(near["answer"][0, 2])
    assert near["paraphrase"][0, 0] < 1.0


def test_a_folder_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^eval\.embedder: .* cannot be loaded: "):
        Embedder(str(tmp_path), torch.device("cpu"))


@pytest.mark.parametrize("name", ["encoder.layer.1.output.dense.weight", "pooler.dense.weight"])
def test_a_tensor_that_the_files_lack(folder: Path, tmp_path: Path, name: str) -> None:
    """transformers draws it at random, so the similarity would be another one in each run; the pooler is not used."""
    shutil.copytree(folder, tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    weights.pop(name)
    save_file(weights, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    if name.startswith("pooler"):
        assert Embedder(str(tmp_path / "encoder"), torch.device("cpu"))(["Ana."])
        return
    with pytest.raises(ConfigError, match=rf"^eval\.embedder: model .* lack, .* 1 of the tensors .*: {name}$"):
        Embedder(str(tmp_path / "encoder"), torch.device("cpu"))
