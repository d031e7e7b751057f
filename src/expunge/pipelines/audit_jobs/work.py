"""The work of audit jobs that create or train a model. Every function fills a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from expunge.audits import RelearnSpec, changes
from expunge.data.examples import ExampleSet
from expunge.engine.job import Progress
from expunge.evaluation.loglikelihood import score_tokens
from expunge.models.load import save_model
from expunge.pipelines.audit_jobs.results import tokens_file
from expunge.pipelines.study.task_context import TaskContext
from expunge.pipelines.study_jobs import work
from expunge.training.config import TrainArgs


def relearn(
    folder: Path,
    source: str,
    setting: TaskContext,
    change: RelearnSpec,
    scored: Mapping[str, Sequence[str]],
    args: TrainArgs,
    progress: Progress,
) -> dict[str, Any]:
    """Relearn, and write the token records of the scored rows after each of the steps. Stores no weights."""
    encoder = setting.encoder(source)
    model, _ = work.open_trained(source, setting, encoder, folder)
    sets: Mapping[str, ExampleSet] = setting.benchmark.sets

    def measure(step: int) -> None:
        for name, tokens in scored.items():
            pq.write_table(score_tokens(model, sets[name], tokens, encoder), folder / tokens_file(name, step))

    changes.relearn(model, sets[change.rows], change, args, encoder, measure, progress)
    return {"steps": args.max_steps, "rows": len(sets[change.rows])}


def in_nf4(folder: Path, source: str, setting: TaskContext, progress: Progress) -> dict[str, Any]:
    """Write the weights rounded to 4-bit NormalFloat as plain weights, so every scorer reads them equally."""
    model = work.load_weights(source, setting)
    changes.to_nf4(model)
    save_model(model, setting.encoder(source).tokenizer, folder)
    progress(1, 1)
    return {"models": 1}
