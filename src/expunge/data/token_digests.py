"""Digests of the token ids that a job reads, for a comparison with other jobs of the same rows (`core.consistency`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from expunge.core.consistency import note
from expunge.core.fingerprints import fingerprint
from expunge.data.examples import Example, ExampleSet

if TYPE_CHECKING:
    from expunge.data.template import Template

Coded = tuple[Example, str, tuple[int, ...], int]
"""A row, the variant or span of its text, the ids, and the number of ids of the prompt."""


def note_ids(identity: str, template: Template, rows: ExampleSet, coded: Iterable[Coded]) -> None:
    """Note the ids of some rows of a set, one digest for each variant. Raises JobError if an earlier job had others.

    Args:
        identity: Identity of the tokenizer and of the code that applies it.
        template: The template with the limits that hold for the set.
        rows: The set.
        coded: The rows in order, with their ids.
    """
    texts: dict[str, hashlib._Hash] = {}
    ids: dict[str, hashlib._Hash] = {}
    for row, variant, row_ids, n_prompt in coded:
        if variant not in texts:
            texts[variant], ids[variant] = hashlib.sha256(), hashlib.sha256()
        text = row.text(variant) if row.has(variant) else ""
        texts[variant].update(repr((row.question, row.turns, row.trace, text)).encode())
        ids[variant].update(np.array((len(row_ids), n_prompt, *row_ids), np.int64).tobytes())
    how = [identity, template, rows.form, rows.shots, rows.long, rows.max_length]
    for variant in texts:
        inputs = fingerprint([*how, variant, texts[variant].hexdigest()])
        note(f"token ids of {rows.name} ({variant})", inputs, ids[variant].hexdigest())
