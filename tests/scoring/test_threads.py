"""Batches of small models in threads: the same bytes as one after another, errors that come through, nothing left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from expunge.data.rows import RowSet
from expunge.data.template import Encoder, Template
from expunge.scoring import threads
from expunge.scoring.config import Generation
from expunge.scoring.grads import score_grads
from expunge.scoring.texts import generate_texts
from expunge.scoring.threads import in_threads, small
from expunge.scoring.tokens import score_tokens


@pytest.fixture
def cores() -> Iterator[Any]:
    """Sets how many cores torch may use; as before afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def everything(model: Any, rows: RowSet, tokenizer: Any) -> Any:
    encoder = Encoder(Template(), tokenizer)
    return (
        score_tokens(model, rows, ("answer", "paraphrase", "perturbed"), encoder, token_budget=128),
        score_tokens(model, rows, ("answer",), encoder, token_budget=128, shared_prefix=False),
        generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=12), token_budget=256),
        generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=5, samples=2, temperature=1.0)),
        score_grads(model, rows, ("answer",), encoder),
    )


def test_the_number_of_threads_changes_no_byte(
    model: Any, tokenizer: Any, rows: RowSet, cores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.scoring.grads.AT_ONCE", 4)
    cores(1)
    alone = everything(model, rows, tokenizer)
    for n in (2, 3):
        cores(n)
        for mine, its in zip(everything(model, rows, tokenizer), alone, strict=True):
            assert mine == its


def test_several_threads_read_at_once_with_copies_that_share_the_weights(model: Any, cores: Any) -> None:
    cores(2)
    seen: list[tuple[int, int, int, int]] = []
    both = threading.Barrier(2, timeout=20)

    def call(one: Any, item: int) -> int:
        both.wait()  # passes only if two of them are here at a time
        weight = one.get_input_embeddings().weight
        seen.append((threading.get_ident(), id(one), weight.data_ptr(), torch.get_num_threads()))
        return item * 10

    assert list(in_threads(model, [1, 2, 3, 4], call)) == [10, 20, 30, 40]
    idents, models, places, n_cores = (set(column) for column in zip(*seen, strict=True))
    assert len(idents) == 2 and len(models) == 2 and id(model) in models
    assert places == {model.get_input_embeddings().weight.data_ptr()}
    assert n_cores == {1}
    assert torch.get_num_threads() == 2


def test_an_error_comes_through_and_what_waits_is_not_begun(model: Any, cores: Any) -> None:
    cores(2)
    begun = []

    def call(_model: Any, item: int) -> None:
        begun.append(item)
        if item == 0:
            raise ValueError("row 7 is bad")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="row 7 is bad"):
        list(in_threads(model, list(range(50)), call))
    assert len(begun) < 10
    assert torch.get_num_threads() == 2


def test_only_plain_small_models_on_a_processor_are_read_in_threads(
    model: Any, cores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores(2)
    assert small(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not small(model)  # which is a thread's own
    assert not small(torch.nn.DataParallel(model))
    with monkeypatch.context() as patched:
        patched.setattr(model.lm_head, "forward", model.lm_head.forward)  # as libraries that wrap modules do
        assert not small(model)
    monkeypatch.setattr(threads, "SMALL", 100)
    assert not small(model)
    idents = set(in_threads(model, range(5), lambda *_: threading.get_ident()))
    assert idents == {threading.get_ident()}
