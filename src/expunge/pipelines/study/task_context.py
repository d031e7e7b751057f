"""What the jobs of a study share, and what must hold of it before any is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.benchmarks import Benchmark
from expunge.core.errors import ConfigError
from expunge.data.refusals import REFUSALS
from expunge.data.template import Encoder, Template
from expunge.evaluation.evaluator import TOKENIZER
from expunge.methods.objective import Objective
from expunge.metrics.results import read_results
from expunge.models.config import ModelConfig, check_source, looks_local
from expunge.models.load import load_tokenizer
from expunge.models.passport import check_folder


@dataclass(frozen=True)
class TaskContext:
    """What the jobs of a study share: the benchmark, the model's settings and the template.

    watched: the benchmark as evaluations during training read it, where these read other rows
    (`pipelines.sweep.selection`).
    """

    benchmark: Benchmark
    model: ModelConfig
    template: Template
    refusals: tuple[str, ...] = REFUSALS
    watched: Benchmark | None = None

    def encoder(self, source: str) -> Encoder:
        """The template bound to the tokenizer that lies with a model, or the one named in tokenizer_args."""
        named = self.model.tokenizer_args.pretrained_model_name_or_path
        return Encoder(self.template, load_tokenizer(named or source, self.model.tokenizer_args))

    def planned_encoder(self) -> Encoder | None:
        """The template bound to a tokenizer that is at hand before any job runs: one in a local folder, else None."""
        source = self.model.tokenizer_source
        return self.encoder(source) if source is not None and looks_local(source) else None

    def rendered_template(self) -> str | None:
        """One example as the chat template renders it; None with tags, or while the tokenizer is not at hand."""
        encoder = self.planned_encoder() if self.template.apply_chat_template else None
        return None if encoder is None else encoder.rendered()


def check_model(model: ModelConfig) -> None:
    """A model must be named, and be there if it is a folder."""
    if model.scratch is None and model.source is None:
        raise ConfigError(
            "model: nothing to start from; give model=<preset> or model.model_args.pretrained_model_name_or_path="
        )
    if model.source:
        check_source(model.source, "model.model_args.pretrained_model_name_or_path")
        check_folder(model.source, model.model_args)


def check_sides(benchmark: Benchmark, sides: Mapping[str, Sequence[str]], chosen: Objective) -> None:
    """Raise ConfigError where a benchmark has no rows for a side, or rows that a method cannot read."""
    for side, names in sides.items():
        absent = next((n for n in names if n not in benchmark.sets), None)
        if absent or not names:
            what = "forget" if side == "forget" or absent == benchmark.forget_set else "train on"
            raise ConfigError(
                f"benchmark={benchmark.name}: it has no rows to {what} here; see `expunge benchmarks {benchmark.name}`"
            )
    if chosen.needs.alternate is not None and any(benchmark.sets[n].long == "pieces" for n in sides["forget"]):
        raise ConfigError(
            f"trainer={chosen.spec.name}: it reads other answers to the forget questions, and the forget rows of "
            f"benchmark={benchmark.name} are texts without questions"
        )


def check_retain_file(
    path: Path, meta: Mapping[str, Any], n_forget: int, tokenizer_mark: Callable[[], str | None]
) -> Mapping[str, Any]:
    """The results in a retain log.

    Raises ConfigError if it was made of another benchmark, split, rows or tokenizer, or with another template (its
    max_length aside) or another truth ratio.
    """
    if not path.is_file():
        raise ConfigError(f"retain_logs_path: no file {path}")
    results, said = read_results(path)
    for key in ("benchmark", "forget_split"):
        if said.get(key, meta[key]) != meta[key]:
            raise ConfigError(f"retain_logs_path: {path} is of {key} {said[key]}, this job of {meta[key]}")
    for key, of in (("truth_ratio", "eval.truth_ratio"), ("template", "model.template_args")):
        if said.get(key, meta.get(key)) != meta.get(key):
            raise ConfigError(f"retain_logs_path: {path} was measured with another {of} than this job's")
    for name, fingerprint in (said.get("rows") or {}).items():
        if meta["rows"].get(name, fingerprint) != fingerprint:
            raise ConfigError(f"retain_logs_path: {path} was measured on other {name} rows than this job's")
    if TOKENIZER in said and tokenizer_mark() not in (None, said[TOKENIZER]):
        raise ConfigError(
            f"retain_logs_path: {path} was measured with another tokenizer than this job's; losses per token of two "
            "tokenizers do not compare"
        )
    n_rows = {len(results[m].per_row) for m in ("forget_truth_ratio",) if m in results}
    if n_rows and n_rows != {n_forget}:
        raise ConfigError(
            f"retain_logs_path: {path} has truth ratios of {n_rows.pop()} forget rows, this job's split has {n_forget}"
        )
    return results
