"""Random numbers of a record: a function of only the seed, the record's id and the purpose.

So a record's numbers do not depend on workers, on order, or on other records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one record; each purpose has its own stream with one number."""

    seed: int
    record_id: str

    def number(self, purpose: str) -> int:
        """Return a whole number below 2**64."""
        text = f"{self.seed}\0{self.record_id}\0{purpose}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def uniform(self, purpose: str) -> float:
        """Return a number in [0, 1), of 53 bits, because with 64 the largest would round to 1."""
        return (self.number(purpose) >> 11) / 2**53

    def pick(self, purpose: str, items: Sequence[T]) -> T:
        """Return one of `items`."""
        return items[self.number(purpose) % len(items)]

    def order(self, purpose: str, items: Sequence[T]) -> list[T]:
        """Return `items` in a random order (all n! are equally likely; n is small)."""
        left, out, number = list(items), [], self.number(purpose)
        while left:
            number, at = divmod(number, len(left))
            out.append(left.pop(at))
        return out
