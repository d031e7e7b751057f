"""Settings of the training loop, by the names of transformers' TrainingArguments. Importing this loads no torch."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.names import LayerCount, ParameterPattern
from expunge.data.examples import Span
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.lora import LoraArgs
from expunge.training.optimizers import optimizer_identity, optimizer_problem
from expunge.training.schedule import Schedule

MOST_SEED = 2**32  # numpy's limit

# Raised when equal settings train other numbers. 2: a step of several micro-batches is one mean, a micro-batch contains
# no row twice, and a model is saved in its source dtype.
REVISION = 2


@strict
@dataclass(frozen=True, kw_only=True)
class CheckpointArgs:
    """How often an unfinished run is written to disk, so that it can resume."""

    every_s: float = 600.0
    """Seconds between checkpoints."""
    steps: int | None = None
    """Steps between checkpoints, in place of seconds."""

    def __post_init__(self) -> None:
        if not 0 < self.every_s < math.inf:
            raise ValueError("every_s must be a number of seconds > 0")
        if self.steps is not None and self.steps < 1:
            raise ValueError("steps must be at least 1")


@strict
@dataclass(frozen=True, kw_only=True)
class TrainArgs:
    """The settings of one training run. The weights are float32 (or the model's dtype).

    An epoch is one pass through the anchor side.
    """

    learning_rate: float = 1e-5
    """The peak learning rate."""
    num_train_epochs: float = 10.0
    """Passes through the anchor side; fractions are allowed."""
    max_steps: int = -1
    """Optimizer steps, in place of epochs. -1: num_train_epochs decides."""
    per_device_train_batch_size: int = 8
    """Samples of one forward pass on each device."""
    gradient_accumulation_steps: int = 4
    """Forward passes of one optimizer step."""
    accumulation: Literal["whole_step", "mean_of_means"] = "whole_step"
    """The mean over a step of several micro-batches. whole_step: each term over all scored tokens or rows of the step,
    so 1 x 4 trains as 4 x 1. mean_of_means: all micro-batches have equal weight, as in OpenUnlearning.
    """
    whole_steps: bool = False
    """Whether a pass counts only its whole optimizer steps, as in OpenUnlearning: 10 passes of 400 samples in steps of
    32 are 120 steps, not 125. The warm-up is rounded down, too. A pass has at least one step.
    """
    weight_decay: float = 0.01
    """Decoupled weight decay of the optimizer."""
    warmup_steps: float = 0.0
    """Steps of linear warm-up; below 1 a share of all steps."""
    warmup_epochs: float | None = None
    """Warm-up in epochs, in place of warmup_steps. None: warmup_steps counts."""
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "constant",
        "constant_with_warmup",
    ] = "linear"
    """How the learning rate changes after the warm-up, by its name in transformers."""
    max_grad_norm: float = 1.0
    """The norm that gradients are clipped to. 0: no clipping."""
    optim: str = "adamw_torch"
    """The optimizer: a name of transformers, a class (torch.optim.NAdam, torchao.optim.X, bitsandbytes.optim.X), or one
    that a plugin registers. Names with adamw_torch_8bit or adamw_torch_4bit need torchao. adamw_torch_8bit_stochastic
    holds the weights in bfloat16 and rounds updates at random, which needs the least memory.
    """
    optim_args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of an optimizer that is a class or registered, besides the learning rate and weight_decay."""
    adam_beta1: float = 0.9
    """AdamW's decay of the first moment."""
    adam_beta2: float = 0.999
    """AdamW's decay of the second moment."""
    adam_epsilon: float = 1e-8
    """AdamW's constant in the denominator."""
    bf16: bool = False
    """Compute in bfloat16 over float32 weights: on a GPU, and on a CPU with bfloat16 instructions. Another CPU computes
    in float32.
    """
    fp16: bool = False
    """Compute in float16 with loss scaling, on a GPU without bfloat16."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    logits_chunk_size: int = 256
    """The number of answer tokens whose logits are computed at a time, if the loss allows it. Saves memory with a large
    vocabulary. 0: all at once, which is faster.
    """
    logging_steps: int | float = 5
    """Log every n-th step. Below 1: a share of a phase's steps."""
    dense_logging_steps: int = 0
    """The number of first steps that are all logged and evaluated ten times as often as `evaluate.steps`."""
    compile: bool = False
    """Compile the layers with torch.compile."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Reporters next to the log: tensorboard, wandb (offline unless WANDB_MODE is set)."""
    report_dir: str = "saves/runs"
    """The folder of the reporters."""
    peak_tflops: float | None = None
    """The device's peak in the computing dtype, for the MFU. None: the data sheet's value of a known GPU."""
    seed: int = 0
    """The seed of the order of samples and of dropout."""
    anchor: Literal["forget", "retain"] = "forget"
    """The side whose examples make an epoch; the other side is drawn to match."""
    train_on: Literal["answer", "trace", "trace+answer"] = "answer"
    """The span of the forget examples that the loss reads, if they have a reasoning trace: answer, trace or
    trace+answer. The answer follows its trace in each case. The retain side always reads both.
    """
    group_by_length: bool = True
    """Put samples of similar length into one batch, with less padding."""
    max_loss: float = 1e5
    """Stop with an error if the loss is larger: the run has diverged."""
    dropout: float = 0.0
    """Probability of dropping values of embeddings, attention weights and layers' outputs in training. 0: adds none; a
    model's own dropout (0.1 in GPT-2) is active in training in any case, as in transformers.
    """
    grad_transform: str | tuple[str, ...] | None = None
    """A change of the gradient around the loss: sam, gru, blur, mudman or latent. Several form a stack: each changes
    the forget gradient that the next one reads. None: the plain gradient.
    """
    grad_transform_args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of grad_transform (`expunge list methods NAME`); of a stack, those of each transform by its name."""
    trainable_last_k_layers: LayerCount = 0
    """Train only the last k decoder layers. 0: all."""
    trainable_params_regex: tuple[ParameterPattern, ...] = ()
    """Train only parameters whose whole name matches an expression. Empty: all. A parameter must also satisfy
    trainable_last_k_layers if that is set.
    """
    lora: LoraArgs | None = None
    """Train LoRA adapters instead of the weights. None: the weights."""
    schedule: Schedule = field(default_factory=Schedule)
    """How the run is divided into phases; epochs, warm-up and learning rate apply to each phase."""
    reference: Literal["exact", "topk"] = "exact"
    """How the reference model's distributions are stored: exact, or topk (the largest logits; the rest is spread
    evenly), an approximation that is smaller on disk. The gradient in a token's logits differs by at most twice the
    probability outside the stored logits.
    """
    reference_topk: int = 64
    """The number of logits per token that `reference=topk` stores."""
    save_dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"
    """The dtype of the saved weights. source: the dtype of the initial model's files. Training always uses float32
    weights. bfloat16 has 8 significant bits, so saving rounds away changes below 1/512 of a weight.
    """
    save_strategy: Literal["no", "steps", "epoch"] = "no"
    """When a job also keeps the model, in the folder `checkpoint-STEP` of its result: never, every `save_steps` steps,
    or after each epoch. The final model is always saved.
    """
    save_steps: int | float | None = None
    """Steps between two kept models with save_strategy=steps. Below 1: a share of all steps."""
    evaluate: EvaluateArgs = field(default_factory=EvaluateArgs)
    """Evaluation during training, and the choice of the model that is saved."""
    checkpoint: CheckpointArgs | None = field(default_factory=CheckpointArgs)
    """How often an unfinished run is written to disk. None: never."""

    def __post_init__(self) -> None:
        for key, most in MOST.items():
            if (getattr(self, key) or 0) > most:
                raise ValueError(f"{key} must be at most {most:g}")
        for key in ("learning_rate", "num_train_epochs", "max_loss", "adam_epsilon"):
            if not (getattr(self, key) > 0 and math.isfinite(getattr(self, key))):
                raise ValueError(f"{key} must be a number > 0")
        for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "reference_topk"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        for key in ("weight_decay", "warmup_steps", "max_grad_norm", "warmup_epochs"):
            if not (getattr(self, key) or 0) >= 0:
                raise ValueError(f"{key} must be a number >= 0 (0: none)")
        for key in ("adam_beta1", "adam_beta2", "dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 0 and less than 1")
        if not 0 <= self.seed < MOST_SEED:
            raise ValueError("seed must be a whole number from 0 to 2**32 - 1")
        if self.dense_logging_steps < 0:
            raise ValueError("dense_logging_steps must be at least 0")
        for key in ("logging_steps", "save_steps"):
            if (n := getattr(self, key)) is not None and not (0 < n < 1 or (1 <= n < math.inf and n == int(n))):
                raise ValueError(f"{key} must be a whole number of at least 1, or a share below 1")
        if (self.save_steps is not None) != (self.save_strategy == "steps"):
            raise ValueError("save_steps goes together with save_strategy=steps; set both or none")
        if self.peak_tflops is not None and not 0 < self.peak_tflops < math.inf:
            raise ValueError("peak_tflops must be a number > 0")
        if self.logits_chunk_size < 0:
            raise ValueError("logits_chunk_size must be at least 0 (0: all at once)")
        if self.max_steps != -1 and self.max_steps < 1:
            raise ValueError("max_steps must be at least 1 (or -1: num_train_epochs decides)")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 cannot be on together with fp16; set one of them to false")
        if problem := optimizer_problem(self.optim):
            raise ValueError(f"optim {problem}")
        if self.max_steps != -1 and self.schedule.kind != "interleaved":
            raise ValueError(f"max_steps must be -1 with schedule.kind={self.schedule.kind}: each phase counts epochs")
        self._check_trained_parameters()

    def _check_trained_parameters(self) -> None:
        if self.grad_transform == ():
            raise ValueError("grad_transform must name a transform, or be null")
        if self.grad_transform_args and self.grad_transform is None:
            raise ValueError("grad_transform_args is set, but grad_transform is not; set both or none")
        if self.grad_transform is not None and self.fp16:
            raise ValueError(
                "fp16 cannot be on together with a grad_transform, which reads gradients without loss scaling; use bf16"
            )
        if self.trainable_last_k_layers < 0:
            raise ValueError("trainable_last_k_layers must be at least 0 (0: all layers)")
        for pattern in self.trainable_params_regex:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"trainable_params_regex: {pattern!r} is no regular expression: {error}") from None
        if self.lora is not None and (self.trainable_last_k_layers or self.trainable_params_regex):
            raise ValueError("lora trains adapters alone: leave trainable_* out and use lora.target_modules")

    def span_of(self, side: str) -> Span | None:
        """Return the span of a side's examples that the loss reads. None: the trace and the answer."""
        return self.train_on if side == "forget" else None

    @property
    def saves(self) -> EvaluateArgs:
        """The steps after which a job keeps the model, as a rule of evaluations."""
        if (n := self.save_steps) is not None and n < 1 and self.max_steps <= 0:
            return EvaluateArgs(every=n * self.num_train_epochs)
        steps = None if n is None else math.ceil(n if n >= 1 else n * self.max_steps)
        return EvaluateArgs(steps=steps, every=1.0 if self.save_strategy == "epoch" else None)

    @property
    def topk(self) -> int | None:
        """The number of logits per token of the reference that are stored; None: the exact distribution."""
        return self.reference_topk if self.reference == "topk" else None

    @property
    def rows_per_step(self) -> int:
        """Samples of one optimizer step on one device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def n_samples(self, n_anchor: int) -> int:
        """Return the number of samples of the whole run over an anchor side of `n_anchor` rows."""
        if self.max_steps > 0:
            return self.max_steps * self.rows_per_step
        if self.whole_steps:
            return math.ceil(self.num_train_epochs * self._whole_steps(n_anchor)) * self.rows_per_step
        return max(1, math.ceil(self.num_train_epochs * n_anchor - 1e-9))

    def n_steps(self, n_anchor: int) -> int:
        """Return the number of optimizer steps of the whole run on one device."""
        micro = math.ceil(self.n_samples(n_anchor) / self.per_device_train_batch_size)
        return math.ceil(micro / self.gradient_accumulation_steps)

    def _whole_steps(self, n_anchor: int) -> int:
        """Return the optimizer steps of one pass, without a last step of fewer micro-batches."""
        micro = math.ceil(n_anchor / self.per_device_train_batch_size)
        return max(1, micro // self.gradient_accumulation_steps)

    def warmup(self, n_anchor: int) -> int:
        """Return the warm-up in optimizer steps."""
        if self.warmup_epochs is not None and self.whole_steps:
            return int(self.warmup_epochs * n_anchor // self.rows_per_step)
        if self.warmup_epochs is not None:
            return math.ceil(self.warmup_epochs * n_anchor / self.rows_per_step)
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(self.warmup_steps * self.n_steps(n_anchor))

    @property
    def identity(self) -> dict[str, Any]:
        """The values that a fingerprint covers: all settings except how often the log and checkpoints are written.

        Gradient transforms, parameter masks, adapters, chunks, schedules and evaluations are left out unless they are
        set. Chunks count because their sums round differently. Raises ConfigError for an unknown gradient transform.
        """
        values = {"revision": REVISION, **dataclasses.asdict(self)}
        if self.save_dtype == "source":
            del values["save_dtype"]
        if self.save_strategy == "no":
            del values["save_strategy"]
        if self.accumulation == "whole_step" or self.gradient_accumulation_steps == 1:
            del values["accumulation"]
        if self.topk is None:
            del values["reference"], values["reference_topk"]
        for key in ("logging_steps", "report_to", "report_dir", "peak_tflops", "grad_transform_args", "checkpoint"):
            del values[key]
        values["evaluate"] = self.evaluate.identity
        if not self.evaluate.on:
            del values["evaluate"]
        if self.evaluate.steps is None or not self.dense_logging_steps:  # it then changes the log only
            del values["dense_logging_steps"]
        for key in OPTIONAL:
            if not values[key]:
                del values[key]
        if self.lora is not None and self.lora.quantize is None:
            del values["lora"]["quantize"]
        if self.lora is not None and not self.lora.orthogonal:
            del values["lora"]["orthogonal"]
        if self.schedule == Schedule():
            del values["schedule"]
        if self.train_on == "answer":
            del values["train_on"]
        values["optim"] = optimizer_identity(self.optim)
        if self.grad_transform is not None:
            from expunge.methods.grad_transforms import grad_transform_identity, make_grad_transform  # loads torch

            transform = make_grad_transform(self.grad_transform, self.grad_transform_args, "trainer.args")
            values["grad_transform"] = grad_transform_identity(transform)
        return values


# The largest values: far above any run, and small enough that planning a run ends.
MOST: Mapping[str, float] = {
    "learning_rate": 1e4,
    "num_train_epochs": 1e5,
    "max_steps": 1e8,
    "per_device_train_batch_size": 1e6,
    "gradient_accumulation_steps": 1e6,
    "weight_decay": 1e4,
    "warmup_steps": 1e8,
    "warmup_epochs": 1e5,
    "save_steps": 1e8,
    "logits_chunk_size": 1e9,
    "reference_topk": 1e6,
}

# Settings that a fingerprint leaves out when they are off.
OPTIONAL = (
    "grad_transform",
    "optim_args",
    "compile",
    "dropout",
    "logits_chunk_size",
    "trainable_last_k_layers",
    "trainable_params_regex",
    "lora",
    "whole_steps",
    "save_steps",
)
