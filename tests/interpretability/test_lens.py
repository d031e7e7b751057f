from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from expunge.core.errors import ConfigError, JobError
from expunge.interpretability.inputs import AnalysisInputs, answer_logps, row_means
from expunge.interpretability.lens import fit_lens, lens_scores, lens_tokens


def test_the_last_layer_is_the_model_itself(any_model: Any, read: AnalysisInputs) -> None:
    result = lens_scores(any_model, read)
    own = row_means(answer_logps(any_model, read), read)
    assert result.logp[-1] == pytest.approx(own.mean(), rel=1e-9)
    last = [line.logp for line in result.lines if line.layer == result.layers[-1]]
    np.testing.assert_allclose(last, own, rtol=1e-8)


def test_an_earlier_layer_by_hand(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    row = read.rows[1]
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1][0]
        logps = model.lm_head(model.model.norm(hidden)).log_softmax(-1)
    at = list(read.positions(1, "predicts"))
    expected = float(logps[at, [row.ids[p + 1] for p in at]].mean())
    line = next(ln for ln in lens_scores(model, read).lines if (ln.row_id, ln.layer) == (1, 0))
    assert line.logp == pytest.approx(expected, rel=1e-10)
    assert line.accuracy == pytest.approx(np.mean([int(logps[p].argmax()) == row.ids[p + 1] for p in at]))


def test_tokens_of_a_part_of_the_rows(make_model: Any, read: AnalysisInputs) -> None:
    class Names:
        def decode(self, ids: list[int]) -> str:
            return f"<{ids[0]}>"

    model = make_model(0)
    part = read.part(slice(1, 3))
    tokens = lens_tokens(model, part, Names())
    assert list(dict.fromkeys(line.row_id for line in tokens.lines)) == list(read.row_ids[1:3])
    whole = {(line.row_id, line.layer): line.logp for line in lens_scores(model, read).lines}
    for row in read.row_ids[1:3]:
        for layer in tokens.layers:
            own = [line for line in tokens.lines if (line.row_id, line.layer) == (row, layer)]
            assert np.mean([line.logp for line in own]) == pytest.approx(whole[row, layer], rel=1e-10)
    first = [line.token for line in tokens.lines if (line.row_id, line.layer) == (read.row_ids[1], 0)]
    assert first == [f"<{read.rows[1].ids[p]}>" for p in read.positions(1, "own")]


def test_batches_change_nothing(make_model: Any, read: AnalysisInputs, variants: list[AnalysisInputs]) -> None:
    plain = lens_scores(make_model(0), read)
    for other in variants:
        np.testing.assert_allclose(lens_scores(make_model(0), other).logp, plain.logp, rtol=1e-11)


def test_a_fitted_lens_comes_nearer_to_the_model_and_twice_the_same(make_model: Any, make_read: Any) -> None:
    model, fit = make_model(0), make_read([(20, 2)] * 20, seed=5)
    before = [p.detach().clone() for p in model.parameters()]
    start = fit_lens(model, fit, steps=1, learning_rate=1e-12)
    lens = fit_lens(model, fit, steps=100, learning_rate=2e-2)
    assert lens.layers == (0, 1)
    assert all(after < 0.6 * first for after, first in zip(lens.losses, start.losses, strict=True))
    assert torch.equal(lens.A_LDD, fit_lens(model, fit, steps=100, learning_rate=2e-2).A_LDD)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    report = lens_scores(model, make_read(seed=9), lens=lens)
    assert (report.lens, report.layers) == ("tuned", (0, 1))


def test_the_identity_lens_is_the_logit_lens(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    lens = fit_lens(model, read, steps=1, learning_rate=1e-14)
    np.testing.assert_allclose(lens_scores(model, read, lens=lens).logp, lens_scores(model, read).logp[:2], rtol=1e-9)


def test_a_planted_rotation_is_undone(make_model: Any, make_read: Any) -> None:
    # the last block does nothing but rotate the stream, so an affine lens can be exact, on other rows too
    model = make_model(0)
    draw = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=draw))[0]
    model.model.layers[2].register_forward_hook(lambda _m, args, _o: args[0] @ rotation.T)
    fit, content = make_read([(20, 2)] * 40, seed=5), make_read(seed=6)
    plain = fit_lens(model, fit, layers=[1], steps=1, learning_rate=1e-14)
    lens = fit_lens(model, fit, layers=[1], steps=500, learning_rate=2e-2)
    assert plain.losses[0] > 1
    assert lens.losses[0] < 1e-5
    own = row_means(answer_logps(model, content), content)
    np.testing.assert_allclose([ln.logp for ln in lens_scores(model, content, lens=lens).lines], own, atol=1e-2)
    assert max(abs(ln.logp - v) for ln, v in zip(lens_scores(model, content, layers=[1]).lines, own, strict=True)) > 0.1


def test_what_cannot_be_read_is_refused(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    lens = fit_lens(model, read, layers=[0], steps=1)
    with pytest.raises(ConfigError, match=r"^layers: the lens was fitted to layers \[0\], got \[1\]$"):
        lens_scores(model, read, lens=lens, layers=[1])
    with pytest.raises(ConfigError, match=r"^fit_lens: no layer to fit"):
        fit_lens(make_model(0, num_hidden_layers=1), read)
    model.model.norm.register_forward_pre_hook(lambda _m, args: (args[0] + 3.0 * torch.arange(16),))
    model.lm_head.register_forward_hook(lambda _m, _a, out: -out)
    with pytest.raises(JobError, match="after its last block"):
        lens_scores(model, read)
