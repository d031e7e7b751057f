"""Contexts and jobs of an erasure: rows for selection and report, and a control model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from expunge.audits.api import some
from expunge.benchmarks.api import Limits
from expunge.benchmarks.custom import CustomArgs
from expunge.benchmarks.example_metrics import rows_panel
from expunge.benchmarks.general import general_panel
from expunge.benchmarks.metric_suite import HOLDOUT
from expunge.core.decode import decode
from expunge.core.errors import DataError
from expunge.core.files import clone
from expunge.data.custom import Columns, continuations, load_rows
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.general import FLUENCY
from expunge.engine.job import Job, JobContext, unkeyed
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order
from expunge.models.config import looks_local
from expunge.models.identity import identity_files, source_identity, whole_files
from expunge.pipelines.erase.general import general_items
from expunge.pipelines.erase.preflight import MOST_TOKENS, Preflight
from expunge.pipelines.erase.rows import (
    KNOWN,
    NEAR,
    asked_again,
    both_wordings,
    measured_rows,
    near_panel,
    rows_to_keep,
    trained_rows,
    with_anchors,
)
from expunge.pipelines.erase.wordings import fitting, picked
from expunge.pipelines.study.context_source import derivation
from expunge.pipelines.study.task_config import TaskConfig
from expunge.pipelines.study.task_context import TaskContext

UNSEEN = "unseen_Q_A_Prob"
LEAST_KEPT = 6  # rows to keep; fewer leave no rows for selection and report
LONGEST_OPTION = 24  # tokens that an item's prompt must leave for an option
MOST_MEASURED = 64  # rows to keep for selection, and as many for the report
SPLIT_SEED = 0


@derivation("erase")
def _erase(setting: TaskContext, task: TaskConfig, args: Mapping[str, Any]) -> TaskContext:
    preflight = Preflight.from_dict(args["preflight"]) if args.get("preflight") else None
    return erase_context(setting, task, str(args["part"]), preflight, args.get("only"))


@derivation("erase_control")
def _erase_control(setting: TaskContext, task: TaskConfig, args: Mapping[str, Any]) -> TaskContext:
    return control_context(setting, task, args["base"], args["full_data"])


def erase_context(
    setting: TaskContext,
    task: TaskConfig,
    part: str,
    preflight: Preflight | None = None,
    only: Sequence[int] | None = None,
) -> TaskContext:
    """Return a context of an erasure: each part measures other rows to keep, or other items of general ability.

    Args:
        setting: The context of the user's files.
        task: The settings of the task.
        part: `choose`: the trials. `ability`: the general ability of a trial's model. `report`: the report, which also
            measures general ability.
        preflight: The model's knowledge. Known rows are trained on in several wordings, unknown rows are not.
        only: The rows to forget to train on. None: all known rows.

    Raises:
        DataError: If there are too few rows to keep.
    """
    sets = dict(setting.benchmark.sets)
    where = task.retain or "the rows to keep"
    whole = sets["retain"] if preflight is None else rows_to_keep(sets["retain"], task, preflight)
    if len(whole) < LEAST_KEPT:
        raise DataError(
            f"{where}: {len(whole)} rows to keep; at least {LEAST_KEPT} are needed for training, selection and report"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(len(whole)).tolist()
    n = max(min(len(whole) // 4, MOST_MEASURED), 1)
    choose, report, train_ids = (sorted(ids) for ids in (order[:n], order[n : 2 * n], order[2 * n :]))
    measured = report if part == "report" else choose
    sets["retain"] = some(whole, train_ids, "retain")
    sets["retain_eval"] = continuations(some(whole, measured, "retain_eval"), "retain_eval", where)
    reworded = preflight is not None and bool(preflight.reworded)
    if preflight is not None:
        sets["forget_eval"] = measured_rows(sets["forget_eval"], preflight)
        sets["forget"] = trained_rows(sets["forget"], preflight, only)
        sets["retain"] = with_anchors(sets["retain"], task, preflight)
    panel = list(rows_panel(sets, truth_ratio=task.eval.truth_ratio))
    if HOLDOUT in sets:
        panel.append(Metric(UNSEEN, "probability", rows=HOLDOUT, reads={"tokens": ("answer",)}))
    if reworded:
        panel = [metric for metric in panel if metric.name != KNOWN] + both_wordings()
    limits = dict(setting.benchmark.generation)
    encoder = setting.encoder(str(setting.model.source))
    if part == "report" and preflight is not None:
        reworded_sets, added = asked_again(sets["forget_eval"], encoder)
        near = any(row.meta.get(NEAR) for row in sets["retain_eval"])
        general = _general(part, sets["forget_eval"], encoder)
        panel += [*added, *general_panel(general), *(near_panel() if near else ())]
        sets |= {**reworded_sets, **general}
        limits |= dict.fromkeys((*reworded_sets, f"general_{FLUENCY}"), Limits(MOST_TOKENS))
    if part == "ability" and preflight is not None:
        general = _general("choose", sets["forget_eval"], encoder)
        panel, sets = general_panel(general), {**sets, **general}
    in_order(panel)
    benchmark = dataclasses.replace(setting.benchmark, sets=sets, panel=tuple(panel), generation=limits)
    return dataclasses.replace(setting, benchmark=benchmark)


def _general(part: str, forget: ExampleSet, encoder: Encoder) -> dict[str, ExampleSet]:
    """Return the items of general ability that fit into the model's context, without empty sets."""
    items = general_items(part, forget)
    fit = {name: picked(rows, fitting(encoder, rows, LONGEST_OPTION)) for name, rows in items.items()}
    return {name: rows for name, rows in fit.items() if len(rows)}


def control_context(setting: TaskContext, task: TaskConfig, base: str, full_data: str) -> TaskContext:
    """Return the context of a control's training: the base model, and its rows without the rows to forget.

    Raises DataError if the rows contain none of the rows to forget, or no others.
    """
    rows = load_rows(full_data, "full", columns_of(task))
    forget_pairs = {(r.question, r.answer) for r in setting.benchmark.sets["forget"]}
    left = [r.row_id for r in rows if (r.question, r.answer) not in forget_pairs]
    if len(rows) == len(left):
        raise DataError(f"{full_data}: contains none of the rows to forget, so the model did not learn them from it")
    if not left:
        raise DataError(f"{full_data}: contains only rows to forget; a control needs other rows as well")
    args = dataclasses.replace(setting.model.model_args, pretrained_model_name_or_path=base)
    sets = {**setting.benchmark.sets, "rest": some(rows, left, "rest")}
    return dataclasses.replace(
        setting,
        model=dataclasses.replace(setting.model, model_args=args),
        benchmark=dataclasses.replace(setting.benchmark, sets=sets),
    )


def columns_of(task: TaskConfig) -> Columns:
    """Return the columns of the user's files."""
    return decode(CustomArgs, dict(task.data.args), where="data.args").columns


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenModelJob(Job):
    """A user's model as a job, next to the models that jobs train."""

    kind: ClassVar[str] = "given"

    contents: Mapping[str, Any]
    named: str = unkeyed()

    @classmethod
    def of(cls, named: str) -> GivenModelJob:
        """Return the job of a model folder or hub id."""
        return cls(label="control", contents=source_identity(named, None), named=named)

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Copy the files of the model."""
        local = looks_local(self.named)
        folder = Path(self.named).expanduser() if local else whole_files(self.named, self.contents["revision"])
        for name in identity_files(folder):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            clone((folder / name).resolve(), out / name)
        context.progress(1, 1)
        return {"given": Path(self.named).name}
