"""The stories protocol as settings: pretrain, delete a feature, recover it, and look inside. Importing this loads no
torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.stories import FEATURES, StoriesConfig, StoryVariant, protocol
from expunge.judges.rules import RuleJudge

ALL = "pretrain-all"  # every story; what the model that is to forget was pretrained on


@strict
@dataclass(frozen=True, kw_only=True)
class StoryJudge:
    """Who says whether a generation has the feature, and how it is asked.

    rules: a rule judge in place of the classifier trained on the stories' metadata (settings: `classifier`).
    prompts: stories of the test without the feature, asked for it; with fewer than 64 the interval is too wide.
    """

    rules: RuleJudge | None = None
    classifier: Mapping[str, Any] = field(default_factory=dict)
    prompts: int = 64
    max_new_tokens: int = 200
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("prompts", "max_new_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError("temperature must be a number >= 0")
        if self.rules is not None and self.classifier:
            raise ValueError("classifier is set, and rules judge")


@strict
@dataclass(frozen=True, kw_only=True)
class StoryProbe:
    """Linear probes of each layer on stories of the test. features: which are probed; none: the deleted one."""

    rows: int = 600
    features: tuple[str, ...] = FEATURES
    last: int = 10
    strength: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for key, least in (("rows", 2), ("last", 1)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} must be at least {least}")
        for name in self.features:
            if name not in FEATURES:
                raise ValueError(f"features lists {name!r}, no feature{nearest(name, FEATURES)}")
        if not self.strength > 0:
            raise ValueError("strength must be a number > 0")


@strict
@dataclass(frozen=True, kw_only=True)
class StoriesStudy:
    """A feature is deleted from a model by fine-tuning, and brought back (arXiv:2311.12786).

    delete, irrelevant: two features. source: stories to import (archive, folder, file, hub id; dealt to `shards`),
    in place of `generate`. datasets: what the present model is fine-tuned on, by the names of the protocol; none: F,
    F+AT, F+MM and refusal. learning_rates: one deletion for each data set and rate; none: `unlearn.learning_rate`.

    The study's `train` are the settings of pretraining, `unlearn` those of deletion and, with what `recover` changes,
    of recovery. delete_at, recover_at: the steps after which a model is measured, rising; the last ends the run.
    shown_at: those of recovery that the table shows (0 is before it). eval_sets: the data sets whose losses are told;
    none: those with and without the feature. eval_rows: stories of each. recovered: the share of what lies between the
    never-learned and the present model that counts as regained.

    rows, max_seq_len: how tokens become training rows (`TokenDocuments`). seed: of the draws of transforms.
    """

    delete: str
    irrelevant: str = "Foreshadowing"
    source: str | None = None
    shards: int | None = None
    generate: StoriesConfig = field(default_factory=StoriesConfig)
    instruction_subset: str | None = None
    seed: int = 0
    rows: Literal["documents", "chunks", "bos_chunks"] = "chunks"
    max_seq_len: int = 256
    datasets: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = ()
    delete_at: tuple[int, ...] = (10, 30, 60)
    recover: Mapping[str, Any] = field(default_factory=dict)
    recover_at: tuple[int, ...] = (1, 3, 10, 30, 60)
    shown_at: tuple[int, ...] = (0, 3, 10, 60)
    eval_sets: tuple[str, ...] = ()
    eval_rows: int = 128
    recovered: float = 0.9
    judge: StoryJudge = field(default_factory=StoryJudge)
    probe: StoryProbe | None = field(default_factory=StoryProbe)

    def __post_init__(self) -> None:
        for key in ("delete", "irrelevant"):
            if getattr(self, key) not in FEATURES:
                raise ValueError(f"{key} must name a feature{nearest(getattr(self, key), FEATURES)}")
        if self.delete == self.irrelevant:
            raise ValueError("irrelevant must be another feature than the one to delete")
        self._check_steps()
        names = self.variants
        for key in ("datasets", "eval_sets"):
            for name in getattr(self, key):
                if name not in names:
                    raise ValueError(f"{key} lists {name!r}, no data set of these features{nearest(name, names)}")
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ValueError(f"{key} must list different ones")
        if len(set(self.learning_rates)) != len(self.learning_rates) or any(not r > 0 for r in self.learning_rates):
            raise ValueError("learning_rates must list different numbers > 0")
        if self.max_seq_len < 2 or self.eval_rows < 1:
            raise ValueError(
                "max_seq_len must be at least 2 tokens" if self.max_seq_len < 2 else "eval_rows must be >= 1"
            )
        if not 0 < self.recovered <= 1:
            raise ValueError("recovered must be above 0 and at most 1")
        if self.shards is not None and self.source is None:
            raise ValueError("shards deals out a source's stories; those of generated ones are generate.shards")
        try:
            StoryVariant(instruction_subset=self.instruction_subset).subset()
        except ConfigError as error:
            raise ValueError(str(error).replace(":", " has", 1)) from None

    def _check_steps(self) -> None:
        for key in ("delete_at", "recover_at"):
            at = getattr(self, key)
            if not at or at[0] < 1 or list(at) != sorted(set(at)):
                raise ValueError(f"{key} must list steps from 1 that rise")
        for step in self.shown_at:
            if step not in (0, *self.recover_at):
                raise ValueError(f"shown_at lists {step}, which is neither 0 nor among recover_at")

    @property
    def variants(self) -> dict[str, StoryVariant]:
        """The data sets of this pair of features by name, and `pretrain-all`; each with the lines of this study."""
        subset = self.instruction_subset
        return {
            name: StoryVariant(v.filtering, v.mix_match, v.adversarial_training, v.refusal, subset)
            for name, v in {ALL: StoryVariant(), **protocol(self.delete, self.irrelevant)}.items()
        }

    @property
    def deletions(self) -> tuple[str, ...]:
        """The data sets that delete."""
        d = self.delete
        return self.datasets or (
            f"filter-{d}",
            f"filter-adv-{d}",
            f"filter-mix-{d}-{self.irrelevant}",
            f"filter-ref-{d}",
        )

    @property
    def recovery(self) -> str:
        """The data set that brings the feature back."""
        return f"recovery-{self.delete}"

    @property
    def without(self) -> str:
        """The data set of all stories without the feature: what the never-learned control is pretrained on."""
        return f"filter-{self.delete}"

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The data sets whose losses are told, in order."""
        return self.eval_sets or (self.recovery, self.without)
