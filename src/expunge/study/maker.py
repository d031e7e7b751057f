"""Makes the jobs of one setting: the rows, the model and the template that a study or a single job names."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.identity import file_sha256
from expunge.methods.edits import Edit, edit_identity
from expunge.methods.objective import Objective, objective
from expunge.metrics.api import Result
from expunge.metrics.compute import identity as panel_identity
from expunge.metrics.compute import requests
from expunge.metrics.results import read_results
from expunge.models.config import source_identity, tokenizer_identity
from expunge.models.load import load_tokenizer
from expunge.scoring.config import Generation
from expunge.study import harness, measuring, work
from expunge.study.config import EvalConfig
from expunge.study.estimate import Sizes, sizes
from expunge.study.job import CHECKPOINTS, Estimate, Job, Progress
from expunge.study.references import IMPLIED, Question, make_reference, wanted_of
from expunge.study.requests import changed
from expunge.study.setting import Setting, check_retain_file, check_sides
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.evaluate import forget_of
from expunge.training.lora import check_quantize
from expunge.training.phases import check_run
from expunge.training.reporters import check_reporters
from expunge.training.schedule import Schedule

ALTERNATES_SEED = 0
REVISION = 1  # of the jobs themselves: raised when the same settings would give other numbers


class Maker:
    """Makes the jobs of one setting. Each identity names what decides the result, and nothing else."""

    def __init__(self, setting: Setting, evaluation: EvalConfig) -> None:
        self.setting, self.evaluation = setting, evaluation
        self._rows = {name: rows.fingerprint() for name, rows in setting.benchmark.sets.items()}
        self._sizes: Sizes = sizes(setting)
        self._parts = measuring.parts(setting.benchmark.panel)
        self._estimates = {p: self._sizes.score(p, self._limited(p)) for p in self._parts if p.of is None}
        self._panel = panel_identity(setting.benchmark.panel)
        self._held = measuring.Held()

    def forgetting(self, name: str) -> Maker:
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
                "preset": model.scratch,
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
        reads = wanted_of(chosen, used, self.setting.benchmark.sets, n_other, args)
        for role, wanted in reads.items():
            parents[role] = self._reference(start if role in IMPLIED else teacher, wanted, other)
        if retain is not None and args.evaluate.reads_retain:
            parents["retain_records"] = retain

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            source = self._source(parents)
            return work.fit(
                folder,
                source,
                self.setting,
                chosen,
                used,
                args,
                progress,
                alternates=parents.get("alternates"),
                references={role.removesuffix("_ref"): (parents[role], wanted.what) for role, wanted in reads.items()},
                retain=parents.get("retain_records", given),
                generation=self.evaluation.generation,
                checkpoints=parents.get(CHECKPOINTS),
                label=label,
            )

        return Job(
            kind="unlearn" if chosen.forgets else "train",
            label=label,
            identity={
                "revision": REVISION,
                "objective": chosen.identity,
                "args": args.identity,
                "rows": {s: [self._rows[n] for n in names] for s, names in used.items()},
                **({"refusals": self.setting.refusals} if refusing else {}),
                **evaluation,
                **self._source_identity(start),
            },
            parents=parents,
            do=do,
            estimate=self._sizes.fit(
                used, args, self.setting.template.max_length, evaluation=self._one_evaluation(args)
            ),
            implied=IMPLIED,
            resumes=True,
            together=True,
        )

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
            **({"retain_logs": file_sha256(retain_file)} if retain_file else {}),
            "evaluated": {n: watched.sets[n].fingerprint() for n in sorted({*wanted.tokens, *wanted.texts})},
            **({"losses": {name: self._rows[name] for name in losses}} if losses else {}),
            **({"generation": self.evaluation.generation} if wanted.texts or args.evaluate.prompts else {}),
        }

    def to_watch(self, records: Job | None) -> Job | None:
        """A retain model's records, of the rows that evaluations during training read."""
        watched = self.setting.watched
        if records is None or watched is None:
            return records
        model = next(part.parents["model"] for part in records.parents.values() if "model" in part.parents)
        own = Maker(dataclasses.replace(self.setting, benchmark=watched, watched=None), self.evaluation)
        return own.records(records.label, model)

    def _given_retain(self, retain_file: Path, args: TrainArgs) -> Mapping[str, Result] | None:
        """The results that evaluations during training are held against, where they read any. Raises ConfigError."""
        if not args.evaluate.reads_retain:
            return None
        if self.setting.watched is not None:
            raise ConfigError(
                "eval.rows: evaluations during training read the rows for selection, and retain_logs_path has the "
                "retain model's numbers on the others; set trainer.args.evaluate.rule.target to low or high"
            )
        wanted = requests(work.watched_metrics(self.setting.benchmark, args.evaluate))
        sets, n_rows = self.setting.benchmark.sets, args.evaluate.n_rows
        longest = max((len(sets[name]) for name in {*wanted.tokens, *wanted.texts}), default=0)
        if n_rows is not None and n_rows < longest:
            raise ConfigError(
                f"trainer.args.evaluate.rows: {n_rows} of up to {longest} rows are evaluated, and retain_logs_path has "
                f"the retain model's numbers on all of them; set rows to {longest}, or rule.target to low or high"
            )
        return self._read_retain(retain_file)

    def _read_retain(self, retain_file: Path) -> Mapping[str, Result]:
        """The results of a retain log that fits this setting. Raises ConfigError."""
        n_forget = len(self.setting.benchmark.sets.get("forget_eval", ()))
        return check_retain_file(retain_file, self.meta(), n_forget, self._tokenizer_mark)

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
            changed: dict[str, Any] = {"step": None, "step_args": {}, "reference": "exact", "schedule": Schedule()}
            changed["evaluate"] = EvaluateArgs()
            own = dataclasses.replace(args, **changed, **getattr(chosen.method, "reinforce", {}))
            return self.reinforced(label, start, own), start
        if chosen.spec.teacher == "start":
            return start, self.edited(f"{label}-noised", chosen.method.noise(args.seed), start, ())
        return None, start

    def _reference(self, of: Job | None, wanted: Question, other: Job | None) -> Job:
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
            do=lambda folder, parents, progress: make_reference(
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

    def edited(self, label: str, edit: Edit, base: Job | None, others: Sequence[Job]) -> Job:
        """Weights made from other models' weights, without training."""
        source = {} if base else {"base": str(self.setting.model.source)}
        return Job(
            kind="edit",
            label=label,
            identity={
                "revision": REVISION,
                "edit": edit_identity(edit),
                **({} if base else self._source_identity(None)),
            },
            parents=({"base": base} if base else {}) | {f"other_{i}": other for i, other in enumerate(others)},
            do=lambda folder, parents, progress: work.apply_edit(
                folder, {**source, **parents}, self.setting, edit, progress
            ),
            estimate=self._sizes.model,
        )

    def records(self, label: str, model: Job | None, original: Job | str | None = None) -> Job:
        """All records of a model, gathered from a job for each set of rows and kind.

        original: the model that agreement compares with, a job's or a folder; `eval.original` comes before it.
        """
        given = self.evaluation.original or original
        # Parts bear the model's name, not that of the task: another task finds them where they lie.
        whose = model.label if model else Path(str(self.setting.model.source)).name
        made: dict[str, Job] = {}
        for part in self._parts:
            if part.kind == "agreement" and given is None:
                continue  # the metrics that read it say that there is no original model
            if part.of is None:
                made[part.file] = self._scored(whose, model, part, given)
            elif self.evaluation.embedder is not None:
                texts = made[f"{part.rows}.{part.of}.parquet"]
                made[part.file] = self._compared(whose, part, texts, self.evaluation.embedder)

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            self._held.drop()  # this model's last part is done
            return measuring.gather(folder, parents)

        return Job(kind="records", label=label, identity={"revision": REVISION}, parents=made, do=do)

    def _how(self, part: measuring.Part) -> Generation:
        """How texts of a part are generated."""
        return self.evaluation.sampling if part.kind == "samples" else self.evaluation.generation

    def _limited(self, part: measuring.Part) -> Generation:
        """The same, no longer than the benchmark allows."""
        return measuring.limited(self._how(part), self.setting.benchmark.generation.get(part.rows))

    def _scored(self, label: str, model: Job | None, part: measuring.Part, original: Job | str | None) -> Job:
        """One kind of records of one set of rows. Only what decides them is in the identity, so others stay."""
        how = self._how(part)
        writes = part.kind in ("texts", "samples")
        parents = {} if model is None else {"model": model}
        decides: dict[str, Any] = {"generation": how} if writes else {"reads": part.names}
        limits = self.setting.benchmark.generation.get(part.rows)
        if writes and limits is not None:
            decides["limits"] = limits
        if part.kind == "agreement":
            if isinstance(original, Job):
                parents["original"] = original
            else:
                decides["original"] = source_identity(str(original), None)

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            other = str(parents.get("original", original))
            source = self._source(parents)
            return measuring.score(folder, source, self.setting, part, how, self._held, progress, original=other)

        return Job(
            kind="score",
            label=f"{label} {part.rows} {part.kind}",
            identity={
                "revision": REVISION,
                "records": part.kind,
                "rows": self._rows[part.rows],
                "columns": measuring.COLUMNS[part.kind],  # records of an older shape are made again
                **decides,
                **self._source_identity(model),
            },
            parents=parents,
            do=do,
            estimate=self._estimates[part],
            together=part.kind in ("tokens", "texts", "samples"),
        )

    def _compared(self, label: str, part: measuring.Part, texts: Job, embedder: str) -> Job:
        """The similarity of stored generations to answers."""
        return Job(
            kind="score",
            label=f"{label} {part.rows} {part.kind}",
            identity={
                "revision": REVISION,
                "records": part.kind,
                "rows": self._rows[part.rows],
                "reads": part.names,
                "embedder": source_identity(embedder, None),
            },
            parents={"texts": texts},
            do=lambda folder, parents, progress: measuring.compare_texts(
                folder, parents["texts"], self.setting, part, embedder, progress
            ),
        )

    def metrics(
        self,
        label: str,
        records: Job,
        retain: Job | None,
        *,
        retain_file: Path | None = None,
        shadows: Sequence[Job] = (),
    ) -> Job:
        """The panel over a model's records, against the retain model's results if there are any.

        shadows: the records of the retain models that attacks with reference models read, never this model's own.
        """
        panel = self.setting.benchmark.panel
        sets = self.setting.benchmark.sets
        for metric in panel:
            if metric.where and metric.rows:
                measuring.rows_where(sets[metric.rows], metric)
        meta = self.meta()
        given = self._read_retain(retain_file) if retain_file else None

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            against = given
            if "retain" in parents:
                against = read_results(parents["retain"] / self.eval_file)[0]
            others = [path for role, path in parents.items() if role.startswith("shadow_")]
            facts = measuring.measure(folder, parents["records"], self.setting, panel, against, meta, others)
            progress(1, 1)
            return facts

        identity: dict[str, Any] = {"revision": REVISION, "panel": self._panel}
        if retain_file is not None:
            identity["retain_logs"] = file_sha256(retain_file)
        parents = {"records": records} | ({"retain": retain} if retain else {})
        if any(m.shadows for m in panel):
            parents |= {f"shadow_{i}": job for i, job in enumerate(shadows)}
        return Job(kind="metrics", label=label, identity=identity, parents=parents, do=do)

    def harness(self, label: str, model: Job | None) -> Job | None:
        """The tasks of lm-evaluation-harness on a model, if any are asked for."""
        config = self.evaluation.lm_eval
        if not config.tasks:
            return None

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            meta = {"benchmark": "lm_eval", "tasks": list(config.tasks)}
            return harness.measure_tasks(folder, self._source(parents), self.setting.model, config, meta, progress)

        return Job(
            kind="lm_eval",
            label=label,
            identity={"revision": REVISION, **harness.identity(config), **self._source_identity(model)},
            parents={} if model is None else {"model": model},
            do=do,
        )

    def _tokenizer_mark(self) -> str | None:
        """The mark of the tokenizer this setting reads with; None where a job has yet to make it."""
        source = self.setting.model.tokenizer_source
        if source is None:
            return None
        return measuring.tokenizer_mark(load_tokenizer(source, self.setting.model.tokenizer_args))

    @property
    def eval_file(self) -> str:
        """The name of the results file, as the field knows it: TOFU_EVAL.json."""
        return f"{self.setting.benchmark.eval_name}_EVAL.json"

    def meta(self) -> dict[str, Any]:
        """What stands in a results file about what was measured; a retain log is checked against it."""
        benchmark = self.setting.benchmark
        return {
            "benchmark": benchmark.name,
            "forget_split": benchmark.split,
            "rows": {n: self._rows[n] for n in sorted({m.rows for m in benchmark.panel if m.rows})},
        }

    def _source(self, parents: Mapping[str, Path]) -> str:
        """Where a job's model lies: with its parent, or at the configured source."""
        return str(parents["model"]) if "model" in parents else str(self.setting.model.source)

    def _source_identity(self, start: Job | None) -> dict[str, Any]:
        """The template, the weights' type and, where no job made them, the model and the tokenizer."""
        model = self.setting.model
        out: dict[str, Any] = {"template": self.setting.template, "dtype": model.model_args.dtype}
        if start is None and model.source:
            out["model"] = source_identity(model.source, model.model_args.revision)
        named = model.tokenizer_args.pretrained_model_name_or_path
        if named:
            out["tokenizer"] = tokenizer_identity(named, model.tokenizer_args.revision)
        return out
