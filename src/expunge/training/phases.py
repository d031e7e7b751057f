"""Plan a run as phases, before the first step, from the seed and the rows alone; the rows of a step by side.

A phase has an objective, its samples, and its own optimiser, learning-rate schedule and memory of the method. Weights
continue from phase to phase, and the reference is always the model before the first phase.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from expunge.core.errors import ConfigError, JobError
from expunge.core.names import PartName, names_in
from expunge.data.encoder import Encoded, row_lengths
from expunge.data.pairing import Pairing, Rows, alternating, choices, group_by_length, in_chunks, pair, pass_ends
from expunge.methods.api import Quantity, Requirements, ScoredPositions
from expunge.methods.objective import Objective
from expunge.training.config import TrainArgs
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.optimizers import check_optimizer
from expunge.training.schedule import Schedule

if TYPE_CHECKING:
    from expunge.methods.grad_transforms import GradTransform, GradTransformSpec

SIDES = ("forget", "alternate", "retain")
ROLLOUT = "rollout"  # the side whose rows the model samples during the step
HIDDEN_STATES = (Quantity.HIDDEN, Quantity.HIDDEN_LOGPS)


@dataclass(frozen=True)
class TrainingSample:
    """One sample of a step: a row number of each side of the phase, or several on the retain side."""

    forget: int | None = None
    retain: int | tuple[int, ...] | None = None
    alternate: int | None = None

    def numbers(self, side: str) -> tuple[int, ...]:
        """Return the sample's row numbers of a side, in order."""
        rows: int | tuple[int, ...] | None = getattr(self, side)
        if rows is None:
            return ()
        return rows if isinstance(rows, tuple) else (rows,)


@dataclass(frozen=True)
class ForwardSpec:
    """The quantity that a loss requires of one side. layer: the modules whose hidden states it reads."""

    serve: Quantity
    positions: ScoredPositions = ScoredPositions.ANSWER
    layer: str | tuple[str, ...] | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the modules; empty for a quantity without hidden states."""
        return () if self.layer is None else (self.layer,) if isinstance(self.layer, str) else tuple(self.layer)


def spec_for(needs: Requirements, side: str, *, ref: bool = False, teacher: bool = False) -> ForwardSpec | None:
    """Return the quantity that a loss requires of a side, or of the reference or teacher there; None if it has none."""
    serve: Quantity | None = getattr(needs, f"{side}{'_teacher' if teacher else '_ref' if ref else ''}", None)
    if serve is None:
        return None
    if serve in HIDDEN_STATES and needs.layer is None:
        raise ConfigError(
            f"Requirements({side}=Quantity.{serve.name}): hidden states of which modules? Name them in layer, such as "
            "layer='model.layers.7'"
        )
    positions: ScoredPositions = getattr(needs, f"{side}_positions", ScoredPositions.ANSWER)
    if serve is Quantity.HIDDEN and positions is ScoredPositions.ANSWER:
        positions = ScoredPositions.OWN
    return ForwardSpec(serve, positions, needs.layer if serve in HIDDEN_STATES else None)


@dataclass(frozen=True)
class Phase:
    """The work of one Trainer. args: settings with the phase's own epochs. n_epoch: samples of one pass."""

    objective: Objective
    samples: Sequence[TrainingSample]
    args: TrainArgs
    n_epoch: int
    step: GradTransform | None = None

    @property
    def n_steps(self) -> int:
        """The number of optimiser steps on one device."""
        return self.args.n_steps(self.n_epoch)


def draws(args: TrainArgs, *, n_forget: int | None, n_retain: int | None) -> list[tuple[Pairing, TrainArgs]]:
    """Return the rows of each phase, and the phase's own settings.

    n_forget, n_retain: rows of each side; None: the run does not read the side (`check_run` checks that it may).
    """
    plan = args.schedule
    own = dataclasses.replace(args, schedule=Schedule())
    if plan.kind == "interleaved" or n_forget is None:
        # the anchor is the side of the settings, or the only one
        by_retain = n_forget is None or (n_retain is not None and args.anchor == "retain")
        n_epoch = -(-(n_retain or 0) // plan.retain_ratio) if by_retain else n_forget or 0
        total = own.n_samples(n_epoch)
        pairing = pair(
            n_forget=n_forget, n_retain=n_retain, n_samples=total, seed=args.seed, ratio=plan.retain_ratio,
            n_epoch=n_epoch, batch=args.per_device_train_batch_size,
        )  # fmt: skip
        return [(pairing, own)]
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


def teacher_args(method_loss: Objective, args: TrainArgs) -> TrainArgs:
    """Return the settings of the further training of a "reinforced" teacher."""
    changed: dict[str, Any] = {
        "grad_transform": None,
        "grad_transform_args": {},
        "reference": "exact",
        "schedule": Schedule(),
        "evaluate": EvaluateArgs(),
    }
    return dataclasses.replace(args, **changed, **getattr(method_loss.method, "reinforce", {}))


def check_run(objective: Objective, args: TrainArgs, where: str = "trainer.args") -> None:
    """Check that the method, the gradient transform, the schedule and the adapters of a run fit together.

    Args:
        objective: The method's loss.
        args: The settings of the run.
        where: The key of the settings, for the message.

    Raises:
        ConfigError: If the objective lacks a term that the transform or the schedule reads separately; if adapters
            would ignore the method's own choice of parameters; if the optimizer's package is not installed.
    """
    check_optimizer(args, where)
    if args.lora is not None and args.lora.orthogonal and (args.grad_transform is not None or not objective.forgets):
        why = "a gradient transform does not read it" if objective.forgets else f"{objective.spec.name} forgets nothing"
        raise ConfigError(f"{where}.lora.orthogonal: {why}; leave one of the two out")
    own: tuple[str, ...] = getattr(objective.method, "trainable_params_regex", (".*",))
    if args.lora is not None and own != (".*",):
        raise ConfigError(
            f"{where}.lora: trains only adapters, so {objective.spec.name}'s trainable_params_regex would have no "
            "effect; leave it out and use lora.target_modules"
        )
    step = _grad_transform(args, where)
    if step is not None:
        from expunge.training.term_parts import check_grad_transform

        check_grad_transform(step, objective, f"{where}.grad_transform")
    if objective.needs.rollout is not None:
        from expunge.training.rewards import find_reward

        for name in objective.method.rollouts.rewards:
            find_reward(name, f"{objective.spec.name}.rewards")
        if step is not None:
            raise ConfigError(
                f"{where}.grad_transform: it reads a step's loss several times, and {objective.spec.name} samples "
                "texts for it; leave it out"
            )
    plan, name, key = args.schedule, objective.spec.name, f"{where}.schedule"
    if plan.retain_ratio > 1 and not objective.needs.reads("retain"):
        raise ConfigError(f"{key}.retain_ratio: {name} reads no retain rows with these weights; leave it 1")
    if plan.kind == "interleaved":
        return
    if not objective.forgets:
        raise ConfigError(f"{key}.kind: {plan.kind} divides the forget rows, and {name} reads none; use interleaved")
    if plan.kind == "chunks":
        return
    if hasattr(objective.method, "total"):
        raise ConfigError(
            f"{key}.kind: alternating reads the forget and the retain term separately, and {name} weighs them by a "
            "rule of its own; use interleaved or chunks"
        )
    from expunge.training.term_parts import forget_part, retain_part

    for term, part in (("forget", forget_part(objective)), ("retain", retain_part(objective))):
        if part is None:
            raise ConfigError(f"{key}.kind: alternating needs a {term} term, and {name} has none with these weights")
    if step is not None and len(_registration(step).needs) > 1:
        raise ConfigError(
            f"{where}.grad_transform: {_registration(step).name} weighs the forget against the retain term within one "
            "step, and schedule.kind=alternating never has both; use interleaved or chunks"
        )


def part_names(objective: Objective, args: TrainArgs, where: str = "trainer") -> list[PartName]:
    """Return the names of modules, parameters and layers in the settings of a run, with their keys below `where`."""
    return [*names_of_method(objective, f"{where}.method_args"), *names_of_args(args, f"{where}.args")]


def names_of_method(objective: Objective, where: str) -> list[PartName]:
    """Return the names of parts of the model in a method's settings, and those of the modules that its loss reads."""
    names = list(names_in(objective.method, where))
    known = {name.value.replace("\\", "") for name in names}
    return names + [name for name in read_modules(objective, where) if name.value not in known]


def read_modules(objective: Objective, where: str) -> list[PartName]:
    """Return the modules whose outputs a loss reads, with the setting that names each, or `where` if none does."""
    layer, rule = objective.needs.layer, objective.method
    keys: dict[str, str] = {}
    for field in dataclasses.fields(rule):
        value = getattr(rule, field.name)
        for text in value if isinstance(value, tuple | list) else (value,):
            if isinstance(text, str):
                keys[text.replace("\\", "")] = f"{where}.{field.name}"
    modules = (layer,) if isinstance(layer, str) else layer or ()
    return [PartName(keys.get(name, where), "module", name) for name in modules]


def names_of_args(args: TrainArgs, where: str) -> list[PartName]:
    """Return the names of parts of the model in settings of training, with those of the gradient transforms."""
    names, step, key = list(names_in(args, where)), _grad_transform(args, where), f"{where}.grad_transform_args"
    if step is None:
        return names
    rules: tuple[GradTransform, ...] = getattr(step, "rules", ())
    for rule in rules:  # of a stack
        names += names_in(rule, f"{key}.{_registration(rule).name}")
    return names if rules else [*names, *names_in(step, key)]


def _grad_transform(args: TrainArgs, where: str) -> GradTransform | None:
    """Return the gradient transform of a run, if it has one. Raises ConfigError."""
    if args.grad_transform is None:
        return None
    from expunge.methods.grad_transforms import make_grad_transform

    return make_grad_transform(args.grad_transform, args.grad_transform_args, where)


def _registration(step: GradTransform) -> GradTransformSpec:
    """Return the name of a gradient transform and the terms that it reads separately."""
    from expunge.methods.grad_transforms import spec_of

    return spec_of(step)


def visits(objective: Objective, n_rows: Mapping[str, int], args: TrainArgs) -> dict[str, Rows]:
    """Return every row number of each side that the run reads, in any order, as often as the run reads it.

    n_rows: the number of rows of each side. Raises ConfigError as `plan_phases` does, JobError for a side without rows.
    """
    check_run(objective, args)
    sides = _sides(objective)
    _check_rows(objective, n_rows)
    numbers: dict[str, list[Rows]] = {side: [] for side in sides}
    for pairing, _ in _pairings(objective, n_rows, args):
        for side in sides:
            rows = _numbers(pairing, side, n_rows, args.seed)
            if rows is not None:
                numbers[side].append(rows.reshape(-1))
    return {side: np.concatenate(rows) for side, rows in numbers.items()}


def _check_rows(objective: Objective, n_rows: Mapping[str, int]) -> None:
    for side in {"forget" if s == "alternate" else s for s in _sides(objective)}:
        if not n_rows.get(side):
            raise JobError(f"{objective.spec.name} needs {side} rows, but there are none")


def _pairings(objective: Objective, n_rows: Mapping[str, int], args: TrainArgs) -> list[tuple[Pairing, TrainArgs]]:
    return draws(
        args,
        n_forget=n_rows["forget"] if objective.forgets else None,
        n_retain=n_rows["retain"] if "retain" in _sides(objective) else None,
    )


def _numbers(pairing: Pairing, side: str, n_rows: Mapping[str, int], seed: int) -> Rows | None:
    """Return the rows of a side in a phase; None if the phase does not read it."""
    if side != "alternate":
        return getattr(pairing, side)  # type: ignore[no-any-return]
    if pairing.forget is None:
        return None
    each = n_rows["alternate"] // n_rows["forget"]
    return pairing.forget * each + choices(pairing.forget, each, seed)


def plan_phases(objective: Objective, rows: Mapping[str, Sequence[Encoded]], args: TrainArgs) -> list[Phase]:
    """Return every phase of the run with its samples, in order: a function of the seed and the rows alone.

    Raises ConfigError if the schedule or the step does not fit the objective, JobError for a side without rows.
    """
    check_run(objective, args)
    n_rows = {side: len(of) for side, of in rows.items()}
    _check_rows(objective, n_rows)
    pairings = _pairings(objective, n_rows, args)
    step = _grad_transform(args, "trainer.args")
    return [_phase(objective, rows, pairing, own, step, args.schedule) for pairing, own in pairings]


def _phase(
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    pairing: Pairing,
    own: TrainArgs,
    step: GradTransform | None,
    plan: Schedule,
) -> Phase:
    if plan.kind == "alternating":
        from expunge.training.term_parts import forget_part, retain_part

        part = retain_part(objective) if pairing.forget is None else forget_part(objective)
        if part is None:
            raise ValueError("alternating needs an objective with both terms")  # check_run rejects it earlier
        objective = part
        if step is not None and pairing.forget is None and _registration(step).needs:
            step = None  # a rule about the forget term has no effect on the retain term alone
    return Phase(objective, _samples(objective, rows, pairing, own), own, pairing.n_epoch, step)


def _samples(
    objective: Objective, rows: Mapping[str, Sequence[Encoded]], pairing: Pairing, args: TrainArgs
) -> PhaseSamples:
    """Return a phase's samples, grouped by length within each pass of each side if group_by_length is set."""
    sides = _sides(objective)
    n_rows = {side: len(of) for side, of in rows.items()}
    numbers = {s: of_side for s in sides if (of_side := _numbers(pairing, s, n_rows, args.seed)) is not None}
    order = np.arange(len(pairing))
    if args.group_by_length:
        lengths = {s: row_lengths(rows[s]) for s in sides}
        widths = [lengths[s][numbers[s]].reshape(len(pairing), -1).max(axis=1) for s in sides]
        ends = np.concatenate([pass_ends(of_side) for side, of_side in numbers.items() if side != "alternate"])
        order = group_by_length(
            order, np.max(widths, axis=0), batch=args.per_device_train_batch_size, seed=args.seed, ends=ends
        )
    return PhaseSamples({side: of_side[order] for side, of_side in numbers.items()})


class PhaseSamples(Sequence[TrainingSample]):
    """A phase's samples as row numbers by side, of shape (S,) or (S, several); a sample is created on access."""

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
    """Return a row number, or a tuple of several."""
    several = tuple(int(i) for i in np.atleast_1d(rows))
    return several[0] if len(several) == 1 else several


def _sides(objective: Objective) -> list[str]:
    """Return the sides whose rows a sample names. Rollouts continue the questions of forget rows."""
    needs = objective.needs
    return [side for side in SIDES if needs.reads(side)]
