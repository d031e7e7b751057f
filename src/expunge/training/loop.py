"""The one training loop: fine-tuning and every unlearning method, over transformers.Trainer.

The order of samples is planned before the first step (`training.phases`), so the Trainer reads them in sequence; the
loss is the method's own, served by `training.serve`. The loss of a step is the mean over its micro-batches, which
several processes share (`training.shares`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from expunge.core import ranks
from expunge.core.errors import JobError
from expunge.data.template import Encoded
from expunge.methods.api import Needs, Terms
from expunge.methods.objective import Objective
from expunge.methods.steps import Step
from expunge.training.ask import asked
from expunge.training.checkpoint import Checkpoints, State
from expunge.training.compiled import compiled_layers
from expunge.training.config import TrainArgs
from expunge.training.course import AfterStep, Diverged, Logged, Place, Progress, Run, Trained
from expunge.training.evaluate import Watch, is_due
from expunge.training.meter import Meter, work_of
from expunge.training.phases import Phase, plan_phases
from expunge.training.randomness import random_state, set_random_state
from expunge.training.reference import Reference, reference
from expunge.training.serve import SIDES, Sample, Server
from expunge.training.shares import Micro, Share, check_several, gather_whole, in_one_forward, per_process, share_of
from expunge.training.step import Stepper
from expunge.training.trainable import set_trainable

log = logging.getLogger(__name__)


def train(
    model: Any,
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    args: TrainArgs,
    *,
    pad_id: int,
    references: Mapping[str, Reference] | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    checkpoints: Path | None = None,
    logged: Logged | None = None,
    after_step: AfterStep | None = None,
) -> Trained:
    """Train `model` in place on encoded rows of the sides "forget" and "retain".

    `rows["alternate"]`, for methods that read it, lists the same number of other answers for each forget row in turn.
    references: what is known already of the model before unlearning, by side, and of a teacher, by `<side>_teacher`.
    What is missing is asked of `model` before its first step, with the same bits; a teacher's must be given.
    With `args.lora` the model is given wrapped (`training.lora.with_lora`). Raises JobError when the loss is no longer
    finite or passes `args.loss_limit`, ConfigError for a step or a mask that does not fit.

    watch: evaluates the model on the way, and may stop the run; training goes on as if it were not there. checkpoints:
    a folder of this run alone; what an unfinished run has left there is gone on from, to the same bits on the same
    machine. SIGINT and SIGTERM then end the run after the present step, by KeyboardInterrupt. logged: is given each
    line of the log as it is made, and its speed. after_step: is called after each step and its evaluation, and may end
    the run.
    """
    phases = plan_phases(objective, rows, args)
    patterns = args.trainable_params_regex or _own_patterns(objective, args)
    if args.trainable_last_k_layers or patterns:
        set_trainable(model, last_k_layers=args.trainable_last_k_layers, params_regex=patterns)
    asked_of = _references(model, objective, rows, [p.samples for p in phases], args, pad_id, references or {})
    meter = Meter(work_of(model, args.peak_tflops, half=args.bf16 or args.fp16))
    run = Run(model, len(phases), watch, progress, meter, logged, after_step=after_step)
    if checkpoints is not None and args.checkpoint is not None and ranks.sharded():
        log.warning("no checkpoints are written of a model in shards: a run that is broken off begins anew")
    elif checkpoints is not None and args.checkpoint is not None:
        run.checkpoints = Checkpoints(checkpoints, args.checkpoint)
        run.found = run.checkpoints.load(run.fits, run.device)
    place = Place(n_phases=len(phases), steps_after=sum(p.n_steps for p in phases))
    done_before = run.begin()

    head_chunk = 0 if ranks.sharded() else args.head_chunk  # outside of a forward the head's weights are in shards

    def serve(needs: Needs) -> Server:
        return Server(needs, rows, asked_of, pad_id=pad_id, head_chunk=head_chunk, reading=meter.read)

    compiled = compiled_layers(model) if args.compile else nullcontext()
    with (
        compiled,
        tempfile.TemporaryDirectory() as scratch,
        run.checkpoints.stoppable() if run.checkpoints else nullcontext(),
    ):
        for phase in phases:
            place = place.enter(phase)
            if place.number < done_before.number:
                continue
            place = dataclasses.replace(place, steps_before=max(place.steps_before, done_before.steps_before))
            found = run.found if run.found and place.number == done_before.number else None
            trainer = _Loop(
                model=model,
                args=_training_arguments(phase, place.seed(args.seed), scratch, model),
                train_dataset=share_of(phase.samples[found["n_read"] if found else 0 :], phase.args, ranks.here()),
                data_collator=_as_batch,
            )
            trainer.prepare(phase, serve(phase.objective.needs), place, run)
            if phase.step is not None:
                trainer.wrap(phase.step, serve)
            trainer.go_on_from(found)
            trainer.add_callback(_Course(trainer))
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
            run.history += trainer.history
            place = place.leave(int(trainer.state.global_step))
            run.leave(place)
            if run.stopped:
                break
            if place.number < place.n_phases:
                trainer.let_go()
    model.eval()
    selected = watch.end(model) if watch else {}
    if ranks.sharded():
        gather_whole(trainer.accelerator, trainer.model_wrapped, model)
    n_steps = max(place.steps_before, done_before.steps_before)
    points = watch.points if watch else []
    return Trained(n_steps, run.history, points, selected, run.resumed_at, meter.facts(), meter.lines)


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
    samples: Sequence[Sequence[Sample]],
    args: TrainArgs,
    pad_id: int,
    given: Mapping[str, Reference],
) -> dict[str, Reference]:
    """The given references, and what is missing of the model before unlearning."""
    out = dict(given)
    for side in SIDES:
        what = asked(objective.needs, side, ref=True)
        if what is not None and side not in out:
            wanted = [i for of in samples for s in of for i in s.numbers(side)]
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
        per_device_train_batch_size=1,  # of micro-batches
        gradient_accumulation_steps=per_process(args, ranks.here()),
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


def _as_batch(micros: Sequence[Micro]) -> dict[str, Any]:
    return {"samples": micros[0].samples, "weight": micros[0].weight}


class _Loop(transformers.Trainer):
    """The Trainer of one phase, with the method's loss in place of the model's own."""

    objective: Objective
    server: Server
    history: list[dict[str, float]]

    def prepare(self, phase: Phase, server: Server, place: Place, run: Run) -> None:
        """Bind the loss. Losses are means over a micro-batch, so the Trainer divides by the accumulation steps."""
        self.model_accepts_loss_kwargs = False
        sharded = not str(self.accelerator.distributed_type.value).startswith(("NO", "MULTI_"))
        if self.accelerator.num_processes != ranks.here().world:
            raise JobError("several processes train together only where accelerate launch or torchrun has started them")
        check_several(phase.objective, phase.step is not None, ranks.here(), sharded=sharded)
        self.objective, self.server, self.limit = phase.objective, server, phase.args.loss_limit
        self.epoch_share, self.epoch_rows, self.place = phase.args.rows_per_step, phase.n_epoch, place
        self.phase, self.run = phase, run
        self.history = []
        self.begun = 0
        self._found: State | None = None
        self._parts: dict[str, list[Tensor]] = {}
        self._stepper: Stepper | None = None

    def get_train_dataloader(self) -> Any:
        """This process's micro-batches as they are: accelerate would share them out once more."""
        return DataLoader(cast(Share, self.train_dataset), collate_fn=self.data_collator)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Under DDP the whole loss becomes the forward that it follows."""
        if not (training and str(self.accelerator.distributed_type.value).startswith("MULTI_")):
            return super()._wrap_model(model, training, dataloader)
        return in_one_forward(self.accelerator.prepare_model(model, evaluation_mode=True))

    def wrap(self, step: Step, serve: Callable[[Needs], Server]) -> None:
        """Let a step make the gradients."""
        self._stepper = Stepper(step, self.objective, self.server, serve)

    def go_on_from(self, found: State | None) -> None:
        """Begin where a checkpoint of this phase ended; the rest of it is put in place before the first step."""
        self._found = found
        self.begun = found["step"] if found else 0

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate's course over the whole phase, of which only the rest may be run."""
        return super().create_scheduler(num_training_steps + self.begun, optimizer)

    def restore(self) -> None:
        """Once everything has been made, and before the first step: what a checkpoint knows of this phase, if any."""
        found, self._found = self._found, None
        if found is None or self.begun == 0:
            return
        for part, key in zip(self._course, ("optimizer", "scheduler", "scaler"), strict=True):
            if part is not None:
                part.load_state_dict(found[key])
        self.server.memory.update(found["memory"])
        if self._stepper is not None:
            self._stepper.memory.update(found["step_memory"])
        own = found["each"][ranks.here().number]
        self.history, self._parts = list(found["phase_history"]), dict(own["parts"])
        set_random_state(own["random"])

    @property
    def _course(self) -> tuple[Any, Any, Any]:
        """Optimizer, scheduler, and the loss scaler, which only fp16 has."""
        return self.optimizer, self.lr_scheduler, self.accelerator.scaler

    def save(self) -> None:
        """Write a checkpoint between two steps."""
        step = int(self.state.global_step)
        optimizer, scheduler, scaler = self._course
        self.run.save(
            self.place,
            step=step,
            n_read=step * self.epoch_share,
            optimizer=optimizer.state_dict(),
            scheduler=scheduler.state_dict(),
            scaler=None if scaler is None else scaler.state_dict(),
            memory=self.server.memory,
            step_memory={} if self._stepper is None else self._stepper.memory,
            phase_history=self.history,
            own={"parts": self._parts, "random": random_state()},
        )

    def evaluate_if_due(self) -> bool:
        """Evaluate after this step if its time has come; whether the run should stop."""
        watch, step = self.run.watch, int(self.state.global_step)
        if watch is None:
            return False
        rows = self.epoch_share
        n_samples, n_epoch = len(self.phase.samples), self.epoch_rows
        before = self.place.steps_before
        last = self.place.number == self.place.n_phases and step >= self.state.max_steps
        due = is_due(
            watch.args, step, before=before, rows=rows, n_epoch=n_epoch, n_samples=n_samples,
            finegrained=self.phase.args.finegrained_log_iters,
        )  # fmt: skip
        if not (due or last):
            return False
        epoch = min(step * rows, n_samples) / n_epoch
        return watch.evaluate(self.model, step=before + step, epoch=epoch, phase=self.place.number)

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
        noted: list[Terms] = []

        def loss(inner: Any) -> Tensor:
            noted.append(self._terms(inner, self.objective, self.server, inputs["samples"]))
            return noted[0].total

        total = model(loss) if isinstance(model, DistributedDataParallel) else loss(model)
        weight = inputs["weight"]
        self._note(noted[0], counts=bool(weight))
        total = total if weight == 1 else total * weight
        return (total, None) if return_outputs else total

    def _terms(self, model: Any, objective: Objective, server: Server, samples: Sequence[Sample]) -> Terms:
        """The terms of one micro-batch. Raises JobError, in every process, unless each has a total that is finite and
        within the limit."""
        self.server.memory["epoch"] = self.state.global_step * self.epoch_share // self.epoch_rows
        terms = objective(server.view(model, samples, device=self.args.device))
        found = ranks.values(float(terms.total.detach()))
        value = next((v for v in found if not abs(v) <= self.limit), found[0])
        if not math.isfinite(value) or abs(value) > self.limit:
            said = "is not a finite number" if not math.isfinite(value) else f"passed the limit of {self.limit:g}"
            done, total = self.place.steps(self.state)
            phase = f" (phase {self.place.number} of {self.place.n_phases})" if self.place.n_phases > 1 else ""
            raise Diverged(
                f"{objective.spec.name}: the loss {said} ({value:g}) at step {done + 1} of {total}{phase}; lower the "
                "learning rate, or stop earlier"
            )
        return terms

    def _note(self, terms: Terms, *, counts: bool = True) -> None:
        """Keep a micro-batch's loss and its terms for the log; of one that does not count, that there was a step."""
        for name, part in {**terms.parts, "loss": terms.total}.items():
            self._parts.setdefault(name, []).extend([part.detach()] if counts else [])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the means of the loss and its terms since the last log."""
        if self._parts:
            means = _means(self._parts)
            done, _ = self.place.steps(self.state)
            step: dict[str, float] = {"step": float(done), "phase": float(self.place.number), **means}
            for key in ("learning_rate", "grad_norm"):
                if key in logs:
                    step[key] = float(logs[key])
            self.history.append(step)
            self._parts.clear()
            speed = self.run.meter.line(int(done))
            if self.run.logged is not None:
                self.run.logged({**step, **speed})

    def let_go(self) -> None:
        """Give back the optimiser's memory before another phase begins: a Trainer is part of a cycle, and lingers."""
        if self.optimizer is not None:
            self.optimizer.state.clear()


def _means(parts: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """The mean of each term over the micro-batches of all processes."""
    if ranks.here().alone:
        return {k: float(torch.stack(list(v)).double().mean()) for k, v in parts.items()}
    sums = {k: [float(torch.stack(list(v)).double().sum()) if v else 0.0, len(v)] for k, v in parts.items()}
    each = [json.loads(said) for said in ranks.gather(json.dumps(sums).encode())]
    return {k: sum(of[k][0] for of in each) / sum(of[k][1] for of in each) for k in each[0]}


class _Course(TrainerCallback):
    """What happens between the steps of a phase: the beginning of a resumed one, checkpoints, evaluations, progress."""

    def __init__(self, trainer: _Loop) -> None:
        self._trainer, self._run = trainer, trainer.run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the steps that an earlier attempt has done."""
        state.global_step += self._trainer.begun
        state.max_steps += self._trainer.begun
        self._run.meter.go()
        if self._trainer.begun:
            self._tell(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Here a step is done, logged and evaluated, and nothing of the next has begun."""
        self._trainer.restore()
        if self._run.checkpoint_due(self._trainer.place.steps_before + state.global_step):
            self._run.meter.rest()
            self._trainer.save()
            if self._run.checkpoints is not None and self._run.checkpoints.stopping:
                raise KeyboardInterrupt
            self._run.meter.go()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the caller how far the run is, and evaluate."""
        self._tell(state)
        if self._trainer.place.steps(state)[0] <= self._trainer.phase.args.finegrained_log_iters:
            control.should_log = True
        self._run.meter.rest()
        stop = self._trainer.evaluate_if_due()
        if self._run.after_step is not None:
            stop = self._run.after_step() or stop
        if stop:
            self._run.stopped = control.should_training_stop = True
        self._run.meter.go()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last line of the log has been written."""
        self._run.meter.rest()

    def _tell(self, state: Any) -> None:
        if self._run.progress is not None:
            self._run.progress(*self._trainer.place.steps(state))
