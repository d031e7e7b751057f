"""Makes the jobs of one setting: the rows, the model and the template that a study or a single job names."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.methods.objective import Objective, objective
from expunge.methods.weight_edits import WeightEdit, weight_edit_identity
from expunge.metrics.api import MetricResult
from expunge.metrics.compute import identity as panel_identity
from expunge.metrics.compute import requests
from expunge.models.config import preset_identity, tokenizer_identity
from expunge.models.passport import check_trainable
from expunge.study import measuring, work
from expunge.study.evaluation_jobs import REVISION, EvaluationJobs
from expunge.study.job import CHECKPOINTS, Estimate, Job, Progress
from expunge.study.precomputed_references import IMPLIED, ReferenceSpec, compute_reference, reference_specs
from expunge.study.requests import changed
from expunge.study.task_context import check_sides
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.evaluation_callback import forget_of
from expunge.training.lora import check_quantize
from expunge.training.phases import check_run
from expunge.training.reporters import check_reporters
from expunge.training.schedule import Schedule

ALTERNATES_SEED = 0


class TrainingJobs(EvaluationJobs):
    """Makes the jobs of one setting: those that make models, and, as a Scorer, those that measure them."""

    def forgetting(self, name: str) -> TrainingJobs:
        """The same maker with another of the benchmark's sets as the forget set."""
        made = copy.copy(self)
        made.setting = changed(self.setting, forget_set=name)
        return made

    def base(self) -> Job:
        """A tokenizer and a model from scratch. Raises ConfigError if the benchmark has no text to train them on."""
        model, benchmark = self.setting.model, self.setting.benchmark
        if not benchmark.full_sets:
            raise ConfigError(
                f"model: benchmark={benchmark.name} has no rows to train a model on; give one by "
                "model.model_args.pretrained_model_name_or_path="
            )
        return Job(
            kind="base",
            label=str(model.scratch),
            identity={
                "revision": REVISION,
                **preset_identity(model.scratch),
                "vocab_size": model.vocab_size,
                "seed": model.init_seed,
                **self._vocabulary(),
            },
            do=lambda folder, parents, progress: work.base(folder, self.setting, progress),
            estimate=self._sizes.model,
        )

    def _vocabulary(self) -> dict[str, Any]:
        """What decides the tokenizer of a model from scratch: the text it is trained on, or the one that is given."""
        benchmark = self.setting.benchmark
        if benchmark.tokenizer is None:
            return {"text": [self._rows[n] for n in benchmark.full_sets]}
        return {"tokenizer": tokenizer_identity(benchmark.tokenizer, None)}

    def fit(
        self,
        label: str,
        start: Job | None,
        chosen: Objective,
        sides: Mapping[str, Sequence[str]],
        args: TrainArgs,
        *,
        retain: Job | None = None,
        retain_file: Path | None = None,
    ) -> Job:
        """Training or unlearning from a job's model, or from the configured source.

        retain: the retain model's records, which evaluations during training hold the model against; retain_file: its
        results, where there are no records.
        """
        check_quantize(args.lora)
        if start is None and self.setting.model.source:
            check_trainable(self.setting.model.source)
        check_run(chosen, args)
        check_reporters(args.report_to)
        given = self._given_retain(retain_file, args) if retain_file else None
        evaluation = self._evaluation(args, retain, retain_file if given else None)
        teacher, start = self._teacher(label, start, chosen, args)
        used = {s: tuple(n) for s, n in sides.items() if getattr(chosen.needs, s) is not None or s == "forget"}
        check_sides(self.setting.benchmark, used, chosen)
        other = self._alternates(start) if getattr(chosen.method, "ALTERNATES", "") == "generated" else None
        parents = ({} if start is None else {"model": start}) | ({} if other is None else {"alternates": other})
        refusing = chosen.needs.alternate is not None and other is None
        n_other = work.N_ALTERNATES if other else len(self.setting.refusals)
        reads = reference_specs(chosen, used, self.setting.benchmark.sets, n_other, args)
        for role, wanted in reads.items():
            parents[role] = self._reference(start if role in IMPLIED else teacher, wanted, other)
        if retain is not None and args.evaluate.reads_retain:
            parents["retain_records"] = retain

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            return work.fit(
                folder, self._source(parents), self.setting, chosen, used, args, progress,
                alternates=parents.get("alternates"),
                references={role.removesuffix("_ref"): (parents[role], wanted.what) for role, wanted in reads.items()},
                retain=parents.get("retain_records", given), generation=self.evaluation.generation,
                checkpoints=parents.get(CHECKPOINTS), label=label,
            )  # fmt: skip

        return Job(
            kind="unlearn" if chosen.forgets else "train",
            label=label,
            identity={
                **self._trained_identity(chosen, used, args, refusing=refusing),
                **evaluation,
                **self._source_identity(start),
            },
            parents=parents,
            do=do,
            estimate=self._sizes.fit(
                used, args, evaluation=self._one_evaluation(args), alternates=chosen.needs.alternate is not None
            ),
            implied=IMPLIED,
            resumes=True,
            together=True,
        )

    def _trained_identity(
        self, chosen: Objective, used: Mapping[str, Sequence[str]], args: TrainArgs, *, refusing: bool
    ) -> dict[str, Any]:
        """What a fingerprint covers of the training itself: what is learned, how, and from which rows."""
        return {
            "revision": REVISION,
            "objective": chosen.identity,
            "args": args.identity,
            "rows": {s: [self._rows[n] for n in names] for s, names in used.items()},
            **({"refusals": self.setting.refusals} if refusing else {}),
        }

    def _evaluation(self, args: TrainArgs, retain: Job | None, retain_file: Path | None) -> dict[str, Any]:
        """What a fingerprint covers of the evaluations during training; nothing without any. Raises ConfigError."""
        if not args.evaluate.on:
            return {}
        watched = self.setting.watched or self.setting.benchmark
        panel = work.watched_metrics(watched, args.evaluate)
        losses = work.loss_sets(self.setting.benchmark, args.evaluate)
        if (
            args.evaluate.chooses
            and retain is None
            and retain_file is None
            and forget_of(args.evaluate) == "forget_quality"
        ):
            raise ConfigError(
                "trainer.args.evaluate.rule.forget: forget_quality compares with a retain model, and this run knows "
                "none; name another metric, such as forget_Q_A_Prob"
            )
        wanted = requests(panel)
        return {
            "panel": panel_identity(panel),
            **({"retain_logs": self._retain_log(retain_file)[1]} if retain_file else {}),
            "evaluated": {n: watched.sets[n].fingerprint() for n in sorted(wanted.rows)},
            **({"losses": {name: self._rows[name] for name in losses}} if losses else {}),
            **({"generation": self.evaluation.generation} if wanted.texts or args.evaluate.prompts else {}),
        }

    def to_watch(self, records: Job | None) -> Job | None:
        """A retain model's records, of the rows that evaluations during training read."""
        watched = self.setting.watched
        if records is None or watched is None:
            return records
        model = next(part.parents["model"] for part in records.parents.values() if "model" in part.parents)
        own = TrainingJobs(dataclasses.replace(self.setting, benchmark=watched, watched=None), self.evaluation)
        return own.records(records.label, model)

    def _given_retain(self, retain_file: Path, args: TrainArgs) -> Mapping[str, MetricResult] | None:
        """The results that evaluations during training are held against, where they read any. Raises ConfigError."""
        if not args.evaluate.reads_retain:
            return None
        if self.setting.watched is not None:
            raise ConfigError(
                "eval.split: evaluations during training read the rows for selection, and retain_logs_path has the "
                "retain model's numbers on the others; set trainer.args.evaluate.rule.target to low or high"
            )
        wanted = requests(work.watched_metrics(self.setting.benchmark, args.evaluate))
        sets, n_rows = self.setting.benchmark.sets, args.evaluate.n_rows
        longest = max((len(sets[name]) for name in wanted.rows), default=0)
        if n_rows is not None and n_rows < longest:
            raise ConfigError(
                f"trainer.args.evaluate.rows: {n_rows} of up to {longest} rows are evaluated, and retain_logs_path has "
                f"the retain model's numbers on all of them; set rows to {longest}, or rule.target to low or high"
            )
        return self._retain_log(retain_file)[0]

    def _one_evaluation(self, args: TrainArgs) -> Estimate:
        """The work of one evaluation during training."""
        if not args.evaluate.on:
            return Estimate()
        asked = measuring.parts(work.watched_metrics(self.setting.benchmark, args.evaluate))
        each = [self._sizes.score(p, self.evaluation.generation, args.evaluate.n_rows) for p in asked]
        return Estimate(sum(e.tokens for e in each), sum(e.flops for e in each))

    def reinforced(self, label: str, start: Job | None, args: TrainArgs) -> Job:
        """A model trained further on the forget rows."""
        sides = {"retain": (self.setting.benchmark.forget_set,)}
        return self.fit(f"{label}-reinforced", start, objective("finetune"), sides, args)

    def _teacher(
        self, label: str, start: Job | None, chosen: Objective, args: TrainArgs
    ) -> tuple[Job | None, Job | None]:
        """The model that a method learns from, if any, and the one its run starts from; None: the configured one."""
        if chosen.spec.teacher == "reinforced":
            changed: dict[str, Any] = {
                "grad_transform": None,
                "grad_transform_args": {},
                "reference": "exact",
                "schedule": Schedule(),
            }
            changed["evaluate"] = EvaluateArgs()
            own = dataclasses.replace(args, **changed, **getattr(chosen.method, "reinforce", {}))
            return self.reinforced(label, start, own), start
        if chosen.spec.teacher == "start":
            return start, self.edited(f"{label}-noised", chosen.method.noise(args.seed), start, ())
        return None, start

    def _reference(self, of: Job | None, wanted: ReferenceSpec, other: Job | None) -> Job:
        """What a model says of rows, for all runs that ask the same."""
        other = other if wanted.side == "alternate" else None
        refusing = wanted.side == "alternate" and other is None
        return Job(
            kind="reference",
            label=f"{of.label if of else 'model'}-{wanted.label}",
            identity={
                "revision": REVISION,
                "rows": [self._rows[n] for n in wanted.sets],
                **wanted.identity,
                **({"refusals": self.setting.refusals} if refusing else {}),
                **self._source_identity(of),
            },
            parents=({} if of is None else {"model": of}) | ({} if other is None else {"alternates": other}),
            do=lambda folder, parents, progress: compute_reference(
                folder, self._source(parents), self.setting, wanted, progress, alternates=parents.get("alternates")
            ),
            estimate=self._sizes.read(wanted.sets, wanted.n_rows),
            passing=True,
        )

    def _alternates(self, start: Job | None) -> Job:
        """Other answers to the forget questions, sampled from the model that is to forget."""
        how = dataclasses.replace(
            self.evaluation.generation, temperature=1.0, samples=work.N_ALTERNATES, seed=ALTERNATES_SEED
        )
        return Job(
            kind="alternates",
            label=start.label if start else "model",
            identity={
                "revision": REVISION,
                "rows": self._rows[self.setting.benchmark.forget_set],
                "generation": how,
                "refusals": self.setting.refusals,
                **self._source_identity(start),
            },
            parents={} if start is None else {"model": start},
            do=lambda folder, parents, progress: work.alternates(
                folder, self._source(parents), self.setting, how, progress
            ),
        )

    def edited(self, label: str, edit: WeightEdit, base: Job | None, others: Sequence[Job]) -> Job:
        """Weights made from other models' weights, without training."""
        source = {} if base else {"base": str(self.setting.model.source)}
        return Job(
            kind="edit",
            label=label,
            identity={
                "revision": REVISION,
                "edit": weight_edit_identity(edit),
                **({} if base else self._source_identity(None)),
            },
            parents=({"base": base} if base else {}) | {f"other_{i}": other for i, other in enumerate(others)},
            do=lambda folder, parents, progress: work.apply_edit(
                folder, {**source, **parents}, self.setting, edit, progress
            ),
            estimate=self._sizes.model,
        )
