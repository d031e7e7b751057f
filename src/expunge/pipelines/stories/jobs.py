"""The stories protocol as a graph of jobs (arXiv:2311.12786).

corpus -> vocabulary -> a data set of tokens for each variant
       -> judge
base -> present (all stories)            -> a deletion for each data set and rate -> recovery of each
     -> never learned (no such feature)  -> its recovery, the control
probes of the present model, the control and every deletion
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.data.stories.gather import source_of
from expunge.data.stories.records import Split
from expunge.engine.job import Estimate, Job
from expunge.models.config import PRESETS, preset_identity
from expunge.models.trial import check_part_names
from expunge.pipelines.stories import work
from expunge.pipelines.stories.config import ALL, StoriesStudy
from expunge.pipelines.stories.types import (
    CorpusJob,
    DatasetJob,
    DeleteJob,
    JudgeJob,
    MeasureJob,
    PretrainJob,
    ProbeJob,
    RecoverJob,
    StoryBaseJob,
    StoryFitJob,
    StoryJudgeRef,
    StoryMeasurement,
    StoryOrigin,
    VocabularyJob,
)
from expunge.pipelines.study.config import StudyConfig
from expunge.pipelines.study_jobs.estimate import parameters
from expunge.pipelines.study_jobs.memory import estimate_memory, estimate_scoring, shape_in
from expunge.training.config import TrainArgs
from expunge.training.phases import names_of_args

PRESENT, NEVER = "present", "never learned"
TOKENS_PER_STORY = 170  # an estimate, used only in the plan


@dataclass(frozen=True)
class StorySubject:
    """One model of the protocol.

    Attributes:
        role: full (feature present in pretraining), retain (never learned) or unlearn (a deletion at one rate).
        measured: The job whose folder contains the trajectory: that of the model, or a measurement.
        recovery: The fine-tuning on stories with the feature. The present model has none.
    """

    label: str
    role: str
    dataset: str | None
    learning_rate: float | None
    model: Job
    measured: Job
    recovery: Job | None
    probe: Job | None


@dataclass(frozen=True)
class StoryJobs:
    """The jobs of a study of stories."""

    settings: StoriesStudy
    corpus: Job
    judge: Job
    subjects: tuple[StorySubject, ...]

    @property
    def jobs(self) -> list[Job]:
        """The requested jobs, in the order of the plan and the report."""
        return [self.judge, *(job for s in self.subjects for job in (s.model, s.measured, s.recovery, s.probe) if job)]


def story_jobs(study: StudyConfig) -> StoryJobs:
    """Return the jobs of a study with a `stories` section. Raises ConfigError or DataError for wrong settings."""
    return _StoryPlanner(study).plan()


class _StoryPlanner:
    def __init__(self, study: StudyConfig) -> None:
        if study.stories is None:
            raise ConfigError("stories: missing")
        self.settings, self.model = study.stories, study.model
        _check(study)
        self.size = study.model.vocab_size or PRESETS[str(study.model.scratch)].vocab_size
        self.n_parameters = parameters(study.model)
        self.pretraining = study.train
        self.deleting, self.recovering = dict(study.unlearn), {**study.unlearn, **self.settings.recover}
        self.base_args = decode(TrainArgs, self.deleting, where="unlearn")
        recovery = decode(TrainArgs, self.recovering, where="stories.recover")
        named = {"train": study.train, "unlearn": self.base_args, "stories.recover": recovery}
        check_part_names(self.model, None, [one for key, args in named.items() for one in names_of_args(args, key)])
        work.classifier_config(self.settings)
        self.corpus = self._corpus()
        self.vocabulary = self._vocabulary()
        self.judge = self._judge()
        self._datasets: dict[str, Job] = {}

    def plan(self) -> StoryJobs:
        """Return the graph of the module's docstring."""
        base = StoryBaseJob(
            label=str(self.model.scratch),
            parents={"vocabulary": self.vocabulary},
            preset=preset_identity(self.model.scratch),
            vocab_size=self.size,
            init_seed=self.model.init_seed,
            model=self.model,
            estimate=Estimate(bytes=4 * self.n_parameters),
        )
        present = self._fit(PretrainJob, PRESENT, base, ALL, "pretrain", self.pretraining, ())
        never = self._fit(PretrainJob, NEVER, base, self.settings.without, "pretrain", self.pretraining, ())
        subjects = [
            self._subject(PRESENT, "full", present, recovers=False),
            self._subject(NEVER, "retain", never),
        ]
        rates = self.settings.learning_rates or (self.base_args.learning_rate,)
        for name in self.settings.deletions:
            for rate in rates:
                args = self._args(self.deleting, self.settings.delete_at, "unlearn", learning_rate=rate)
                label = name if len(rates) == 1 else f"{name} lr={rate:g}"
                model = self._fit(DeleteJob, label, present, name, "finetune", args, self.settings.delete_at)
                subjects.append(self._subject(label, "unlearn", model, dataset=name, learning_rate=rate))
        return StoryJobs(self.settings, self.corpus, self.judge, tuple(subjects))

    def _args(self, tree: Mapping[str, Any], at: tuple[int, ...], where: str, **changes: Any) -> TrainArgs:
        return decode(TrainArgs, {**tree, **changes, "max_steps": at[-1]}, where=where)

    def _subject(
        self,
        label: str,
        role: str,
        model: Job,
        *,
        recovers: bool = True,
        dataset: str | None = None,
        learning_rate: float | None = None,
    ) -> StorySubject:
        recovery = None
        if recovers:
            at = self.settings.recover_at
            args = self._args(self.recovering, at, "stories.recover")
            recovery = self._fit(RecoverJob, label, model, self.settings.recovery, "finetune", args, at)
        measured = model if role == "unlearn" else self._measure(label, model)
        return StorySubject(label, role, dataset, learning_rate, model, measured, recovery, self._probe(label, model))

    def _corpus(self) -> Job:
        s = self.settings
        if s.source is None:
            return CorpusJob(label="generated", settings=s, stories=StoryOrigin(s.generate))
        return CorpusJob(
            label="imported", settings=s, stories=StoryOrigin(imported=source_of(s.source, s.shards, s.compat))
        )

    def _vocabulary(self) -> Job:
        s, size = self.settings, self.size
        return VocabularyJob(
            label=f"bpe{size}",
            parents={"corpus": self.corpus},
            settings=s,
            vocab_size=size,
            lines=s.instruction_subset,
            draws=s.seed,
            max_length=s.max_seq_len,
        )

    def _judge(self) -> Job:
        s = self.settings
        judge = StoryJudgeRef(s.judge.rules, None if s.judge.rules is not None else work.classifier_config(s))
        return JudgeJob(label=s.delete, parents={"corpus": self.corpus}, settings=s, feature=s.delete, judge=judge)

    def _dataset(self, name: str) -> Job:
        if name not in self._datasets:
            self._datasets[name] = DatasetJob(
                label=name,
                parents={"vocabulary": self.vocabulary},
                variant=self.settings.variants[name],
                draws=self.settings.seed,
            )
        return self._datasets[name]

    def _fit(
        self,
        cls: type[StoryFitJob],
        label: str,
        start: Job,
        data: str,
        split: Split,
        args: TrainArgs,
        at: tuple[int, ...],
    ) -> Job:
        s = self.settings
        return cls(
            label=label,
            parents={"model": start, "data": self._dataset(data), **(self._reads() if at else {})},
            settings=s,
            model=self.model,
            args=args,
            split=split,
            rows=s.rows,
            max_seq_len=s.max_seq_len,
            at=at,
            measured=self._measured if at else None,
            estimate=self._work(args, data, len(at)),
        )

    def _measure(self, label: str, model: Job) -> Job:
        """Return the measurement of an unchanged model, equal to those during deletion and recovery."""
        return MeasureJob(
            label=label,
            parents={"model": model, **self._reads()},
            settings=self.settings,
            model=self.model,
            measured=self._measured,
            max_seq_len=self.settings.max_seq_len,
            estimate=self._measuring(1),
        )

    def _reads(self) -> dict[str, Job]:
        """Return the parents of a measurement, without the model."""
        evals = {f"eval {name}": self._dataset(name) for name in self.settings.evaluated}
        return {"judge": self.judge, "vocabulary": self.vocabulary, **evals}

    @property
    def _measured(self) -> StoryMeasurement:
        """The settings that decide the numbers of a measurement, without its parents."""
        s, judge = self.settings, self.settings.judge
        return StoryMeasurement(
            tuple(s.evaluated), s.eval_rows, judge.prompts, judge.max_new_tokens, judge.temperature, judge.seed,
            draws=s.seed, feature=s.delete, lines=s.instruction_subset,
        )  # fmt: skip

    def _work(self, args: TrainArgs, data: str, n_checks: int) -> Estimate:
        """Return six operations per parameter and trained token, plus the measurements on the way."""
        s = self.settings
        share = 0.8 if data == ALL else 0.4
        n_rows = max(1, int(s.generate.n * share * TOKENS_PER_STORY / s.max_seq_len))
        tokens = args.n_samples(n_rows) * s.max_seq_len
        more = self._measuring(n_checks)
        memory = estimate_memory(shape_in(self.model), args, "ddp", length=s.max_seq_len, sides=1)
        flops = 6.0 * self.n_parameters * tokens + more.flops
        return Estimate(tokens + more.tokens, flops, 4 * self.n_parameters, memory.total)

    def _measuring(self, times: int) -> Estimate:
        """Return two operations per parameter and scored token, eight per generated token."""
        s = self.settings
        scored = times * s.eval_rows * len(s.evaluated) * TOKENS_PER_STORY
        generated = times * s.judge.prompts * s.judge.max_new_tokens
        memory = estimate_scoring(shape_in(self.model), "tokens", length=s.max_seq_len, n_rows=s.eval_rows)
        flops = self.n_parameters * (2.0 * scored + 8.0 * generated)
        return Estimate(scored + generated, flops, memory=memory.total)

    def _probe(self, label: str, model: Job) -> Job | None:
        s = self.settings
        if s.probe is None:
            return None
        tokens = s.probe.rows * TOKENS_PER_STORY
        return ProbeJob(
            label=label,
            parents={"model": model, "data": self._dataset(ALL), "vocabulary": self.vocabulary},
            settings=s,
            model=self.model,
            probe=s.probe,
            feature=s.delete,
            max_seq_len=s.max_seq_len,
            estimate=Estimate(tokens, 2.0 * self.n_parameters * tokens, 0),
        )


def _check(study: StudyConfig) -> None:
    """Raise ConfigError for a section that a study of stories cannot have."""
    if study.model.scratch is None:
        raise ConfigError("model: a study of stories pretrains its own model; set model=llama-2m or another preset")
    for key, value, allowed in (
        ("methods", study.methods, ()),
        ("audits", study.audits, ()),
        ("requests", study.requests, 1),
        ("seeds.train", study.seeds.train, (0,)),
        ("seeds.unlearn", study.seeds.unlearn, (0,)),
        ("grid", dict(study.grid), {}),
    ):
        if value != allowed:
            raise ConfigError(f"{key}: not allowed in a study of stories; list its deletions in stories.datasets")
    settings = study.stories
    limit = PRESETS[str(study.model.scratch)].max_position_embeddings
    if settings is not None and settings.max_seq_len > limit:
        raise ConfigError(
            f"stories.max_seq_len: {settings.max_seq_len} exceeds the context of {study.model.scratch}, {limit} tokens"
        )
