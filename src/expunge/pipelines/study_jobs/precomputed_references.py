"""Reference jobs: a model's outputs on rows, computed once for all runs of a study."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.data.encoder import Encoded
from expunge.data.examples import ExampleSet, Span
from expunge.engine.job import Progress
from expunge.methods.api import Quantity, ScoredPositions
from expunge.methods.objective import Objective
from expunge.models.load import Bits
from expunge.pipelines.study.task_context import TaskContext
from expunge.training.config import TrainArgs
from expunge.training.phases import SIDES, ForwardSpec, spec_for, visits

IMPLIED = frozenset(f"{side}_ref" for side in SIDES)  # outputs of the start model follow from the start model


@dataclass(frozen=True)
class ReferenceSpec:
    """One request to a reference model.

    sets: the sets of rows of the side. n_rows: the number of their rows; numbers: their indices, in order (None: all).
    topk: the number of stored logits per token (None: exact). with_head: whether the run trains another model than the
    reference. quantize: the bits of the reference's weights, if the run trains over quantised weights. span: the span
    of examples with a trace that is read (None: all of it, or there are no traces).
    """

    side: str
    sets: tuple[str, ...]
    what: ForwardSpec
    n_rows: int
    numbers: tuple[int, ...] | None = None
    topk: int | None = None
    with_head: bool = False
    quantize: Bits | None = None
    span: Span | None = None

    @property
    def label(self) -> str:
        """Rows and quantity, for labels."""
        rows = "alternates" if self.side == "alternate" else "+".join(self.sets)
        quantity = "+".join(self.what.layers).replace(":", "-") or self.what.serve.value
        return f"{rows}-{quantity}" + ("" if self.topk is None else f"-top{self.topk}")

    @property
    def identity(self) -> Mapping[str, Any]:
        """The fields of the fingerprint, besides the contents of the rows and the model."""
        return {
            "alternates": self.side == "alternate",
            "what": self.what,
            "some_rows": None if self.numbers is None else fingerprint(self.numbers),
            "topk": self.topk,
            "with_head": self.with_head,
            **({"quantize": self.quantize} if self.quantize else {}),
            **({"span": self.span} if self.span else {}),
        }


def reference_specs(
    loss: Objective,
    sides: Mapping[str, Sequence[str]],
    sets: Mapping[str, ExampleSet],
    n_alternates: int,
    args: TrainArgs,
) -> dict[str, ReferenceSpec]:
    """Return the requests of a run: to its start model (`<side>_ref`) and to its teacher (`<side>_teacher`).

    sides: the names of each side's sets. n_alternates: other answers per forget row. A run that visits only some rows
    of a side requests only these, so runs of one seed and length share them. Raises ConfigError for an approximate
    reference that cannot be stored.
    """
    names = {**sides, "alternate": sides.get("forget", ())}
    n_rows = {side: sum(len(sets[n]) for n in of) for side, of in names.items()}
    n_rows["alternate"] *= n_alternates
    out: dict[str, ReferenceSpec] = {}
    for side, teacher in itertools.product(SIDES, (False, True)):
        what = spec_for(loss.needs, side, ref=not teacher, teacher=teacher)
        if what is None:
            continue
        if what.positions is ScoredPositions.ALL:
            if args.topk is not None:
                raise ConfigError(
                    "trainer.args.reference: topk keeps answer tokens, and compat=openunlearning reads every position "
                    "of a padded batch; use exact"
                )
            continue  # the outputs depend on the batches, so the run loads the model itself
        if any(sets[n].long == "pieces" for of in names.values() for n in of):
            numbers = list(range(n_rows[side]))  # the number of pieces is known only after the cut, so all of them
        else:
            numbers = sorted(set(visits(loss, n_rows, args)[side].tolist()))
        out[f"{side}_{'teacher' if teacher else 'ref'}"] = ReferenceSpec(
            side=side,
            sets=tuple(names[side]),
            what=what,
            n_rows=len(numbers),
            numbers=tuple(numbers) if len(numbers) < n_rows[side] else None,
            topk=args.topk if what.serve is Quantity.LOGITS else None,
            with_head=teacher,
            quantize=None if teacher or args.lora is None else args.lora.quantize,
            span=args.span_of(side) if any(sets[n].has_traces for n in names[side]) else None,
        )
    return out


def compute_reference(
    folder: Path,
    source: str,
    setting: TaskContext,
    spec: ReferenceSpec,
    progress: Progress,
    *,
    alternates: Path | None = None,
) -> dict[str, Any]:
    """Compute the outputs of the model at `source` and write them."""
    from expunge.pipelines.study_jobs.work import alternate_rows, open_trained
    from expunge.training.encoding import encode_sets
    from expunge.training.reference import head_for, keep, mass_outside, save_reference

    encoder = setting.encoder(source)
    sets = [setting.benchmark.sets[n] for n in spec.sets]
    if spec.side == "alternate":
        rows: Sequence[Encoded] = alternate_rows(sets, setting.refusals, alternates, encoder)
    else:
        rows = encode_sets(sets, encoder, spec.span)
    model, _ = open_trained(source, setting, encoder, folder, quantize=spec.quantize)
    numbers = range(len(rows)) if spec.numbers is None else spec.numbers
    head = head_for(model, spec.what, spec.topk)
    pad_id = encoder.tokenizer.pad_token_id
    outputs = keep(model, rows, numbers, spec.what, pad_id=pad_id, topk=spec.topk, head=head)
    save_reference(folder, outputs, head_of=model if spec.with_head and head is not None else None)
    progress(1, 1)
    facts: dict[str, Any] = {"rows": len(numbers), "tokens": int(outputs["offsets"][-1])}
    outside = mass_outside(outputs)
    if outside is not None:
        facts |= {"mass_outside_mean": float(outside.mean()), "mass_outside_max": float(outside.max())}
    return facts
