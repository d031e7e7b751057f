"""Every distinct sequence of an evaluation is read once: what the model is given is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks.metric_suite import tofu_panel
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.loaders.tofu import load_tofu
from expunge.data.template import Template
from expunge.evaluation.kinds import wanted_variants
from expunge.evaluation.loglikelihood import encode_items, score_tokens
from expunge.metrics.compute import requests


@pytest.mark.shared
def test_tofu_with_every_metric_asks_for_each_distinct_sequence_once(shared: Path) -> None:
    sets = load_tofu(
        str(shared / "data" / "tofu"), forget_split="forget10", retain_split="retain90", holdout_split="holdout10"
    )
    questions = [
        (name, row.question, row.row_id, variant)
        for name, targets in requests(tofu_panel(holdout=True)).tokens.items()
        for row in sets[name]
        for variant in wanted_variants(row, targets)
    ]
    assert len(questions) == len(set(questions)) == 6868
    assert len({(name, row_id) for name, _, row_id, _ in questions}) == 1417


def test_the_model_reads_each_sequence_once(model: Any, tokenizer: Any, rows: ExampleSet) -> None:
    encoder = Encoder(Template(), tokenizer)
    targets = ("answer", "paraphrase", "perturbed")
    read: list[tuple[int, ...]] = []

    def keep(_module: Any, _args: Any, settings: dict[str, Any]) -> None:
        read.extend(tuple(row.tolist()) for row in settings["input_ids"])

    score_tokens(model, rows, targets, encoder, shared_prefix=False)  # the first call also observes the model
    handle = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        score_tokens(model, rows, targets, encoder, shared_prefix=False)
    finally:
        handle.remove()
    items = encode_items(rows, targets, encoder)
    assert len(read) == len(items)
    for item in items:
        assert any(row[: len(item.encoded.ids)] == item.encoded.ids for row in read)
