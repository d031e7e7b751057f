"""Methods that treat some tokens of an answer apart, from rows in memory to weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from library_facts import FACTS

import expunge
from expunge.core.errors import ConfigError

RUN: dict[str, Any] = {
    "num_train_epochs": 20,
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
}


def logps(model: Any, tokenizer: Any, row: dict[str, str]) -> list[tuple[str, float]]:
    """The tokens of an answer with their log-probabilities, by the default template."""
    encoder = expunge.UnlearnTrainer(
        copy.deepcopy(model), expunge.FinetuneConfig(), retain_dataset=[row], processing_class=tokenizer
    ).encoder
    encoded = encoder.encode(row["question"], row["answer"])
    ids = torch.tensor([encoded.ids])
    with torch.no_grad():
        logp = torch.log_softmax(model(ids).logits[0, :-1], dim=-1)
    at = range(encoded.n_prompt - 1, len(encoded.ids) - 1)
    return [(tokenizer.decode([encoded.ids[i + 1]]).strip(), float(logp[i, encoded.ids[i + 1]])) for i in at]


def test_tpo_lowers_the_unwanted_words_and_keeps_the_others(full: Any, tokenizer: Any) -> None:
    rows = [{**row, "unwanted": row["answer"].rstrip(".").split()[-1]} for row in FACTS[:2]]
    before = [logps(full, tokenizer, row) for row in rows]
    expunge.unlearn(full, rows, tokenizer=tokenizer, method="TPO", **RUN)
    for row, old in zip(rows, before, strict=True):
        new = logps(full, tokenizer, row)
        unwanted = [i for i, (text, _) in enumerate(new) if text and text in row["unwanted"]]
        others = [i for i in range(len(new)) if i not in unwanted]
        assert sum(new[i][1] for i in unwanted) < sum(old[i][1] for i in unwanted) - 1
        assert sum(new[i][1] for i in others) > sum(old[i][1] for i in others) - 1


def test_r2mu_moves_the_states_of_traces_and_of_answers(full: Any, tokenizer: Any) -> None:
    rows = [{**row, "trace": f"The question is about {row['question'].split()[-1]}"} for row in FACTS]
    states: dict[str, list[torch.Tensor]] = {}
    for name, weights in (("answers", {"trace": 0.0}), ("both", {"trace": 1.0})):
        model = copy.deepcopy(full)
        log = expunge.unlearn(
            model, rows[:2], retain=rows[2:6], tokenizer=tokenizer, method="R2MU", train_on="trace+answer",
            layer="model.layers.0", **weights, **RUN,
        )  # fmt: skip
        assert log is not None
        ids = torch.tensor([tokenizer(rows[0]["trace"])["input_ids"]])
        with torch.no_grad():
            states[name] = [m(ids, output_hidden_states=True).hidden_states[1][0] for m in (full, model)]
    moved = {name: float((new - old).norm()) for name, (old, new) in states.items()}
    assert moved["both"] > 1.2 * moved["answers"] > 0


@pytest.mark.parametrize("rows", [FACTS[:2], [{**row, "trace": ""} for row in FACTS[:2]]])
def test_r2mu_refuses_rows_without_traces_and_the_span_of_answers(full: Any, tokenizer: Any, rows: Any) -> None:
    keywords = {"retain": FACTS[2:6], "tokenizer": tokenizer, "method": "R2MU", "layer": "model.layers.0"}
    with pytest.raises(ConfigError, match=r"^R2MUConfig.train_on: this method reads traces and answers; set"):
        expunge.unlearn(full, rows, **keywords)
    with pytest.raises(ConfigError, match=r"^R2MUConfig.train_on: no example of forget has a trace"):
        expunge.unlearn(full, rows, train_on="trace+answer", **keywords)
