"""The one training loop: fine-tuning and every unlearning method, over transformers.Trainer.

The order of samples is planned before the first step (`training.phases`), so the Trainer reads them in sequence; the
loss is the method's own, served by `training.serve`. The loss of a step is the mean over its micro-batches.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments

from expunge.core.errors import JobError
from expunge.data.template import Encoded
from expunge.methods.api import Needs, Terms
from expunge.methods.objective import Objective
from expunge.methods.steps import Step
from expunge.training.ask import asked
from expunge.training.config import TrainArgs
from expunge.training.phases import Phase, plan_phases
from expunge.training.reference import Reference, reference
from expunge.training.serve import SIDES, Sample, Server
from expunge.training.step import Stepper
from expunge.training.trainable import set_trainable

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # step, steps


@dataclass(frozen=True)
class Trained:
    """What a run leaves besides the changed model: its number of steps, and the logged losses of each phase."""

    n_steps: int
    history: list[dict[str, float]]


def train(
    model: Any,
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    args: TrainArgs,
    *,
    pad_id: int,
    references: Mapping[str, Reference] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train `model` in place on encoded rows of the sides "forget" and "retain".

    `rows["alternate"]`, for methods that read it, lists the same number of other answers for each forget row in turn.
    references: what is known already of the model before unlearning, by side, and of a teacher, by `<side>_teacher`.
    What is missing is asked of `model` before its first step, with the same bits; a teacher's must be given.
    With `args.lora` the model is given wrapped (`training.lora.with_lora`). Raises JobError when the loss is no longer
    finite or passes `args.loss_limit`, ConfigError for a step or a mask that does not fit.
    """
    phases = plan_phases(objective, rows, args)
    patterns = args.trainable_params_regex or _own_patterns(objective, args)
    if args.trainable_last_k_layers or patterns:
        set_trainable(model, last_k_layers=args.trainable_last_k_layers, params_regex=patterns)
    samples = [s for p in phases for s in p.samples]
    asked_of = _references(model, objective, rows, samples, args, pad_id, references or {})
    place = _Place(n_phases=len(phases), steps_after=sum(p.n_steps for p in phases))
    history: list[dict[str, float]] = []

    def serve(needs: Needs) -> Server:
        return Server(needs, rows, asked_of, pad_id=pad_id, head_chunk=args.head_chunk)

    with tempfile.TemporaryDirectory() as scratch:
        for phase in phases:
            place = place.enter(phase)
            trainer = _Loop(
                model=model,
                args=_training_arguments(phase, place.seed(args.seed), scratch, model),
                train_dataset=_Samples(phase.samples),
                data_collator=_as_batch,
                callbacks=[_Progress(progress, place)] if progress else [],
            )
            trainer.prepare(phase, serve(phase.objective.needs), place)
            if phase.step is not None:
                trainer.wrap(phase.step, serve)
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
            history += trainer.history
            place = place.leave(int(trainer.state.global_step))
            if place.number < place.n_phases:
                trainer.let_go()
    model.eval()
    return Trained(n_steps=place.steps_before, history=history)


@dataclass(frozen=True)
class _Place:
    """Where a phase stands in its run: its number from 1, the steps that came before it and those that come after."""

    n_phases: int
    number: int = 0
    steps_before: int = 0
    steps_after: int = 0

    def enter(self, phase: Phase) -> _Place:
        return dataclasses.replace(self, number=self.number + 1, steps_after=self.steps_after - phase.n_steps)

    def leave(self, steps: int) -> _Place:
        return dataclasses.replace(self, steps_before=self.steps_before + steps)

    def seed(self, seed: int) -> int:
        """What dropout starts from: the run's seed, and one of its own for each later phase."""
        return seed if self.number == 1 else int(np.random.SeedSequence([seed, self.number]).generate_state(1)[0])

    def steps(self, state: Any) -> tuple[int, int]:
        """Steps done, and steps in all, of the whole run."""
        return self.steps_before + state.global_step, self.steps_before + state.max_steps + self.steps_after


def _own_patterns(objective: Objective, args: TrainArgs) -> tuple[str, ...]:
    """The parameters a method trains by its own settings (RMU); adapters train what they are put on."""
    own: tuple[str, ...] = getattr(objective.method, "trainable_params_regex", ())
    return () if args.lora is not None or own == (".*",) else own


def plan_samples(objective: Objective, rows: Mapping[str, Sequence[Encoded]], args: TrainArgs) -> list[Sample]:
    """Every sample of the run, in order: a function of the seed and the rows alone."""
    return [sample for phase in plan_phases(objective, rows, args) for sample in phase.samples]


def _references(
    model: Any,
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    samples: Sequence[Sample],
    args: TrainArgs,
    pad_id: int,
    given: Mapping[str, Reference],
) -> dict[str, Reference]:
    """The given references, and what is missing of the model before unlearning."""
    out = dict(given)
    for side in SIDES:
        what = asked(objective.needs, side, ref=True)
        if what is not None and side not in out:
            wanted = [i for s in samples for i in s.numbers(side)]
            out[side] = reference(model, rows[side], wanted, what, pad_id=pad_id, topk=args.topk)
        if asked(objective.needs, side, teacher=True) is not None and f"{side}_teacher" not in out:
            raise JobError(f"{objective.spec.name} learns from a teacher, and none was given for the {side} rows")
    return out


def _training_arguments(phase: Phase, seed: int, scratch: str, model: Any) -> TrainingArguments:
    args = phase.args
    device = next(model.parameters()).device
    optim = args.optim
    if device.type == "cpu" and optim not in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd"):
        log.warning("optim=%s needs a GPU; adamw_torch, the same rule in 32 bits, is used on this CPU", optim)
        optim = "adamw_torch"
    return TrainingArguments(
        output_dir=scratch,
        num_train_epochs=1,  # the phase's samples hold every epoch
        train_sampling_strategy="sequential",
        per_device_train_batch_size=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        warmup_steps=args.warmup(phase.n_epoch),
        lr_scheduler_type=args.lr_scheduler_type,
        max_grad_norm=args.max_grad_norm,
        optim=optim,
        adam_beta1=args.adam_beta1,
        adam_beta2=args.adam_beta2,
        adam_epsilon=args.adam_epsilon,
        bf16=args.bf16,
        fp16=args.fp16,
        activation_checkpointing=args.activation_checkpointing,
        seed=seed,
        use_cpu=device.type == "cpu",
        logging_steps=args.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        label_names=[],
    )


class _Samples(Dataset[Sample]):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def _as_batch(samples: list[Sample]) -> dict[str, Any]:
    return {"samples": samples}


class _Loop(transformers.Trainer):
    """The Trainer of one phase, with the method's loss in place of the model's own."""

    objective: Objective
    server: Server
    history: list[dict[str, float]]

    def prepare(self, phase: Phase, server: Server, place: _Place) -> None:
        """Bind the loss. Losses are means over a micro-batch, so the Trainer divides by the accumulation steps."""
        self.model_accepts_loss_kwargs = False
        self.objective, self.server, self.limit = phase.objective, server, phase.args.loss_limit
        self.epoch_share, self.epoch_rows, self.place = phase.args.rows_per_step, phase.n_epoch, place
        self.history = []
        self._parts: dict[str, list[Tensor]] = {}
        self._stepper: Stepper | None = None

    def wrap(self, step: Step, serve: Callable[[Needs], Server]) -> None:
        """Let a step make the gradients."""
        if self.accelerator.num_processes > 1:
            raise JobError(
                "a step runs in one process: its gradients are not exchanged; start the run without launcher"
            )
        self._stepper = Stepper(step, self.objective, self.server, serve)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch: the Trainer's own forward and backward, or the step's."""
        if self._stepper is None:
            plain: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return plain
        model.train()

        def compute(objective: Objective, server: Server) -> Terms:
            with self.compute_loss_context_manager():
                return self._terms(model, objective, server, inputs["samples"])

        share = 1 / self.current_gradient_accumulation_steps
        terms = self._stepper(model, compute, share=share)
        self._note(terms)
        return terms.total * share

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The objective of one micro-batch."""
        terms = self._terms(model, self.objective, self.server, inputs["samples"])
        self._note(terms)
        return (terms.total, None) if return_outputs else terms.total

    def _terms(self, model: Any, objective: Objective, server: Server, samples: Sequence[Sample]) -> Terms:
        """The terms of one micro-batch. Raises JobError unless the total is finite and within the limit."""
        self.server.memory["epoch"] = self.state.global_step * self.epoch_share // self.epoch_rows
        terms = objective(server.view(model, samples, device=self.args.device))
        value = float(terms.total.detach())
        if not math.isfinite(value) or abs(value) > self.limit:
            said = "is not a finite number" if not math.isfinite(value) else f"passed the limit of {self.limit:g}"
            done, total = self.place.steps(self.state)
            phase = f" (phase {self.place.number} of {self.place.n_phases})" if self.place.n_phases > 1 else ""
            raise JobError(
                f"{objective.spec.name}: the loss {said} ({value:g}) at step {done + 1} of {total}{phase}; lower the "
                "learning rate, or stop earlier"
            )
        return terms

    def _note(self, terms: Terms) -> None:
        """Keep a micro-batch's loss and its terms for the log."""
        for name, part in {**terms.parts, "loss": terms.total}.items():
            self._parts.setdefault(name, []).append(part.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the means of the loss and its terms since the last log."""
        if self._parts:
            means = {k: float(torch.stack(v).double().mean()) for k, v in self._parts.items()}
            done, _ = self.place.steps(self.state)
            step: dict[str, float] = {"step": float(done), "phase": float(self.place.number), **means}
            for key in ("learning_rate", "grad_norm"):
                if key in logs:
                    step[key] = float(logs[key])
            self.history.append(step)
            self._parts.clear()

    def let_go(self) -> None:
        """Give back the optimiser's memory before another phase begins: a Trainer is part of a cycle, and lingers."""
        if self.optimizer is not None:
            self.optimizer.state.clear()


class _Progress(TrainerCallback):
    def __init__(self, report: Progress, place: _Place) -> None:
        self._report, self._place = report, place

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the caller how far the run is."""
        self._report(*self._place.steps(state))
