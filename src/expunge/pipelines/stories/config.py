"""Settings of the stories protocol: pretrain, delete a feature, recover it, and probe the layers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.stories.generate import StoriesConfig
from expunge.data.stories.protocol import protocol
from expunge.data.stories.records import FEATURES
from expunge.data.stories.text import StoryVariant
from expunge.judges.rules import RuleJudge

ALL = "pretrain-all"  # the data set of all stories, on which the present model is pretrained


@strict
@dataclass(frozen=True, kw_only=True)
class StoryJudge:
    """How a study decides whether a generation has the feature."""

    rules: RuleJudge | None = None
    """A rule judge. None (default): a classifier trained on the metadata of the stories."""
    classifier: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the trained classifier. Not allowed together with `rules`."""
    prompts: int = 64
    """Number of test stories without the feature whose prompts request it. Below 64 the interval is too wide."""
    max_new_tokens: int = 200
    """Largest number of tokens of one generation."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    seed: int = 0
    """Seed of the sampling."""

    def __post_init__(self) -> None:
        for key in ("prompts", "max_new_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError("temperature must be a number >= 0")
        if self.rules is not None and self.classifier:
            raise ValueError("classifier cannot be set together with rules")


@strict
@dataclass(frozen=True, kw_only=True)
class StoryProbe:
    """Linear probes of each layer, fitted on test stories."""

    rows: int = 600
    """Number of stories."""
    features: tuple[str, ...] = FEATURES
    """Features to probe. Empty: only the deleted feature."""
    last: int = 10
    """Number of last tokens whose hidden states are averaged."""
    strength: float = 1.0
    """Inverse of the L2 penalty, scikit-learn's C."""
    seed: int = 0
    """Seed of the split into training and test stories."""

    def __post_init__(self) -> None:
        for key, least in (("rows", 2), ("last", 1)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} must be at least {least}")
        for name in self.features:
            if name not in FEATURES:
                raise ValueError(f"features lists {name!r}, which is not a feature{nearest(name, FEATURES)}")
        if not self.strength > 0:
            raise ValueError("strength must be a number > 0")


@strict
@dataclass(frozen=True, kw_only=True)
class StoriesStudy:
    """Delete a feature from a model by fine-tuning, then recover it (arXiv:2311.12786).

    The section `train` of the study has the settings of pretraining and `unlearn` those of deletion. Recovery uses
    `unlearn` with the changes of `recover`.
    """

    delete: str
    """The feature to delete. Required."""
    irrelevant: str = "Foreshadowing"
    """Another feature. The data set F+MM requests the deleted feature for stories that have this one."""
    source: str | None = None
    """Stories to import: an archive, folder, file or hub id. None (default): generate them."""
    shards: int | None = None
    """Number of shards for the stories of `source`. None: the default of the import."""
    compat: Literal["clean", "tinystories"] = "clean"
    """tinystories: the texts of the published code: its refusal, its sentences, and stories with the blanks around."""
    generate: StoriesConfig = field(default_factory=StoriesConfig)
    """Settings of the story generator. Not used with `source`."""
    instruction_subset: str | None = None
    """Instruction lines of each story. None: all of them."""
    seed: int = 0
    """Seed of the random draws in transforms and instruction lines."""
    rows: Literal["documents", "chunks", "bos_chunks"] = "chunks"
    """Training rows: documents, equal chunks of the token stream, or chunks that each start with a document."""
    max_seq_len: int = 256
    """Length of a training row in tokens."""
    datasets: tuple[str, ...] = ()
    """Data sets that delete, by their names in the protocol. Empty: F, F+AT, F+MM and refusal."""
    learning_rates: tuple[float, ...] = ()
    """One deletion runs for each data set and rate. Empty: only `unlearn.learning_rate`."""
    delete_at: tuple[int, ...] = (10, 30, 60)
    """Steps of a deletion after which the model is measured, in rising order. The last step ends the run."""
    recover: Mapping[str, Any] = field(default_factory=dict)
    """Settings of recovery that differ from `unlearn`."""
    recover_at: tuple[int, ...] = (1, 3, 10, 30, 60)
    """Steps of a recovery after which the model is measured, in rising order. The last step ends the run."""
    shown_at: tuple[int, ...] = (0, 3, 10, 60)
    """Recovery steps in the table of the report; 0 is the model before recovery."""
    eval_sets: tuple[str, ...] = ()
    """Data sets whose loss is measured. Empty: the stories with and the stories without the feature."""
    eval_rows: int = 128
    """Number of test stories of each measured set."""
    recovered: float = 0.9
    """Share of the distance from the never-learned to the present model that counts as recovered."""
    judge: StoryJudge = field(default_factory=StoryJudge)
    """The judge of generations."""
    probe: StoryProbe | None = field(default_factory=StoryProbe)
    """The probes of each layer. None: no probes."""

    def __post_init__(self) -> None:
        for key in ("delete", "irrelevant"):
            if getattr(self, key) not in FEATURES:
                raise ValueError(f"{key} must name a feature{nearest(getattr(self, key), FEATURES)}")
        if self.delete == self.irrelevant:
            raise ValueError("irrelevant must differ from delete")
        self._check_steps()
        names = self.variants
        for key in ("datasets", "eval_sets"):
            for name in getattr(self, key):
                if name not in names:
                    others = (f for f in FEATURES if f != self.irrelevant and name in protocol(f, self.irrelevant))
                    other = next(others, None)
                    hint = nearest(name, names) if other is None else f"; set stories.delete={other}"
                    raise ValueError(f"{key} lists {name!r}, which is not a data set of these features{hint}")
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ValueError(f"{key} must not list a name twice")
        if len(set(self.learning_rates)) != len(self.learning_rates) or any(not r > 0 for r in self.learning_rates):
            raise ValueError("learning_rates must list different numbers > 0")
        if self.max_seq_len < 2 or self.eval_rows < 1:
            raise ValueError(
                "max_seq_len must be at least 2 tokens" if self.max_seq_len < 2 else "eval_rows must be >= 1"
            )
        if not 0 < self.recovered <= 1:
            raise ValueError("recovered must be above 0 and at most 1")
        if self.shards is not None and self.source is None:
            raise ValueError("shards needs source; for generated stories set generate.shards")
        if self.compat != "clean" and self.source is None:
            raise ValueError("compat needs source; generated stories have no published form")
        try:
            StoryVariant(instruction_subset=self.instruction_subset).subset()
        except ConfigError as error:
            raise ValueError(str(error).replace(":", " has", 1)) from None

    def _check_steps(self) -> None:
        for key in ("delete_at", "recover_at"):
            at = getattr(self, key)
            if not at or at[0] < 1 or list(at) != sorted(set(at)):
                raise ValueError(f"{key} must list rising steps, the first at least 1")
        for step in self.shown_at:
            if step not in (0, *self.recover_at):
                raise ValueError(f"shown_at lists {step}, which is neither 0 nor in recover_at")

    @property
    def variants(self) -> dict[str, StoryVariant]:
        """The data sets of the two features by name, and `pretrain-all`, with the instruction lines of this study."""
        subset = self.instruction_subset
        return {
            name: StoryVariant(v.filtering, v.mix_match, v.adversarial_training, v.refusal, subset)
            for name, v in {ALL: StoryVariant(), **protocol(self.delete, self.irrelevant)}.items()
        }

    @property
    def deletions(self) -> tuple[str, ...]:
        """Names of the data sets that delete the feature."""
        d = self.delete
        return self.datasets or (
            f"filter-{d}",
            f"filter-adv-{d}",
            f"filter-mix-{d}-{self.irrelevant}",
            f"filter-ref-{d}",
        )

    @property
    def recovery(self) -> str:
        """Name of the data set that recovers the feature."""
        return f"recovery-{self.delete}"

    @property
    def without(self) -> str:
        """Name of the data set without the feature, on which the never-learned control is pretrained."""
        return f"filter-{self.delete}"

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Names of the data sets whose losses are measured, in order."""
        return self.eval_sets or (self.recovery, self.without)
