"""The context that the jobs of a study share, and its checks before planning."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.benchmarks import Benchmark
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.data.encoder import Encoder
from expunge.data.refusals import REFUSALS
from expunge.data.template import Template
from expunge.evaluation.evaluator import TOKENIZER, tokenizer_mark
from expunge.methods.objective import Objective
from expunge.metrics.api import FIRST_ROWS
from expunge.models.config import TOKENIZERS, ModelConfig, TokenizerArgs, check_source, looks_local, tokenizer_folder
from expunge.models.identity import applied_tokenizer_identity, hub_file, tokenizer_identity
from expunge.models.load import check_tokenizer, load_tokenizer, pick_device
from expunge.models.passport import check_folder

if TYPE_CHECKING:
    from expunge.data.alternates import Alternates


@dataclass(frozen=True)
class TaskContext:
    """The context of a study's jobs: the benchmark, the model's settings and the template.

    watched: the benchmark as evaluations during training read it, where these read other rows
    (`pipelines.sweep.selection`). alternates: other answers to the forget questions, from a file.
    """

    benchmark: Benchmark
    model: ModelConfig
    template: Template
    refusals: tuple[str, ...] = REFUSALS
    watched: Benchmark | None = None
    alternates: Alternates | None = None

    def encoder(self, source: str) -> Encoder:
        """Return the template bound to a model's tokenizer, or to that of tokenizer_args."""
        args = self.model.tokenizer_args
        return job_encoder(self.template, args.pretrained_model_name_or_path or source, args)

    def planned_encoder(self) -> Encoder | None:
        """Return the template bound to the tokenizer of a folder or hub id.

        None if a job will create the tokenizer, or a hub id cannot be loaded here: loading the model reports the error.
        """
        source = self.model.tokenizer_source
        if source is None:
            return None
        try:
            tokenizer = load_tokenizer(source, self.model.tokenizer_args)
        except ConfigError:
            if looks_local(source):
                raise
            return None
        return Encoder(self.template, tokenizer)

    @functools.cached_property
    def rendered_template(self) -> str | None:
        """One example as the chat template renders it; None with tags, or without an available tokenizer."""
        encoder = None if self.template.apply_chat_template is False else self.planned_encoder()
        return None if encoder is None else encoder.text.rendered()


_identities: dict[str, str] = {}
"""Identities of tokenizers by their files and settings: that of 49,000 tokens takes half a second of the processor."""


def job_encoder(template: Template, source: str, args: TokenizerArgs) -> Encoder:
    """Return a template bound to the tokenizer of a folder or hub id. Jobs note digests of its token ids."""
    tokenizer = load_tokenizer(source, args)

    @functools.cache
    def identity() -> str:
        files = fingerprint([tokenizer_identity(source, args.revision), args])
        if files not in _identities:
            _identities[files] = applied_tokenizer_identity(tokenizer, source, args.revision)
        return _identities[files]

    return Encoder(template, tokenizer, identity)


def changed(setting: TaskContext, **fields: Any) -> TaskContext:
    """Return a setting with some of its benchmark's fields changed."""
    return dataclasses.replace(setting, benchmark=dataclasses.replace(setting.benchmark, **fields))


def check_model(
    model: ModelConfig, *, runs_here: bool = True, key: str = "model.model_args.pretrained_model_name_or_path"
) -> None:
    """Raise ConfigError if no model is named, its folder describes none, or this machine lacks its device.

    runs_here: the jobs run on this machine, not on a cluster. key: the setting that names the model, for the error.
    """
    if runs_here and model.device.startswith("cuda"):
        pick_device(model.device)
    if model.scratch is None and model.source is None:
        raise ConfigError(
            "model: nothing to start from; give model=<preset> or model.model_args.pretrained_model_name_or_path="
        )
    if model.source:
        check_source(model.source, key)
        check_folder(model.source, model.model_args)
        check_tokenizer(str(model.tokenizer_source))


def check_same_tokenizer(own: Any, source: str, key: str, tokens: TokenizerArgs) -> None:
    """Raise ConfigError if a control has another tokenizer than the model. key: the word that names the control.

    A control without a tokenizer is read with that of tokenizer_args, if it names one.
    """
    if tokens.pretrained_model_name_or_path is not None and not _has_tokenizer(tokenizer_folder(source)):
        return
    check_tokenizer(source, key)
    if tokenizer_mark(load_tokenizer(source, TokenizerArgs())) != tokenizer_mark(own):
        raise ConfigError(
            f"{key}: {source} has another tokenizer than the model; their losses per token are not comparable"
        )


def check_sides(benchmark: Benchmark, sides: Mapping[str, Sequence[str]], loss: Objective) -> None:
    """Raise ConfigError if a benchmark has no rows for a side, or rows that a method cannot read."""
    for side, names in sides.items():
        absent = next((n for n in names if n not in benchmark.sets), None)
        if absent or not names:
            purpose = "forget" if side == "forget" or absent == benchmark.forget_set else "train on"
            raise ConfigError(
                f"benchmark={benchmark.name}: it has no rows to {purpose} here; see "
                f"`expunge list benchmarks {benchmark.name}`"
            )
    if loss.needs.alternate is not None and any(benchmark.sets[n].long == "pieces" for n in sides["forget"]):
        raise ConfigError(
            f"trainer={loss.spec.name}: it reads other answers to the forget questions, and the forget rows of "
            f"benchmark={benchmark.name} are texts without questions"
        )


def check_retain_file(
    path: Path, meta: Mapping[str, Any], n_forget: int, tokenizer_mark: Callable[[], str | None]
) -> Mapping[str, Any]:
    """Return the results in a retain log.

    Raises ConfigError if it comes from another benchmark, split, rows or tokenizer, or with another template (its
    max_length aside) or another truth ratio.
    """
    if not path.is_file():
        raise ConfigError(f"retain_logs_path: no file {path}")
    from expunge.metrics.results import read_results

    results, stored_meta = read_results(path)
    for key in ("benchmark", "forget_split"):
        if stored_meta.get(key, meta[key]) != meta[key]:
            raise ConfigError(f"retain_logs_path: {path} is of {key} {stored_meta[key]}, this job of {meta[key]}")
    for key, of in (("truth_ratio", "eval.truth_ratio"), ("template", "model.template_args")):
        if stored_meta.get(key, meta.get(key)) != meta.get(key):
            raise ConfigError(f"retain_logs_path: {path} was measured with another {of} than this job's")
    for name, rows in (stored_meta.get("rows") or {}).items():
        if meta["rows"].get(name, rows) != rows:
            raise ConfigError(f"retain_logs_path: {path} was measured on other {name} rows than this job's")
    if TOKENIZER in stored_meta and tokenizer_mark() not in (None, stored_meta[TOKENIZER]):
        raise ConfigError(
            f"retain_logs_path: {path} was measured with another tokenizer than this job's; losses per token of two "
            "tokenizers are not comparable"
        )
    ratios = [results[m] for m in ("forget_truth_ratio",) if m in results]
    n_rows = {len(ratio.per_row) for ratio in ratios}
    whole = not any(FIRST_ROWS in ratio.extra and len(ratio.per_row) < n_forget for ratio in ratios)
    if n_rows and n_rows != {n_forget} and whole:
        raise ConfigError(
            f"retain_logs_path: {path} has truth ratios of {n_rows.pop()} forget rows, this job's split has {n_forget}"
        )
    return results


def _has_tokenizer(source: str) -> bool:
    if looks_local(source):
        return any((Path(source).expanduser() / name).is_file() for name in TOKENIZERS)
    return any(hub_file(source, None, name) is not None for name in TOKENIZERS)
