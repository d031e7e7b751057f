"""The interface of an audit: the jobs that it requests on a model and on its two controls, and how to read the results.

An audit never trains and never sees a model. `expand` plans the work as `AuditProbe`s: a change of the model, and
metrics to compute afterwards. The study turns these into jobs. `read` compares the results of the unlearned model with
those of the retain and the target model after the same probes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError
from expunge.core.records import Floats
from expunge.core.registry import Fidelity, Registry
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.methods.weight_edits import WeightEdit
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.equivalence import MARGIN, NEAR_FULL, AuditFinding, without_comparison

NO_RETAIN_MODEL = "there is no retain model to compare it with"
NO_TARGET_MODEL = "there is no target model to compare it with"
STATISTIC = {
    "probability": "prob",
    "answer_loss": "avg_loss",
    "rouge": "rougeL_recall",
}  # the per-row number, by family; for all other families it is `score`


AS_IT_IS = "as_it_is"  # name of the probe of an unchanged model


@dataclass(frozen=True)
class RelearnSpec:
    """Train on some rows, and evaluate after each of the steps (0: before the first)."""

    rows: str
    steps: tuple[int, ...]
    learning_rate: float | None
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Nf4Spec:
    """Load the linear layers in 4-bit NormalFloat, with bitsandbytes."""


Models = Callable[[str], Any]  # loads "model", the audited one, or the control with a name, in eval mode


class Analysis:
    """An analysis of the model itself: a frozen dataclass of the settings that determine its numbers.

    sets: the rows that it reads, by name. `beside`: the controls whose models it also needs, "full" or "retain".
    `passes`: the number of forward passes over the rows, for estimates.
    """

    revision: ClassVar[int] = 1
    beside: ClassVar[tuple[str, ...]] = ()
    sets: tuple[str, ...]

    @property
    def passes(self) -> float:
        """One pass over the rows."""
        return 1.0

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """Return results by name; a number per row is its `score`. Each call of `models` loads a model."""
        raise NotImplementedError


Change = RelearnSpec | Nf4Spec | Analysis | WeightEdit | None  # a WeightEdit makes new weights from the model's


@dataclass(frozen=True)
class AuditProbe:
    """One change of a model (None: unchanged) and the metrics to compute afterwards.

    The results of a RelearnSpec have the names `name@step`, all others `name`. An Analysis has no metrics of the panel;
    it names its results itself.
    """

    name: str
    change: Change
    panel: tuple[Metric, ...]


@dataclass(frozen=True)
class AuditPlan:
    """The work of an audit: rows by the names in its metrics, probes, and impossible parts (name -> reason)."""

    sets: Mapping[str, ExampleSet]
    probes: tuple[AuditProbe, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditInputs:
    """The data of a study for audits. forget: the forget rows; holdout: rows that no model has seen.

    Both have the names of the benchmark's own sets, so that existing scores are reused. opens: the template's text
    before a question, and between it and its answer. samples: from `eval.sampling`.
    """

    forget: ExampleSet
    retain: ExampleSet | None
    holdout: ExampleSet | None
    opens: tuple[str, str] = ("", " ")
    samples: int = 1


def opens_of(template: Template) -> tuple[str, str]:
    """Return the template's text before a question, and between it and its answer."""
    if template.apply_chat_template:
        return "", "\n"
    return template.user_start_tag, template.user_end_tag + template.asst_start_tag


Results = Mapping[str, Mapping[str, MetricResult]]  # probe -> metric -> result


@dataclass(frozen=True)
class AuditOutputs:
    """The results of a model, and of its controls if they exist."""

    model: Results
    retain: Results | None
    full: Results | None

    @property
    def lacking(self) -> str | None:
        """The reason why there is nothing to compare the model with, or None."""
        if self.retain is None:
            return NO_RETAIN_MODEL
        return NO_TARGET_MODEL if self.full is None else None

    def columns(self, probe: str, metric: Metric) -> tuple[Floats, Floats, Floats]:
        """Return one number per row of the model, the retain and the target model, aligned; NaN for a missing one."""
        sides = [of[probe][metric.name] for of in (self.model, self.retain, self.full) if of is not None]
        ids = sorted(set().union(*(r.per_row for r in sides)))
        model, retain, full = (rows_of(result, metric, ids) for result in sides)
        return model, retain, full

    def alone(self, name: str, probe: str, metric: Metric) -> AuditFinding:
        """Return the finding of a number whose comparison lacks a control: the means of the models that exist."""
        sides: list[Floats | None] = []
        for of in (self.model, self.retain, self.full):
            result = None if of is None else of[probe][metric.name]
            sides.append(None if result is None else rows_of(result, metric, sorted(result.per_row)))
        return without_comparison(name, sides, self.lacking or "")


def rows_of(result: MetricResult, metric: Metric, ids: Sequence[int]) -> Floats:
    """Return a metric's number of each of some rows, shape (R,); NaN for a row without one."""
    name = STATISTIC.get(metric.family, "score")
    values = [result.per_row.get(i, {}).get(name, math.nan) for i in ids]
    return np.array([math.nan if isinstance(v, list) else v for v in values], dtype=float)


@dataclass(frozen=True)
class AuditFindings:
    """The findings of an audit on a model, and a table of rows (columns of equal length), if it has one."""

    readings: tuple[AuditFinding, ...]
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Audit(Protocol):
    """A frozen dataclass of settings."""

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan the jobs from the rows alone. Raises ConfigError."""
        ...

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Interpret the results of the model."""
        ...


@dataclass(frozen=True)
class AuditSpec:
    """A registered audit. alone: whether its findings have numbers without controls."""

    name: str
    revision: int
    cls: type[Any]
    paper: str
    fidelity: Fidelity = ""
    alone: bool = False

    @property
    def page(self) -> str:
        """The user page of the audit: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[AuditSpec] = Registry("audit", lambda spec: spec.cls, folder="audits", decorator="audit")
C = TypeVar("C", bound=type[Any])


def audit(name: str, *, revision: int, paper: str, fidelity: Fidelity = "", alone: bool = False) -> Callable[[C], C]:
    """Register a frozen dataclass as an audit under the name that users type.

    alone: whether its findings have numbers of the model alone, if there are no controls.
    """

    def register(cls: C) -> C:
        _REGISTRY.add(AuditSpec(name, revision, cls, paper, fidelity, alone))
        return cls

    return register


def audit_registry() -> Registry[AuditSpec]:
    """Return all audits by name."""
    return _REGISTRY


def make_audit(entry: str | Mapping[str, Any], where: str = "audits") -> Audit:
    """Decode an audit from its name, or from a mapping with `name` and its settings. Raises ConfigError at the key."""
    settings = {"name": entry} if isinstance(entry, str) else dict(entry)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{where}.name: missing; write the audit's name, or a group of keys with `name`")
    decoded: Audit = decode(_REGISTRY.find(name, f"{where}.name").cls, settings, where=where)
    return decoded


def audit_name(instance: Audit) -> str:
    """Return the name that users type."""
    return _REGISTRY.of(instance).name


def numbered_names(audits: Sequence[Audit]) -> list[str]:
    """Return a name for each audit: the one that users type, with a number if it occurs several times."""
    names = [audit_name(one) for one in audits]
    return [name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}" for i, name in enumerate(names)]


def sample_rows(rows: ExampleSet, n: int, seed: int, name: str, among: Sequence[int] | None = None) -> ExampleSet:
    """Return at most n random rows of a set, in their order, as a new set; `among` limits the candidates."""
    ids = np.arange(len(rows)) if among is None else np.array(among, dtype=np.int64)
    sample = np.random.default_rng(seed).permutation(ids)[:n]
    return some(rows, sorted(sample.tolist()), name)


def some(rows: ExampleSet, ids: Sequence[int], name: str) -> ExampleSet:
    """Return the rows with these numbers as a new set, numbered from 0."""
    renumbered = tuple(dataclasses.replace(rows[i], row_id=k) for k, i in enumerate(ids))
    return dataclasses.replace(rows, name=name, rows=renumbered)


def known_and_rest(
    forget: ExampleSet, n: int, seed: int, known: str, rest: str
) -> tuple[ExampleSet, ExampleSet, list[int]]:
    """Return n forget rows that an attacker knows, the other rows, and the numbers of the others.

    A row with the question and the answer of a known row is not among the others.
    """
    taught = sample_rows(forget, n, seed, known)
    texts = {(r.question, r.answer) for r in taught}
    others = [r.row_id for r in forget if (r.question, r.answer) not in texts]
    return taught, some(forget, others, rest), others


def keys_of(rows: Sequence[Example]) -> set[str]:
    """Return the entities of some rows (`meta.keys`)."""
    return {key for row in rows for key in row.meta.get("keys", ())}


@strict
@dataclass(frozen=True, kw_only=True)
class ControlledAudit:
    """The settings of an audit that compares a model with its two controls."""

    margin: float = MARGIN
    """Largest distance from the retain model that counts as equal, as a share of the gap between the controls."""
    known: float = NEAR_FULL
    """Position from which the model knows the rows: 0 is the retain model, 1 the target model."""

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ValueError("margin must be at least 0 and below 1")
        if not self.margin < self.known <= 1:
            raise ValueError("known must be above margin and at most 1")
