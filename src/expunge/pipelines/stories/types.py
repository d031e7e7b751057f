"""The job types of the stories protocol. `settings` and `model` run them; the keyed fields decide the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from expunge.data.stories import StoryVariant
from expunge.data.stories.records import Split
from expunge.engine.job import Job, JobContext, shared
from expunge.models.config import ModelConfig
from expunge.pipelines.stories import work
from expunge.pipelines.stories.config import StoriesStudy, StoryProbe
from expunge.training.config import TrainArgs


@dataclass(frozen=True, eq=False, kw_only=True)
class CorpusJob(Job):
    """The stories: generated from a seed, or imported."""

    kind: ClassVar[str] = "corpus"

    stories: Mapping[str, Any]
    """What decides the stories: the settings of the generator, or what identifies the source."""
    settings: StoriesStudy = shared()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Write the stories."""
        return work.corpus(out, self.settings, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class VocabularyJob(Job):
    """A tokenizer learnt from the stories, and all lines tokenised by it. Parent: `corpus`."""

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
    judge: Mapping[str, Any]
    """The rules, or the settings of the classifier."""
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
    """A training on stories. Parents: `model`, `data`, and what measurements on the way read."""

    kind: ClassVar[str] = ""

    args: TrainArgs
    split: Split
    rows: str
    max_seq_len: int
    at: tuple[int, ...] = ()
    """The steps after which the model is measured."""
    measured: Mapping[str, Any] | None = None
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
    """A model measured as it is. Parents: `model`, and what the measurement reads."""

    kind: ClassVar[str] = "measure"

    measured: Mapping[str, Any]
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
