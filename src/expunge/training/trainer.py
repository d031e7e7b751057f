"""The Trainer of one phase: the method's loss in place of the model's own, and the actions between its steps."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from expunge.core import distributed
from expunge.core.errors import ConfigError, JobError
from expunge.core.on_use import transformers
from expunge.methods.api import LossInputs, LossOutput, Requirements
from expunge.methods.objective import Objective
from expunge.methods.reduction import AnswerTokens
from expunge.models.dtypes import cpu_has_bfloat16
from expunge.training.batching import LossInputBuilder
from expunge.training.checkpoint import State, put_weights, random_state, set_random_state
from expunge.training.data_parallel import MicroBatch, RankBatches, check_several, in_one_forward, per_process
from expunge.training.evaluate_args import is_due
from expunge.training.optimizers import ON_CPU, STOCHASTIC, own_optimizer, refused_weights
from expunge.training.phases import Phase
from expunge.training.run_state import Diverged, PhasePosition, RunState

if TYPE_CHECKING:
    from expunge.methods.grad_transforms import GradTransform
    from expunge.training.step import Compute, GradTransformRunner

log = logging.getLogger(__name__)


def training_arguments(phase: Phase, seed: int, scratch: str, model: Any) -> transformers.TrainingArguments:
    """Return a phase's settings as TrainingArguments; saving, evaluation and reporting of transformers are off."""
    args = phase.args
    device = distributed.trained_on(model).type
    optim = args.optim
    if optim == STOCHASTIC or own_optimizer(optim):
        optim = "adamw_torch"  # transformers does not know the name; `optimizer_class` has the class
    if device == "cpu" and "lion" in optim:
        name = "bitsandbytes.optim.PagedLion" if optim.startswith("paged") else "bitsandbytes.optim.Lion"
        raise ConfigError(
            f"trainer.args.optim: {optim} needs a GPU; on a CPU use the class {name}{'8bit' * optim.endswith('8bit')}"
        )
    if device == "cpu" and optim not in ON_CPU:
        log.warning("optim=%s needs a GPU; adamw_torch, the same rule in 32 bits, is used on this CPU", optim)
        optim = "adamw_torch"
    bf16 = args.bf16 and (device != "cpu" or cpu_has_bfloat16())
    if bf16 and device == "cpu":
        from expunge.models.bfloat16_attention import compute_attention_in_float32

        compute_attention_in_float32(model)
    checkpointing = "activation_checkpointing"
    if not hasattr(transformers.TrainingArguments, checkpointing):
        checkpointing = "gradient_checkpointing"  # its name before transformers 5.23
    renamed: dict[str, Any] = {checkpointing: args.activation_checkpointing}
    return transformers.TrainingArguments(
        output_dir=scratch,
        num_train_epochs=1,  # the phase's samples contain every epoch
        train_sampling_strategy="sequential",
        per_device_train_batch_size=1,  # of micro-batches
        gradient_accumulation_steps=per_process(args, distributed.here()),
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        warmup_steps=args.warmup(phase.n_epoch),
        lr_scheduler_type=args.lr_scheduler_type,
        max_grad_norm=args.max_grad_norm,
        optim=optim,
        adam_beta1=args.adam_beta1,
        adam_beta2=args.adam_beta2,
        adam_epsilon=args.adam_epsilon,
        bf16=bf16,
        fp16=args.fp16,
        **renamed,
        seed=seed,
        use_cpu=device == "cpu",
        logging_steps=args.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device == "cuda",
        label_names=[],
    )


def as_batch(micros: Sequence[MicroBatch]) -> dict[str, Any]:
    """Return the fields of the only micro-batch, as the Trainer passes them to `compute_loss`."""
    return dict(vars(micros[0]))


class PhaseTrainer(transformers.Trainer):
    """The Trainer of one phase, with the method's loss in place of the model's own."""

    objective: Objective
    server: LossInputBuilder
    history: list[dict[str, float]]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the optimizer. Raises ConfigError if a class does not accept the model's weights."""
        with refused_weights(self.phase.args):
            return super().create_optimizer(*args, **kwargs)

    def prepare(self, phase: Phase, server: LossInputBuilder, place: PhasePosition, run: RunState) -> None:
        """Bind the loss.

        The shares of its terms are relative to the mean over a step's micro-batches, so the Trainer divides by the
        accumulation steps.
        """
        self.model_accepts_loss_kwargs = False
        sharded = not str(self.accelerator.distributed_type.value).startswith(("NO", "MULTI_"))
        if self.accelerator.num_processes != distributed.here().world:
            raise JobError("several processes train together only under accelerate launch or torchrun; start them so")
        check_several(phase.objective, phase.step is not None, distributed.here(), sharded=sharded)
        if distributed.sharded() == "fsdp":
            from expunge.training.fsdp import cut_before

            cut_before(self.accelerator, run.model)
        self.objective, self.server, self.limit = phase.objective, server, phase.args.max_loss
        self.epoch_share, self.epoch_rows, self.place = phase.args.rows_per_step, phase.n_epoch, place
        self.phase, self.run = phase, run
        self.history = []
        self.begun = 0
        self._resume: State | None = None
        self._parts: dict[str, list[Tensor]] = {}
        self._totals: dict[str, list[Tensor]] = {}  # losses of this step's micro-batches, on the device
        self._step_tokens: dict[int, AnswerTokens] = {}  # of this step's rows, by the id of their server
        self._waiting: list[Mapping[str, Any]] = []  # micro-batches of this step for a gradient transform
        self._stepper: GradTransformRunner | None = None

    def create_accelerator_and_postprocess(self) -> None:
        """Allow models in shards on CPUs as well."""
        super().create_accelerator_and_postprocess()
        if distributed.sharded() == "fsdp":
            from expunge.training.fsdp import shard_anywhere

            self.is_fsdp_enabled = shard_anywhere(self.accelerator)

    def get_train_dataloader(self) -> Any:
        """Return this process's micro-batches unchanged, because accelerate would divide them once more."""
        return DataLoader(cast(RankBatches, self.train_dataset), collate_fn=self.data_collator)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Make the whole loss the forward of DDP's wrapper; wrap as transformers does otherwise."""
        if not (training and str(self.accelerator.distributed_type.value).startswith("MULTI_")):
            return super()._wrap_model(model, training, dataloader)
        return in_one_forward(self.accelerator.prepare_model(model, evaluation_mode=True))

    def wrap(self, step: GradTransform, serve: Callable[[Requirements], LossInputBuilder]) -> None:
        """Let a gradient transform compute the gradients."""
        from expunge.training.step import GradTransformRunner

        self._stepper = GradTransformRunner(step, self.objective, self.server, serve)

    def resume_from(self, state: State | None) -> None:
        """Begin after the step of a checkpoint of this phase; `restore` loads the rest before the first step."""
        self._resume = state
        self.begun = state["step"] if state else 0

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the learning-rate schedule of the whole phase, also if the run resumes within it."""
        return super().create_scheduler(num_training_steps + self.begun, optimizer)

    def restore(self) -> None:
        """Load the state of this phase from a checkpoint, if there is one; call it just before the first step."""
        state, self._resume = self._resume, None
        if state is None:
            return
        if distributed.sharded():
            put_weights(self.model, state["model"])
        if self.begun == 0:
            return
        optimizer, scheduler, scaler = self._course
        state_of_optimizer = state["optimizer"]
        if distributed.sharded():
            from expunge.training.fsdp import in_shards

            state_of_optimizer = in_shards(state_of_optimizer, optimizer)
        optimizer.load_state_dict(state_of_optimizer)
        scheduler.load_state_dict(state["scheduler"])
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        self.server.memory.update(state["memory"])
        if self._stepper is not None:
            self._stepper.memory.update(state["step_memory"])
        own = state["each"][distributed.here().number]
        self.history, self._parts = list(state["phase_history"]), dict(own["parts"])
        set_random_state(own["random"])

    @property
    def _course(self) -> tuple[Any, Any, Any]:
        """Optimizer, scheduler, and the loss scaler, which is None without fp16."""
        return self.optimizer, self.lr_scheduler, self.accelerator.scaler

    def save(self) -> None:
        """Write a checkpoint between two steps."""
        step = int(self.state.global_step)
        optimizer, scheduler, scaler = self._course
        state_of_optimizer = optimizer.state_dict()
        if distributed.sharded():
            from expunge.training.fsdp import own_shards

            state_of_optimizer = own_shards(state_of_optimizer)
        self.run.save(
            self.place,
            step=step,
            n_read=step * self.epoch_share,
            optimizer=state_of_optimizer,
            scheduler=scheduler.state_dict(),
            scaler=None if scaler is None else scaler.state_dict(),
            memory=self.server.memory,
            step_memory={} if self._stepper is None else self._stepper.memory,
            phase_history=self.history,
            own={"parts": self._parts, "random": random_state()},
        )

    def evaluate_if_due(self) -> bool:
        """Evaluate after this step if it is due. Return whether the run should stop."""
        watch, step = self.run.watch, int(self.state.global_step)
        if watch is None:
            return False
        rows = self.epoch_share
        n_samples, n_epoch = len(self.phase.samples), self.epoch_rows
        before = self.place.steps_before
        last = self.place.number == self.place.n_phases and step >= self.state.max_steps
        due = is_due(
            watch.args, step, before=before, rows=rows, n_epoch=n_epoch, n_samples=n_samples,
            finegrained=self.phase.args.dense_logging_steps,
        )  # fmt: skip
        if not (due or last):
            return False
        epoch = min(step * rows, n_samples) / n_epoch
        return watch.evaluate(self.model, step=before + step, epoch=epoch, phase=self.place.number)

    def save_if_due(self) -> None:
        """Keep the model of this step if it is due by `save_strategy`. The last model is saved anyway."""
        keep, step, before = self.run.keep_model, int(self.state.global_step), self.place.steps_before
        if keep is not None and is_due(
            self.phase.args.saves, step, before=before, rows=self.epoch_share, n_epoch=self.epoch_rows,
            n_samples=len(self.phase.samples),
        ):  # fmt: skip
            keep(before + step)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Run one micro-batch: the Trainer's own forward and backward, or the gradient transform's."""
        if self._stepper is None:
            plain: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return plain
        model.train()
        self._waiting.append(inputs)
        whole = self._stepper.whole_step and self.phase.args.accumulation == "whole_step"
        if whole and not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)

        def of(waiting: Mapping[str, Any]) -> Compute:
            def compute(objective: Objective, server: LossInputBuilder) -> LossOutput:
                with self.compute_loss_context_manager():
                    return self._trainable(objective, objective(*self._loss_inputs(model, objective, server, waiting)))

            return compute

        share = len(self._waiting) / self.current_gradient_accumulation_steps
        terms = self._stepper(model, [of(waiting) for waiting in self._waiting], share=share)
        self._waiting.clear()
        for which, value in terms.totals.items():
            self._totals.setdefault(which, []).append(value)
        self._note(terms)
        return terms.total * share

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the objective of one micro-batch."""
        if isinstance(model, DistributedDataParallel):
            noted: list[LossOutput] = []

            def loss(inner: Any) -> Tensor:
                read = self._loss_inputs(inner, self.objective, self.server, inputs)
                noted.append(self._regularised(self.objective(*read)))
                return noted[0].total

            total, terms = model(loss), noted[0]
        else:
            read = self._loss_inputs(model, self.objective, self.server, inputs)
            terms = self._regularised(self.objective(*read))
            total = terms.total
        self._trainable(self.objective, terms)
        weight = inputs["weight"]
        self._totals.setdefault("total", []).append(terms.total.detach())
        self._note(terms, counts=bool(weight))
        total = total if weight == 1 else total * weight
        return (total, None) if return_outputs else total

    def _regularised(self, terms: LossOutput) -> LossOutput:
        """Return the objective of one micro-batch with the run's regulariser, if there is one, as a term."""
        if self.run.regulariser is None:
            return terms
        extra = self.run.regulariser()
        return LossOutput(terms.total + extra, {**terms.parts, "regulariser": extra})

    def _loss_inputs(
        self, model: Any, objective: Objective, server: LossInputBuilder, inputs: Mapping[str, Any]
    ) -> tuple[LossInputs, dict[str, float] | None]:
        """Return the inputs of the loss of one micro-batch, and the share of each term in its step."""
        samples, step = inputs["samples"], inputs.get("step", ())
        server.memory["progress"] = self.state.global_step / max(self.state.max_steps, 1)
        server.memory["epoch"] = self.state.global_step * self.epoch_share // self.epoch_rows
        server.memory["micro_batch"] = (len(self._totals.get("total", ())), inputs["n_micro"]) if len(step) else (0, 1)
        shares = None
        if inputs.get("n_micro", 1) > 1 and len(step):
            own = server.answer_tokens(samples)
            if id(server) not in self._step_tokens:
                self._step_tokens[id(server)] = server.answer_tokens(step)
            all_of_step = self._step_tokens[id(server)]
            shares = {k: m.share(own, all_of_step, inputs["n_micro"]) for k, m in objective.means.items()}
        view = server.view(model, samples, device=self.args.device, step=self.place.steps(self.state)[0])
        if view.rewards_B is not None:
            self._parts.setdefault("reward", []).append(view.rewards_B.mean())
        return view, shares

    @staticmethod
    def _trainable(objective: Objective, terms: LossOutput) -> LossOutput:
        """Return the terms of a loss. Raises ConfigError if it depends on no trained parameter.

        Reads nothing back from the device: `check_loss` does that once per optimiser step.
        """
        if not terms.total.requires_grad:
            raise ConfigError(
                f"trainer.args: {objective.spec.name}'s loss depends on none of the parameters that are trained; "
                "choose others by trainable_last_k_layers, trainable_params_regex or lora.target_modules. In Python, "
                "unfreeze a frozen model by requires_grad_(True), or load its adapters with is_trainable=True"
            )
        if "forget" in terms.parts and not terms.parts["forget"].requires_grad:
            raise ConfigError(
                f"method {objective.spec.name}: forget_loss returned a number without a gradient, so nothing would be "
                "forgotten; compute it from the tensors of the view, without detach"
            )
        return terms

    def check_loss(self) -> None:
        """Read the mean loss of the step's micro-batches from the device, before the weights change.

        Raises Diverged in every process unless the loss of each process is finite and within the limit. A gradient
        transform checks each term that it requests.
        """
        means = torch.stack([torch.stack(values).float().mean() for values in self._totals.values()]).cpu().tolist()
        self._totals.clear()
        self._step_tokens.clear()
        worst = distributed.values(next((v for v in means if not abs(v) <= self.limit), means[0]))
        value = next((v for v in worst if not abs(v) <= self.limit), worst[0])
        if math.isfinite(value) and abs(value) <= self.limit:
            return
        problem = "is not a finite number" if not math.isfinite(value) else f"passed the limit of {self.limit:g}"
        done, total = self.place.steps(self.state)
        phase = f" (phase {self.place.number} of {self.place.n_phases})" if self.place.n_phases > 1 else ""
        raise Diverged(
            f"{self.objective.spec.name}: the loss {problem} ({value:g}) at step {done + 1} of {total}{phase}; lower "
            "the learning rate, or stop earlier"
        )

    def _note(self, terms: LossOutput, *, counts: bool = True) -> None:
        """Store a micro-batch's loss and its terms for the log, unless it only fills a gap (`counts`)."""
        for name, part in {**terms.parts, "loss": terms.total}.items():
            self._parts.setdefault(name, []).extend([part.detach()] if counts else [])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add a line with the means of the loss and its terms since the last log."""
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
        """Free the optimiser's memory before another phase begins, because a Trainer is part of a reference cycle."""
        if self.optimizer is not None:
            self.optimizer.state.clear()


def _means(parts: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Return the mean of each term over the micro-batches of all processes."""
    read = {k: torch.stack(list(v)).cpu().double() if v else torch.zeros(0).double() for k, v in parts.items()}
    if distributed.here().alone:
        return {k: float(values.mean()) for k, values in read.items()}
    sums = {k: [float(values.sum()), len(values)] for k, values in read.items()}
    each = [json.loads(record) for record in distributed.gather(json.dumps(sums).encode())]
    return {k: sum(of[k][0] for of in each) / sum(of[k][1] for of in each) for k in each[0]}


class StepCallback(transformers.TrainerCallback):
    """The actions between the steps of a phase: resuming, checkpoints, evaluations, progress."""

    def __init__(self, trainer: PhaseTrainer) -> None:
        self._trainer, self._run = trainer, trainer.run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the steps of an earlier attempt."""
        state.global_step += self._trainer.begun
        state.max_steps += self._trainer.begun
        self._run.meter.go()
        if self._trainer.begun:
            self._tell(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore or write a checkpoint: the last step is complete and evaluated, and the next has not begun."""
        self._trainer.restore()
        if self._run.checkpoint_due(self._trainer.place.steps_before + state.global_step):
            self._run.meter.rest()
            self._trainer.save()
            if self._run.checkpoints is not None and self._run.checkpoints.stopping:
                raise KeyboardInterrupt
            self._run.meter.go()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the loss: the gradients of the step are complete, and the weights have not changed yet."""
        self._trainer.check_loss()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the progress to the caller, and evaluate if it is due."""
        self._tell(state)
        if self._trainer.place.steps(state)[0] <= self._trainer.phase.args.dense_logging_steps:
            control.should_log = True
        self._run.meter.rest()
        stop = self._trainer.evaluate_if_due()
        self._trainer.save_if_due()
        if self._run.after_step is not None:
            stop = self._run.after_step() or stop
        if stop:
            self._run.stopped = control.should_training_stop = True
        self._run.meter.go()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the meter; the last line of the log is written."""
        self._run.meter.rest()

    def _tell(self, state: Any) -> None:
        if self._run.progress is not None:
            self._run.progress(*self._trainer.place.steps(state))
