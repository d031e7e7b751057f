"""Plain transformers: each row by itself, without padding, cache, shared start or hooks. The zoo is held against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from zoo_families import VOCABULARY

from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template

WANTED = ("answer", "perturbed")


def word_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token per word: `<pad> <bos> <eos> w3 w4 ...`, so that rows choose their own ids."""
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, size)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<pad>"
    )


def word_rows(seed: int = 0) -> ExampleSet:
    """Return rows of very different lengths (4 to 45 tokens); answers to one question share their first words."""
    draw = torch.Generator().manual_seed(seed)

    def words(n: int) -> str:
        return " ".join(f"w{i}" for i in torch.randint(3, VOCABULARY, (n,), generator=draw).tolist())

    rows = []
    for i, (n_question, n_answer) in enumerate(((3, 2), (34, 9), (11, 5), (21, 1), (7, 12))):
        begin = words(n_answer)
        answers = {"answer": begin, "perturbed_0": f"{begin} {words(3)}", "perturbed_1": words(n_answer + 2)}
        rows.append(Example(i, words(n_question), answers))
    return ExampleSet("zoo", tuple(rows), form="completion")


def word_encoder() -> Encoder:
    """Return the encoder of the zoo."""
    return Encoder(Template(max_length=100), word_tokenizer())


def row_logps(model: Any, ids: Sequence[int]) -> Tensor:
    """Return log p of each token but the first of one row by `model(ids)`: shape (T - 1,)."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0].float()
    return logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def greedy_ids(model: Any, prompt: Sequence[int], n: int, ends: Sequence[int] = (2,)) -> list[int]:
    """Return the greedy continuation of one prompt, each token by a whole `model(ids)`."""
    ids = list(prompt)
    while len(ids) < len(prompt) + n:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def generated_ids(model: Any, prompt: Sequence[int], n: int, **extra: Any) -> list[int]:
    """Return the continuation of one prompt by `model.generate`, greedily."""
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([list(prompt)]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=n, do_sample=False, pad_token_id=0, eos_token_id=2, **extra,
        )  # fmt: skip
    return out[0, len(prompt) :].tolist()


def train_on_rows(model: Any, rows: Sequence[Sequence[int]], steps: int = 25) -> None:
    """Train a model on each row by itself, so that it comes to know the rows; it ends in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(steps):
            ids = torch.tensor([list(rows[step % len(rows)])])
            logits = model(input_ids=ids).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
