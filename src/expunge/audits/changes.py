"""The changes of a model that audits measure: relearning and 4-bit weights. Jobs and `expunge.audit` use them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError

if TYPE_CHECKING:  # every file of this room is imported to register audits, so torch must not be loaded here
    from expunge.audits.api import Audit, RelearnSpec
    from expunge.data.encoder import Encoded, Encoder
    from expunge.data.examples import ExampleSet
    from expunge.training.config import TrainArgs


def check_forms(audit: Audit, where: str) -> None:
    """Raise ConfigError if an audit rounds weights to nf4 and bitsandbytes is not installed."""
    if "nf4" in getattr(audit, "forms", ()) and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{where}.forms: nf4 needs bitsandbytes; pip install 'expunge[quant]'")


def relearn_args(change: RelearnSpec, own: TrainArgs) -> TrainArgs:
    """Return a plain fine-tuning at a constant rate: the audit's, or else the one of the model's own settings.

    Samples are not grouped by length: the first steps of a longer run are then those of a shorter one.
    """
    from expunge.training.config import TrainArgs

    return TrainArgs(
        learning_rate=own.learning_rate if change.learning_rate is None else change.learning_rate,
        max_steps=max(change.steps),
        per_device_train_batch_size=change.batch_size,
        gradient_accumulation_steps=1,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        group_by_length=False,
        optim=own.optim,
        activation_checkpointing=own.activation_checkpointing,
        seed=change.seed,
    )


def relearn(
    model: Any,
    examples: ExampleSet,
    change: RelearnSpec,
    args: TrainArgs,
    encoder: Encoder,
    measure: Callable[[int], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train a model in place on a few examples, in float32, and measure it after each of the steps (0: before).

    One run gives all steps, because its first steps equal those of a shorter run.
    """
    from expunge.training.encoding import encode_sets

    encoded = encode_sets([examples], encoder)
    relearn_rows(model, encoded, change.steps, args, encoder.tokenizer.pad_token_id, measure, progress)


def relearn_rows(
    model: Any,
    encoded: Sequence[Encoded],
    steps: Sequence[int],
    args: TrainArgs,
    pad_id: int,
    measure: Callable[[int], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Do the same on encoded rows. A model with frozen parameters trains the others."""
    from expunge.methods.objective import objective
    from expunge.training.checkpoint import kept_random
    from expunge.training.loop import train
    from expunge.training.trainable import full_precision

    def after(done: int, total: int) -> None:
        if done in steps:
            with kept_random():
                measure(done)
        if progress is not None:
            progress(done, total)

    with full_precision(model):
        measure(0)
        train(model, objective("finetune"), {"retain": encoded}, args, pad_id=pad_id, progress=after)


def attacked_copy(model: Any) -> Any:
    """Return a copy whose weights are all trainable, also if the model is frozen, because an attacker trains them."""
    import copy

    other = copy.deepcopy(model)
    for p in other.parameters():
        if p.is_floating_point():
            p.requires_grad_(True)
    return other


def to_nf4(model: Any) -> None:
    """Round the linear weights, except the LM head, to 4-bit NormalFloat by bitsandbytes, as its layers hold them."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            packed, state = quantize_4bit(module.weight.data, quant_type="nf4", compress_statistics=True)
            module.weight.data = dequantize_4bit(packed, state).to(module.weight.dtype)
