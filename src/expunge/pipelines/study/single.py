"""Single jobs: `expunge train`, `unlearn` and `eval`, with results in a folder of the user."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expunge.core import distributed
from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.core.files import check_place, sweep_parts, whole_folder, write_text
from expunge.core.names import check_name
from expunge.engine.job import Job
from expunge.engine.mark import MARK, MarkState, mark_state, write_mark
from expunge.engine.record import LOGS
from expunge.engine.run import JobEvent, run
from expunge.engine.store import Store
from expunge.methods.objective import Objective, objective
from expunge.models.dtypes import cpu_has_bfloat16, scoring_note, training_note
from expunge.models.load import device_type, with_scoring_dtype
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.single_config import SingleJob, config_text
from expunge.pipelines.study.task_config import check_places
from expunge.pipelines.study.task_context import TaskContext, check_model
from expunge.pipelines.study_jobs.training_jobs import TrainingJobs
from expunge.training.config import TrainArgs
from expunge.training.phases import part_names

if TYPE_CHECKING:
    from expunge.methods.weight_edits import WeightEdit


@dataclass(frozen=True)
class PreparedJob:
    """A checked single job and its jobs of the engine."""

    single: SingleJob
    model: Job | None
    records: Job | None
    metrics: Job | None
    eval_file: str
    notes: tuple[str, ...] = ()
    harness: Job | None = None
    setting: TaskContext | None = None

    @property
    def ends(self) -> tuple[Job, ...]:
        """The last jobs."""
        return tuple(job for job in (self.metrics, self.harness) if job) or ((self.model,) if self.model else ())

    @property
    def key(self) -> str:
        """The keys of the last jobs: the text that an output folder's mark stands for."""
        return " ".join(job.key for job in self.ends)


def prepare(single: SingleJob) -> PreparedJob:
    """Check all settings and create the jobs. Raises ConfigError or DataError before any weight is read."""
    check_name(single.task_name, "task_name", nested=True)
    check_places(single, single.output_dir, Path(single.paths.store))
    if Path(single.paths.store).resolve().is_relative_to(single.output_dir.resolve()):
        raise ConfigError(
            f"paths.store: {single.paths.store} lies in the output folder {single.output_dir}, which must not exist "
            "before the job ends; name another folder"
        )
    check_model(single.model)
    single = dataclasses.replace(single, model=with_scoring_dtype(single.model))
    if single.data.request is not None and single.mode != "unlearn":
        raise ConfigError(f"data.request: selects forget rows for `expunge unlearn`; `expunge {single.mode}` reads all")
    fittings = () if single.mode == "eval" else training_runs(single)
    merge = merge_of(single)
    if not distributed.here().alone:
        _check_several(single, fittings)
    setting = resolve_task(single, Path(single.paths.store))
    if single.model.tokenizer_source is not None:
        from expunge.models.trial import try_model

        try_model(single.model, Path(single.paths.store))  # after the checks that need no time
    named = [name for run in fittings for name in part_names(run.objective, run.args)]
    if named:
        from expunge.models.trial import check_part_names

        check_part_names(single.model, Path(single.paths.store), named)
    retain_file = Path(single.retain_logs_path).expanduser() if single.retain_logs_path else None
    maker = TrainingJobs(setting, single.eval, ContextSource.of(single, setting))
    start = maker.base() if single.model.scratch else None
    model = None
    if fittings:
        sides = sides_of(single, setting)
        fits = [
            maker.fit(run.label, start, run.objective, sides, run.args, retain_file=retain_file) for run in fittings
        ]
        model = fits[0] if merge is None else maker.edited(single.task_name, merge, start, fits)
    records = metrics = tasks = None
    if single.mode != "train":
        tasks = maker.harness(single.task_name, model or start)
        if setting.benchmark.panel:
            # Agreement compares unlearning with its start model, and `expunge eval` with `eval.original`.
            original = (start or single.model.source) if single.mode == "unlearn" else None
            records = maker.records(single.task_name, model or start, original=original)
            metrics = maker.metrics(single.task_name, records, None, retain_file=retain_file)
            if single.model.source and not Store(Path(single.paths.store)).done(records):
                maker.check_lengths(str(single.model.source))
    halved = bool(fittings) and bool(single.trainer.args.get("bf16"))
    notes: list[str] = []
    if halved or single.model.model_args.dtype != "float32":
        device = device_type(single.model.device)
        scoring = scoring_note(device, single.model.model_args.dtype) if single.mode != "train" else None
        notes = [note for note in (training_note(device, halved), scoring) if note]
    if distributed.sharded() and any(fitting.args.logits_chunk_size for fitting in fittings):
        notes.append(
            "trainer.args.logits_chunk_size has no effect on a sharded model, which computes all logits at once"
        )
    data_notes = (*setting.benchmark.notes, *setting.benchmark.preview)
    prepared = PreparedJob(single, model, records, metrics, maker.eval_file, (*notes, *data_notes), tasks, setting)
    if not prepared.ends:
        raise ConfigError(f"benchmark={setting.benchmark.name}: nothing to measure; name tasks in eval.lm_eval.tasks")
    shown(prepared)
    return prepared


def _check_several(single: SingleJob, fittings: Sequence[TrainingRun]) -> None:
    """Raise ConfigError for settings that several processes do not support."""
    if single.model.model_args.device_map:
        raise ConfigError(
            "model.model_args.device_map: spreads a model over the devices of one process; remove it if a "
            "launcher starts several"
        )
    from expunge.training.data_parallel import check_several

    for fitting in fittings:
        if distributed.sharded() and fitting.args.save_strategy != "no":
            raise ConfigError("trainer.args.save_strategy: a model in shards is saved at the end only; remove it")
        check_several(
            fitting.objective,
            fitting.args.grad_transform is not None,
            distributed.here(),
            sharded=bool(distributed.sharded()),
        )
        if distributed.sharded() == "fsdp" and fitting.args.optim == "adafactor":
            raise ConfigError("trainer.args.optim: adafactor cannot train a model in FSDP's shards; use adamw_torch")


class TrainingRun(NamedTuple):
    """One training run of a single job."""

    label: str
    objective: Objective
    args: TrainArgs


def training_runs(single: SingleJob) -> tuple[TrainingRun, ...]:
    """Return the training runs of a job: one, or its parts. Raises ConfigError."""
    trainer = single.trainer
    if not trainer.parts:
        return (TrainingRun(single.task_name, _objective(single), _train_args(single)),)
    out = []
    for part in trainer.parts:
        args, own = {**trainer.args, **part.args}, {**trainer.method_args, **part.method_args}
        changed = dataclasses.replace(
            single, trainer=dataclasses.replace(trainer, args=args, method_args=own, parts=(), merge=None)
        )
        out.append(TrainingRun(f"{single.task_name}-{part.label}", _objective(changed), _train_args(changed)))
    return tuple(out)


def merge_of(single: SingleJob) -> WeightEdit | None:
    """Return the edit that merges a job's parts, if it has some. Raises ConfigError."""
    merge = single.trainer.merge
    if merge is None:
        return None
    from expunge.methods.weight_edits import make_weight_edit, weight_edit_registry
    from expunge.methods.weight_edits.merge import check_count

    merging = [name for name, spec in weight_edit_registry().items() if spec.others == "model"]
    if merge.handler not in merging:
        raise ConfigError(f"trainer.merge.handler: {merge.handler} merges no models{nearest(merge.handler, merging)}")
    edit = make_weight_edit(merge.handler, merge.method_args, "trainer.merge.method")
    check_count(getattr(edit, "weights", None), len(single.trainer.parts), "trainer.merge.method_args.")
    return edit


def _objective(single: SingleJob) -> Objective:
    loss = objective(single.trainer.handler, single.trainer.method_args)
    if single.mode == "unlearn" and not loss.forgets:
        raise ConfigError(
            f"trainer={single.trainer.handler}: this does not unlearn; to train a model without the forget rows, use "
            "`expunge train trainer=retrain`"
        )
    if single.mode == "train" and loss.forgets:
        raise ConfigError(f"trainer={single.trainer.handler}: this unlearns; use `expunge unlearn`")
    return loss


def _train_args(single: SingleJob) -> TrainArgs:
    args = decode(TrainArgs, dict(single.trainer.args), where="trainer.args")
    # From here on a step has the micro-batches of all processes, so its result does not depend on their number.
    steps = args.gradient_accumulation_steps * distributed.here().world
    args = dataclasses.replace(args, gradient_accumulation_steps=steps)
    if args.bf16 and device_type(single.model.device) == "cpu" and not cpu_has_bfloat16():
        return dataclasses.replace(args, bf16=False)  # the key then names float32, which this CPU trains in
    return args


def sides_of(single: SingleJob, setting: TaskContext) -> dict[str, tuple[str, ...]]:
    """Return the sets of each side that a job trains on. Raises ConfigError for an unknown split."""
    benchmark = setting.benchmark
    if single.mode == "unlearn":
        return {"forget": (benchmark.forget_set,), "retain": (benchmark.retain_set,)}
    roles = {"full": benchmark.full_sets, "retain": benchmark.retain_sets, "forget": (benchmark.forget_set,)}
    roles |= {name: roles["forget"] for name in (benchmark.split, single.forget_split) if name}
    roles |= {name: roles["retain"] for name in (benchmark.retain_split, single.retain_split) if name}
    if benchmark.name == "tofu" and single.train_split not in roles and (share := _tofu_share(single.train_split)):
        raise ConfigError(f"train_split={single.train_split}: belongs to another split; add forget_split=forget{share}")
    if single.train_split not in roles:
        raise ConfigError(f"train_split: no split named {single.train_split!r}{nearest(single.train_split, roles)}")
    if not roles[single.train_split]:
        own = "; to train it on both files first (retain: on the retain file alone), add data.args.train_full=true"
        raise ConfigError(
            f"train_split={single.train_split}: the benchmark {benchmark.name} has no rows to train such a model on; "
            f"use the model of the settings unchanged{own if benchmark.name == 'custom' else ''}"
        )
    return {"retain": roles[single.train_split]}


def _tofu_share(split: str) -> str | None:
    """Return the share of TOFU that a split belongs to, such as "10"; None for another name."""
    from expunge.data.loaders.tofu import SPLIT_SHARES

    return SPLIT_SHARES.get(split)


def shown(prepared: PreparedJob) -> bool:
    """Return whether the output folder already shows this job. Raises ConfigError if it contains anything else."""
    folder = prepared.single.output_dir
    if not folder.exists():
        return False
    state = _mark_of(prepared)
    if state in (MarkState.SAME, MarkState.PLAIN):
        return True
    store = Path(prepared.single.paths.store)
    reason = "already contains something else"
    if state is MarkState.OTHER_STORE:
        reason = f"shows a job of another store than {store}, or of one that was removed since"
    named = prepared.single.eval.metrics
    listed = f"eval.metrics=[{','.join(named)}]"
    more = f". To compute other metrics of its records, write expunge eval --refresh {folder} {listed}" if named else ""
    other = "paths.output_dir" if prepared.single.paths.output_dir else "task_name or paths.output_dir"
    raise ConfigError(
        f"task_name={prepared.single.task_name}: {folder} {reason}; choose another {other}, or move it away{more}"
    )


def mark_notes(prepared: PreparedJob) -> list[str]:
    """Return a line for an output folder whose mark an earlier version has written, as a plain key."""
    folder = prepared.single.output_dir
    if _mark_of(prepared) is not MarkState.PLAIN:
        return []
    return [
        f"{folder} was written by an earlier version: its {MARK} and job.json contain hashes that can confirm a "
        "guess of the rows; move it away and run again to write it without them"
    ]


def _mark_of(prepared: PreparedJob) -> MarkState:
    """Return the state of the output folder's mark; OTHER_JOB for a folder without one."""
    try:
        text = (prepared.single.output_dir / MARK).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return MarkState.OTHER_JOB
    return mark_state(text, Path(prepared.single.paths.store), prepared.key)


def carry_out(prepared: PreparedJob, tell: Callable[[JobEvent], None]) -> Path:
    """Run the jobs and show them in the output folder. Raises the error of the job that fails.

    Of several processes the first runs all jobs, and the others take part in collective jobs.
    """
    store = Store(Path(prepared.single.paths.store))
    if not distributed.here().first:
        from expunge.engine.collective import help_with

        help_with(prepared.ends)
        return prepared.single.output_dir
    folder = prepared.single.output_dir
    if not shown(prepared):
        check_place(folder, "paths.output_dir", writable=True)
    if not all(store.there(job) for job in prepared.ends):
        check_place(store.root, "paths.store", writable=True)
    outcome = run(prepared.ends, store, tell)
    if outcome.first:
        raise outcome.first
    if not shown(prepared):
        sweep_parts(folder)
        with whole_folder(folder) as part:
            _fill(part, prepared, store)
    if not distributed.here().alone:
        from expunge.engine.collective import all_done

        all_done()
    return folder


def _fill(part: Path, prepared: PreparedJob, store: Store) -> None:
    """Show the results, the settings and the mark of the job.

    The logs of a model's training stand with the measurements: their exact losses confirm a guess of a row.
    """
    from expunge.engine.show import MEASURED, show, write_manifest

    evals = part / MEASURED if prepared.model else part
    for job, where in (
        (prepared.model, part),
        (prepared.records, evals / "records"),
        (prepared.metrics, evals),
        (prepared.harness, evals),
    ):
        if job is not None:
            show(job, store, where)  # in one folder the first job's record stays
    for log in part.glob(f"*{LOGS}") if prepared.model else ():
        evals.mkdir(exist_ok=True)
        log.rename(evals / log.name)
    write_text(part / "config.yaml", config_text(prepared.single))
    write_text(part / MARK, write_mark(store.root, prepared.key) + "\n")
    write_manifest(part)
