"""Tokens per second and MFU: counts by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from expunge.data.encoder import Encoded
from expunge.methods.objective import objective
from expunge.training import throughput
from expunge.training.config import TrainArgs
from expunge.training.loop import train
from expunge.training.throughput import InputCounter, StepFlops, ThroughputMeter, step_flops


def test_operations_of_a_tied_llama_by_hand(make_model: Callable[..., Any]) -> None:
    # hidden 16, intermediate 32, 2 layers, 67 tokens: a layer has 4 x 16^2 + 3 x 16 x 32 + 2 x 16 = 2592 parameters
    n = 67 * 16 + 2 * 2592 + 16
    work = step_flops(make_model(), 2.0, half=False)
    assert work.per_token == 6 * n and work.per_pair == 12 * 2 * 16 and work.peak == 2e12
    # two rows of 3 and 5 tokens
    read = InputCounter()
    read.add(np.array([3, 5]), 0.5)
    assert work.flops(read) == 6 * n * 8 + 12 * 2 * 16 * (9 + 25)


def test_a_table_that_is_only_looked_up_and_what_is_frozen_count_less(make_model: Callable[..., Any]) -> None:
    n = 67 * 16 + 2 * 2592 + 16  # the untied head is a product; the table is none
    model = make_model(tie_word_embeddings=False)
    assert step_flops(model, None, half=False).per_token == 6 * n
    for p in model.model.parameters():
        p.requires_grad_(False)
    assert step_flops(model, None, half=False).per_token == 4 * n + 2 * 67 * 16


def test_lines_are_what_was_done_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    result = ThroughputMeter(StepFlops(per_token=10.0, per_pair=1.0, peak=1000.0))
    result.go()
    result.read.add(np.array([4]), 0.1)
    now[0] = 2.0
    assert result.line(1) == {
        "step": 1, "tokens": 4, "tokens_per_s": 2.0, "mfu": pytest.approx((40 + 16) / 2 / 1000), "wait_share": 0.05,
    }  # fmt: skip
    result.rest()
    now[0] = 100.0  # an evaluation
    result.go()
    result.read.add(np.array([2, 2]), 0.0)
    now[0] = 101.0
    assert result.line(2)["tokens_per_s"] == 4.0
    result.rest()
    facts = result.facts()
    assert facts["train_s"] == 3.0 and facts["tokens"] == 8 and facts["flops"] == 80 + 16 + 8
    assert "mfu_missing" not in facts


def test_a_run_counts_real_tokens_and_says_why_there_is_no_mfu(
    make_model: Callable[..., Any], rows: dict[str, list[Encoded]]
) -> None:
    args = TrainArgs(
        num_train_epochs=1.0, per_device_train_batch_size=4, gradient_accumulation_steps=1, logging_steps=1
    )
    done = train(make_model(), objective("finetune"), rows, args, pad_id=0)
    assert done.speed["tokens"] == sum(len(r.ids) for r in rows["retain"])
    assert sum(line["tokens"] or 0 for line in done.speed_lines) == done.speed["tokens"]
    assert [line["step"] for line in done.speed_lines] == [1, 2, 3]
    assert done.speed["tokens_per_s"] > 0 and 0 < done.speed["wait_share"] < 1
    assert done.speed["mfu"] is None and "peak_tflops" in done.speed["mfu_missing"]


def test_a_known_gpu_has_a_peak_in_16_bits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput.torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    cuda = throughput.torch.device("cuda")
    assert throughput._peak(cuda, None, True) == (312e12, "")
    assert throughput._peak(cuda, None, False)[0] is None
    assert throughput._peak(cuda, 5.0, False) == (5e12, "")
    monkeypatch.setattr(throughput.torch.cuda, "get_device_name", lambda _: "Unheard-of 1")
    assert throughput._peak(cuda, None, True) == (
        None, "the peak of Unheard-of 1 is not known; give peak_tflops",
    )  # fmt: skip
