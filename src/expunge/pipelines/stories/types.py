"""The job types of the stories protocol. `settings` and `model` run them; the keyed fields decide the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expunge.core.fingerprints import canonical
from expunge.data.stories.generate import StoriesConfig
from expunge.data.stories.records import Split
from expunge.data.stories.text import StoryVariant
from expunge.engine.job import Job, JobContext, shared
from expunge.judges.classifier import ClassifierConfig
from expunge.judges.rules import RuleJudge
from expunge.models.config import ModelConfig
from expunge.pipelines.stories import work
from expunge.pipelines.stories.config import StoriesStudy, StoryProbe
from expunge.training.config import TrainArgs


@dataclass(frozen=True)
class StoryOrigin:
    """The origin of the stories: the settings of the generator, or the identity of imported ones."""

    generated: StoriesConfig | None = None
    imported: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> Any:
        """The part of a key."""
        return self.imported if self.generated is None else canonical(self.generated)


@dataclass(frozen=True)
class StoryJudgeRef:
    """A judge: its rules, or the settings of its classifier and the largest number of stories to train it on."""

    rules: RuleJudge | None = None
    classifier: ClassifierConfig | None = None
    texts: int = work.MOST_LABELLED

    @property
    def identity(self) -> Mapping[str, Any]:
        """The part of a key."""
        if self.rules is not None:
            return {"rules": canonical(self.rules)}
        return {"classifier": canonical(self.classifier), "texts": self.texts}


@dataclass(frozen=True)
class StoryMeasurement:
    """The settings that decide the numbers of a measurement, without its parents."""

    sets: tuple[str, ...]
    rows: int
    prompts: int
    max_new_tokens: int
    temperature: float
    seed: int
    """The seed of generations."""
    draws: int
    """The seed of the draws."""
    feature: str
    lines: str | None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The part of a key."""
        names = ("prompts", "max_new_tokens", "temperature", "seed")
        fields: dict[str, Any] = canonical(dataclasses.asdict(self))
        generation = {name: fields.pop(name) for name in names}
        return {**fields, "asked": generation}


@dataclass(frozen=True, eq=False, kw_only=True)
class CorpusJob(Job):
    """The stories: generated from a seed, or imported."""

    kind: ClassVar[str] = "corpus"

    stories: StoryOrigin
    settings: StoriesStudy = shared()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Write the stories."""
        return work.corpus(out, self.settings, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class VocabularyJob(Job):
    """A tokenizer trained on the stories, and all lines tokenised with it. Parent: `corpus`."""

    kind: ClassVar[str] = "vocabulary"

    vocab_size: int
    lines: str | None
    draws: int
    """The seed of the draws."""
    max_length: int
    settings: StoriesStudy = shared()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Train the tokenizer and tokenise the lines."""
        return work.vocabulary(out, inputs["corpus"], self.settings, self.vocab_size, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class JudgeJob(Job):
    """The judge of generations. Parent: `corpus`."""

    kind: ClassVar[str] = "judge"

    feature: str
    judge: StoryJudgeRef
    settings: StoriesStudy = shared()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Train the judge, if it is a classifier, and calibrate it."""
        return work.make_judge(out, inputs["corpus"], self.settings, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetJob(Job):
    """One data set of tokens. Parent: `vocabulary`."""

    kind: ClassVar[str] = "dataset"

    variant: StoryVariant
    draws: int
    """The seed of the draws."""

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Assemble the data set."""
        return work.dataset(out, inputs["vocabulary"], self.variant, self.draws, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class StoryBaseJob(Job):
    """A freshly initialised model for the vocabulary. Parent: `vocabulary`."""

    kind: ClassVar[str] = "base"

    preset: Mapping[str, Any]
    vocab_size: int
    init_seed: int
    model: ModelConfig = shared()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Build and save the model."""
        return work.base(out, inputs["vocabulary"], self.model, self.vocab_size, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class StoryFitJob(Job):
    """A training on stories. Parents: `model`, `data`, and those of the measurements on the way."""

    kind: ClassVar[str] = ""

    args: TrainArgs
    split: Split
    rows: str
    max_seq_len: int
    at: tuple[int, ...] = ()
    """The steps after which the model is measured."""
    measured: StoryMeasurement | None = None
    settings: StoriesStudy = shared()
    model: ModelConfig = shared()

    @property
    def resumable(self) -> bool:
        """A training run continues from its checkpoints."""
        return True

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        return self.args.seed

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Train and save the model."""
        return work.fit(
            out, inputs, self.settings, self.model, self.args, self.split, self.at, context.progress,
            context.checkpoints,
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class PretrainJob(StoryFitJob):
    """The pretraining of the present model, or of the one that never learned the feature."""

    kind: ClassVar[str] = "pretrain"


@dataclass(frozen=True, eq=False, kw_only=True)
class DeleteJob(StoryFitJob):
    """A fine-tuning that deletes the feature."""

    kind: ClassVar[str] = "delete"


@dataclass(frozen=True, eq=False, kw_only=True)
class RecoverJob(StoryFitJob):
    """A fine-tuning that recovers the feature."""

    kind: ClassVar[str] = "recover"


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasureJob(Job):
    """The measurement of an unchanged model. Parents: `model`, `judge`, `vocabulary` and the measured data sets."""

    kind: ClassVar[str] = "measure"

    measured: StoryMeasurement
    max_seq_len: int
    settings: StoriesStudy = shared()
    model: ModelConfig = shared()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Measure the model: a trajectory of one point."""
        return work.measure(out, inputs, self.settings, self.model, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeJob(Job):
    """Linear probes of each layer. Parents: `model`, `data`, `vocabulary`."""

    kind: ClassVar[str] = "probe"

    probe: StoryProbe
    feature: str
    max_seq_len: int
    settings: StoriesStudy = shared()
    model: ModelConfig = shared()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Fit the probes."""
        return work.probe_layers(out, inputs, self.settings, self.model, context.progress)
