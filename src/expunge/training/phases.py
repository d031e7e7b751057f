"""A run as phases, planned before the first step from the seed and the rows alone.

A phase is an objective, its samples and its own course: the optimiser, the learning rate and what a method or a step
remembers begin anew. Weights go on from phase to phase, and the reference is always the model before the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from expunge.core.errors import ConfigError, JobError
from expunge.data.pairing import Pairing, Rows, alternating, choices, group_by_length, in_chunks, pair, pass_ends
from expunge.data.template import Encoded, row_lengths
from expunge.methods.grad_transforms import GradTransform, make_grad_transform, spec_of
from expunge.methods.objective import Objective
from expunge.training.batching import SIDES, TrainingSample
from expunge.training.config import TrainArgs
from expunge.training.schedule import Schedule
from expunge.training.step import check_grad_transform, forget_part, retain_part


@dataclass(frozen=True)
class Phase:
    """What one Trainer does. args: the phase's own epochs. n_epoch: samples of one pass."""

    objective: Objective
    samples: Sequence[TrainingSample]
    args: TrainArgs
    n_epoch: int
    step: GradTransform | None = None

    @property
    def n_steps(self) -> int:
        """Optimiser steps on one device."""
        return self.args.n_steps(self.n_epoch)


def draws(args: TrainArgs, *, n_forget: int | None, n_retain: int | None) -> list[tuple[Pairing, TrainArgs]]:
    """The rows of each phase, and the phase's own settings; None rows: a side takes no part (`check_run` says where it
    must)."""
    plan = args.schedule
    own = dataclasses.replace(args, schedule=Schedule())
    if plan.kind == "interleaved" or n_forget is None:
        # the anchor is the asked side, or the only one there is
        by_retain = n_forget is None or (n_retain is not None and args.anchor == "retain")
        n_epoch = -(-(n_retain or 0) // plan.retain_ratio) if by_retain else n_forget or 0
        total = own.n_samples(n_epoch)
        made = pair(
            n_forget=n_forget, n_retain=n_retain, n_samples=total, seed=args.seed, ratio=plan.retain_ratio,
            n_epoch=n_epoch, batch=args.per_device_train_batch_size,
        )  # fmt: skip
        return [(made, own)]
    size = plan.chunk_size or n_forget
    if plan.kind == "chunks" or n_retain is None:
        parts = in_chunks(
            n_forget=n_forget, n_retain=n_retain, chunk_size=size, samples_of=own.n_samples, ratio=plan.retain_ratio,
            seed=args.seed, shuffle=plan.shuffle,
        )  # fmt: skip
        return [(part, own) for part in parts]
    anneal = dataclasses.replace(own, num_train_epochs=plan.anneal_epochs)
    parts = alternating(
        n_forget=n_forget, n_retain=n_retain, chunk_size=size, samples_of=own.n_samples,
        anneal_samples_of=anneal.n_samples, every=plan.anneal_every, share=plan.anneal_share, seed=args.seed,
        shuffle=plan.shuffle, batch=args.per_device_train_batch_size,
    )  # fmt: skip
    return [(part, anneal if part.forget is None else own) for part in parts]


def check_run(objective: Objective, args: TrainArgs, where: str = "trainer.args") -> None:
    """Raise ConfigError unless the objective has the terms that the step and the schedule take apart, and adapters
    leave nothing of the method's own choice of parameters out."""
    own: tuple[str, ...] = getattr(objective.method, "trainable_params_regex", (".*",))
    if args.lora is not None and own != (".*",):
        raise ConfigError(
            f"{where}.lora: trains adapters alone, and {objective.spec.name}'s trainable_params_regex would have no "
            "effect: leave it out and use lora.target_modules"
        )
    step = (
        make_grad_transform(args.grad_transform, args.grad_transform_args, where)
        if args.grad_transform is not None
        else None
    )
    if step is not None:
        check_grad_transform(step, objective, f"{where}.grad_transform")
    plan, name, key = args.schedule, objective.spec.name, f"{where}.schedule"
    if plan.retain_ratio > 1 and objective.needs.retain is None:
        raise ConfigError(f"{key}.retain_ratio: {name} takes no retain rows with these weights, so leave it 1")
    if plan.kind == "interleaved":
        return
    if not objective.forgets:
        raise ConfigError(f"{key}.kind: {plan.kind} cuts the forget rows, and {name} reads none")
    if plan.kind == "chunks":
        return
    if hasattr(objective.method, "total"):
        raise ConfigError(
            f"{key}.kind: alternating takes the forget and the retain term apart, and {name} weighs them by a rule of "
            "its own"
        )
    for term, part in (("forget", forget_part(objective)), ("retain", retain_part(objective))):
        if part is None:
            raise ConfigError(f"{key}.kind: alternating needs a {term} term, and {name} has none with these weights")
    if step is not None and len(spec_of(step).needs) > 1:
        raise ConfigError(
            f"{where}.grad_transform: {spec_of(step).name} weighs the forget against the retain term within one "
            "step, and schedule.kind=alternating never has both"
        )


def visits(objective: Objective, n_rows: Mapping[str, int], args: TrainArgs) -> dict[str, Rows]:
    """Every row of each side that the run reads, in any order and as often as it reads it; n_rows: of each side.

    Raises ConfigError as `plan_phases` does, JobError for a side without rows.
    """
    check_run(objective, args)
    sides = _sides(objective)
    _check_rows(objective, n_rows)
    found: dict[str, list[Rows]] = {side: [] for side in sides}
    for made, _ in _drawn(objective, n_rows, args):
        for side in sides:
            rows = _numbers(made, side, n_rows, args.seed)
            if rows is not None:
                found[side].append(rows.reshape(-1))
    return {side: np.concatenate(rows) for side, rows in found.items()}


def _check_rows(objective: Objective, n_rows: Mapping[str, int]) -> None:
    for side in {"forget" if s == "alternate" else s for s in _sides(objective)}:
        if not n_rows.get(side):
            raise JobError(f"{objective.spec.name} needs {side} rows, and there are none")


def _drawn(objective: Objective, n_rows: Mapping[str, int], args: TrainArgs) -> list[tuple[Pairing, TrainArgs]]:
    return draws(
        args,
        n_forget=n_rows["forget"] if objective.forgets else None,
        n_retain=n_rows["retain"] if "retain" in _sides(objective) else None,
    )


def _numbers(made: Pairing, side: str, n_rows: Mapping[str, int], seed: int) -> Rows | None:
    """The rows of a side in a phase; None where it takes no part."""
    if side != "alternate":
        return getattr(made, side)  # type: ignore[no-any-return]
    if made.forget is None:
        return None
    each = n_rows["alternate"] // n_rows["forget"]
    return made.forget * each + choices(made.forget, each, seed)


def plan_phases(objective: Objective, rows: Mapping[str, Sequence[Encoded]], args: TrainArgs) -> list[Phase]:
    """Every phase of the run with its samples, in order: a function of the seed and the rows alone.

    Raises ConfigError if the schedule or the step does not fit the objective, JobError for a side without rows.
    """
    check_run(objective, args)
    n_rows = {side: len(of) for side, of in rows.items()}
    _check_rows(objective, n_rows)
    drawn = _drawn(objective, n_rows, args)
    step = (
        make_grad_transform(args.grad_transform, args.grad_transform_args, "trainer.args")
        if args.grad_transform is not None
        else None
    )
    return [_phase(objective, rows, made, own, step, args.schedule) for made, own in drawn]


def _phase(
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    made: Pairing,
    own: TrainArgs,
    step: GradTransform | None,
    plan: Schedule,
) -> Phase:
    if plan.kind == "alternating":
        part = retain_part(objective) if made.forget is None else forget_part(objective)
        if part is None:
            raise ValueError("alternating was planned for an objective without both terms")  # check_run refuses it
        objective = part
        if step is not None and made.forget is None and spec_of(step).needs:
            step = None  # a rule about the forget term has nothing to say where the retain term is alone
    return Phase(objective, _samples(objective, rows, made, own), own, made.n_epoch, step)


def _samples(
    objective: Objective, rows: Mapping[str, Sequence[Encoded]], made: Pairing, args: TrainArgs
) -> PhaseSamples:
    """A phase's samples, grouped by length (if asked for) within each pass of each side."""
    sides = _sides(objective)
    n_rows = {side: len(of) for side, of in rows.items()}
    numbers = {s: found for s in sides if (found := _numbers(made, s, n_rows, args.seed)) is not None}
    order = np.arange(len(made))
    if args.group_by_length:
        lengths = {s: row_lengths(rows[s]) for s in sides}
        widths = [lengths[s][numbers[s]].reshape(len(made), -1).max(axis=1) for s in sides]
        ends = np.concatenate([pass_ends(found) for side, found in numbers.items() if side != "alternate"])
        order = group_by_length(
            order, np.max(widths, axis=0), batch=args.per_device_train_batch_size, seed=args.seed, ends=ends
        )
    return PhaseSamples({side: found[order] for side, found in numbers.items()})


class PhaseSamples(Sequence[TrainingSample]):
    """A phase's samples as row numbers, by side of shape (S,) or (S, several); each is made when it is asked for."""

    def __init__(self, numbers: Mapping[str, Rows]) -> None:
        self._numbers = dict(numbers)

    def __len__(self) -> int:
        return min(len(n) for n in self._numbers.values())

    @overload
    def __getitem__(self, index: int) -> TrainingSample: ...
    @overload
    def __getitem__(self, index: slice) -> PhaseSamples: ...
    def __getitem__(self, index: int | slice) -> TrainingSample | PhaseSamples:
        if isinstance(index, slice):
            return PhaseSamples({side: n[index] for side, n in self._numbers.items()})
        return TrainingSample(**{side: _one(n[index]) for side, n in self._numbers.items()})  # type: ignore[arg-type]


def _one(rows: Rows) -> int | tuple[int, ...]:
    """A row number, or several; a single one stands plain."""
    several = tuple(int(i) for i in np.atleast_1d(rows))
    return several[0] if len(several) == 1 else several


def _sides(objective: Objective) -> list[str]:
    return [s for s in SIDES if getattr(objective.needs, s) is not None]
