"""Reference jobs: what a model says of rows, asked once and read by every run of a study that needs it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoded
from expunge.engine.job import Progress
from expunge.methods.api import Quantity, ScoredPositions
from expunge.methods.objective import Objective
from expunge.models.load import Bits
from expunge.pipelines.study.task_context import TaskContext
from expunge.pipelines.study.work import encode_alternates, encode_sets, load_trained
from expunge.training.batching import SIDES
from expunge.training.config import TrainArgs
from expunge.training.forward import ForwardSpec, spec_for
from expunge.training.phases import visits
from expunge.training.reference import head_for, keep, mass_outside, save_reference

IMPLIED = frozenset(f"{side}_ref" for side in SIDES)  # what the model that a run starts from says is implied by it


@dataclass(frozen=True)
class ReferenceSpec:
    """One question to a reference.

    sets: the sets of rows of the side. n_rows: how many of their rows; numbers: which, in order (None: all). topk: how
    many logits of a token are kept (None: all there is to know). with_head: whether the reader trains another model
    than the one asked. quantize: the bits of the model's weights while it is asked, where a run trains over such.
    """

    side: str
    sets: tuple[str, ...]
    what: ForwardSpec
    n_rows: int
    numbers: tuple[int, ...] | None = None
    topk: int | None = None
    with_head: bool = False
    quantize: Bits | None = None

    @property
    def label(self) -> str:
        """For people: rows and quantity."""
        rows = "alternates" if self.side == "alternate" else "+".join(self.sets)
        kept = self.what.layer or self.what.serve.value
        return f"{rows}-{kept}" + ("" if self.topk is None else f"-top{self.topk}")

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a fingerprint covers, beside the contents of the rows and the model."""
        return {
            "alternates": self.side == "alternate",
            "what": self.what,
            "some_rows": None if self.numbers is None else fingerprint(self.numbers),
            "topk": self.topk,
            "with_head": self.with_head,
            **({"quantize": self.quantize} if self.quantize else {}),
        }


def reference_specs(
    chosen: Objective,
    sides: Mapping[str, Sequence[str]],
    sets: Mapping[str, ExampleSet],
    n_alternates: int,
    args: TrainArgs,
) -> dict[str, ReferenceSpec]:
    """What a run reads of the model it starts from, under `<side>_ref`, and of its teacher, under `<side>_teacher`.

    sides: the names of each side's sets. n_alternates: how many other answers a forget row has. A run that visits only
    some rows of a side asks for these alone, so runs of one seed and length share them. Raises ConfigError for an
    approximate reference where none can be kept.
    """
    names = {**sides, "alternate": sides.get("forget", ())}
    n_rows = {side: sum(len(sets[n]) for n in of) for side, of in names.items()}
    n_rows["alternate"] *= n_alternates
    out: dict[str, ReferenceSpec] = {}
    for side, teacher in itertools.product(SIDES, (False, True)):
        what = spec_for(chosen.needs, side, ref=not teacher, teacher=teacher)
        if what is None:
            continue
        if what.positions is ScoredPositions.ALL:
            if args.topk is not None:
                raise ConfigError(
                    "trainer.args.reference: topk keeps answer tokens, and compat=openunlearning reads every position "
                    "of a padded batch; use exact"
                )
            continue  # its numbers depend on the batches, so the run keeps a model of its own
        if any(sets[n].long == "pieces" for of in names.values() for n in of):
            numbers = list(range(n_rows[side]))  # how many pieces there are is known when they are cut: all of them
        else:
            numbers = sorted(set(visits(chosen, n_rows, args)[side].tolist()))
        out[f"{side}_{'teacher' if teacher else 'ref'}"] = ReferenceSpec(
            side=side,
            sets=tuple(names[side]),
            what=what,
            n_rows=len(numbers),
            numbers=tuple(numbers) if len(numbers) < n_rows[side] else None,
            topk=args.topk if what.serve is Quantity.LOGITS else None,
            with_head=teacher,
            quantize=None if teacher or args.lora is None else args.lora.quantize,
        )
    return out


def compute_reference(
    folder: Path,
    source: str,
    setting: TaskContext,
    wanted: ReferenceSpec,
    progress: Progress,
    *,
    alternates: Path | None = None,
) -> dict[str, Any]:
    """Ask the model that lies at `source`, loaded once, and write its answers."""
    encoder = setting.encoder(source)
    sets = [setting.benchmark.sets[n] for n in wanted.sets]
    if wanted.side == "alternate":
        rows: Sequence[Encoded] = encode_alternates(sets, setting.refusals, alternates, encoder)
    else:
        rows = encode_sets(sets, encoder)
    model = load_trained(source, setting, quantize=wanted.quantize)
    numbers = range(len(rows)) if wanted.numbers is None else wanted.numbers
    head = head_for(model, wanted.what, wanted.topk)
    pad_id = encoder.tokenizer.pad_token_id
    kept = keep(model, rows, numbers, wanted.what, pad_id=pad_id, topk=wanted.topk, head=head)
    save_reference(folder, kept, head_of=model if wanted.with_head and head is not None else None)
    progress(1, 1)
    facts: dict[str, Any] = {"rows": len(numbers), "tokens": int(kept["offsets"][-1])}
    outside = mass_outside(kept)
    if outside is not None:
        facts |= {"mass_outside_mean": float(outside.mean()), "mass_outside_max": float(outside.max())}
    return facts
