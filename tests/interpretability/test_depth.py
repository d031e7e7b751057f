from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from expunge.core.errors import ConfigError, DataError
from expunge.interpretability import activation_patching
from expunge.interpretability.activation_patching import (
    _layer_by_layer,
    depth_score,
    knowledge_carried,
    patch_drops,
    patched_logps,
    unlearning_depth,
)
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import AnalysisInputs, answer_logps
from expunge.interpretability.model_layout import model_layout


def test_the_score_by_hand() -> None:
    # row 0: layers 0 and 2 count; (0.4 * 0.5 + 0.6 * 1) / 1 = 0.8. row 1: layer 1, below 0 is clipped. row 2: none
    control = np.array([[0.4, 0.05, 0.6], [0.0, 0.2, -1.0], [0.01, 0.0, 0.05]])
    source = np.array([[0.2, 9.0, 0.7], [5.0, -0.1, 2.0], [1.0, 1.0, 1.0]])
    result = depth_score(control, source, row_ids=(4, 5, 6), layers=(0, 1, 2))
    assert result.by_row == pytest.approx({4: 0.8, 5: 0.0, 6: math.nan}, nan_ok=True)
    assert result.by_layer == pytest.approx({0: 0.5, 1: 0.0, 2: 1.0})
    assert result.value == pytest.approx(0.4, rel=1e-14)
    assert (result.n_rows, result.n_scored, result.reason) == (3, 2, None)
    assert [line.counts for line in result.lines] == [True, False, True, False, True, False, False, False, False]
    none = depth_score(control[2:], source[2:], row_ids=(6,), layers=(0, 1, 2))
    assert math.isnan(none.value)
    assert none.reason == "patching the control changes no row by more than 0.05 nats per token"


def test_a_model_patched_into_itself_is_itself(any_model: Any, read: AnalysisInputs) -> None:
    states = hidden_states(any_model, read, at="predicts")
    own = answer_logps(any_model, read)
    for patched in patched_logps(any_model, states, read):
        np.testing.assert_allclose(patched, own, rtol=0, atol=1e-9)


def test_one_forward_for_all_layers_gives_the_numbers_of_one_for_each(any_model: Any, read: AnalysisInputs) -> None:
    other = copy.deepcopy(any_model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    states = hidden_states(other, read, at="predicts")
    with torch.inference_mode():
        plain = _layer_by_layer(any_model, model_layout(any_model).blocks, states, read)
    np.testing.assert_allclose(patched_logps(any_model, states, read), plain, rtol=0, atol=1e-6)


def test_a_plain_decoder_needs_one_forward_and_a_strange_one_falls_back(
    make_model: Any, read: AnalysisInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, states = make_model(0), hidden_states(make_model(1), read, at="predicts")
    together = patched_logps(host, states, read)
    calls: list[str] = []
    monkeypatch.setattr(activation_patching, "_all_layers", lambda *_: calls.append("all") or np.zeros(1))
    np.testing.assert_allclose(patched_logps(host, states, read), together, rtol=0, atol=1e-6)
    assert calls == ["all"]  # the check saw other numbers, so each layer had a forward of its own


def test_full_and_retain_stand_at_the_ends(make_model: Any, read: AnalysisInputs) -> None:
    full, retain = make_model(0), make_model(1)
    assert unlearning_depth(full, retain, full, read).value == pytest.approx(0.0, abs=1e-9)
    assert unlearning_depth(full, retain, retain, read).value == 1.0
    assert knowledge_carried(full, retain, full, read).value == 1.0
    assert knowledge_carried(full, retain, retain, read).value == pytest.approx(0.0, abs=1e-9)


def test_the_last_layer_s_patch_is_the_source_under_the_host_s_head(make_model: Any, read: AnalysisInputs) -> None:
    host, source = make_model(0), make_model(1)
    result = patched_logps(host, hidden_states(source, read, at="predicts"), read)[-1]
    hybrid = make_model(1)
    hybrid.model.norm, hybrid.lm_head = host.model.norm, host.lm_head
    np.testing.assert_allclose(result, answer_logps(hybrid, read), rtol=1e-6)


def test_a_patch_in_the_middle_by_hand(make_model: Any, make_read: Any) -> None:
    host, source, read = make_model(0), make_model(1), make_read([(7, 3)])
    ids = torch.tensor([read.rows[0].ids])
    at = list(read.positions(0, "predicts"))
    with torch.no_grad():
        inputs = source(input_ids=ids, output_hidden_states=True).hidden_states[2][0, at]
        hidden = host(input_ids=ids, output_hidden_states=True).hidden_states[2].clone()
        hidden[0, at] = inputs
        where = host.model.rotary_emb(hidden, torch.arange(7)[None])
        mask = torch.zeros(1, 1, 7, 7, dtype=torch.float64).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
        out = host.model.layers[2](hidden, attention_mask=mask, position_embeddings=where)
        logps = host.lm_head(host.model.norm(out))[0].log_softmax(-1)
    expected = logps[at, [int(ids[0, p + 1]) for p in at]].numpy()
    result = patched_logps(host, hidden_states(source, read, at="predicts"), read)[1]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_a_planted_change_lies_at_and_above_its_layer(make_model: Any, read: AnalysisInputs) -> None:
    # unlearning that touched only the last block: the states below it are the full model's
    full, retain, shallow = make_model(0), make_model(1), make_model(0)
    with torch.no_grad():
        shallow.model.layers[2].mlp.down_proj.weight.normal_(generator=torch.Generator().manual_seed(0))
    drops = patch_drops(full, hidden_states(shallow, read, at="predicts"), read)
    assert np.abs(drops[:, :2]).max() < 1e-9
    assert np.abs(drops[:, 2]).min() > 1e-3
    result = unlearning_depth(full, retain, shallow, read)
    assert result.by_layer[0] == pytest.approx(0, abs=1e-6)
    assert 0 < result.value < 1


def test_only_the_span_is_patched_and_read(make_model: Any, read: AnalysisInputs) -> None:
    cut = dataclasses.replace(read, spans=((0, 1),) * 8)
    host, states = make_model(0), hidden_states(make_model(1), cut, at="predicts")
    assert states.values_LND.shape[1] == 8
    assert patch_drops(host, states, cut).shape == (8, 3)


def test_batches_change_nothing(make_model: Any, read: AnalysisInputs, variants: list[AnalysisInputs]) -> None:
    full, retain, other = make_model(0), make_model(1), make_model(2)
    plain = unlearning_depth(full, retain, other, read).by_row
    for v in variants:
        result = unlearning_depth(full, retain, other, v).by_row
        assert [result[i] for i in range(8)] == pytest.approx([plain[i] for i in range(8)], rel=1e-7, nan_ok=True)


def test_wrong_input_is_one_line(make_model: Any, read: AnalysisInputs, make_read: Any) -> None:
    with pytest.raises(DataError, match=r"^patched_logps: the states must be"):
        patched_logps(make_model(0), hidden_states(make_model(1), make_read([(9, 2)]), at="predicts"), read)
    with pytest.raises(DataError, match=r"^depth_score: shapes"):
        depth_score(np.zeros((2, 3)), np.zeros((2, 2)), row_ids=(0, 1), layers=(0, 1, 2))
    with pytest.raises(ConfigError, match=r"^tau must be a number >= 0, got -1$"):
        depth_score(np.zeros((2, 1)), np.zeros((2, 1)), row_ids=(0, 1), layers=(0,), tau=-1)
