"""How much work a job is, before it is done: tokens from the length of the texts, operations from the parameters."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.data.rows import RowSet
from expunge.data.stories import TokenShards
from expunge.models.config import PRESETS, ModelConfig, looks_local
from expunge.scoring.config import Generation
from expunge.scoring.tokens import wanted_variants
from expunge.study.job import Estimate
from expunge.study.measuring import Part
from expunge.study.setting import Setting
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.phases import draws

CHARACTERS_PER_TOKEN = 4.0
FLOPS_PER_SECOND = 6e10  # of a laptop's two cores, until the store has measured jobs to go by


@dataclass(frozen=True)
class Sizes:
    """Tokens of each set of rows (question and own answer), and the model's parameters (0: unknown)."""

    tokens: Mapping[str, float]
    rows: Mapping[str, RowSet]
    n_parameters: int

    def fit(
        self,
        sides: Mapping[str, Sequence[str]],
        args: TrainArgs,
        max_length: int = 512,
        *,
        evaluation: Estimate | None = None,
    ) -> Estimate:
        """Forward and backward over every sample of the run, about 6 operations per parameter and token; and what one
        evaluation on the way takes, as often as there is one."""
        counts = {s: sum(self._count(n, max_length) for n in names) for s, names in sides.items()}
        means = {s: sum(self.tokens[n] for n in names) / max(counts[s], 1) for s, names in sides.items()}
        tokens, epochs, n_steps = 0.0, [], 0
        for made, own in draws(args, n_forget=counts.get("forget"), n_retain=counts.get("retain")):
            drawn = {s: d.size for s, d in (("forget", made.forget), ("retain", made.retain)) if d is not None}
            tokens += sum(n * means[side] for side, n in drawn.items())
            n_samples = max(drawn.values(), default=0)
            n_steps += math.ceil(n_samples / own.rows_per_step)
            anchor = counts.get(own.anchor) or max(counts.values(), default=1)
            epochs.append(own.num_train_epochs if own.max_steps < 0 else n_samples / max(anchor, 1))
        flops = 6.0 * self.n_parameters * tokens
        if evaluation is not None:
            times = _times(args.evaluate, epochs, n_steps)
            tokens, flops = tokens + times * evaluation.tokens, flops + times * evaluation.flops
        return Estimate(int(tokens), flops, self.model.bytes)

    @property
    def model(self) -> Estimate:
        """A model that is written without training: float32 weights."""
        return Estimate(bytes=4 * self.n_parameters)

    def _count(self, name: str, max_length: int) -> int:
        """Samples of a set: its rows, or the pieces that its texts are cut into."""
        rows = self.rows[name]
        if rows.long != "pieces":
            return len(rows)
        return max(1, math.ceil(self.tokens[name] / (rows.max_length or max_length)))

    def score(self, part: Part, generation: Generation, n_rows: int | None = None) -> Estimate:
        """Two operations per parameter and token, four times that for generated tokens, six with a gradient; of the
        first n_rows rows (None: all)."""
        rows = self.rows[part.rows]
        if n_rows is not None:
            rows = dataclasses.replace(rows, rows=rows.rows[:n_rows])
        if part.kind in ("texts", "samples"):
            made = len(rows.rows) * generation.samples * min(generation.max_new_tokens, 60)
            return Estimate(made, 8.0 * self.n_parameters * made)
        scored = _characters(rows, part.names) / CHARACTERS_PER_TOKEN
        times = {"tokens": 2.0, "agreement": 4.0, "grads": 6.0}[part.kind]
        return Estimate(int(scored), times * self.n_parameters * scored)

    def read(self, names: Sequence[str], n_rows: int) -> Estimate:
        """One forward over so many rows of some sets: two operations per parameter and token."""
        tokens = n_rows * sum(self.tokens[n] for n in names) / max(sum(len(self.rows[n]) for n in names), 1)
        return Estimate(int(tokens), 2.0 * self.n_parameters * tokens)


def _times(args: EvaluateArgs, epochs: Sequence[float], n_steps: int) -> int:
    """How often a run of so many epochs in each phase is evaluated; once at least, where it is at all."""
    if not args.on:
        return 0
    on_the_way = n_steps // args.steps if args.steps else sum(int(e / (args.every or 1) + 1e-9) for e in epochs)
    return max(1, on_the_way) + bool(args.at_start)


def sizes(setting: Setting) -> Sizes:
    """The sizes of a study's rows and model."""
    sets = setting.benchmark.sets
    return Sizes(
        tokens={n: _tokens(s) for n, s in sets.items()},
        rows=sets,
        n_parameters=parameters(setting.model),
    )


def parameters(model: ModelConfig) -> int:
    """Parameters of a preset or of a local folder's safetensors; 0 for a hub id."""
    if model.scratch:
        p = PRESETS[model.scratch]
        layer = 4 * p.hidden_size**2 + 3 * p.hidden_size * p.intermediate_size + 2 * p.hidden_size
        vocabulary = model.vocab_size or p.vocab_size
        return vocabulary * p.hidden_size + p.num_hidden_layers * layer + p.hidden_size
    if model.source and looks_local(model.source):
        return sum(_elements(f) for f in Path(model.source).expanduser().glob("*.safetensors"))
    return 0


def _elements(file: Path) -> int:
    """Numbers in a safetensors file, read from its header alone."""
    with open(file, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for n in tensor["shape"]:
                count *= n
            total += count
    return total


def _tokens(rows: RowSet) -> float:
    if isinstance(rows, TokenShards):
        return float(rows.n_tokens)
    return _characters(rows, ("answer",)) / CHARACTERS_PER_TOKEN


def _characters(rows: RowSet, variants: Sequence[str]) -> float:
    shots = sum(len(q) + len(a) for q, a in rows.shots)
    return float(
        sum(
            shots + len(row.question) + len(row.answers[name])
            for row in rows
            for name in wanted_variants(row, variants)
        )
    )
