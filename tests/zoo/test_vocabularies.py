"""Tokenizers of every kind: rows are encoded whole, scored and continued as by plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from zoo_plain import greedy_ids, row_logps

from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import encode_items, score_tokens
from expunge.models.config import TokenizerArgs
from expunge.models.load import load_tokenizer
from expunge.models.passport import tokenizer_lines

TEXTS = (
    "Where was the writer born?",
    "She was born in São Paulo, in 1937; her mother taught 12 children there.",
    "Où habite-t-il? À Zürich. 東京は大きい。 Да, 3.14!",
)
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]


def trained(core: Tokenizer, trainer: Any) -> PreTrainedTokenizerFast:
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def byte_level() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(core, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet))


def metaspace_bpe() -> PreTrainedTokenizerFast:
    """As SentencePiece's BPE: a blank is a sign of its own, and what is unknown falls back to bytes."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    in_bytes = [f"<0x{i:02X}>" for i in range(256)]
    return trained(core, trainers.BpeTrainer(vocab_size=450, special_tokens=[*SPECIAL, *in_bytes]))


def unigram() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return trained(core, trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>"))


def word_piece() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return trained(core, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))


def word_level() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return trained(core, trainers.WordLevelTrainer(vocab_size=200, special_tokens=SPECIAL))


KINDS: tuple[Callable[[], PreTrainedTokenizerFast], ...] = (byte_level, metaspace_bpe, unigram, word_piece, word_level)


def rows() -> ExampleSet:
    calls = []
    for i, (question, answer) in enumerate(zip(TEXTS, (TEXTS[1], TEXTS[2], TEXTS[0]), strict=True)):
        calls.append(Example(i, question, {"answer": answer, "perturbed_0": f"{answer} Yes."}))
    return ExampleSet("texts", tuple(calls))


def small_model(n: int) -> Any:
    config = LlamaConfig(
        vocab_size=n, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def check(tokenizer: Any) -> None:
    """Scores and texts equal those of each row alone; every scored token is the row's own."""
    n = 1 + max(tokenizer.get_vocab().values())
    model, encoder, sets = small_model(n), Encoder(Template(), tokenizer), rows()
    assert {x.status for x in tokenizer_lines(tokenizer, n, [encoder.eos])} == {"ok"}
    items = encode_items(sets, ("answer", "perturbed"), encoder)
    table = score_tokens(model, sets, ("answer", "perturbed"), encoder)
    plain = [row_logps(model, i.encoded.ids)[i.first - 1 :].numpy() for i in items]
    np.testing.assert_allclose(table["logp"].to_numpy(), np.concatenate(plain), rtol=1e-4, atol=1e-4)
    assert [i.encoded.ids[-1] for i in items] == [encoder.eos] * len(items)
    result = generate_texts(model, sets, "answer", encoder, Generation(max_new_tokens=6))
    for text, prompt in zip(result, encoder.row_prompts(sets, sets.rows), strict=True):
        ids = greedy_ids(model, prompt, 6, ends=[encoder.eos])
        assert text.generation == tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_small_tokenizers_of_each_kind(kind: Callable[[], PreTrainedTokenizerFast]) -> None:
    check(kind())


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
def test_real_vocabularies(vocabularies: Path) -> None:
    folders = sorted(p for p in (vocabularies / "tokenizers").iterdir() if p.is_dir())
    assert len(folders) >= 11
    refused = []
    for folder in folders:
        tokenizer = load_tokenizer(str(folder), TokenizerArgs())
        if tokenizer.eos_token_id is None:
            refused.append(folder.name)
            continue
        check(tokenizer)
    assert len(folders) - len(refused) >= 11
