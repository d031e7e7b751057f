"""The interface of a method: a pure loss over tensors, and a declaration of the quantities it requires.

A method reads packed tokens: the N scored positions of the B rows of one side, without padding. So padding side, batch
shape and prompt tokens cannot affect a loss.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from expunge.core.errors import ConfigError
from expunge.core.on_use import torch
from expunge.core.registry import Fidelity, Registry, badge
from expunge.methods.reduction import REDUCTIONS, Reduction

if TYPE_CHECKING:
    from torch import Tensor


MODULE = r"\w+(\.\w+)*(:input)?"  # the name of a module, or of its input
Marks = Literal["", "trace", "unwanted"]  # the tokens that a loss treats apart


class Quantity(enum.Enum):
    """A quantity that the training loop computes for one side. Each costs more than the one before."""

    LOGPS = "logps"  # log-probability of each answer token
    LOGITS = (
        "logits"  # the whole distribution at each answer token; `SideOutputs.per_token` reads it without storing it
    )
    HIDDEN = "hidden"  # hidden states of modules at each position; the layers above them and the LM head do not run
    HIDDEN_LOGPS = "hidden_logps"  # both, at the positions that predict an answer token; the whole model runs


class ScoredPositions(enum.Enum):
    """The positions of a row that a loss reads."""

    ANSWER = "answer"  # positions that predict an answer token or its EOS
    ALL = "all"  # every position of the padded batch: only to reproduce other projects' numbers
    OWN = "own"  # the answer tokens' own positions, one after the predicting positions (for hidden states)


@dataclass(frozen=True)
class Requirements:
    """Sides and quantities that a loss reads.

    `*_ref` come from the reference, the model before unlearning. `*_teacher` come from another model, which the
    method's registration names. `alternate` holds the forget questions with another answer (a refusal, or one from a
    file). `rollout` holds the questions of `rollout_sides` with texts that the model samples at each step (`Rollouts`);
    its rewards are `LossInputs.rewards_B`. `rollout_ref` is the reference on these texts, for which the run holds a
    frozen copy of the model. `layer` names the module, or the modules, whose output HIDDEN selects, as in
    the model (`model.layers.7`). `model.layers.7:input` is the input of that module. A reference contains the same
    hidden states, frozen. `marks` requests `SideOutputs.marked_N`: the tokens of reasoning traces, of both sides, or
    the unwanted words of the forget answers.
    """

    forget: Quantity | None = None
    forget_ref: Quantity | None = None
    alternate: Quantity | None = None
    alternate_ref: Quantity | None = None
    retain: Quantity | None = None
    retain_ref: Quantity | None = None
    forget_teacher: Quantity | None = None
    retain_teacher: Quantity | None = None
    rollout: Quantity | None = None
    rollout_ref: Quantity | None = None
    rollout_sides: tuple[str, ...] = ("forget",)
    forget_positions: ScoredPositions = ScoredPositions.ANSWER
    retain_positions: ScoredPositions = ScoredPositions.ANSWER
    layer: str | tuple[str, ...] | None = None
    marks: Marks = ""

    def __post_init__(self) -> None:
        """Raise ConfigError for a name of `layer` that is no module's name, with or without `:input`."""
        for name in (self.layer,) if isinstance(self.layer, str) else self.layer or ():
            if re.fullmatch(MODULE, name) is None:
                raise ConfigError(
                    f"layer: {name!r} names no module; write model.layers.7 for its output, model.layers.7:input for "
                    "its input"
                )

    def reads(self, side: str) -> bool:
        """Return whether the loss reads a side's rows: a quantity of them, or texts that are sampled for them."""
        return getattr(self, side) is not None or (self.rollout is not None and side in self.rollout_sides)

    def marks_of(self, side: str) -> Marks:
        """Return the marks of a side's tokens: those of traces on both, unwanted words only on the forget side."""
        return self.marks if side == "forget" or (self.marks == "trace" and side == "retain") else ""


@dataclass(frozen=True)
class Rollouts:
    """The texts that a method samples from the model at each step, for each question of the step (`rollout_sides`).

    n: texts of a question. max_new_tokens: the limit of a text. rewards: weight by name of a registered reward
    (`training.rewards`); the reward of a text is the weighted sum. temperature: 1 samples from the distribution whose
    log-probabilities the loss reads. forbidden: terms that rewards look for (`Rollout.forbidden`).
    """

    n: int
    max_new_tokens: int
    rewards: Mapping[str, float]
    temperature: float = 1.0
    forbidden: tuple[str, ...] = ()


PerToken = Callable[..., "Tensor"]  # (logits_CV, *other inputs) -> one value for each of C positions


class LazyLogits(Protocol):
    """Logits of N positions, computed on demand. vocabulary: V."""

    @property
    def vocabulary(self) -> int:
        """V, the number of logits of a position."""
        ...

    def __call__(self) -> Tensor:
        """Return all logits, (N, V)."""
        ...

    def part(self, at: slice) -> Tensor:
        """Return the logits of the positions `at`, without gradients."""
        ...

    def per_token(self, fn: PerToken, others: Sequence[Callable[[slice], Tensor]], /) -> Tensor:
        """Return the values of `fn` at all N positions, computed in chunks; shape (N,)."""


@dataclass(frozen=True)
class SideOutputs:
    """Outputs of a model at the N scored positions of B rows.

    logps_N: log-probability of the token at each position, in nats. row_N: its row, 0..B-1. token_N: its id.
    logits_NV: present only for `Quantity.LOGITS`; a loss that needs one number per position uses `per_token`.
    hidden_ND: present only for `Quantity.HIDDEN` (then logps_N is empty) and `HIDDEN_LOGPS`; of several modules their
    hidden states next to each other, `widths` wide; `layers_ND` lists them. labelled_N: present only for
    `ScoredPositions.ALL`: whether the token after a position is scored. marked_N: present only with
    `Requirements.marks`: whether the token has the mark. The positions of a row are adjacent and in order.

    logps_N and logits_NV (then a `LazyLogits`) may be functions; the first read calls them.
    """

    logps_N: Tensor
    row_N: Tensor
    n_rows: int
    logits_NV: Tensor | None = None
    token_N: Tensor | None = None
    hidden_ND: Tensor | None = None
    labelled_N: Tensor | None = None
    marked_N: Tensor | None = None
    widths: tuple[int, ...] = ()

    @property
    def layers_ND(self) -> tuple[Tensor, ...]:
        """The hidden states of each requested module, in the order of `Requirements.layer`."""
        if self.hidden_ND is None:
            raise ValueError("this loss reads hidden states, which were not provided")
        if not self.widths:
            return (self.hidden_ND,)
        return tuple(torch.split(self.hidden_ND, list(self.widths), dim=-1))

    def row_sums(self, x_N: Tensor) -> Tensor:
        """Return the sum of a per-token quantity over each row, shape (B,)."""
        return torch.zeros(self.n_rows, dtype=x_N.dtype, device=x_N.device).index_add(0, self.row_N, x_N)

    def row_means(self, x_N: Tensor) -> Tensor:
        """Return the mean of a per-token quantity over each row, shape (B,)."""
        return self.row_sums(x_N) / self.row_sums(torch.ones_like(x_N))

    @property
    def vocabulary(self) -> int:
        """V, the number of logits of a position."""
        logits = _unread_logits(self)
        return logits.shape[-1] if isinstance(logits, torch.Tensor) else logits.vocabulary

    def per_token(self, fn: PerToken, *others: SideOutputs | Tensor) -> Tensor:
        """Return `fn(logits_CV, *others)`, one value per position, for all positions: shape (N,).

        Gradients flow only through the logits of this side; `others` are constant. `fn` may run several times on the
        same positions. No [N, V] tensor is stored unless the logits exist already.

        Args:
            fn: Function of the logits of C positions and of `others`, cut to the same positions.
            *others: Tensors of N entries, and sides, of which `fn` receives the logits.
        """
        logits = _unread_logits(self)
        readers = [_constant_reader(other) for other in others]
        if isinstance(logits, torch.Tensor):
            return fn(logits, *(read(slice(None)) for read in readers))
        return logits.per_token(fn, readers)

    @property
    def nll(self) -> Tensor:
        """Mean negative log-likelihood over all scored tokens of the batch: a token mean, not a mean of row means."""
        return -(self.logps_N if self.labelled_N is None else self.logps_N[self.labelled_N]).mean()


class _LazyField:
    """A field whose value may be a function. The first read calls the function and stores its result.

    Gradients are recorded if they were enabled when the field was set, because the first read may disable them.
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


def _unread_logits(side: SideOutputs) -> Tensor | LazyLogits:
    """Return the logits field without computing it."""
    logits: Tensor | LazyLogits | None = side.__dict__["logits_NV"]
    if logits is None:
        raise ValueError("this loss reads logits, which were not provided")
    return logits


def _constant_reader(source: SideOutputs | Tensor) -> Callable[[slice], Tensor]:
    """Return a function that reads some positions of `source` without gradients."""
    values = _unread_logits(source) if isinstance(source, SideOutputs) else source
    if isinstance(values, torch.Tensor):
        constant = values.detach()
        return lambda at: constant[at]
    return values.part


@dataclass(frozen=True)
class LossInputs:
    """All inputs of a loss at one step.

    memory: state that a method carries between the steps of one run. Before each call the loop writes three entries.
    `memory["epoch"]` is the number of complete passes over the forget examples (0, 1, ...); `memory["micro_batch"]` is
    the number of this micro-batch in its optimiser step and the number of micro-batches of the step;
    `memory["progress"]` is the completed share of the phase's steps, from 0 to below 1.
    rewards_B: the rewards of the B rollouts, those of a question next to each other.
    """

    forget: SideOutputs | None = None
    forget_ref: SideOutputs | None = None
    alternate: SideOutputs | None = None
    alternate_ref: SideOutputs | None = None
    retain: SideOutputs | None = None
    retain_ref: SideOutputs | None = None
    forget_teacher: SideOutputs | None = None
    retain_teacher: SideOutputs | None = None
    rollout: SideOutputs | None = None
    rollout_ref: SideOutputs | None = None
    rewards_B: Tensor | None = None
    memory: dict[str, Any] = field(default_factory=dict)


class ForgetLoss(Protocol):
    """The forget term of a method. The retain term and the weights are shared (`objective.py`).

    Optional members: `needs`, a property that overrides the registered requirements if they depend on the settings;
    `total(forget, retain, weights, memory)`, if the method weighs its terms by its own rule (dual variables);
    `reinforce`, a property with changes to the training settings of a "reinforced" teacher; `noise(seed)`, the weight
    edit that produces the initial weights; `schedule(progress)`, the factors of the forget and the retain term at a
    share of the run.
    `rollouts`, the property `Rollouts` of a method that requires them.
    `reduction`, a property that overrides the registered reduction; `counted(n_tokens)`, the number of an answer's
    tokens in the mean, if it excludes some; `retain_loss(view)`, the retain term, if no shared one is it.
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Return the scalar to minimise on the forget examples."""
        ...


Teacher = Literal["", "reinforced", "start"]


@dataclass(frozen=True)
class MethodSpec:
    """A registered method: its class, its requirements and its defaults for the shared weights.

    teacher: the other model that the method learns from, if any. "reinforced": the model before unlearning, trained
    further on the forget examples. "start": the initial model of the run, before `noise` changes its weights.
    reduction: the mean of the forget term. "token": over the scored tokens of the forget examples (of the alternates,
    for a method that reads no forget examples). "row": over examples. "micro_batch": neither, so all micro-batches have
    equal weight. fidelity: how the formula was checked.
    """

    name: str
    revision: int
    cls: type[Any]
    needs: Requirements
    paper: str
    gamma: float
    alpha: float
    retain_loss_type: str | None  # None: the method reads no retain examples
    aliases: tuple[str, ...] = ()
    teacher: Teacher = ""
    reduction: Reduction = "micro_batch"
    fidelity: Fidelity = ""

    @property
    def page(self) -> str:
        """The method's page: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[MethodSpec] = Registry("method", lambda spec: spec.cls, folder="methods", decorator="method")
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
    fidelity: Fidelity = "",
) -> Callable[[C], C]:
    """Register a frozen dataclass as an unlearning method.

    Args:
        name: Name that users type.
        revision: Number to increase when the results of the method change; it is part of each run's key.
        needs: Sides and quantities that the loss reads.
        paper: Source, such as an arXiv identifier.
        gamma: Default weight of the forget term.
        alpha: Default weight of the retain term.
        retain_loss_type: Default retain loss, or None for a method without retain examples.
        aliases: Other names that users may type.
        teacher: The other model that the loss reads; required if `needs` names a teacher's quantity.
        reduction: The mean of the forget term (`MethodSpec`). Declare "token" or "row"; otherwise rows of small
            micro-batches have more weight than others.
        fidelity: How the formula was checked (`core.registry`).

    Raises:
        ConfigError: If the class is not a dataclass, the name is taken, or a teacher is required and not named.
    """

    def register(cls: C) -> C:
        if (needs.forget_teacher or needs.retain_teacher) and not teacher:
            raise ConfigError(f"method {name}: requires a teacher; add teacher='reinforced' or teacher='start'")
        if not is_dataclass(cls):
            raise ConfigError(
                f"method {name}: {cls.__name__} is no dataclass; put @strict and @dataclass(frozen=True, kw_only=True) "
                "under @method"
            )
        if needs.rollout is not None and (not hasattr(cls, "rollouts") or reduction == "token"):
            raise ConfigError(
                f"method {name}: rollouts need a property `rollouts` (how many, their length and rewards) and "
                "reduction='row' or 'micro_batch', because sampling decides the number of tokens"
            )
        if reduction not in REDUCTIONS:
            raise ConfigError(f"method {name}: reduction={reduction!r} is not one of {', '.join(REDUCTIONS)}")
        badge(fidelity)
        spec = MethodSpec(
            name, revision, cls, needs, paper, gamma, alpha, retain_loss_type, aliases, teacher, reduction, fidelity
        )
        _REGISTRY.add(spec, aliases)
        return cls

    return register


def registry() -> Mapping[str, MethodSpec]:
    """Return all methods by name."""
    return _REGISTRY


def find(name: str, where: str = "trainer") -> MethodSpec:
    """Return the method with a name or alias. Raises ConfigError with the nearest right name."""
    return _REGISTRY.find(name, where)


@dataclass(frozen=True)
class LossOutput:
    """The loss of a micro-batch: the total to differentiate, and its terms without gamma and alpha for the log.

    Both contain the shares of the terms (`methods.reduction`): their mean over a step's micro-batches is the step's.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
