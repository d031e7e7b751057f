"""Estimate the work of a job: tokens from text lengths, operations from parameters, memory from the model's shape."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from expunge.core.errors import ConfigError
from expunge.data.examples import ExampleSet
from expunge.data.template import LENGTH
from expunge.engine.job import Estimate
from expunge.evaluation.config import Generation
from expunge.evaluation.kinds import RecordPart, wanted_variants
from expunge.models.config import MODEL_KEY, ModelConfig, looks_local, weights_source
from expunge.pipelines.study.task_context import TaskContext
from expunge.pipelines.study_jobs.memory import ParameterCounts, estimate_memory, estimate_scoring, shape_in
from expunge.training.config import TrainArgs
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.phases import draws

CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class WorkEstimator:
    """Sizes of a study's rows and model.

    tokens, longest: tokens of each set of rows (question and own answer) and of its longest row. n_parameters: 0 if
    unknown. shape: the model's shape, or why it is unknown. scored_bytes: bytes of a weight during scoring.
    """

    tokens: Mapping[str, float]
    longest: Mapping[str, float]
    rows: Mapping[str, ExampleSet]
    n_parameters: int
    shape: ParameterCounts | str
    scored_bytes: int
    max_length: int

    def fit(
        self,
        sides: Mapping[str, Sequence[str]],
        args: TrainArgs,
        *,
        evaluation: Estimate | None = None,
        alternates: bool = False,
    ) -> Estimate:
        """Estimate a training run: about 6 operations per parameter and token, plus its evaluations.

        evaluation: the work of one evaluation. alternates: whether other answers are a further side.
        """
        counts = {s: sum(self._count(n) for n in names) for s, names in sides.items()}
        means = {s: sum(self.tokens[n] for n in names) / max(counts[s], 1) for s, names in sides.items()}
        tokens, epochs, n_steps = 0.0, [], 0
        for draw, own in draws(args, n_forget=counts.get("forget"), n_retain=counts.get("retain")):
            sample_counts = {s: d.size for s, d in (("forget", draw.forget), ("retain", draw.retain)) if d is not None}
            tokens += sum(n * means[side] for side, n in sample_counts.items())
            n_samples = max(sample_counts.values(), default=0)
            n_steps += math.ceil(n_samples / own.rows_per_step)
            anchor = counts.get(own.anchor) or max(counts.values(), default=1)
            epochs.append(own.num_train_epochs if own.max_steps < 0 else n_samples / max(anchor, 1))
        flops = 6.0 * self.n_parameters * tokens
        if evaluation is not None:
            times = _times(args.evaluate, epochs, n_steps)
            tokens, flops = tokens + times * evaluation.tokens, flops + times * evaluation.flops
        work = Estimate(int(tokens), flops, self.model.bytes)
        if isinstance(self.shape, str):
            return dataclasses.replace(work, shapeless=self.shape)
        length = max(self._length(n, self.longest[n]) for names in sides.values() for n in names)
        usage = estimate_memory(self.shape, args, "ddp", length=length, sides=len(sides) + alternates)
        return dataclasses.replace(work, memory=usage.total)

    @property
    def model(self) -> Estimate:
        """A model that is written without training: float32 weights."""
        return Estimate(bytes=4 * self.n_parameters)

    def _count(self, name: str) -> int:
        """Return the samples of a set: its rows, or the pieces of its texts."""
        rows = self.rows[name]
        if rows.long != "pieces":
            return len(rows)
        return max(1, math.ceil(self.tokens[name] / (rows.max_length or self.max_length)))

    def _length(self, name: str, longest: float) -> int:
        """Return the tokens of a set's longest row after truncation."""
        rows = self.rows[name]
        most = rows.max_length or self.max_length
        return most if rows.long == "pieces" else max(1, min(most, math.ceil(longest)))

    def score(self, part: RecordPart, generation: Generation, n_rows: int | None = None) -> Estimate:
        """Estimate the records of the first n_rows rows (None: all).

        2 operations per parameter and token, 8 for generated tokens, 6 with a gradient.
        """
        rows = self.rows[part.rows]
        if n_rows is not None:
            rows = dataclasses.replace(rows, rows=rows.rows[:n_rows])
        writes = part.spec.settings is not None
        lengths = _characters(rows, ("answer",) if writes else part.names)
        length = self._length(part.rows, max(lengths, default=0) / CHARACTERS_PER_TOKEN)
        if writes:
            n_tokens = len(rows.rows) * generation.samples * min(generation.max_new_tokens, 60)
            work = Estimate(n_tokens, 8.0 * self.n_parameters * n_tokens)
            length += generation.max_new_tokens
            n_rows = len(rows.rows) * generation.samples
        else:
            scored, n_rows = sum(lengths) / CHARACTERS_PER_TOKEN, len(lengths)
            work = Estimate(int(scored), part.spec.cost * self.n_parameters * scored)
        if isinstance(self.shape, str):
            return dataclasses.replace(work, shapeless=self.shape)
        usage = estimate_scoring(self.shape, part.kind, length=length, width=self.scored_bytes, n_rows=n_rows)
        return dataclasses.replace(work, memory=usage.total)

    def read(self, names: Sequence[str], n_rows: int) -> Estimate:
        """Estimate one forward pass over n_rows rows of some sets: 2 operations per parameter and token."""
        tokens = n_rows * sum(self.tokens[n] for n in names) / max(sum(len(self.rows[n]) for n in names), 1)
        return Estimate(int(tokens), 2.0 * self.n_parameters * tokens)


def _times(args: EvaluateArgs, epochs: Sequence[float], n_steps: int) -> int:
    """Return the number of evaluations of a run; at least 1 if evaluations are on."""
    if not args.on:
        return 0
    on_the_way = n_steps // args.steps if args.steps else sum(int(e / (args.every or 1) + 1e-9) for e in epochs)
    return max(1, on_the_way) + bool(args.at_start)


def sizes(setting: TaskContext) -> WorkEstimator:
    """Return the sizes of a study's rows and model."""
    sets = setting.benchmark.sets
    tokens = {n: _tokens(s) for n, s in sets.items()}
    shape: ParameterCounts | str
    try:
        shape = shape_in(setting.model)
    except ConfigError as error:
        shape = str(error)
    return WorkEstimator(
        tokens={n: sum(of) for n, of in tokens.items()},
        longest={n: max(of, default=0.0) for n, of in tokens.items()},
        rows=sets,
        n_parameters=parameters(setting.model),
        shape=shape,
        scored_bytes=4 if setting.model.model_args.dtype == "float32" else 2,
        max_length=setting.template.max_length or LENGTH,
    )


def parameters(model: ModelConfig) -> int:
    """Return the parameters of a preset or of a local folder's safetensors; 0 for a hub id."""
    if model.scratch:
        return shape_in(model).parameters
    if model.source and looks_local(model.source):
        return weights_in(model.source, MODEL_KEY)
    return 0


def weights_in(folder: str, key: str) -> int:
    """Count the numbers in a local folder's weights by their headers. Raises ConfigError for a broken file."""
    files = sorted(Path(weights_source(folder)).expanduser().glob("*.safetensors"))
    return sum(_elements(f, key) for f in files if not f.name.startswith(("adapter_", "wrapper_")))


def _elements(file: Path, key: str) -> int:
    """Count the numbers in a safetensors file by its header. Raises ConfigError for another file."""
    try:
        with safe_open(file, framework="np") as f:
            return sum(math.prod(f.get_slice(name).get_shape()) for name in f.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{key}: {file} is not a complete safetensors file: {error}") from None


def _tokens(rows: ExampleSet) -> list[float]:
    """Return the tokens of each row with its own answer; of shards the sum."""
    if rows.n_tokens is not None:
        return [float(rows.n_tokens)]
    return [n / CHARACTERS_PER_TOKEN for n in _characters(rows, ("answer",))]


def _characters(rows: ExampleSet, variants: Sequence[str]) -> list[int]:
    """Return the characters of each requested answer with its question."""
    shots = sum(len(q) + len(a) for q, a in rows.shots)
    return [shots + len(row.question) + len(row.text(name)) for row in rows for name in wanted_variants(row, variants)]
