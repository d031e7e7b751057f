"""The work of audit jobs that create or train a model. Every function fills a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from expunge.audits import RelearnSpec
from expunge.core.decode import decode
from expunge.data.examples import ExampleSet
from expunge.engine.job import Progress
from expunge.evaluation.loglikelihood import score_tokens
from expunge.methods.objective import objective
from expunge.models.load import load_model, pick_device, save_model
from expunge.pipelines.study import work
from expunge.pipelines.study.config import StudyConfig
from expunge.pipelines.study.task_context import TaskContext
from expunge.training.config import TrainArgs
from expunge.training.loop import train


def relearn_args(change: RelearnSpec, study: StudyConfig) -> TrainArgs:
    """Return a plain fine-tuning at a constant rate; the rate comes from the audit, else from the study's `unlearn`.

    Samples are not grouped by length: the first steps of a longer run are then those of a shorter one.
    """
    own = decode(TrainArgs, dict(study.unlearn), where="unlearn")
    return TrainArgs(
        learning_rate=own.learning_rate if change.learning_rate is None else change.learning_rate,
        max_steps=max(change.steps),
        per_device_train_batch_size=change.batch_size,
        gradient_accumulation_steps=1,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        group_by_length=False,
        optim=own.optim,
        activation_checkpointing=own.activation_checkpointing,
        seed=change.seed,
    )


def relearn(
    folder: Path,
    source: str,
    setting: TaskContext,
    change: RelearnSpec,
    scored: Mapping[str, Sequence[str]],
    args: TrainArgs,
    progress: Progress,
) -> dict[str, Any]:
    """Train a model on a few rows, and write the token records of the scored rows as they are after each of the steps.

    The weights are not stored. One run gives all steps, because its first steps equal those of a shorter run.
    """
    encoder = setting.encoder(source)
    model = work.load_trained(source, setting)
    sets: Mapping[str, ExampleSet] = setting.benchmark.sets

    def measure(step: int) -> None:
        for name, tokens in scored.items():
            pq.write_table(score_tokens(model, sets[name], tokens, encoder), folder / tokens_file(name, step))

    def after(done: int, total: int) -> None:
        if done in change.steps:
            measure(done)
        progress(done, total)

    measure(0)
    rows = {"retain": work.encode_sets([sets[change.rows]], encoder)}
    train(model, objective("finetune"), rows, args, pad_id=encoder.tokenizer.pad_token_id, progress=after)
    return {"steps": args.max_steps, "rows": len(sets[change.rows])}


def tokens_file(rows: str, step: int) -> str:
    """Return the file of a set's token records after a step of relearning."""
    return f"{rows}.{step}.tokens.parquet"


def in_nf4(folder: Path, source: str, setting: TaskContext, progress: Progress) -> dict[str, Any]:
    """Write the weights rounded to 4-bit NormalFloat as plain weights, so every scorer reads them equally."""
    model_args = dataclasses.replace(setting.model.model_args, dtype="float32")
    model = load_model(source, model_args, device=pick_device(setting.model.device), quantize="nf4")
    save_model(model.dequantize(), setting.encoder(source).tokenizer, folder)
    progress(1, 1)
    return {"models": 1}
