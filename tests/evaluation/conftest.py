"""A tokenizer, a small random model whose generations differ and end, and rows of mixed lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.data.examples import Example, ExampleSet
from expunge.models.build import build_llama, train_tokenizer

torch.set_num_threads(1)  # models this small only lose time to more threads, and much on a busy machine

ANSWERS = ("Ana.", "It was written in Paris, by the sea, over many years.", "1991", "São Paulo is where. " * 3)


@pytest.fixture(scope="session")
def rows() -> ExampleSet:
    """23 rows; the number of perturbed answers differs from row to row."""
    calls = []
    for i in range(23):
        answers = {"answer": ANSWERS[i % 4], "paraphrase": ANSWERS[(i + 1) % 4] + " Yes."}
        answers |= {f"perturbed_{k}": f"Wrong {k} {ANSWERS[(i + k) % 4]}" for k in range(i % 3)}
        calls.append(Example(i, f"Who wrote book {i}?" + " And where did they live?" * (i % 5), answers))
    return ExampleSet("rows", tuple(calls))


@pytest.fixture(scope="session")
def tokenizer(rows: ExampleSet) -> Any:
    """Trained on the rows."""
    texts = [text for row in rows for text in (row.question, *row.answers.values())]
    return train_tokenizer(texts, 400, max_length=256)


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    """llama-64k with larger weights, so that what it says depends on what it reads."""
    result = build_llama("llama-64k", tokenizer, vocab_size=400, seed=0).eval()
    with torch.no_grad():
        for p in result.parameters():
            if p.dim() == 2:
                p.mul_(8)
    return result
