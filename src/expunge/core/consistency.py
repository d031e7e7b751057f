"""Outputs that must be equal whenever their inputs are, compared while jobs run.

The key of a job covers the inputs of its work, and the releases of libraries. Code that changes without a new release
(a patched library, a tokenizer that reads a clock) gives other outputs under the same key. `note` takes the digest of
an output under that of its inputs. `comparing` collects the notes of a job and compares them with those of its parents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar

from expunge.core.errors import JobError

Digests = dict[str, list[str]]
"""Digest of the inputs -> [name of the output, digest of the output, the job that computed it first]."""
_current: ContextVar[tuple[Digests, str] | None] = ContextVar("current", default=None)


@contextlib.contextmanager
def comparing(earlier: Iterable[Mapping[str, list[str]]], job: str) -> Iterator[Digests]:
    """Collect the notes of a block. Yields them, with the earlier ones.

    Args:
        earlier: The digests of the job's parents.
        job: The job, for the notes of the block.

    Raises:
        JobError: Equal inputs gave different outputs, in the parents or in the block.
    """
    digests: Digests = {}
    for one in earlier:
        for inputs, values in one.items():
            _add(digests, inputs, values)
    token = _current.set((digests, job))
    try:
        yield digests
    finally:
        _current.reset(token)


def is_comparing() -> bool:
    """Return whether `note` has an effect here: a job runs."""
    return _current.get() is not None


def note(name: str, inputs: str, output: str) -> None:
    """Compare the digest of an output with earlier ones of the same inputs. Raises JobError if it differs.

    Args:
        name: A name of the output for the error, such as "token ids of forget (answer)".
        inputs: The digest of all that determines the output.
        output: The digest of the output.
    """
    current = _current.get()
    if current is not None:
        _add(current[0], inputs[:16], [name, output[:16], current[1]])


def difference(one: list[str], other: list[str]) -> str | None:
    """Return a sentence about the different outputs of two notes of the same inputs; None if they are equal."""
    if one[1] == other[1]:
        return None
    return (
        f"the {one[0]} in {one[2]} differ from those in {other[2]}, though all that should determine them is equal: a "
        "library or the tokenizer's code has changed without a new release"
    )


def _add(digests: Digests, inputs: str, values: list[str]) -> None:
    message = difference(values, digests.setdefault(inputs, values))
    if message:
        raise JobError(f"{message}. Restore it, or compute all results with the present code (paths.store=NEW_FOLDER)")
