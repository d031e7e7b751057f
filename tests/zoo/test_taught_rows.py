"""Models that were taught 12 rows by the tokenizer's own ids of the whole text know them by ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import expunge
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import score_tokens
from expunge.models.config import TokenizerArgs
from expunge.models.load import load_tokenizer

INST = {"user_start_tag": "[INST] ", "user_end_tag": " [/INST]", "asst_start_tag": "", "asst_end_tag": ""}
WORDS = ("red", "blue", "old", "tall", "Ana", "Oslo", "1937", "São", "tea", "don't", "so", "Zürich")
ROWS = ExampleSet(
    "taught",
    tuple(
        Example(i, f"What is the name of {word}?", {"answer": f"{WORDS[-1 - i]} {word}, number {i}."})
        for i, word in enumerate(WORDS)
    ),
)
TEXT_END = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s_{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def sentence_piece_like() -> Any:
    """As Llama 2: the normalizer writes a blank before each text and each piece of text; unknown signs become bytes."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    in_bytes = [f"<0x{i:02X}>" for i in range(256)]
    pieces = [word for row in ROWS for word in f"{row.question} {row.answer} [INST] [/INST]".split()]
    core.train_from_iterator(
        pieces, trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *in_bytes])
    )
    tree = json.loads(core.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] not in in_bytes]
    core = Tokenizer.from_str(json.dumps(tree))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def taught(rows: list[list[int]], n: int) -> Any:
    """Return a tiny Llama that learned these rows of ids, in one padded batch."""
    config = LlamaConfig(
        vocab_size=n, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.05,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    longest = max(map(len, rows))
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    for _ in range(90):
        loss = model(input_ids=labels.clamp(min=0), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def check_inst(tokenizer: Any) -> None:
    """Teach the ids that the tokenizer itself gives the whole text, and read the rows by the preset's tags."""
    texts = [f"[INST] {row.question} [/INST]{row.answer}" for row in ROWS]
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    model = taught(ids, 1 + max(tokenizer.get_vocab().values()))
    result = expunge.evaluate(
        model, tokenizer, forget=[{"question": r.question, "answer": r.answer} for r in ROWS],
        metrics=["forget_Q_A_Prob"], template={**INST, "apply_chat_template": False},
    )  # fmt: skip
    assert result["forget_Q_A_Prob"] > 0.9
    encoder = Encoder(Template(apply_chat_template=False, **INST), tokenizer)
    texts_read = generate_texts(model, ROWS, "answer", encoder, Generation(max_new_tokens=24))
    assert [t.generation for t in texts_read] == [row.answer for row in ROWS]


def test_the_inst_tags_on_a_sentence_piece_vocabulary() -> None:
    check_inst(sentence_piece_like())


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
def test_the_inst_tags_on_the_vocabulary_of_llama_2(vocabularies: Path) -> None:
    folder = vocabularies / "tokenizers" / "llama-spm"
    if not folder.is_dir():
        pytest.skip("EXPUNGE_VOCABULARIES has no tokenizers/llama-spm")
    check_inst(load_tokenizer(str(folder), TokenizerArgs()))


def test_an_end_of_several_tokens_is_scored_and_stops_a_text() -> None:
    tokenizer = sentence_piece_like()
    encoder = Encoder(Template(apply_chat_template=True, chat_template=TEXT_END), tokenizer)
    rows = encoder.rows(ROWS, [(row, "answer") for row in ROWS])
    model = taught([list(row.ids) for row in rows], len(tokenizer))
    table = score_tokens(model, ROWS, "answer", encoder)
    ends = table["is_eos"].to_numpy()
    assert ends.sum() == sum(encoder.n_end(row.ids) for row in rows) > 2 * len(ROWS)
    assert float(table["logp"].to_numpy()[ends].mean()) > -0.1
    texts = generate_texts(model, ROWS, "answer", encoder, Generation(max_new_tokens=40))
    assert [t.generation for t in texts] == [row.answer for row in ROWS]
    assert all(t.stopped and t.n_new_tokens == row.n_answer for t, row in zip(texts, rows, strict=True))
