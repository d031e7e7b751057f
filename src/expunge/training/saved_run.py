"""A training run that is saved: adapters, the loop, and the model with its log in a folder."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core import distributed
from expunge.core.files import json_lines, whole_folder, write_text
from expunge.data.encoder import Encoded, Encoder
from expunge.methods.objective import Objective
from expunge.models.load import save_model
from expunge.training.checkpoint import kept_random
from expunge.training.config import TrainArgs
from expunge.training.loop import train
from expunge.training.lora import merged_copy, save_adapter, saved_form, with_lora
from expunge.training.reference import Reference
from expunge.training.run_state import Logged, Progress, TrainResult

if TYPE_CHECKING:
    from expunge.training.in_memory.evaluation_callback import EvalCallback
    from expunge.training.rollouts import RolloutSource

CHECKPOINT = "checkpoint-"  # and a step: the folder of a kept model
KEPT = "models"  # in the folder of a run's checkpoints, until the run ends
LOG, SPEED = "log.jsonl", "speed.jsonl"  # the speed has its own file, because it differs in every run


@dataclass(frozen=True)
class TrainerState:
    """The state of a run between two steps. reload: loads the start model, without adapters."""

    model: Any
    encoder: Encoder
    args: TrainArgs
    reload: Callable[[], Any]
    watch: EvalCallback | None
    dtype: str | None = None  # of the weights in the files

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation so far, if the run keeps the best model."""
        return None if self.watch is None else self.watch.best_step

    def save(self, folder: Path) -> None:
        """Write the present model. The state of training does not change."""
        with kept_random():
            plain = self.model
            if self.args.lora is not None:
                plain = merged_copy(self.model, self.args.lora, self.reload)
            save_model(plain, self.encoder.tokenizer, folder, dtype=self.dtype)


def _keep(state: TrainerState, models_folder: Path, step: int) -> None:
    """Write the present model next to the run's checkpoints, so that a resumed run has the models of its first part."""
    if not distributed.here().first:
        return
    place = models_folder / f"{CHECKPOINT}{step}"
    shutil.rmtree(place, ignore_errors=True)  # of an attempt whose checkpoints are gone
    with whole_folder(place) as part:
        state.save(part)


def train_and_save(
    folder: Path,
    model: Any,
    encoder: Encoder,
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    args: TrainArgs,
    *,
    reload: Callable[[], Any],
    dtype: str | None = None,
    references: Mapping[str, Reference] | None = None,
    watch: EvalCallback | None = None,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
    logged: Logged | None = None,
    after_step: Callable[[TrainerState], bool] | None = None,
    rollouts: RolloutSource | None = None,
    start: Path | None = None,
) -> TrainResult:
    """Train a model, and write it with its log. Of several processes the first one writes.

    Args:
        folder: The folder of the model, the log, the models that `args.save_strategy` keeps, and an adapter.
        model: The model, without adapters.
        encoder: The template and the tokenizer.
        objective: The method's loss.
        rows: The encoded rows by side.
        args: The settings of the run. `args.lora` adds adapters.
        reload: Loads the start model again, on the CPU. Adapters are merged into it.
        dtype: The dtype of the weights in the files. None: the model's.
        references: As for `train`.
        watch: As for `train`.
        progress: As for `train`.
        checkpoints: As for `train`.
        logged: As for `train`.
        after_step: Called before the first step and after each step; True ends the run.
        rollouts: As for `train`.
        start: The folder of the start model, where `args.lora.orthogonal` reads the adapters of earlier requests.

    Returns:
        The result of `train`.
    """
    term = None
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)
        if args.lora.orthogonal:
            from expunge.training.orthogonal import orthogonality

            term = orthogonality(model, start, args.lora.orthogonal)
    follow = None
    state = TrainerState(model, encoder, args, reload, watch, dtype)
    models_folder = folder if checkpoints is None else checkpoints / KEPT
    if after_step is not None:
        after_step(state)
        follow = functools.partial(after_step, state)
    result = train(
        model, objective, rows, args, pad_id=encoder.tokenizer.pad_token_id, references=references, progress=progress,
        watch=watch, checkpoints=checkpoints, after_step=follow, logged=logged,
        keep_model=functools.partial(_keep, state, models_folder),
        rollouts=rollouts, regulariser=term,
    )  # fmt: skip
    if not distributed.here().first:
        return result
    for model_folder in sorted(models_folder.glob(f"{CHECKPOINT}*")) if models_folder != folder else ():
        os.rename(model_folder, folder / model_folder.name)
    if args.lora is not None:
        save_adapter(model, folder / "adapter")
        if args.lora.orthogonal:
            from expunge.training.orthogonal import save_adapters

            save_adapters(model, start, folder)
        model = saved_form(model, args.lora, reload)
    save_model(model, encoder.tokenizer, folder, dtype=dtype)
    write_text(folder / LOG, json_lines(result.history))
    write_text(folder / SPEED, json_lines(result.speed_lines))
    return result
