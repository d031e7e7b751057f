from __future__ import annotations

from typing import Any

import pytest

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.training.config import TrainArgs
from expunge.training.optimizers import OPTIMIZERS, STOCHASTIC


@pytest.mark.parametrize(
    ("keys", "n_anchor", "samples", "steps"),
    [
        ({"num_train_epochs": 10}, 400, 4000, 125),  # 32 rows a step
        ({"num_train_epochs": 1}, 400, 400, 13),
        ({"num_train_epochs": 0.5}, 7, 4, 1),
        ({"num_train_epochs": 0.001}, 7, 1, 1),
        ({"num_train_epochs": 0.1 + 0.2}, 10, 3, 1),  # not 4: the rounding of 0.30000000000000004
        ({"max_steps": 3, "num_train_epochs": 99}, 400, 96, 3),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_train_epochs": 1}, 9, 9, 2),
        ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1, "num_train_epochs": 2}, 5, 10, 4),
    ],
)
def test_samples_and_steps(keys: dict[str, Any], n_anchor: int, samples: int, steps: int) -> None:
    args = TrainArgs(**keys)
    assert (args.n_samples(n_anchor), args.n_steps(n_anchor)) == (samples, steps)


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({}, 0),
        ({"warmup_steps": 5}, 5),
        ({"warmup_steps": 0.1}, 13),  # of 125
        ({"warmup_epochs": 1.0}, 13),  # 400 rows, 32 a step
        ({"warmup_epochs": 0.0, "warmup_steps": 5}, 0),
        ({"warmup_epochs": 1.0, "warmup_steps": 99}, 13),
    ],
)
def test_warmup(keys: dict[str, Any], steps: int) -> None:
    assert TrainArgs(**keys).warmup(400) == steps


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"learning_rate": 0}, r"learning_rate: must be a number > 0, got 0"),
        ({"learning_rate": float("nan")}, r"learning_rate: (must be a number > 0|should be a finite number)"),
        ({"num_train_epochs": float("inf")}, r"num_train_epochs: (must be at most|should be a finite number)"),
        ({"max_loss": -1}, r"max_loss: must be a number > 0"),
        ({"per_device_train_batch_size": 0}, r"per_device_train_batch_size: must be at least 1"),
        ({"logits_chunk_size": -1}, r"logits_chunk_size: must be at least 0 \(0: all at once\), got -1"),
        ({"logging_steps": 0}, r"logging_steps: must be a whole number of at least 1, or a share below 1"),
        ({"logging_steps": 2.5}, r"logging_steps: must be a whole number of at least 1, or a share below 1"),
        ({"weight_decay": -0.1}, r"weight_decay: must be a number >= 0"),
        ({"weight_decay": float("inf")}, r"weight_decay: (must be at most|should be a finite number)"),
        ({"warmup_epochs": float("nan")}, r"warmup_epochs: (must be a number >= 0|should be a finite number)"),
        ({"warmup_steps": -1}, r"warmup_steps: must be a number >= 0"),
        ({"adam_beta1": 1.0}, r"adam_beta1: must be at least 0 and less than 1"),
        ({"adam_beta2": -0.1}, r"adam_beta2: must be at least 0 and less than 1"),
        ({"adam_epsilon": 0}, r"adam_epsilon: must be a number > 0"),
        ({"max_steps": 0}, r"max_steps: must be at least 1 \(or -1: num_train_epochs decides\)"),
        ({"bf16": True, "fp16": True}, "bf16: cannot be on together with fp16"),
        ({"optim": "adam"}, r"optim: .* \(allowed: adafactor, .* got 'adam'"),
        ({"learning_rte": 1}, r"learning_rte: unknown key; did you mean 'learning_rate'\?"),
        ({"anchor": "both"}, r"anchor: "),
        ({"lr_scheduler_type": "step"}, r"lr_scheduler_type: "),
    ],
)
def test_wrong_settings_end_in_one_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        decode(TrainArgs, keys, where="train")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("train")


@pytest.mark.parametrize("optim", sorted({*OPTIMIZERS} - {STOCHASTIC}))  # that one has a class of its own
def test_every_listed_optimizer_is_one_of_transformers(optim: str) -> None:
    from transformers.training_args import OptimizerNames

    assert optim in {o.value for o in OptimizerNames}


def test_identity_leaves_out_what_does_not_change_the_weights() -> None:
    base = fingerprint(TrainArgs().identity)
    assert fingerprint(TrainArgs(logging_steps=1).identity) == base
    for other in (TrainArgs(seed=1), TrainArgs(learning_rate=2e-5), TrainArgs(group_by_length=False)):
        assert fingerprint(other.identity) != base


def test_an_approximate_reference_counts_and_an_exact_one_leaves_no_trace() -> None:
    plain = TrainArgs()
    assert plain.topk is None and TrainArgs(reference_topk=9).identity == plain.identity
    top = TrainArgs(reference="topk", reference_topk=9)
    assert top.topk == 9
    assert fingerprint(top.identity) not in {
        fingerprint(a.identity) for a in (plain, TrainArgs(reference="topk", reference_topk=8))
    }
    with pytest.raises(ConfigError, match=r"^args\.reference_topk: must be at least 1, got 0$"):
        decode(TrainArgs, {"reference_topk": 0}, where="args")
