"""Compare token ids with the embedding table: an id beyond it is an error with both numbers, padding is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from expunge.core.errors import ConfigError
from expunge.models.capabilities import plain_model


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
                "is not this model's: set model.tokenizer_args, or resize the embeddings and save the model again"
            )
