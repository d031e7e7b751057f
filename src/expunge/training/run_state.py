"""Where a run stands: its log, its evaluations and checkpoints, and the place of a phase among the others."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from expunge.core import distributed
from expunge.core.errors import JobError
from expunge.training.callbacks import CallbackBridge
from expunge.training.checkpoint import Checkpoints, State, of_each, put_weights, trained_weights
from expunge.training.evaluation_callback import EvalCallback, EvalPoint
from expunge.training.fsdp import trained_on
from expunge.training.phases import Phase
from expunge.training.throughput import ThroughputMeter

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # step, steps
Logged = Callable[[Mapping[str, float | None]], None]  # a line of the log, with its speed
AfterStep = Callable[[], bool]  # called between two steps; whether the run should end here


class Diverged(JobError):
    """The loss is no longer finite, or passed its limit."""


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves besides the changed model: its number of steps, the logged losses, and its evaluations.

    selected: which step's model was kept and why, where there were evaluations. resumed_at: the step a checkpoint let
    this run begin after. speed, speed_lines: tokens per second and MFU (`training.throughput`), of this attempt and of
    its
    lines of the log.
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
    """What outlives the phases of a run: its log, its evaluations, its checkpoints and what was found of it."""

    model: Any
    n_phases: int
    watch: EvalCallback | None
    progress: Progress | None
    meter: ThroughputMeter
    logged: Logged | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    checkpoints: Checkpoints | None = None
    found: State | None = None
    after_step: AfterStep | None = None
    callbacks: CallbackBridge | None = None
    stopped: bool = False  # by patience, or by after_step
    resumed_at: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is trained."""
        return trained_on(self.model)

    @property
    def fits(self) -> dict[str, Any]:
        """What a checkpoint must share with this run beside its settings: the same numbers are drawn alike."""
        cut = {"shards": distributed.sharded()} if distributed.sharded() else {}
        return {"device": self.device.type, "processes": distributed.here().world, **cut}

    def begin(self) -> PhasePosition:
        """Take up what was found, or evaluate the model as it starts. Returns the place to begin at."""
        if self.found is None:
            if self.watch:
                self.watch.begin(self.model)
            return PhasePosition(self.n_phases)
        if not distributed.sharded():  # the shards are put in place once the model is cut
            put_weights(self.model, self.found["model"])
        self.history = list(self.found["history"])
        if self.watch:
            best = {"weights": self.found["best"]} if distributed.sharded() else {}
            self.watch.restore({**self.found["watch"], **best})
        self.resumed_at = self.found["steps_before"] + self.found["step"]
        log.info("going on after step %d", self.resumed_at)
        return PhasePosition(self.n_phases, number=self.found["phase"], steps_before=self.found["steps_before"])

    def checkpoint_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written: as the first process's clock says, or since any is to stop."""
        kept = self.checkpoints
        if kept is None:
            return False
        said = distributed.values(2.0 * kept.stopping + kept.due(step))
        kept.stopping = max(said) >= 2
        return kept.stopping or said[0] == 1

    def save(self, place: PhasePosition, *, step: int = 0, own: State | None = None, **of_phase: Any) -> None:
        """Write a checkpoint after so many steps of a phase (0: the phase is yet to begin). own: of this process."""
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
        """At the end of a phase: stop here if a signal came in its last step."""
        self.checkpoint_due(place.steps_before)  # all stop where one does
        if self.checkpoints is not None and self.checkpoints.stopping:
            number = self.n_phases if self.stopped else place.number
            if distributed.sharded() and number == self.n_phases:
                raise KeyboardInterrupt  # nothing is left to be trained, and so to be cut in shards: go on from before
            self.save(dataclasses.replace(place, number=number + 1))
            raise KeyboardInterrupt


@dataclass(frozen=True)
class PhasePosition:
    """Where a phase stands in its run: its number from 1, the steps that came before it and those that come after."""

    n_phases: int
    number: int = 0
    steps_before: int = 0
    steps_after: int = 0

    def enter(self, phase: Phase) -> PhasePosition:
        return dataclasses.replace(self, number=self.number + 1, steps_after=self.steps_after - phase.n_steps)

    def leave(self, steps: int) -> PhasePosition:
        return dataclasses.replace(self, steps_before=self.steps_before + steps)

    def seed(self, seed: int) -> int:
        """What dropout starts from: the run's seed, and one of its own for each later phase."""
        return seed if self.number == 1 else int(np.random.SeedSequence([seed, self.number]).generate_state(1)[0])

    def steps(self, state: Any) -> tuple[int, int]:
        """Steps done, and steps in all, of the whole run."""
        return self.steps_before + state.global_step, self.steps_before + state.max_steps + self.steps_after
