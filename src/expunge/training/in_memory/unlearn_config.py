"""Settings of `UnlearnTrainer`. Importing this module loads neither torch nor transformers.

Each registered method also has a class of its own (`NPOConfig`, `RMUConfig`, ...), in
`training.in_memory.method_configs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.training.config import CheckpointArgs, TrainArgs
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.in_memory.method_kinds import other_kind

if TYPE_CHECKING:
    from expunge.methods.objective import Objective

SHARED = ("gamma", "alpha", "retain_loss_type", "nll_weight", "compat")  # settings that all methods share
DEFAULT_METHOD = "NPO"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class UnlearnConfig(TrainArgs):
    """Settings of one unlearning run in memory: the training arguments, the method and the reporting.

    The training arguments have the names of transformers' TrainingArguments. An epoch is one pass through the forget
    examples (`anchor`). No file is written unless you set `report_to` or `push_to_hub`, or call `save_model`.
    """

    METHOD: ClassVar[str | None] = None

    method: str | None = None
    """Name of the unlearning method (`expunge list methods` lists them). None: the trainer's `method`, or NPO."""

    method_args: Mapping[str, Any] = field(default_factory=dict)
    """The method's own settings by name, such as `{"beta": 0.1}`. Classes such as `NPOConfig` have fields instead."""

    gamma: float | None = None
    """Weight of the forget term. None: the method's default."""

    alpha: float | None = None
    """Weight of the retain term. None: the method's default. 0: no retain term, so no retain examples are needed."""

    retain_loss_type: Literal["NLL", "KL", "EMBED_DIFF", "JSD", "TEACHER_KL"] | None = None
    """Loss on the retain examples. None: the method's default."""

    nll_weight: float | None = None
    """Weight of an NLL term next to a KL or JSD retain loss. None: 0."""

    compat: Literal["paper", "openunlearning"] | None = None
    """Which project's averages the losses reproduce. None: the method's default (the paper's)."""

    template: Template | Mapping[str, Any] | None = None
    """How an example becomes text. None: the tokenizer's chat template if it has one, else the default tags."""

    refusals: tuple[str, ...] | None = None
    """Answers that refusal methods (DPO, IdkNLL) train towards. None: the built-in refusals."""

    generation: Generation | Mapping[str, Any] = field(default_factory=Generation)
    """How the model answers prompts: for evaluation, and for methods that sample other answers (AltPO)."""

    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    """When `evaluate()` runs during training: never, every `eval_steps` steps, or after each epoch."""

    eval_steps: int | None = None
    """Steps between two evaluations with `eval_strategy="steps"`. None: `logging_steps`."""

    eval_on_start: bool = False
    """Whether `evaluate()` runs before the first step as well."""

    eval_metrics: tuple[str, ...] | None = None
    """Metrics that `evaluate()` computes, as `metrics` of `expunge.evaluate`. None: all that the data allows."""

    metric_for_best_model: str | None = None
    """Metric that transformers' EarlyStoppingCallback reads, such as "forget_Q_A_Prob". None: no early stopping."""

    greater_is_better: bool | None = None
    """Whether a larger value of the metric is better. None: False if its name ends with "loss", else True."""

    report_to: str | tuple[str, ...] | None = None  # type: ignore[assignment]  # wider than the jobs' own reporters
    """Integrations that receive the log, by transformers' names ("wandb", "tensorboard", ...). None: none."""

    run_name: str | None = None
    """Name of the run in the integrations of `report_to`. None: the output folder or the method."""

    disable_tqdm: bool | None = None
    """Whether the progress bar is off. None: it is shown in a terminal only."""

    output_dir: str | None = None
    """Default folder of `save_model` and of the integrations' files. None: `save_model` needs a folder."""

    push_to_hub: bool = False
    """Whether `train()` ends with `push_to_hub()`. The repository is created first, so a refusal costs no training."""

    hub_model_id: str | None = None
    """Repository on the Hugging Face Hub that `push_to_hub()` writes to. None: the name of `output_dir`."""

    hub_private_repo: bool | None = True
    """Whether a new repository on the hub is private. None: the organisation's default, which may be public."""

    def __post_init__(self) -> None:
        for name, cls in (("template", Template), ("generation", Generation)):
            if isinstance(value := getattr(self, name), Mapping):
                object.__setattr__(self, name, decode(cls, value, where=f"{type(self).__name__}.{name}"))
        if self.METHOD is not None and self.method not in (None, self.METHOD):
            raise ConfigError(
                f"{type(self).__name__}.method: {self.method!r} is another method; use {self.METHOD!r}, or "
                "UnlearnConfig(method=...)"
            )
        if self.METHOD is not None and self.method_args:
            raise ConfigError(f"{type(self).__name__}.method_args: set the fields of {type(self).__name__} instead")
        if self.eval_steps is not None and self.eval_steps < 1:
            raise ConfigError(f"{type(self).__name__}.eval_steps: must be at least 1, got {self.eval_steps!r}")
        if self.eval_steps is not None and self.eval_strategy != "steps":
            raise ConfigError(f'{type(self).__name__}.eval_steps: has no effect; set eval_strategy="steps" as well')
        if self.evaluate != EvaluateArgs():
            raise ConfigError(
                f"{type(self).__name__}.evaluate: belongs to jobs; use eval_strategy, and eval_dataset of the trainer"
            )
        if self.save_strategy != "no":
            raise ConfigError(
                f"{type(self).__name__}.save_strategy: belongs to jobs; call save_model in a callback (on_epoch_end)"
            )
        if self.checkpoint not in (None, CheckpointArgs()):
            raise ConfigError(f"{type(self).__name__}.checkpoint: belongs to jobs; a run in memory has no checkpoints")
        self.train_args()
        if self.method_name_is_set:
            self.objective()

    def __repr__(self) -> str:
        """Return the call that makes these settings: the class with the fields that are not at their defaults."""
        own = []
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            default = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
            if value != default:
                own.append(f"{one.name}={value!r}")
        return f"{type(self).__name__}({', '.join(own)})"

    @property
    def method_name_is_set(self) -> bool:
        """Whether the class or a field names the method; without one the trainer's argument may name it."""
        return (self.method or self.METHOD) is not None

    @property
    def method_name(self) -> str:
        """The method's name, or the default."""
        return self.method or self.METHOD or DEFAULT_METHOD

    @property
    def reporters(self) -> tuple[str, ...]:
        """The integrations that receive the log."""
        names = (self.report_to,) if isinstance(self.report_to, str) else tuple(self.report_to or ())
        return () if names == ("none",) else names

    def train_args(self) -> TrainArgs:
        """Return the settings of the training loop alone. Raises ConfigError at the field that is wrong."""
        own = (*SHARED, "report_to", *self._method_fields())
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(TrainArgs) if f.name not in own}
        return decode(TrainArgs, values, where=type(self).__name__)

    def objective(self) -> Objective:
        """Return the method's loss with these settings. Raises ConfigError for a wrong method or setting."""
        from expunge.methods.objective import objective

        settings = dict(self.method_args)
        settings |= {name: getattr(self, name) for name in self._method_fields()}
        settings |= {
            name: value for name in SHARED if name not in settings and (value := getattr(self, name, None)) is not None
        }
        where = type(self).__name__
        try:
            return objective(self.method_name, settings, where=where)
        except ConfigError as error:  # the settings are fields here: name the field
            kind = other_kind(self.method_name)
            message = f"method={self.method_name!r}: {kind}" if kind else str(error)
            message = message.replace(f"{where}: no method", f"{where}.method: no method", 1)
            fields = (*self._method_fields(), *SHARED)
            key = message.removeprefix(f"{where}.method_args.").partition(":")[0]
            if self.METHOD is not None or (key in fields and key not in self.method_args):
                message = message.replace(f"{where}.method_args.", f"{where}.", 1)
            raise ConfigError(message) from None

    def _method_fields(self) -> tuple[str, ...]:
        """Return the names of the method's own fields; none for the class that fits every method."""
        if self.METHOD is None:
            return ()
        from expunge.methods import find

        return tuple(f.name for f in dataclasses.fields(find(self.METHOD).cls))
