"""Methods, edits, panels and models as values of a job: plain data that another process decodes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expunge.audits import Audit, audit_identity, make_audit
from expunge.data.template import Template
from expunge.engine.job import Job, shared
from expunge.methods.objective import SHARED, Objective, objective
from expunge.methods.weight_edits import WeightEdit, make_weight_edit, weight_edit_identity
from expunge.metrics.api import Metric
from expunge.metrics.compute import identity as panel_identity
from expunge.pipelines.study.context_source import ContextSource

NO_RETAIN_LOSS = ("gamma", "compat")  # the shared settings of a method without a retain loss


@dataclass(frozen=True)
class MethodRef:
    """A method by name, with all its settings."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, chosen: Objective) -> MethodRef:
        """Refer to an objective."""
        known = SHARED if chosen.spec.retain_loss_type is not None else NO_RETAIN_LOSS
        weights = {key: value for key, value in dataclasses.asdict(chosen.weights).items() if key in known}
        return cls(chosen.spec.name, {**weights, **dataclasses.asdict(chosen.method)})

    def make(self) -> Objective:
        """The objective. Raises ConfigError for a method that is not registered here."""
        return objective(self.name, self.args)

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """What a key covers: name, revision and every setting."""
        return self.make().identity


@dataclass(frozen=True)
class EditRef:
    """A weight edit by name, with all its settings."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, edit: WeightEdit) -> EditRef:
        """Refer to an edit."""
        known = weight_edit_identity(edit)
        return cls(known["name"], known["args"])

    def make(self) -> WeightEdit:
        """The edit. Raises ConfigError for one that is not registered here."""
        return make_weight_edit(self.name, self.args)

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """What a key covers: name, revision and every setting."""
        return weight_edit_identity(self.make())


@dataclass(frozen=True)
class AuditRef:
    """An audit by name, with all its settings."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, audit: Audit) -> AuditRef:
        """Refer to an audit."""
        known = audit_identity(audit)
        return cls(known["name"], known["args"])

    def make(self) -> Audit:
        """The audit. Raises ConfigError for one that is not registered here."""
        return make_audit({"name": self.name, **self.args})

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """What a key covers: name, revision and every setting."""
        return audit_identity(self.make())


@dataclass(frozen=True)
class Panel:
    """The metrics that a job computes. The key covers them with the revisions of their families."""

    metrics: tuple[Metric, ...]

    @functools.cached_property
    def identity(self) -> list[dict[str, Any]]:
        """What a key covers."""
        return panel_identity(self.metrics)


@dataclass(frozen=True)
class ModelInput:
    """How a job reads its model: the template and the type of the weights.

    model, tokenizer: what identifies the configured ones, if no job made them. rendered: what identifies the text that
    the template renders.
    """

    template: Template
    dtype: str
    model: Mapping[str, Any] | None = None
    tokenizer: Mapping[str, Any] | None = None
    rendered: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskJob(Job):
    """A job on the rows of a task."""

    kind: ClassVar[str] = ""

    source: ContextSource = shared()
    """Where the rows, the template and the model's settings come from."""

    @property
    def modules(self) -> frozenset[str]:
        """The modules of the job and of its derivations."""
        return super().modules | self.source.modules

    def model_source(self, inputs: Mapping[str, Path]) -> str:
        """Where the model lies: with its parent, or at the configured source."""
        return str(inputs["model"]) if "model" in inputs else str(self.source.load().model.source)
