"""Reference quantities of a run in memory: of a given reference model, and of a method's teacher."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.data.template import Encoded
from expunge.methods.objective import Objective, objective
from expunge.training.batching import SIDES
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.forward import spec_for
from expunge.training.phases import visits
from expunge.training.reference import Reference, reference
from expunge.training.schedule import Schedule

Rows = Mapping[str, Sequence[Encoded]]


def references_of(
    ref_model: Any, chosen: Objective, rows: Rows, args: TrainArgs, *, pad_id: int, teacher: bool = False
) -> dict[str, Reference]:
    """Return what a model says of every example that a run visits, by side (a teacher's by `<side>_teacher`)."""
    seen = visits(chosen, {side: len(of) for side, of in rows.items()}, args)
    out: dict[str, Reference] = {}
    for side in SIDES:
        what = spec_for(chosen.needs, side, ref=not teacher, teacher=teacher)
        if what is not None:
            wanted = seen[side].tolist()
            key = f"{side}_teacher" if teacher else side
            out[key] = reference(ref_model, rows[side], wanted, what, pad_id=pad_id, topk=args.topk)
    return out


def teacher_references(
    model: Any, chosen: Objective, rows: Rows, args: TrainArgs, *, pad_id: int
) -> dict[str, Reference]:
    """Return what a method's teacher says, and make the model the student where the method says how.

    "reinforced": a copy of the model is trained further on the forget examples. "start": the teacher is the model as it
    is, and `model` itself receives the method's noise.
    """
    if chosen.spec.teacher == "reinforced":
        other = copy.deepcopy(model)
        changed: dict[str, Any] = {
            "grad_transform": None,
            "grad_transform_args": {},
            "reference": "exact",
            "schedule": Schedule(),
        }
        changed |= {"evaluate": EvaluateArgs(), **getattr(chosen.method, "reinforce", {})}
        further_trained(other, rows["forget"], dataclasses.replace(args, **changed), pad_id=pad_id)
        return references_of(other, chosen, rows, args, pad_id=pad_id, teacher=True)
    if chosen.spec.teacher == "start":
        out = references_of(model, chosen, rows, args, pad_id=pad_id, teacher=True)
        model.load_state_dict(chosen.method.noise(args.seed)(model.state_dict(), []))
        return out
    return {}


def further_trained(model: Any, rows: Sequence[Encoded], args: TrainArgs, *, pad_id: int) -> None:
    """Fine-tune a model in place on some examples."""
    from expunge.training.loop import train

    train(model, objective("finetune"), {"retain": rows}, args, pad_id=pad_id)
