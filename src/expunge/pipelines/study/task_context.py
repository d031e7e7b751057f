"""The context that the jobs of a study share, and its checks before planning."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.benchmarks import Benchmark
from expunge.core.errors import ConfigError
from expunge.core.files import read_note, write_note
from expunge.core.fingerprints import fingerprint
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.refusals import REFUSALS
from expunge.data.row_tokenizer import ids_digest
from expunge.data.template import Template
from expunge.evaluation.evaluator import TOKENIZER, tokenizer_mark
from expunge.methods.objective import Objective
from expunge.metrics.api import FIRST_ROWS
from expunge.models.config import (
    MODEL_KEY,
    TOKENIZERS,
    ModelConfig,
    TokenizerArgs,
    check_source,
    looks_local,
    tokenizer_folder,
)
from expunge.models.identity import (
    applied_tokenizer_identity,
    hub_file,
    is_commit,
    tokenisation_files,
    tokenisation_identity,
    tokenizer_identity,
)
from expunge.models.load import check_tokenizer, load_tokenizer, pick_device
from expunge.models.passport import check_folder

if TYPE_CHECKING:
    from expunge.data.alternates import Alternates


@dataclass(frozen=True)
class TaskContext:
    """The context of a study's jobs: the benchmark, the model's settings and the template.

    watched: the benchmark as evaluations during training read it, where these read other rows
    (`pipelines.sweep.selection`). alternates: other answers to the forget questions, from a file. store: the store that
    keeps the digests of token ids; None keeps none.
    """

    benchmark: Benchmark
    model: ModelConfig
    template: Template
    refusals: tuple[str, ...] = REFUSALS
    watched: Benchmark | None = None
    alternates: Alternates | None = None
    store: Path | None = None

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
        if self.template.apply_chat_template is False or self.model.tokenizer_source is None:
            return None
        text = self._fact("rendered template", lambda encoder: json.dumps(encoder.text.rendered()))
        return None if text is None else json.loads(text)

    def token_ids(self, rows: ExampleSet) -> str | None:
        """Return the digest of the token ids of a set, which is found by tokenising it (`data.row_tokenizer`).

        None if a job will create the tokenizer, or a hub id cannot be loaded here. Also None for more than 16 million
        characters: the jobs that read such a set compare its ids.
        """
        if self.model.tokenizer_source is None or rows.n_tokens is not None or _n_characters(rows) > MOST_CHARACTERS:
            return None
        return self._fact(f"token ids {rows.fingerprint()}", lambda encoder: ids_digest(encoder, rows))

    def _fact(self, name: str, find: Callable[[Encoder], str]) -> str | None:
        """Return a fact about the tokenizer, from the store if it has the fact; None without an available tokenizer.

        The store keeps facts by all that determines them, the times of the code's files included. So a plan loads the
        tokenizer and reads each set once. Nothing is kept of a hub id without a known commit, and of a
        tokenizer with its own code.
        """
        mark = None if self._tokenisation is None else fingerprint([*self._tokenisation, name])
        store = None if self.store is None else self.store.absolute()
        if (store, mark) in _facts:
            return _facts[store, mark]
        file = None if store is None or mark is None else store / TOKENISED / f"{mark[:32]}.json"
        fact = None if file is None else _stored(file)
        if fact is None:
            encoder = self._encoder
            if encoder is None:
                return None
            fact = find(encoder)
            if file is not None:
                with contextlib.suppress(OSError):  # a store that cannot be written is left as it is
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_note(file, {"fact": fact})
        if mark is not None:
            _facts[store, mark] = fact
        return fact

    @functools.cached_property
    def _encoder(self) -> Encoder | None:
        return self.planned_encoder()

    @functools.cached_property
    def _tokenisation(self) -> list[Any] | None:
        """All that determines the token ids of rows, the times of the code's files included; None if it may change."""
        args = self.model.tokenizer_args
        own = tokenizer_identity(str(self.model.tokenizer_source), args.revision)
        if args.trust_remote_code or ("hub" in own and not is_commit(own["revision"])):
            return None
        return [tokenisation_files(), tokenisation_identity(), own, args, self.template]


def _n_characters(rows: ExampleSet) -> int:
    return sum(len(row.question) + sum(map(len, row.answers.values())) for row in rows)


def _stored(file: Path) -> str | None:
    """Return the fact in a file; None if there is none, or it is damaged and must be found again."""
    try:
        return str(read_note(file)["fact"])
    except (OSError, ValueError, KeyError):
        return None


TOKENISED = ".tokenised"  # in a store: a sealed file for each fact about a tokenizer
MOST_CHARACTERS = 2**24  # of a set whose ids a plan reads
_facts: dict[tuple[Path | None, str | None], str] = {}
"""Facts about tokenizers by the store that keeps them, and by all that determines them."""

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


def check_model(model: ModelConfig, *, runs_here: bool = True, key: str = MODEL_KEY) -> None:
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
