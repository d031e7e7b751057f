"""How much work a job is, before it is done: tokens from the length of the texts, operations from the parameters."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.data.rows import RowSet
from expunge.metrics.api import Metric
from expunge.metrics.compute import requests
from expunge.models.config import PRESETS, ModelConfig, looks_local
from expunge.scoring.config import Generation
from expunge.scoring.tokens import wanted_variants
from expunge.study.job import Estimate
from expunge.study.work import Setting
from expunge.training.config import TrainArgs

CHARACTERS_PER_TOKEN = 4.0
FLOPS_PER_SECOND = 6e10  # of a laptop's two cores, until the store has measured jobs to go by


@dataclass(frozen=True)
class Sizes:
    """Tokens of each set of rows (question and own answer), and the model's parameters (0: unknown)."""

    tokens: Mapping[str, float]
    rows: Mapping[str, RowSet]
    n_parameters: int

    def fit(self, sides: Mapping[str, Sequence[str]], args: TrainArgs, max_length: int = 512) -> Estimate:
        """Forward and backward over every sample of the run: about 6 operations per parameter and token."""
        counts = {s: sum(self._count(n, max_length) for n in names) for s, names in sides.items()}
        means = {s: sum(self.tokens[n] for n in names) / max(counts[s], 1) for s, names in sides.items()}
        anchor = args.anchor if args.anchor in counts else next(iter(counts))
        tokens = args.n_samples(counts[anchor]) * sum(means.values())
        return Estimate(int(tokens), 6.0 * self.n_parameters * tokens)

    def _count(self, name: str, max_length: int) -> int:
        """Samples of a set: its rows, or the pieces that its texts are cut into."""
        rows = self.rows[name]
        if rows.long != "pieces":
            return len(rows)
        return max(1, math.ceil(self.tokens[name] / (rows.max_length or max_length)))

    def score(self, panel: Sequence[Metric], generation: Generation) -> Estimate:
        """Two operations per parameter and token for scored and for generated tokens."""
        wanted = requests(panel)
        scored = sum(_characters(self.rows[n], wanted.tokens[n]) for n in wanted.tokens) / CHARACTERS_PER_TOKEN
        made = sum(len(self.rows[n].rows) for n in wanted.texts) * min(generation.max_new_tokens, 60)
        return Estimate(int(scored + made), 2.0 * self.n_parameters * (scored + 4 * made))


def sizes(setting: Setting) -> Sizes:
    """The sizes of a study's rows and model."""
    sets = setting.benchmark.sets
    return Sizes(
        tokens={n: _characters(s, ("answer",)) / CHARACTERS_PER_TOKEN for n, s in sets.items()},
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


def _characters(rows: RowSet, variants: Sequence[str]) -> float:
    shots = sum(len(q) + len(a) for q, a in rows.shots)
    return float(
        sum(
            shots + len(row.question) + len(row.answers[name])
            for row in rows
            for name in wanted_variants(row, variants)
        )
    )
