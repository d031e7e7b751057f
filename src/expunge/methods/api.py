"""What a method is: a pure loss over tensors, and a declaration of what it must be served.

A method sees packed tokens: the N scored positions of the B rows of one side, padding already gone. So padding side,
batch shape and prompt tokens cannot reach a loss.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.core.registry import Registry
from expunge.methods.reduction import REDUCTIONS, Reduction


class Quantity(enum.Enum):
    """What the loop serves for one side. Each costs more than the one before."""

    LOGPS = "logps"  # log-probability of each answer token
    LOGITS = "logits"  # the whole distribution at each answer token; read by `SideOutputs.per_token` it is not kept
    HIDDEN = "hidden"  # the output of one layer at each position; the layers above it and the LM head are not run


class ScoredPositions(enum.Enum):
    """Which positions of a row are served."""

    ANSWER = "answer"  # those that predict an answer token or its EOS
    ALL = "all"  # every position of the padded batch: only to reproduce other projects' numbers
    OWN = "own"  # the answer tokens' own positions, not those that predict them (for hidden states)


@dataclass(frozen=True)
class Requirements:
    """Sides and quantities a loss reads. `*_ref` come from the reference: the model as it was before unlearning.
    `*_teacher` come from another model, which the method's registration names.

    alternate: the forget questions with another answer (a refusal, or one given in a file). layer: the module whose
    output HIDDEN serves, by its name in the model (`model.layers.7`).
    """

    forget: Quantity | None = None
    forget_ref: Quantity | None = None
    alternate: Quantity | None = None
    alternate_ref: Quantity | None = None
    retain: Quantity | None = None
    retain_ref: Quantity | None = None
    forget_teacher: Quantity | None = None
    retain_teacher: Quantity | None = None
    forget_positions: ScoredPositions = ScoredPositions.ANSWER
    retain_positions: ScoredPositions = ScoredPositions.ANSWER
    layer: str | None = None


PerToken = Callable[..., Tensor]  # (logits_CV, *what stands beside) -> one value for each of C positions


class LazyLogits(Protocol):
    """Logits of N positions that are not computed yet. vocabulary: V."""

    @property
    def vocabulary(self) -> int: ...

    def __call__(self) -> Tensor:
        """All of them, (N, V)."""
        ...

    def part(self, at: slice) -> Tensor:
        """Those of some positions, as constants."""
        ...

    def per_token(self, fn: PerToken, beside: Sequence[Callable[[slice], Tensor]]) -> Tensor:
        """fn's values at all N positions, computed some at a time."""
        ...


@dataclass(frozen=True)
class SideOutputs:
    """What a model says about the N scored positions of B rows.

    logps_N: log-probability of the token that stands there, in nats. row_N: its row, 0..B-1. token_N: its id.
    logits_NV: served only for `Quantity.LOGITS`; a loss that needs one number of each position takes it by `per_token`.
    hidden_ND: served only for `Quantity.HIDDEN`, and then logps_N is empty. labelled_N: served only for
    `ScoredPositions.ALL`: whether the token that follows a position is scored. The positions of a row lie together and
    in order.

    The loop may give logps_N and logits_NV (then as `LazyLogits`) as functions, which are called at the first read.
    """

    logps_N: Tensor
    row_N: Tensor
    n_rows: int
    logits_NV: Tensor | None = None
    token_N: Tensor | None = None
    hidden_ND: Tensor | None = None
    labelled_N: Tensor | None = None

    def row_sums(self, x_N: Tensor) -> Tensor:
        """Sum of a per-token quantity over each row, shape (B,)."""
        return torch.zeros(self.n_rows, dtype=x_N.dtype, device=x_N.device).index_add(0, self.row_N, x_N)

    def row_means(self, x_N: Tensor) -> Tensor:
        """Mean of a per-token quantity over each row, shape (B,)."""
        return self.row_sums(x_N) / self.row_sums(torch.ones_like(x_N))

    @property
    def vocabulary(self) -> int:
        """V, the number of logits of a position."""
        given = _given_logits(self)
        return given.shape[-1] if isinstance(given, Tensor) else given.vocabulary

    def per_token(self, fn: PerToken, *beside: SideOutputs | Tensor) -> Tensor:
        """`fn(logits_CV, *beside)`, one value for each of some C positions, for all of them: shape (N,).

        beside: what else `fn` reads: tensors of N entries, of which it gets the C, and sides, of which it gets the
        logits. Gradients flow through this side's logits alone, and all else that `fn` reads is constant. It may be
        called several times for the same positions: no [N, V] tensor is kept unless the logits are there already.
        """
        mine = _given_logits(self)
        others = [_constant_reader(b) for b in beside]
        if isinstance(mine, Tensor):
            return fn(mine, *(read(slice(None)) for read in others))
        return mine.per_token(fn, others)

    @property
    def nll(self) -> Tensor:
        """Mean negative log-likelihood over all scored tokens of the batch (token mean, not the mean of row means)."""
        return -(self.logps_N if self.labelled_N is None else self.logps_N[self.labelled_N]).mean()


class _LazyField:
    """A field that may be given as a function: it is called when the field is first read, and what it gave is kept.

    Gradients are recorded if they were when the field was given: the first read may be one that wants none.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, side: SideOutputs, owner: type[SideOutputs]) -> Any:
        value = side.__dict__[self._name]
        if callable(value):
            with torch.set_grad_enabled(side.__dict__["with_gradient"]):
                value = side.__dict__[self._name] = value()
        return value

    def __set__(self, side: SideOutputs, value: Any) -> None:
        side.__dict__[self._name] = value
        side.__dict__["with_gradient"] = torch.is_grad_enabled()


for _name in ("logps_N", "logits_NV"):
    setattr(SideOutputs, _name, _LazyField(_name))


def _given_logits(side: SideOutputs) -> Tensor | LazyLogits:
    """The logits as they were given: not computed for the asking."""
    given: Tensor | LazyLogits | None = side.__dict__["logits_NV"]
    if given is None:
        raise ValueError("this loss reads logits, which were not served")
    return given


def _constant_reader(beside: SideOutputs | Tensor) -> Callable[[slice], Tensor]:
    """Reads some positions' share, as a constant."""
    given = _given_logits(beside) if isinstance(beside, SideOutputs) else beside
    if isinstance(given, Tensor):
        fixed = given.detach()
        return lambda at: fixed[at]
    return given.part


@dataclass(frozen=True)
class LossInputs:
    """All a loss may see of one step.

    memory: what a method keeps from step to step of one run. Before each call the loop writes two entries:
    `memory["epoch"]`, the completed passes over the forget rows (0, 1, ...), and `memory["micro_batch"]`, the number of
    this micro-batch in its optimiser step and how many the step has.
    """

    forget: SideOutputs | None = None
    forget_ref: SideOutputs | None = None
    alternate: SideOutputs | None = None
    alternate_ref: SideOutputs | None = None
    retain: SideOutputs | None = None
    retain_ref: SideOutputs | None = None
    forget_teacher: SideOutputs | None = None
    retain_teacher: SideOutputs | None = None
    memory: dict[str, Any] = field(default_factory=dict)


class ForgetLoss(Protocol):
    """A method's own part: its forget term. Retaining and weighting are shared (`objective.py`).

    A method whose needs depend on its settings has a property `needs`, which then counts instead of the registered one.
    The same holds for `reduction`. A token mean that leaves tokens out has `counted(n_tokens)`: how many of an answer's
    tokens it counts.
    A method that weighs its terms by a rule of its own (dual variables) has `total(forget, retain, weights, memory)`.
    One whose teacher is "reinforced" may change that model's training settings by a property `reinforce`; one that
    starts from noised weights says how by `noise(seed)`, an edit.
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Scalar; what is minimised on the forget rows."""
        ...


Teacher = Literal["", "reinforced", "start"]


@dataclass(frozen=True)
class MethodSpec:
    """A registered method: its class, its needs and its defaults for the shared weights.

    reduction: what its forget term averages over. "token": the scored tokens of the forget rows (of the alternates for
    a method that reads no forget rows). "row": the rows. "micro_batch": neither, so each micro-batch weighs alike.
    teacher: the other model it learns from, if any. "reinforced": the model before unlearning, trained further on the
    forget rows. "start": the model the run is given, before `noise` changes its weights.
    """

    name: str
    revision: int
    cls: type[Any]
    needs: Requirements
    paper: str
    gamma: float
    alpha: float
    retain_loss_type: str | None  # None: the method takes no retain rows
    aliases: tuple[str, ...] = ()
    teacher: Teacher = ""
    reduction: Reduction = "micro_batch"

    @property
    def page(self) -> str:
        """The method's page: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[MethodSpec] = Registry("method", lambda spec: spec.cls)
C = TypeVar("C", bound=type[Any])


def method(
    name: str,
    *,
    revision: int,
    needs: Requirements,
    paper: str,
    gamma: float = 1.0,
    alpha: float = 1.0,
    retain_loss_type: str | None = "NLL",
    aliases: tuple[str, ...] = (),
    teacher: Teacher = "",
    reduction: Reduction = "micro_batch",
) -> Callable[[C], C]:
    """Register a frozen dataclass as an unlearning method under the name users type.

    reduction: what the forget term averages over (`MethodSpec`). Declare "token" or "row", or a step of several
    micro-batches weighs rows of small micro-batches more than others.
    """

    def register(cls: C) -> C:
        if (needs.forget_teacher or needs.retain_teacher) and not teacher:
            raise ConfigError(f"method {name}: reads a teacher and does not say which (teacher=reinforced or start)")
        if not is_dataclass(cls):
            raise ConfigError(
                f"method {name}: {cls.__name__} is no dataclass; put @strict and @dataclass(frozen=True, kw_only=True) "
                "under @method"
            )
        if reduction not in REDUCTIONS:
            raise ConfigError(f"method {name}: reduction={reduction!r} is not one of {', '.join(REDUCTIONS)}")
        made = MethodSpec(
            name, revision, cls, needs, paper, gamma, alpha, retain_loss_type, aliases, teacher, reduction
        )
        _REGISTRY.add(made, aliases)
        return cls

    return register


def registry() -> Mapping[str, MethodSpec]:
    """All methods by name."""
    return _REGISTRY.all()


def find(name: str, where: str = "trainer") -> MethodSpec:
    """The method of a name or alias. Raises ConfigError with the nearest right name."""
    return _REGISTRY.find(name, where)


@dataclass(frozen=True)
class LossOutput:
    """The loss of a micro-batch: the total to differentiate, and its terms without gamma and alpha for the log.

    Both contain the shares of the terms (`methods.reduction`): their mean over a step's micro-batches is the step's.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
