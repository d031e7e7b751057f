"""What an erasure has and no study: rows to choose and to report by, and a control that is given or trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from expunge.audits.api import some
from expunge.benchmarks.custom import CustomArgs
from expunge.benchmarks.example_metrics import rows_panel
from expunge.benchmarks.metric_suite import HOLDOUT
from expunge.core.decode import decode
from expunge.core.errors import DataError
from expunge.core.files import link
from expunge.data.custom import Columns, continuations, load_rows
from expunge.engine.job import Job, JobContext, unkeyed
from expunge.metrics.api import Metric
from expunge.models.config import source_identity
from expunge.pipelines.study.config import TaskConfig
from expunge.pipelines.study.context_source import derivation
from expunge.pipelines.study.task_context import TaskContext

UNSEEN = "unseen_Q_A_Prob"
LEAST_KEPT = 6  # rows to keep: fewer leave no rows to choose and to report by
MOST_MEASURED = 64  # rows to keep that choose, and as many that report
SPLIT_SEED = 0


@derivation("erase")
def _erase(setting: TaskContext, task: TaskConfig, args: Mapping[str, Any]) -> TaskContext:
    return erase_context(setting, task, str(args["part"]))


@derivation("erase_control")
def _erase_control(setting: TaskContext, task: TaskConfig, args: Mapping[str, Any]) -> TaskContext:
    return control_context(setting, task, args["base"], args["full_data"])


def erase_context(setting: TaskContext, task: TaskConfig, part: str) -> TaskContext:
    """The context of the trials (`choose`) or of the report (`report`): each measures other rows to keep.

    Raises DataError if there are too few rows to keep.
    """
    whole = setting.benchmark.sets["retain"]
    where = task.retain or "the rows to keep"
    if len(whole) < LEAST_KEPT:
        raise DataError(
            f"{where}: {len(whole)} rows to keep; at least {LEAST_KEPT} are needed, for some are trained on, some "
            "choose the model and some report"
        )
    drawn = np.random.default_rng(SPLIT_SEED).permutation(len(whole)).tolist()
    n = max(min(len(whole) // 4, MOST_MEASURED), 1)
    choose, report, kept = (sorted(ids) for ids in (drawn[:n], drawn[n : 2 * n], drawn[2 * n :]))
    measured = choose if part == "choose" else report
    sets = dict(setting.benchmark.sets) | {"retain": some(whole, kept, "retain")}
    sets["retain_eval"] = continuations(some(whole, measured, "retain_eval"), "retain_eval", where)
    panel = rows_panel(sets, truth_ratio=task.eval.truth_ratio)
    if HOLDOUT in sets:
        panel = (*panel, Metric(UNSEEN, "probability", rows=HOLDOUT, reads={"tokens": ("answer",)}))
    return dataclasses.replace(setting, benchmark=dataclasses.replace(setting.benchmark, sets=sets, panel=panel))


def control_context(setting: TaskContext, task: TaskConfig, base: str, full_data: str) -> TaskContext:
    """The context of a control's training: the model as it was before, and its rows without those to forget.

    Raises DataError if the rows hold none of those to forget, or no others.
    """
    rows = load_rows(full_data, "full", columns_of(task))
    asked = {(r.question, r.answer) for r in setting.benchmark.sets["forget"]}
    left = [r.row_id for r in rows if (r.question, r.answer) not in asked]
    if len(rows) == len(left):
        raise DataError(f"{full_data}: holds none of the rows to forget, so it is not what taught them")
    if not left:
        raise DataError(f"{full_data}: holds rows to forget alone; a control needs the others as well")
    args = dataclasses.replace(setting.model.model_args, pretrained_model_name_or_path=base)
    sets = {**setting.benchmark.sets, "rest": some(rows, left, "rest")}
    return dataclasses.replace(
        setting,
        model=dataclasses.replace(setting.model, model_args=args),
        benchmark=dataclasses.replace(setting.benchmark, sets=sets),
    )


def columns_of(task: TaskConfig) -> Columns:
    """The columns of the user's files."""
    return decode(CustomArgs, dict(task.data.args), where="data.args").columns


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenModelJob(Job):
    """A model of the user's as a job, so that it stands next to those that jobs make."""

    kind: ClassVar[str] = "given"

    contents: Mapping[str, Any]
    folder: str = unkeyed()

    @classmethod
    def of(cls, folder: str) -> GivenModelJob:
        """The job of a model folder."""
        return cls(label="control", contents=source_identity(folder, None), folder=folder)

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Link the files of the model."""
        for file in sorted(Path(self.folder).expanduser().iterdir()):
            if file.is_file() and file.name != "job.json":
                link(file, out / file.name)
        context.progress(1, 1)
        return {"given": Path(self.folder).name}
