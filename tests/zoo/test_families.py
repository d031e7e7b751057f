"""Each family of the zoo by Expunge and by plain transformers, row by row: equal log-probs, texts and gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from zoo_families import FAMILIES, tiny_model
from zoo_plain import (
    WANTED,
    generated_ids,
    greedy_ids,
    row_logps,
    train_on_rows,
    word_encoder,
    word_rows,
)

from expunge.core.errors import ConfigError
from expunge.data.batch import collate
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.gradients import score_grads
from expunge.evaluation.loglikelihood import encode_items, score_tokens
from expunge.evaluation.observation import capabilities
from expunge.methods.api import Quantity, ScoredPositions
from expunge.training.forward import forward
from expunge.training.phases import ForwardSpec

pytestmark = pytest.mark.filterwarnings("ignore")  # of the families' own code

NEW = 12  # tokens generated after each prompt
# `make test` runs one family of each kind of attention, position and state; `make test-zoo` runs all.
FAST = (
    "bloom", "deepseek_v2", "gemma2", "gpt2", "gpt_neo", "gpt_oss", "llama", "mamba", "minimax", "mixtral", "mpt",
    "opt", "qwen3_next", "roberta",
)  # fmt: skip
REFUSED = ("reformer", "xlnet")  # a token sees later ones
# `generate` of these gives other tokens than their own `model(ids)`; they are held against the latter.
CONTRADICTORY = (
    "blenderbot-small", "deepseek_v32", "marian", "minimax", "moshi", "pegasus", "roberta", "xlm", "xlm-roberta",
)  # fmt: skip
NO_GRADIENT = ("rwkv",)  # its own code changes a tensor in place that its backward needs, in evaluation mode
TRAINED = ("gemma2", "gpt2", "llama", "mamba", "mixtral")


def families(names: Sequence[str], fast: Sequence[str] = FAST) -> list[Any]:
    return [pytest.param(name, marks=() if name in fast else pytest.mark.zoo) for name in names]


SCORED = families([name for name in FAMILIES if name not in REFUSED])
ENCODER, ROWS = word_encoder(), word_rows()
ITEMS = encode_items(ROWS, WANTED, ENCODER)


@functools.cache
def model_of(name: str) -> Any:
    """A tiny model; `trained-NAME` has learned the rows by heart."""
    family = name.removeprefix("trained-")
    model = tiny_model(family)
    if family != name:
        train_on_rows(model, [i.encoded.ids for i in ITEMS])
    return model


@functools.cache
def plain_logps(name: str) -> np.ndarray[Any, Any]:
    """log p of every scored token by `model(ids)` of its row."""
    model = model_of(name)
    return np.concatenate([row_logps(model, i.encoded.ids)[i.first - 1 :].numpy() for i in ITEMS])


def prompts() -> list[list[int]]:
    return ENCODER.row_prompts(ROWS, ROWS.rows)


def plain_row_loss(model: Any, item: Any, last: int | None = None) -> torch.Tensor:
    """log p of an item's scored tokens, summed, by `model(ids)`, with its gradient."""
    ids = torch.tensor([item.encoded.ids])
    logits = model(input_ids=ids).logits[0].float()
    return logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None])[item.first - 1 : last]


def test_at_least_fifty_families() -> None:
    assert len({name.partition("-")[0] for name in FAMILIES}) > 100
    assert set(FAST) | set(REFUSED) | set(CONTRADICTORY) | set(TRAINED) <= set(FAMILIES)


def check_scores(name: str) -> None:
    for shared in (False, True):
        table = score_tokens(model_of(name), ROWS, WANTED, ENCODER, shared_prefix=shared)
        np.testing.assert_allclose(table["logp"].to_numpy(), plain_logps(name), rtol=1e-4, atol=1e-4)


def check_texts(name: str) -> None:
    model = model_of(name)
    expected = [greedy_ids(model, prompt, NEW) for prompt in prompts()]
    if name not in CONTRADICTORY:
        assert [generated_ids(model, prompt, NEW) for prompt in prompts()] == expected
    result = generate_texts(model, ROWS, "answer", ENCODER, Generation(max_new_tokens=NEW))
    decode = ENCODER.tokenizer.decode
    assert [t.generation for t in result] == [decode(ids, skip_special_tokens=True).strip() for ids in expected]


@pytest.mark.parametrize("name", SCORED)
def test_scores_equal_one_row_at_a_time(name: str) -> None:
    check_scores(name)


@pytest.mark.parametrize("name", SCORED)
def test_texts_equal_one_prompt_at_a_time(name: str) -> None:
    check_texts(name)


@pytest.mark.parametrize("name", families(TRAINED, fast=("llama", "mamba")))
def test_models_that_know_their_rows(name: str) -> None:
    """Sharp distributions, as after training: a wrong position or window costs many nats."""
    trained = f"trained-{name}"
    assert plain_logps(trained).mean() > plain_logps(name).mean() + 1
    check_scores(trained)
    check_texts(trained)


@pytest.mark.parametrize("name", SCORED)
def test_training_forward_equals_plain_rows(name: str) -> None:
    """Log-probs, and the gradient of their sum, of a padded batch as training reads it."""
    model = model_of(name)
    capabilities(model)
    batch = collate([i.encoded for i in ITEMS], pad_id=0)
    logps = forward(model, batch, ForwardSpec(Quantity.LOGPS)).logps(batch.token_N)
    np.testing.assert_allclose(logps.detach().numpy(), plain_logps(name), rtol=1e-4, atol=1e-4)
    whole = collate([i.encoded for i in ITEMS], pad_id=0, padding_side="left", positions="all")
    with torch.no_grad():
        out = forward(model, whole, ForwardSpec(Quantity.LOGPS, ScoredPositions.ALL))
    labelled = out.logps(whole.token_N)[whole.labelled_N]
    np.testing.assert_allclose(labelled.numpy(), plain_logps(name), rtol=1e-4, atol=1e-4)
    if name in NO_GRADIENT:
        return
    mine = gradients(model, logps.sum())
    plain = gradients(model, sum(plain_row_loss(model, i).sum() for i in ITEMS))  # type: ignore[arg-type]
    assert mine.keys() == plain.keys()
    top = max(float(g.abs().max()) for g in plain.values())
    assert max(float((mine[k] - plain[k]).abs().max()) for k in plain) <= 1e-3 * top


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    original = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return original


@pytest.mark.parametrize("name", families([n for n in FAMILIES if n not in (*REFUSED, *NO_GRADIENT)]))
def test_gradient_norms_equal_one_answer_at_a_time(name: str) -> None:
    model = model_of(name)
    lines = {(x["variant"], x["row_id"]): x for x in score_grads(model, ROWS, WANTED, ENCODER).to_pylist()}
    for item in ITEMS:
        result = lines[item.variant, item.row_id]["l2"]
        if item.n_scored < 2:
            assert math.isnan(result)
            continue
        plain = gradients(model, -plain_row_loss(model, item, last=-1).mean())
        norm = float(torch.cat([g.flatten() for g in plain.values()]).norm())
        assert result == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_no_causal_model_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^model: \w+ cannot be scored: a later token changes[^\n]*$"):
        score_tokens(model_of(name), ROWS, WANTED, ENCODER)
