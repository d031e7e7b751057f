"""The capabilities of a loaded model in one forward: padded batches, masks, caches, logits at some positions.

The values come from an observation of the model itself (`evaluation.passport`), never from its family's name. A model
without an observation is assumed to have all capabilities. Token ids are compared with the embedding table.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from expunge.core.errors import ConfigError

GenerationMode = Literal["batched", "single", "uncached"]
_MISSING = object()


@dataclass(frozen=True)
class Capabilities:
    """How a model is read. Every field but `notes` has a fallback that gives the numbers of plain transformers."""

    head: bool = True
    """The LM head can be run on chosen positions. Fallback: compute all logits, then choose."""
    padded: bool = True
    """A right-padded batch without a mask gives the numbers of each row alone. Fallback: row by row."""
    masked: bool = True
    """A padded batch with a mask gives the numbers of each row alone. Fallback: row by row."""
    shared_prefix: bool = True
    """A prefix that several rows share can be kept as a cache. Fallback: each row is read from its start."""
    generation: GenerationMode = "batched"
    """Greedy decoding in padded batches with a cache, one prompt at a time, or without a cache."""
    notes: tuple[str, ...] = ()
    """A sentence for each fallback, for reports."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values as plain JSON types."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Capabilities:
        """Invert `to_dict`. Raises TypeError for other keys."""
        return cls(**{**values, "notes": tuple(values.get("notes", ()))})


ONE_ROW = Capabilities(
    head=False, padded=False, masked=False, shared_prefix=False, generation="single",
    notes=("Rows are read one at a time (model.model_args.batched=false).",),
)  # fmt: skip
_OBSERVED: WeakKeyDictionary[Any, Capabilities] = WeakKeyDictionary()
_EVERYTHING = Capabilities()


def plain_model(model: Any) -> Any:
    """Return the transformers model under wrappers (DistributedDataParallel, DeepSpeed, peft)."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def register_capabilities(model: Any, capabilities: Capabilities) -> None:
    """Store the observed capabilities of a model, as long as the model is alive."""
    _OBSERVED[plain_model(model)] = capabilities


def observed_capabilities(model: Any) -> Capabilities | None:
    """Return the observed capabilities of a model, or None without an observation."""
    try:
        return _OBSERVED.get(plain_model(model))
    except TypeError:  # an object without weak references is no module
        return None


def capabilities_of(model: Any) -> Capabilities:
    """Return the observed capabilities of a model; all capabilities without an observation."""
    return observed_capabilities(model) or _EVERYTHING


_OTHER_NAMES = {"past_key_values": ("cache", "cache_params"), "logits_to_keep": ("num_logits_to_keep",)}


@functools.cache
def _parameters(forward: Any) -> tuple[Mapping[str, Any], bool]:
    """Return the named parameters of a forward with their defaults, and whether it accepts any other name."""
    parameters = inspect.signature(forward).parameters.values()
    named = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


@functools.cache
def _inherited_names(kind: type) -> frozenset[str]:
    """Return the names in the forwards of a class's bases: `**kwargs` of its own forward usually reach one of them."""
    forwards = [vars(base)["forward"] for base in kind.__mro__[1:] if callable(vars(base).get("forward"))]
    return frozenset(name for forward in forwards for name in _parameters(forward)[0])


def forward_options(model: Any, **options: Any) -> dict[str, Any]:
    """Return the arguments that the model's forward accepts, under its own names.

    `past_key_values` may be `cache` (transformers from 5.24) or `cache_params`, and `logits_to_keep`
    `num_logits_to_keep`. Position ids and the number of logits are left out if the forward does not name them: inside
    `**kwargs` they would be ignored. If the model's default is to return fewer logits, all of them are requested.
    """
    kind: Any = type(plain_model(model))
    forward = getattr(kind, "forward", None)
    if forward is None:
        return options
    named, any_name = _parameters(forward)
    out: dict[str, Any] = {}
    for name, value in options.items():
        names = (name, *_OTHER_NAMES.get(name, ()))
        own_name = next((n for n in names if n in named), None)
        if own_name is not None:
            out[own_name] = value
        elif any_name and name not in ("position_ids", "logits_to_keep"):
            inherited = _inherited_names(kind)
            out[next((n for n in names if n in inherited), name)] = value
    for name in ("logits_to_keep", "num_logits_to_keep"):
        if name not in out and named.get(name, 0) not in (0, None, inspect.Parameter.empty):
            out[name] = 0
    return out


def logits_in(output: Any) -> Any:
    """Return the logits of a forward's output: its `logits`, or the first of a tuple."""
    if hasattr(output, "logits"):
        return output.logits
    if hasattr(output, "last_hidden_state"):
        raise ConfigError("model: it has no language-model head, so no logits; load it with AutoModelForCausalLM")
    return output[0]


@contextlib.contextmanager
def kept_modes(*models: Any) -> Iterator[None]:
    """Restore the mode (train or eval) of each module of some models afterwards."""
    modes = [(part, part.training) for model in models for part in model.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def kept_use_cache(model: Any) -> Iterator[None]:
    """Restore `config.use_cache`: a Trainer sets it to False when it is made.

    The forwards of training name the argument themselves. A saved configuration keeps the model's own value.
    """
    config = getattr(model, "config", None)
    before = getattr(config, "use_cache", _MISSING)
    try:
        yield
    finally:
        if config is not None and before is not _MISSING:
            config.use_cache = before
        elif config is not None and hasattr(config, "use_cache"):
            del config.use_cache


def n_embeddings(model: Any) -> int | None:
    """Return the number of rows of a model's embedding table; None if it has none."""
    getter = getattr(plain_model(model), "get_input_embeddings", None)
    try:
        table = None if getter is None else getter()
    except (AttributeError, NotImplementedError):
        return None
    n = getattr(table, "num_embeddings", None)
    return n if isinstance(n, int) else None


def n_logits(model: Any) -> int:
    """Return the number of logits of a position: the rows of the LM head, or else the configuration's vocab_size."""
    plain = plain_model(model)
    weight = getattr(plain.get_output_embeddings(), "weight", None)
    return int(plain.config.get_text_config().vocab_size if weight is None else weight.shape[0])


def padding_id(model: Any, pad_id: int | None) -> int:
    """Return the id that fills padding: the tokenizer's, or 0 if the embedding table has no row for it.

    Padding is masked or after every token that is read, so the id changes no number.
    """
    n = n_embeddings(model)
    return pad_id if pad_id is not None and (n is None or 0 <= pad_id < n) else 0


def check_ids(model: Any, rows: Iterable[tuple[str, Sequence[int]]]) -> None:
    """Raise ConfigError for the first row with an id beyond the embedding table.

    rows: the name of each row for the message, and its ids.
    """
    n = n_embeddings(model)
    if n is None:
        return
    for where, ids in rows:
        if ids and max(ids) >= n:
            raise ConfigError(
                f"{where}: token id {max(ids)} is beyond the model's {n} embeddings (ids 0 to {n - 1}); the tokenizer "
                "is not this model's: set model.tokenizer_args, or resize the embeddings "
                "(model.resize_token_embeddings(len(tokenizer)))"
            )
