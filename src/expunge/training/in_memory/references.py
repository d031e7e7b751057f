"""Reference quantities of a run in memory: of a reference model, and of a method's teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.data.encoder import Encoded
from expunge.methods.objective import Objective, objective
from expunge.training.config import TrainArgs
from expunge.training.phases import SIDES, spec_for, teacher_args, visits
from expunge.training.reference import Reference, reference

Rows = Mapping[str, Sequence[Encoded]]


def references_of(
    ref_model: Any, method_loss: Objective, rows: Rows, args: TrainArgs, *, pad_id: int, teacher: bool = False
) -> dict[str, Reference]:
    """Return a model's outputs on every example that a run visits, by side (a teacher's by `<side>_teacher`)."""
    seen = visits(method_loss, {side: len(of) for side, of in rows.items()}, args)
    out: dict[str, Reference] = {}
    for side in SIDES:
        spec = spec_for(method_loss.needs, side, ref=not teacher, teacher=teacher)
        if spec is not None:
            numbers = seen[side].tolist()
            key = f"{side}_teacher" if teacher else side
            out[key] = reference(ref_model, rows[side], numbers, spec, pad_id=pad_id, topk=args.topk)
    return out


def teacher_references(
    model: Any, method_loss: Objective, rows: Rows, args: TrainArgs, *, pad_id: int
) -> dict[str, Reference]:
    """Return the outputs of a method's teacher, and prepare the model as the student if the method requires it.

    "reinforced": a copy of the model is trained further on the forget examples. "start": the unchanged model is the
    teacher, and `model` itself then receives the method's noise.
    """
    if method_loss.spec.teacher == "reinforced":
        other = copy.deepcopy(model)
        further_trained(other, rows["forget"], teacher_args(method_loss, args), pad_id=pad_id)
        return references_of(other, method_loss, rows, args, pad_id=pad_id, teacher=True)
    if method_loss.spec.teacher == "start":
        out = references_of(model, method_loss, rows, args, pad_id=pad_id, teacher=True)
        model.load_state_dict(method_loss.method.noise(args.seed)(model.state_dict(), []))
        return out
    return {}


def further_trained(model: Any, rows: Sequence[Encoded], args: TrainArgs, *, pad_id: int) -> None:
    """Fine-tune a model in place on some examples."""
    from expunge.training.loop import train

    train(model, objective("finetune"), {"retain": rows}, args, pad_id=pad_id)
