"""Create the jobs of one setting: the rows, the model and the template of a study or a single job."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.core.errors import ConfigError
from expunge.core.on_use import ModuleOnUse
from expunge.data.examples import ANSWER
from expunge.engine.job import Estimate, Job
from expunge.evaluation.kinds import parts
from expunge.methods.objective import Objective, objective
from expunge.metrics.compute import requests
from expunge.models.config import MODEL_KEY, preset_identity
from expunge.models.identity import has_wrapper, tokenizer_identity
from expunge.models.passport import check_trainable
from expunge.pipelines.study.context_source import FileRef, RowsRef
from expunge.pipelines.study.task_context import changed, check_sides
from expunge.pipelines.study_jobs.evaluation_jobs import EvaluationJobs
from expunge.pipelines.study_jobs.job_values import EditRef, MethodRef, Panel, WrapperRef
from expunge.pipelines.study_jobs.model_jobs import (
    AlternatesJob,
    BaseJob,
    EditJob,
    FileAlternatesJob,
    ReferenceJob,
    StatisticsEditJob,
    TrainEvaluation,
    TrainJob,
    UnlearnJob,
    WrapJob,
    parents_of,
)
from expunge.pipelines.study_jobs.precomputed_references import IMPLIED, ReferenceSpec, reference_specs
from expunge.training.config import TrainArgs
from expunge.training.encoding import N_ALTERNATES, check_span, sampling_of_alternates
from expunge.training.lora import check_quantize
from expunge.training.phases import check_run, teacher_args

if TYPE_CHECKING:
    from expunge.methods.weight_edits import WeightEdit
    from expunge.models.wrapper_api import Helper, Wrapper
    from expunge.training import model_selection
else:
    model_selection = ModuleOnUse("expunge.training.model_selection")


class TrainingJobs(EvaluationJobs):
    """Creates the jobs of one setting that train models and, as `EvaluationJobs`, measure them."""

    def forgetting(self, name: str) -> TrainingJobs:
        """Return a copy with another set of the benchmark as the forget set."""
        jobs = copy.copy(self)
        jobs.setting = changed(self.setting, forget_set=name)
        return jobs

    def base(self) -> Job:
        """Return the job of a new tokenizer and model. Raises ConfigError if the benchmark has no text to train on."""
        model, benchmark = self.setting.model, self.setting.benchmark
        if not benchmark.full_sets:
            raise ConfigError(
                f"model: benchmark={benchmark.name} has no rows to train a model on; name a model by "
                "model.model_args.pretrained_model_name_or_path="
            )
        tokenizer = benchmark.tokenizer
        return BaseJob(
            label=str(model.scratch),
            source=self.source,
            preset=preset_identity(model.scratch),
            vocab_size=model.vocab_size,
            init_seed=model.init_seed,
            text=() if tokenizer else self._row_refs(benchmark.full_sets),
            tokenizer=tokenizer_identity(tokenizer, None) if tokenizer else None,
            estimate=self._sizes.model,
        )

    def fit(
        self,
        label: str,
        start: Job | None,
        loss: Objective,
        sides: Mapping[str, Sequence[str]],
        args: TrainArgs,
        *,
        retain: Job | None = None,
        retain_file: Path | None = None,
    ) -> Job:
        """Return the job that trains or unlearns, from a job's model or the configured source.

        retain: the retain model's records, for comparisons during training. retain_file: its results, if there are no
        records.
        """
        check_quantize(args.lora)
        if start is None and self.setting.model.source:
            check_trainable(self.setting.model.source)
        check_run(loss, args)
        if args.report_to:
            from expunge.training.in_memory.reporters import check_reporters

            check_reporters(args.report_to)
        log = retain_file if retain_file and self._reads_log(args) else None
        evaluation = self._evaluation(args, retain, log)
        teacher, start = self._teacher(label, start, loss, args)
        traced = self.setting.benchmark.traced if args.train_on != ANSWER else {}
        used = {
            side: tuple(traced.get(name, name) for name in names)
            for side, names in sides.items()
            if loss.needs.reads(side) or side == "forget"
        }
        check_sides(self.setting.benchmark, used, loss)
        forget = [self.setting.benchmark.sets[name] for name in used["forget"]] if loss.forgets else []
        alternates = bool(loss.needs.alternate or loss.needs.rollout)
        check_span(
            forget, args.train_on, forgets=loss.forgets, alternates=alternates, where="trainer.args.train_on",
            marks=loss.needs.marks,
        )  # fmt: skip
        generated = getattr(loss.method, "ALTERNATES", "") == "generated"
        file = self.setting.alternates if loss.needs.alternate is not None else None
        other = self._alternates(start) if generated or file else None
        parents = parents_of(model=start, alternates=other)
        refusing = loss.needs.alternate is not None and other is None
        n_other = file.n if file else N_ALTERNATES if other else len(self.setting.refusals)
        specs = reference_specs(loss, used, self.setting.benchmark.sets, n_other, args)
        for role, spec in specs.items():
            parents[role] = self._reference(start if role in IMPLIED else teacher, spec, other)
        if retain is not None and args.evaluate.reads_retain:
            parents["retain_records"] = retain
        return (UnlearnJob if loss.forgets else TrainJob)(
            label=label,
            parents=parents,
            source=self.source,
            objective=MethodRef.of(loss),
            args=args,
            rows={side: self._row_refs(names) for side, names in used.items()},
            model=self.model_input(start),
            refusals=self.setting.refusals if refusing else None,
            evaluation=evaluation,
            references={role: spec.what for role, spec in specs.items()},
            generation=self.evaluation.generation,
            estimate=self._sizes.fit(
                used, args, evaluation=self._one_evaluation(args), alternates=loss.needs.alternate is not None
            ),
        )

    def _row_refs(self, names: Iterable[str]) -> tuple[RowsRef, ...]:
        return tuple(self._ref(name) for name in names)

    def _evaluation(self, args: TrainArgs, retain: Job | None, retain_file: Path | None) -> TrainEvaluation | None:
        """Return the inputs of evaluations during training; None without evaluations. Raises ConfigError."""
        if not args.evaluate.on:
            return None
        watched = self.setting.watched or self.setting.benchmark
        panel = model_selection.watched_metrics(watched, args.evaluate)
        losses = model_selection.loss_sets(self.setting.benchmark, args.evaluate)
        if args.evaluate.chooses and retain is None and retain_file is None:
            for key, name in model_selection.rule_metrics(args.evaluate):
                if name == "forget_quality":
                    raise ConfigError(
                        f"trainer.args.evaluate.rule.{key}: forget_quality compares with a retain model, and this run "
                        "has none; name another metric, such as forget_Q_A_Prob"
                    )
        needs = requests(panel)
        names = sorted(needs.rows)
        return TrainEvaluation(
            panel=Panel(tuple(panel)),
            rows=tuple(self._ref(name, watched) for name in names),
            losses=self._row_refs(losses),
            generation=self.evaluation.generation if needs.texts or args.evaluate.prompts else None,
            retain_log=self._retain_log(retain_file)[1] if retain_file else None,
        )

    def to_watch(self, records: Job | None) -> Job | None:
        """Return a retain model's records for the rows of evaluations during training."""
        watched = self.setting.watched
        if records is None or watched is None:
            return records
        model = next(part.parents["model"] for part in records.parents.values() if "model" in part.parents)
        setting = dataclasses.replace(self.setting, benchmark=watched, watched=None)
        own = TrainingJobs(setting, self.evaluation, self.source.then("watched").holding(setting))
        return own.records(records.label, model)

    def _reads_log(self, args: TrainArgs) -> bool:
        """Return whether evaluations during training use a retain log. Raises ConfigError if it does not match."""
        if not args.evaluate.reads_retain:
            return False
        if self.setting.watched is not None:
            raise ConfigError(
                "eval.split: evaluations during training read the rows for selection, and retain_logs_path has the "
                "retain model's numbers on the others; set trainer.args.evaluate.rule.target to low or high"
            )
        needs = requests(model_selection.watched_metrics(self.setting.benchmark, args.evaluate))
        sets, n_rows = self.setting.benchmark.sets, args.evaluate.n_rows
        longest = max((len(sets[name]) for name in needs.rows), default=0)
        if n_rows is not None and n_rows < longest:
            raise ConfigError(
                f"trainer.args.evaluate.rows: {n_rows} of up to {longest} rows are evaluated, and retain_logs_path has "
                f"the retain model's numbers on all of them; set rows to {longest}, or rule.target to low or high"
            )
        return True

    def _one_evaluation(self, args: TrainArgs) -> Estimate:
        """Return the work of one evaluation during training."""
        if not args.evaluate.on:
            return Estimate()
        record_parts = parts(model_selection.watched_metrics(self.setting.benchmark, args.evaluate))
        each = [self._sizes.score(p, self.evaluation.generation, args.evaluate.n_rows) for p in record_parts]
        return Estimate(sum(e.tokens for e in each), sum(e.flops for e in each))

    def reinforced(self, label: str, start: Job | None, args: TrainArgs) -> Job:
        """Return the job that trains a model further on the forget rows."""
        sides = {"retain": (self.setting.benchmark.forget_set,)}
        return self.fit(f"{label}-reinforced", start, objective("finetune"), sides, _plain(args))

    def helpers(self, label: str, kind: Helper, full: Job | None, args: TrainArgs) -> dict[str, Job]:
        """Return the jobs of a wrapper's helpers, by role. full: the target model, from whose start some go."""
        if not kind:
            return {}
        if kind == "reinforced":
            return {"helper": self.reinforced(label, full, args)}
        benchmark, args = self.setting.benchmark, _plain(args)
        names = {"helper": ("forget", benchmark.forget_set), "retain_helper": ("retain", benchmark.retain_set)}
        initial = full.parents.get("model") if full else None
        return {
            role: self.fit(f"{label}-{side}-helper", initial, objective("finetune"), {"retain": (rows,)}, args)
            for role, (side, rows) in names.items()
        }

    def _teacher(
        self, label: str, start: Job | None, loss: Objective, args: TrainArgs
    ) -> tuple[Job | None, Job | None]:
        """Return a method's teacher model, if any, and its start model (None: the configured model)."""
        if loss.spec.teacher == "reinforced":
            return self.reinforced(label, start, teacher_args(loss, args)), start
        if loss.spec.teacher == "start":
            return start, self.edited(f"{label}-noised", loss.method.noise(args.seed), start, ())
        return None, start

    def _reference(self, of: Job | None, spec: ReferenceSpec, other: Job | None) -> Job:
        """Return the job of a reference's outputs, which equal requests share."""
        other = other if spec.side == "alternate" else None
        refusing = spec.side == "alternate" and other is None
        return ReferenceJob(
            label=f"{of.label if of else 'model'}-{spec.label}",
            parents=parents_of(model=of, alternates=other),
            source=self.source,
            rows=self._row_refs(spec.sets),
            spec=spec,
            model=self.model_input(of),
            refusals=self.setting.refusals if refusing else None,
            estimate=self._sizes.read(spec.sets, spec.n_rows),
        )

    def _alternates(self, start: Job | None) -> Job:
        """Return the job of the other answers to the forget questions: from a file, or sampled from the start model."""
        rows = self._ref(self.setting.benchmark.forget_set)
        if (alternates := self.setting.alternates) is not None:
            return FileAlternatesJob(
                label=alternates.path.stem,
                source=self.source,
                rows=rows,
                file=FileRef.of(alternates.path),
                column=alternates.key,
            )
        return AlternatesJob(
            label=start.label if start else "model",
            parents=parents_of(model=start),
            source=self.source,
            rows=rows,
            generation=sampling_of_alternates(self.evaluation.generation),
            refusals=self.setting.refusals,
            model=self.model_input(start),
        )

    def wrapped(self, label: str, rule: Wrapper, model: Job | None, helpers: Mapping[str, Job]) -> Job:
        """Return the job of a model with a wrapper, which may read the forget and the retain rows.

        Raises ConfigError if the configured model has a wrapper already.
        """
        if model is None and has_wrapper(source := self.setting.model.source or ""):
            raise ConfigError(
                f"{MODEL_KEY}: {source} has a wrapper, and a model has one at most; give the model under it"
            )
        benchmark = self.setting.benchmark
        return WrapJob(
            label=label,
            parents=parents_of(model=model, **helpers),
            source=self.source,
            wrapper=WrapperRef.of(rule),
            rows={"forget": self._row_refs([benchmark.forget_set]), "retain": self._row_refs([benchmark.retain_set])},
            refusals=self.setting.refusals,
            model=self.model_input(model),
            estimate=self._sizes.model,
        )

    def edited_with_statistics(self, label: str, edit: WeightEdit, model: Job | None, retain: Sequence[str]) -> Job:
        """Return the job of a weight edit that reads hidden states at the forget rows and the sets `retain`."""
        benchmark = self.setting.benchmark
        return StatisticsEditJob(
            label=label,
            parents=parents_of(model=model),
            source=self.source,
            edit=EditRef.of(edit),
            rows={"forget": self._row_refs([benchmark.forget_set]), "retain": self._row_refs(retain)},
            refusals=self.setting.refusals,
            model=self.model_input(model),
            estimate=self._sizes.model,
        )

    def edited(
        self, label: str, edit: WeightEdit, base: Job | None, others: Sequence[Job], *, temporary: bool = False
    ) -> Job:
        """Return the job of a weight edit of other models. temporary: the weights may go after measurement."""
        return EditJob(
            label=label,
            parents=parents_of(base=base) | {f"other_{i}": other for i, other in enumerate(others)},
            source=self.source,
            edit=EditRef.of(edit),
            model=None if base else self.model_input(None),
            temporary=temporary,
            estimate=self._sizes.model,
        )


def _plain(args: TrainArgs) -> TrainArgs:
    """Return the settings of a method for the training of its second models, without those of the forget side alone."""
    lora = None if args.lora is None else dataclasses.replace(args.lora, orthogonal=0.0)
    return dataclasses.replace(args, train_on="answer", lora=lora)
