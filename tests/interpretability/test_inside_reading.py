from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from expunge.core.errors import ConfigError, DataError
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.interpretability.inputs import (
    AnalysisInputs,
    analysis_inputs,
    answer_logps,
    find_span,
    mean_loss,
    row_means,
    swapped,
)
from expunge.models.build import train_tokenizer


def by_hand(model: Any, read: AnalysisInputs) -> list[float]:
    """log p of each counted token, every row run alone by the plain forward."""
    out = []
    for i, row in enumerate(read.rows):
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        out += [float(logps[at - 1, row.ids[at]]) for at in read.positions(i, "own")]
    return out


def test_logps_equal_the_plain_forward_row_by_row(any_model: Any, read: AnalysisInputs) -> None:
    atol = 2e-6 if any_model.config.model_type == "gemma2" else 1e-9  # Gemma 2 attends in float32 whatever its dtype
    np.testing.assert_allclose(answer_logps(any_model, read), by_hand(any_model, read), rtol=0, atol=atol)


def test_batches_and_padding_change_nothing(
    make_model: Any, read: AnalysisInputs, variants: list[AnalysisInputs]
) -> None:
    model = make_model(0)
    plain = row_means(answer_logps(model, read), read)
    for other in variants:
        result = dict(zip(other.row_ids, row_means(answer_logps(model, other), other), strict=True))
        np.testing.assert_allclose([result[i] for i in range(len(plain))], plain, rtol=1e-11)


def test_spans_choose_the_tokens(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    cut = dataclasses.replace(read, spans=tuple((1, 3) if i != 3 else (0, 1) for i in range(8)))
    assert list(cut.positions(0, "own")) == [3, 4]
    assert list(cut.positions(0, "predicts")) == [2, 3]
    assert cut.offsets.tolist() == [0, 2, 4, 6, 7, 9, 11, 13, 15]
    np.testing.assert_allclose(answer_logps(model, cut), by_hand(model, cut), rtol=1e-9)


def test_mean_loss_is_a_mean_of_rows(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    logps = answer_logps(model, read)
    rows = [-logps[a:b].mean() for a, b in zip(read.offsets[:-1], read.offsets[1:], strict=True)]
    assert mean_loss(model, read) == pytest.approx(np.mean(rows), rel=1e-12)


def test_last_positions(read: AnalysisInputs) -> None:
    assert list(read.positions(0, "last", 4)) == [2, 3, 4, 5]
    assert list(read.positions(0, "last", 10)) == [0, 1, 2, 3, 4, 5]  # shorter than ten
    assert list(read.positions(6, "own")) == [1, 2, 3, 4, 5]  # nothing predicts the first token


def test_wrong_rows_are_named() -> None:
    row = Encoded((1, 5, 2), 1)
    with pytest.raises(DataError, match=r"^rows: "):
        AnalysisInputs((), 0)
    with pytest.raises(DataError, match=r"^row 7: tokens 1 to 3 of 2 scored ones: none counts$"):
        AnalysisInputs((row,), 0, (7,), spans=((1, 3),))
    with pytest.raises(DataError, match=r"^row_ids and spans: expected one for each of the 1 rows$"):
        AnalysisInputs((row,), 0, (7, 8))


def test_from_a_row_set() -> None:
    rows = ExampleSet(
        "R", (Example(0, "Who?", {"answer": "Ana Lopes of Faro."}), Example(1, "Where?", {"other": "Here."}))
    )
    tokenizer = train_tokenizer(["Who? Where? Ana Lopes of Faro. Here."], 300, max_length=64)
    read = analysis_inputs(rows, Encoder(Template(), tokenizer))
    assert read.row_ids == (0,)
    span = find_span(tokenizer, read.rows[0], "Lopes")
    assert span is not None
    ids = read.rows[0].ids[read.rows[0].n_prompt :]
    assert tokenizer.decode(ids[span[0] : span[1]]).strip() == "Lopes"
    assert find_span(tokenizer, read.rows[0], "Porto") is None
    with pytest.raises(DataError, match=r"^R: no row has an answer 'paraphrase'$"):
        analysis_inputs(rows, Encoder(Template(), tokenizer), "paraphrase")


def test_swapped_weights_come_back_after_an_error(make_model: Any) -> None:
    model = make_model(0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(RuntimeError, match="stop"), swapped(model, {name: torch.zeros(32, 16)}):
        assert not dict(model.named_parameters())[name].any()
        raise RuntimeError("stop")
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    with (
        pytest.raises(ConfigError, match=r"^the model has no parameter 'nothing'$"),
        swapped(model, {"nothing": before[name]}),
    ):
        pass
