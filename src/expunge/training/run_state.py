"""The state of a run: its log, its evaluations and checkpoints, and the position of a phase among the others."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from expunge.core import distributed
from expunge.core.errors import JobError
from expunge.training.checkpoint import Checkpoints, State, of_each, put_weights, trained_weights
from expunge.training.phases import Phase
from expunge.training.throughput import ThroughputMeter

if TYPE_CHECKING:
    from expunge.training.callbacks import CallbackBridge
    from expunge.training.in_memory.evaluation_callback import EvalCallback
    from expunge.training.model_selection import EvalPoint

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # step, steps
Logged = Callable[[Mapping[str, float | None]], None]  # a line of the log, with its speed
AfterStep = Callable[[], bool]  # called between two steps; whether the run should end here


class Diverged(JobError):
    """The loss is not finite, or exceeds its limit."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a run besides the changed model: its number of steps, the logged losses, and its evaluations.

    selected: the step whose model is the result and the reason, if the run was evaluated. resumed_at: the step of the
    checkpoint that this run resumed from. speed, speed_lines: tokens per second and MFU (`training.throughput`) of this
    attempt, and of each line of its log.
    """

    n_steps: int
    history: list[dict[str, float]]
    trajectory: list[EvalPoint] = field(default_factory=list)
    selected: Mapping[str, Any] = field(default_factory=dict)
    resumed_at: int | None = None
    speed: Mapping[str, Any] = field(default_factory=dict, compare=False)
    speed_lines: list[dict[str, float | None]] = field(default_factory=list, compare=False)


@dataclass
class RunState:
    """The state that all phases of a run share: its log, its evaluations, its checkpoints.

    resume_state: the checkpoint to resume from, if an earlier attempt wrote one.
    """

    model: Any
    n_phases: int
    watch: EvalCallback | None
    progress: Progress | None
    meter: ThroughputMeter
    logged: Logged | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    checkpoints: Checkpoints | None = None
    resume_state: State | None = None
    after_step: AfterStep | None = None
    callbacks: CallbackBridge | None = None
    keep_model: Callable[[int], None] | None = None  # receives the step
    regulariser: Callable[[], torch.Tensor] | None = None  # a term of the weights alone, added to the loss
    stopped: bool = False  # by patience, or by after_step
    resumed_at: int | None = None

    @property
    def device(self) -> torch.device:
        """The device that the model is trained on."""
        return distributed.trained_on(self.model)

    @property
    def fits(self) -> dict[str, Any]:
        """The facts that a checkpoint must share with this run besides its settings, so that both compute the same."""
        cut = {"shards": distributed.sharded()} if distributed.sharded() else {}
        return {"device": self.device.type, "processes": distributed.here().world, **cut}

    def begin(self) -> PhasePosition:
        """Load the checkpoint's state, or evaluate the initial model. Return the position to begin at."""
        if self.resume_state is None:
            if self.watch:
                self.watch.begin(self.model)
            return PhasePosition(self.n_phases)
        if not distributed.sharded():  # shards are loaded once the model is divided
            put_weights(self.model, self.resume_state["model"])
        self.history = list(self.resume_state["history"])
        if self.watch:
            best = {"weights": self.resume_state["best"]} if distributed.sharded() else {}
            self.watch.restore({**self.resume_state["watch"], **best})
        self.resumed_at = self.resume_state["steps_before"] + self.resume_state["step"]
        log.info("going on after step %d", self.resumed_at)
        return PhasePosition(
            self.n_phases, number=self.resume_state["phase"], steps_before=self.resume_state["steps_before"]
        )

    def checkpoint_due(self, step: int) -> bool:
        """Return whether a checkpoint is due: by the first process's clock, or because a process received a signal."""
        checkpoints = self.checkpoints
        if checkpoints is None:
            return False
        flags = distributed.values(2.0 * checkpoints.stopping + checkpoints.due(step))
        checkpoints.stopping = max(flags) >= 2
        return checkpoints.stopping or flags[0] == 1

    def save(self, place: PhasePosition, *, step: int = 0, own: State | None = None, **of_phase: Any) -> None:
        """Write a checkpoint after `step` steps of a phase (0: it has not begun). own: the state of this process."""
        if self.checkpoints is None:
            return
        each = of_each(own or {}, self.device)
        watched = self.watch.state() if self.watch else {}
        state = {
            "fits": self.fits, "phase": place.number, "steps_before": place.steps_before, "step": step, "n_read": 0,
            "history": self.history, "watch": watched, "each": each, **of_phase,
        }  # fmt: skip
        done = place.steps_before + step
        if distributed.sharded():
            shard = {"model": trained_weights(self.model), "best": watched.pop("weights", {})}
            optimizer = {"optimizer": state.pop("optimizer")} if "optimizer" in state else {}
            self.checkpoints.save_shards(done, state, {**shard, **optimizer})
        elif distributed.here().first:
            self.checkpoints.save(done, {**state, "model": trained_weights(self.model)})

    def leave(self, place: PhasePosition) -> None:
        """Stop after a phase if a signal came in its last step.

        Raises:
            KeyboardInterrupt: Once the checkpoint is written.
        """
        self.checkpoint_due(place.steps_before)  # if one process stops, all stop
        if self.checkpoints is not None and self.checkpoints.stopping:
            number = self.n_phases if self.stopped else place.number
            if distributed.sharded() and number == self.n_phases:
                raise KeyboardInterrupt  # no phase would divide the model again: resume from the checkpoint before
            self.save(dataclasses.replace(place, number=number + 1))
            raise KeyboardInterrupt


@dataclass(frozen=True)
class PhasePosition:
    """The position of a phase in its run: its number from 1, the steps before it and the steps after it."""

    n_phases: int
    number: int = 0
    steps_before: int = 0
    steps_after: int = 0

    def enter(self, phase: Phase) -> PhasePosition:
        """Return the position of the next phase."""
        return dataclasses.replace(self, number=self.number + 1, steps_after=self.steps_after - phase.n_steps)

    def leave(self, steps: int) -> PhasePosition:
        """Return the position after a phase that ended after `steps` steps."""
        return dataclasses.replace(self, steps_before=self.steps_before + steps)

    def seed(self, seed: int) -> int:
        """Return the seed of dropout: the run's seed, and a derived one for each later phase."""
        return seed if self.number == 1 else int(np.random.SeedSequence([seed, self.number]).generate_state(1)[0])

    def steps(self, state: Any) -> tuple[int, int]:
        """Return (steps done, all steps) of the whole run."""
        return self.steps_before + state.global_step, self.steps_before + state.max_steps + self.steps_after
