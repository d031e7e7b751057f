"""The one training loop: fine-tuning and every unlearning method, over transformers.Trainer.

The order of samples is planned before the first step (`data.pairing`), so the Trainer reads them in sequence; the loss
is the method's own, served by `training.serve`. The loss of a step is the mean over its micro-batches.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments

from expunge.core.errors import JobError
from expunge.data.pairing import choices, group_by_length, pair
from expunge.data.template import Encoded
from expunge.methods.api import Needs, Terms
from expunge.methods.objective import Objective
from expunge.methods.steps import Step, make_step
from expunge.training.ask import asked
from expunge.training.config import TrainArgs
from expunge.training.reference import Reference, reference
from expunge.training.serve import SIDES, Sample, Server
from expunge.training.step import Stepper, check_step
from expunge.training.trainable import set_trainable

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # step, steps


@dataclass(frozen=True)
class Trained:
    """What a run leaves besides the changed model: its number of steps, and the logged losses."""

    n_steps: int
    history: list[dict[str, float]]


def train(
    model: Any,
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    args: TrainArgs,
    *,
    pad_id: int,
    progress: Progress | None = None,
) -> Trained:
    """Train `model` in place on encoded rows of the sides "forget" and "retain".

    `rows["alternate"]`, for methods that read it, lists the same number of other answers for each forget row in turn.
    With `args.lora` the model is given wrapped (`training.lora.with_lora`). Raises JobError when the loss is no longer
    finite or passes `args.loss_limit`, ConfigError for a step or a mask that does not fit.
    """
    step = make_step(args.step, args.step_args, "trainer.args") if args.step is not None else None
    if step is not None:
        check_step(step, objective)
    patterns = args.trainable_params_regex or _own_patterns(objective, args)
    if args.trainable_last_k_layers or patterns:
        set_trainable(model, last_k_layers=args.trainable_last_k_layers, params_regex=patterns)
    samples = plan_samples(objective, rows, args)
    references = _references(model, objective, rows, samples, pad_id)
    serve = partial(Server, rows=rows, references=references, pad_id=pad_id, head_chunk=args.head_chunk)
    n_anchor = len(rows[_anchor(objective, args)])
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _Loop(
            model=model,
            args=_training_arguments(args, n_anchor, scratch, model),
            train_dataset=_Samples(samples),
            data_collator=_as_batch,
            callbacks=[_Progress(progress)] if progress else [],
        )
        trainer.prepare(objective, serve(objective.needs), args, n_anchor)
        if step is not None:
            trainer.wrap(step, lambda needs: Server(needs, rows, references, pad_id=pad_id, head_chunk=args.head_chunk))
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    model.eval()
    return Trained(n_steps=int(trainer.state.global_step), history=trainer.history)


def _own_patterns(objective: Objective, args: TrainArgs) -> tuple[str, ...]:
    """The parameters a method trains by its own settings (RMU); adapters train what they are put on."""
    own: tuple[str, ...] = getattr(objective.method, "trainable_params_regex", ())
    return () if args.lora is not None or own == (".*",) else own


def plan_samples(objective: Objective, rows: Mapping[str, Sequence[Encoded]], args: TrainArgs) -> list[Sample]:
    """Every sample of the run, in order: a function of the seed and the rows alone."""
    needs = objective.needs
    sides = [s for s in SIDES if getattr(needs, s) is not None]
    for side in {"forget" if s == "alternate" else s for s in sides}:
        if not rows.get(side):
            raise JobError(f"{objective.spec.name} needs {side} rows, and there are none")
    total = args.n_samples(len(rows[_anchor(objective, args)]))
    plan = pair(
        n_forget=len(rows["forget"]) if objective.forgets else None,
        n_retain=len(rows["retain"]) if needs.retain is not None else None,
        n_samples=total,
        seed=args.seed,
    )
    numbers = {side: getattr(plan, side) for side in sides if side != "alternate"}
    if needs.alternate is not None and plan.forget is not None:
        each = len(rows["alternate"]) // len(rows["forget"])
        numbers["alternate"] = plan.forget * each + choices(plan.forget, each, args.seed)
    order = np.arange(total)
    if args.group_by_length:
        lengths = {s: np.array([len(r.ids) for r in rows[s]]) for s in sides}
        widest = np.max([lengths[s][numbers[s]] for s in sides], axis=0)
        order = group_by_length(order, widest, batch=args.per_device_train_batch_size, seed=args.seed)
    return [Sample(**{side: int(numbers[side][k]) for side in sides}) for k in order]


def _anchor(objective: Objective, args: TrainArgs) -> str:
    """The side an epoch passes through: the asked one, or the only one there is."""
    if not objective.forgets:
        return "retain"
    return "forget" if objective.needs.retain is None else args.anchor


def _references(
    model: Any, objective: Objective, rows: Mapping[str, Sequence[Encoded]], samples: Sequence[Sample], pad_id: int
) -> dict[str, Reference]:
    out: dict[str, Reference] = {}
    for side in SIDES:
        what = asked(objective.needs, side, ref=True)
        if what is not None:
            wanted = [getattr(s, side) for s in samples]
            out[side] = reference(model, rows[side], wanted, what, pad_id=pad_id)
    return out


def _training_arguments(args: TrainArgs, n_anchor: int, scratch: str, model: Any) -> TrainingArguments:
    device = next(model.parameters()).device
    optim = args.optim
    if device.type == "cpu" and optim not in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd"):
        log.warning("optim=%s needs a GPU; adamw_torch, the same rule in 32 bits, is used on this CPU", optim)
        optim = "adamw_torch"
    return TrainingArguments(
        output_dir=scratch,
        num_train_epochs=1,  # the plan of samples holds every epoch
        train_sampling_strategy="sequential",
        per_device_train_batch_size=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        warmup_steps=args.warmup(n_anchor),
        lr_scheduler_type=args.lr_scheduler_type,
        max_grad_norm=args.max_grad_norm,
        optim=optim,
        adam_beta1=args.adam_beta1,
        adam_beta2=args.adam_beta2,
        adam_epsilon=args.adam_epsilon,
        bf16=args.bf16,
        fp16=args.fp16,
        activation_checkpointing=args.activation_checkpointing,
        seed=args.seed,
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
    """The Trainer with the method's loss in place of the model's own."""

    objective: Objective
    server: Server
    history: list[dict[str, float]]

    def prepare(self, objective: Objective, server: Server, args: TrainArgs, n_anchor: int) -> None:
        """Bind the loss. Losses are means over a micro-batch, so the Trainer divides by the accumulation steps."""
        self.model_accepts_loss_kwargs = False
        self.objective, self.server, self.limit = objective, server, args.loss_limit
        self.epoch_share, self.epoch_rows = args.rows_per_step, n_anchor
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
            raise JobError(
                f"{objective.spec.name}: the loss {said} ({value:g}) at step {self.state.global_step + 1} of "
                f"{self.state.max_steps}; lower the learning rate, or stop earlier"
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
            step: dict[str, float] = {"step": float(self.state.global_step), **means}
            for key in ("learning_rate", "grad_norm"):
                if key in logs:
                    step[key] = float(logs[key])
            self.history.append(step)
            self._parts.clear()


class _Progress(TrainerCallback):
    def __init__(self, report: Progress) -> None:
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the caller how far the run is."""
        self._report(state.global_step, state.max_steps)
