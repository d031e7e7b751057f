"""Settings of evaluation during training, and of the choice of the best evaluation. Importing this loads no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.decode import strict


@strict
@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    """The rule that selects the best evaluation: enough utility, then the forget metric nearest to its target.

    The higher utility breaks ties, then the earlier evaluation.
    """

    utility: str | None = None
    """The metric of the model's utility. None: model_utility with the full metric suite, else retain_Q_A_Prob."""
    forget: str | None = None
    """The metric of forgetting. None: forget_quality with the full metric suite, else forget_Q_A_Prob."""
    floor: float = 0.9
    """The share of the utility at the start that must stay."""
    target: float | Literal["retain", "low", "high"] = "retain"
    """The target value of the forget metric: a number, low, high, or retain (the retain model's value; low if there is
    none). A high forget_quality is always best.
    """
    formula: str | None = None
    """A formula whose largest value is best, in place of the rule's other keys: 0.5*(forget_quality+model_utility).
    It reads metrics that are evaluated during training, with + - * / **, min, max, abs and hmean.
    """
    enough: float | None = None
    """A distance from the target that suffices (of low: a value). Evaluations that are at least as near count as equal,
    and the higher utility decides. Not for target=high. None: the nearest is best.
    """

    def __post_init__(self) -> None:
        if self.formula is not None:
            from expunge.core.arithmetic import parse_arithmetic

            try:
                parse_arithmetic(self.formula)
            except ValueError as error:
                raise ValueError(f"formula {error}") from None
            others = [f.name for f in dataclasses.fields(self) if f.name != "formula"]
            for key in others:
                if getattr(self, key) != SelectionRule.__dataclass_fields__[key].default:
                    raise ValueError(f"{key} has no effect together with formula; leave one of them out")
        if not 0 <= self.floor <= 1:
            raise ValueError("floor must be at least 0 and at most 1: a share of the initial utility")
        if self.enough is not None and not 0 <= self.enough < math.inf:
            raise ValueError("enough must be a number of at least 0")
        if self.enough is not None and (self.target == "high" or self.forget == "forget_quality"):
            raise ValueError("enough is a distance from a target or a low value; a high target has none")


@strict
@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    """Evaluation during training; off unless `every` or `steps` is set. It also runs at the end."""

    every: float | None = None
    """Epochs between two evaluations; fractions are allowed."""
    steps: int | None = None
    """Steps between two evaluations, in place of `every`."""
    panel: Literal["fast", "full"] | tuple[str, ...] = "fast"
    """`fast` (probability, truth ratio and extraction strength, nothing generated), `full` (the benchmark's metric
    suite on all examples) or a list of its metrics.
    """
    rows: int = 100
    """The maximum number of examples per set; the first ones are read. The full metric suite reads all."""
    at_start: bool = True
    """Whether the model is evaluated before the first step."""
    keep: Literal["last", "best"] = "last"
    """Which model is saved: the last one, or the best by `rule`."""
    patience: int | None = None
    """Stop after this number of evaluations without a new best. None: never. An evaluation does not count while utility
    is under the rule's floor and higher than one evaluation before."""
    rule: SelectionRule = field(default_factory=SelectionRule)
    """The rule that selects the best evaluation."""
    losses: tuple[str, ...] | None = None
    """Sets of examples whose mean token loss is measured as well. None: the sets that the benchmark names."""
    prompts: int = 0
    """The number of examples of each of these sets whose prompts the model continues. 0: none."""
    generate_every: int = 1
    """Continue prompts at every n-th evaluation."""

    def __post_init__(self) -> None:
        if self.every is not None and not 0 < self.every < math.inf:
            raise ValueError("every must be a number of epochs > 0")
        for key in ("steps", "rows", "patience", "generate_every"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if self.every is not None and self.steps is not None:
            raise ValueError("every cannot be set together with steps; give one of them")
        if not self.panel:
            raise ValueError("panel must be fast, full or a list of metrics")
        if self.prompts < 0:
            raise ValueError("prompts must be at least 0")
        for key in ("losses", "prompts"):
            if getattr(self, key) and not self.on:
                raise ValueError(f"{key} is set, but evaluation is off; give every (epochs) or steps")
        for key, idle in (("keep", "last"), ("patience", None)):
            if getattr(self, key) != idle and not self.on:
                raise ValueError(f"{key} is set, but evaluation is off; give every (epochs) or steps")
            if getattr(self, key) != idle and not self.at_start:
                raise ValueError(f"{key} needs at_start, because the rule compares utility with its initial value")

    @property
    def on(self) -> bool:
        """Whether the run is evaluated."""
        return self.every is not None or self.steps is not None

    @property
    def chooses(self) -> bool:
        """Whether the rule has an effect: the best model is saved, or patience may stop the run."""
        return self.keep == "best" or self.patience is not None

    @property
    def n_rows(self) -> int | None:
        """The maximum number of examples per set; None: all."""
        return None if self.panel == "full" else self.rows

    @property
    def identity(self) -> dict[str, Any]:
        """The values that a fingerprint covers. Losses, prompts and optional keys of the rule are left out if unset."""
        values = dataclasses.asdict(self)
        if self.losses is None:
            del values["losses"]
        if not self.prompts:
            del values["prompts"], values["generate_every"]
        for key in ("formula", "enough"):
            if getattr(self.rule, key) is None:
                del values["rule"][key]
        return values

    @property
    def reads_retain(self) -> bool:
        """Whether the evaluation reads the retain model's records, if there are any."""
        return self.on and (
            self.panel != "fast" or (self.chooses and self.rule.target == "retain" and self.rule.formula is None)
        )


def is_due(
    args: EvaluateArgs, step: int, *, before: int, rows: int, n_epoch: int, n_samples: int, finegrained: int = 0
) -> bool:
    """Return whether an evaluation follows this step of a phase (from 1): at each whole multiple of the period.

    before: steps of earlier phases. rows: samples of a step. n_epoch, n_samples: of the phase. finegrained: up to this
    step of the run the period, if it is in steps, is a tenth.
    """
    if args.steps is not None:
        closely = before + step <= finegrained
        return (before + step) % (max(1, args.steps // 10) if closely else args.steps) == 0
    if args.every is None:
        return False
    period = args.every * n_epoch
    done, done_before = (min(k * rows, n_samples) for k in (step, step - 1))
    return math.floor(done / period + 1e-9) > math.floor(done_before / period + 1e-9)
