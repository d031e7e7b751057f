"""Passes the events of a run to transformers' callbacks, as if all of its phases were one training.

A run may have several phases, each with a Trainer of its own. Callbacks see one `on_train_begin`, one `on_train_end`,
and a state that counts the steps and epochs of the whole run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError, nearest
from expunge.core.on_use import transformers

if TYPE_CHECKING:
    from expunge.training.trainer import PhaseTrainer

log = logging.getLogger(__name__)
FORWARDED = (
    "on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_substep_end", "on_step_end",
)  # fmt: skip


class CallbackBridge:
    """The callbacks of one run, its state and its control.

    An exception in a display (a progress bar, a printer, an integration) is logged, and that callback is removed. A
    broken display does not end a training. An exception in any other callback ends the run.
    """

    def __init__(
        self,
        callbacks: Sequence[transformers.TrainerCallback | type[transformers.TrainerCallback]],
        *,
        args: Any,
        model: Any,
        processing_class: Any,
    ) -> None:
        flow = transformers.DefaultFlowCallback  # the phases' own Trainers have one; here it silences a warning
        self.handler = transformers.trainer_callback.CallbackHandler([flow], model, processing_class, None, None)
        self.handler.pop_callback(flow)
        for one in callbacks:
            self.handler.add_callback(one)
        self.state, self.control, self.args = transformers.TrainerState(), transformers.TrainerControl(), args
        self._begun = False
        self._epoch = self._phase = 0
        self._epochs_before = 0.0
        self.epoch_ended = False  # whether the last step ended an epoch

    def call(self, event: str, **extra: Any) -> None:
        """Send one event to every callback."""
        handler = self.handler
        for one in list(handler.callbacks):
            try:
                result = getattr(one, event)(
                    self.args, self.state, self.control, model=handler.model,
                    processing_class=handler.processing_class, optimizer=handler.optimizer,
                    lr_scheduler=handler.lr_scheduler, train_dataloader=handler.train_dataloader,
                    eval_dataloader=handler.eval_dataloader, **extra,
                )  # fmt: skip
            except Exception as error:
                if not _is_display(one):
                    raise
                log.warning(
                    "%s.%s failed (%s: %s); the callback is removed, and training continues",
                    type(one).__name__, event, type(error).__name__, error,
                )  # fmt: skip
                handler.callbacks.remove(one)
                continue
            if result is not None:
                self.control = result

    def begin(self, args: Any, *, max_steps: int, num_train_epochs: int) -> None:
        """Start a run: a new state, and `on_train_begin`."""
        self.args = args
        logged = self.state.log_history  # an evaluation before the run stays in the log
        self.state = transformers.TrainerState(
            max_steps=max_steps, num_train_epochs=num_train_epochs, epoch=0.0, train_batch_size=args.train_batch_size
        )  # fmt: skip
        self.state.compute_steps(args, max_steps)
        self.state.log_history = logged
        self.control = transformers.TrainerControl()
        self._begun, self._epoch, self._phase, self._epochs_before = True, 0, 0, 0.0
        self.call("on_train_begin")
        self.call("on_epoch_begin")

    def end(self) -> None:
        """End the run: `on_epoch_end` if an epoch has begun, and `on_train_end`."""
        if self._begun:
            self._begun = False
            if (self.state.epoch or 0) > self._epoch:
                self.call("on_epoch_end")
            self.call("on_train_end")

    def logged(self, line: Mapping[str, float | None]) -> None:
        """Add a line to `state.log_history` and send `on_log`."""
        logs = {name: value for name, value in line.items() if name not in ("step", "phase") and value is not None}
        if self.state.epoch is not None:
            logs["epoch"] = round(self.state.epoch, 6)
        self.state.log_history.append({**logs, "step": int(line.get("step") or self.state.global_step)})
        self.call("on_log", logs=logs)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Add an evaluation to `state.log_history` and send `on_log` and `on_evaluate`, as transformers does."""
        self.logged({**metrics, "step": float(self.state.global_step)})
        self.call("on_evaluate", metrics=dict(metrics))
        self._keep_best(metrics)

    def _keep_best(self, metrics: Mapping[str, float]) -> None:
        """Set `state.best_metric` after an evaluation, as transformers does; EarlyStoppingCallback compares with it."""
        name = getattr(self.args, "metric_for_best_model", None)
        if name is None:
            return
        key = name if name.startswith("eval_") else f"eval_{name}"
        if key not in metrics:
            raise ConfigError(f"metric_for_best_model: the evaluation has no metric {key!r}{nearest(key, metrics)}")
        best, value = self.state.best_metric, metrics[key]
        if best is None or (value > best if self.args.greater_is_better else value < best):
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step

    def of_phase(self, trainer: PhaseTrainer) -> transformers.TrainerCallback:
        """Return the callback of one phase that passes its events on."""
        return _PhaseEvents(self, trainer)

    def passed(self, event: str, trainer: PhaseTrainer, state: Any, kwargs: Mapping[str, Any]) -> None:
        """Send an event of a phase, with the run's state."""
        handler = self.handler
        for name in ("optimizer", "lr_scheduler", "train_dataloader"):
            setattr(handler, name, kwargs.get(name))
        self.state.global_step = int(trainer.place.steps(state)[0])
        if trainer.place.number != self._phase:
            self._phase, self._epochs_before = trainer.place.number, float(self.state.epoch or 0.0)
        done = min(int(state.global_step) * trainer.epoch_share, len(trainer.phase.samples))
        self.state.epoch = self._epochs_before + done / trainer.epoch_rows
        self.call(event)
        if event == "on_step_end":
            self._count_epochs()

    def _count_epochs(self) -> None:
        epoch = int((self.state.epoch or 0) + 1e-9)
        self.epoch_ended = epoch > self._epoch
        if self.epoch_ended:
            self._epoch = epoch
            self.call("on_epoch_end")
            if self.state.global_step < self.state.max_steps:
                self.call("on_epoch_begin")


def _is_display(callback: transformers.TrainerCallback) -> bool:
    """Return whether a callback only shows or reports a run."""
    own = type(callback).__module__.startswith(("transformers.integrations", "transformers.utils.notebook"))
    return own or isinstance(callback, transformers.ProgressCallback | transformers.PrinterCallback)


class _PhaseEvents(transformers.TrainerCallback):
    """Receives the events of one phase's Trainer."""

    def __init__(self, bridge: CallbackBridge, trainer: PhaseTrainer) -> None:
        self._bridge, self._trainer = bridge, trainer


def _forward(event: str) -> Any:
    """Return a method of `_PhaseEvents` that sends one event to the bridge."""

    def pass_on(self: _PhaseEvents, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bridge.passed(event, self._trainer, state, kwargs)

    return pass_on


for _name in FORWARDED:
    setattr(_PhaseEvents, _name, _forward(_name))
