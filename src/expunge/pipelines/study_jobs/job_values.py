"""Methods, edits, panels and models as values of a job: plain data that another process decodes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from expunge.core.fingerprints import LATER
from expunge.core.registry import Registry
from expunge.data.template import Template
from expunge.engine.job import Job, shared
from expunge.methods.objective import SHARED, Objective, objective
from expunge.metrics.api import Metric
from expunge.metrics.compute import identity as panel_identity
from expunge.pipelines.study.context_source import ContextSource

if TYPE_CHECKING:
    from expunge.audits import Audit
    from expunge.methods.weight_edits import WeightEdit
    from expunge.models.wrapper_api import Wrapper

NO_RETAIN_LOSS = ("gamma", "compat")  # the shared settings of a method without a retain loss


@dataclass(frozen=True)
class MethodRef:
    """A method by name, with all its settings."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, loss: Objective) -> MethodRef:
        """Refer to an objective."""
        known = SHARED if loss.spec.retain_loss_type is not None else NO_RETAIN_LOSS
        weights = {key: value for key, value in dataclasses.asdict(loss.weights).items() if key in known}
        return cls(loss.spec.name, {**weights, **dataclasses.asdict(loss.method)})

    def make(self) -> Objective:
        """Return the objective. Raises ConfigError for a method that is not registered here."""
        return objective(self.name, self.args)

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """The part of a key: name, revision and every setting, and the revisions above 1 of its rewards."""
        loss = self.make()
        if loss.needs.rollout is None:
            return loss.identity
        from expunge.training.rewards import find_reward

        names = loss.method.rollouts.rewards
        revisions = {name: find_reward(name).revision for name in names if find_reward(name).revision > 1}
        return {**loss.identity, **({"rewards": revisions} if revisions else {})}


@dataclass(frozen=True)
class RegisteredRef:
    """An object of a registered class by name, with all its settings."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def registry() -> Registry[Any]:
        """Return the registry of the kind."""
        raise NotImplementedError

    @classmethod
    def of(cls, instance: Any) -> Self:
        """Refer to an object. Raises ConfigError if its class is not registered."""
        known = cls.registry().identity(instance)
        return cls(known["name"], known["args"])

    def make(self) -> Any:
        """Return the object. Raises ConfigError for one that is not registered here."""
        raise NotImplementedError

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """The part of a key: name, revision and every setting."""
        return self.registry().identity(self.make())


@dataclass(frozen=True)
class EditRef(RegisteredRef):
    """A weight edit by name, with all its settings."""

    @staticmethod
    def registry() -> Registry[Any]:
        """Return the registry of weight edits."""
        from expunge.methods.weight_edits import weight_edit_registry

        return weight_edit_registry()

    def make(self) -> WeightEdit:
        """Return the weight edit. Raises ConfigError for one that is not registered here."""
        from expunge.methods.weight_edits import make_weight_edit

        return make_weight_edit(self.name, self.args)


@dataclass(frozen=True)
class WrapperRef(RegisteredRef):
    """A wrapper by name, with all its settings."""

    @staticmethod
    def registry() -> Registry[Any]:
        """Return the registry of wrappers."""
        from expunge.models.wrapper_api import wrapper_registry

        return wrapper_registry()

    def make(self) -> Wrapper:
        """Return the wrapper. Raises ConfigError for one that is not registered here."""
        from expunge.models.wrapper_api import make_wrapper

        return make_wrapper(self.name, self.args)


@dataclass(frozen=True)
class AuditRef(RegisteredRef):
    """An audit by name, with all its settings."""

    @staticmethod
    def registry() -> Registry[Any]:
        """Return the registry of audits."""
        from expunge.audits import audit_registry

        return audit_registry()

    def make(self) -> Audit:
        """Return the audit. Raises ConfigError for one that is not registered here."""
        from expunge.audits import make_audit

        return make_audit({"name": self.name, **self.args})


@dataclass(frozen=True)
class Panel:
    """The metrics that a job computes. The key covers them with the revisions of their families."""

    metrics: tuple[Metric, ...]

    @functools.cached_property
    def identity(self) -> list[dict[str, Any]]:
        """The part of a key."""
        return panel_identity(self.metrics)


@dataclass(frozen=True)
class ModelInput:
    """The inputs of a job's model: the template and the type of the weights.

    model, tokenizer: identities of the configured ones, if no job creates them. rendered: identity of the text that the
    template renders. tokenisation: the code that turns texts into token ids (`models.identity`). options,
    tokenizer_options: further arguments of from_pretrained. batched: whether several rows are read at once.
    """

    template: Template
    dtype: str
    model: Mapping[str, Any] | None = None
    tokenizer: Mapping[str, Any] | None = None
    rendered: str | None = None
    tokenisation: str = ""
    options: Mapping[str, Any] | None = field(default=None, metadata=LATER)
    tokenizer_options: Mapping[str, Any] | None = field(default=None, metadata=LATER)
    batched: bool = field(default=True, metadata=LATER)


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskJob(Job):
    """A job on the rows of a task."""

    kind: ClassVar[str] = ""

    source: ContextSource = shared()
    """The source of the rows, the template and the model's settings."""

    @property
    def modules(self) -> frozenset[str]:
        """The modules of the job and of its derivations."""
        return super().modules | self.source.modules

    def model_source(self, inputs: Mapping[str, Path]) -> str:
        """Return the model's folder or id: its parent's folder, or the configured source."""
        return str(inputs["model"]) if "model" in inputs else str(self.source.load().model.source)
