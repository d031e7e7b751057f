"""Which rows meet in which step: a plan made before training, from the seed alone.

Interleaved: the anchor side is passed through epoch by epoch, shuffled anew each time; the other side is drawn without
replacement: its rows are shuffled, used once each, shuffled again, and so on. In chunks: forget rows in consecutive
parts, with retain rows from a cursor. Alternating: parts of the forget rows alone, and of the retain rows alone. The
k-th sample of the run is the same whatever the number of workers, ranks or interruptions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairing:
    """For each sample, in order, its forget row, shape (S,), and its retain rows, shape (S, ratio); None: no such side.

    Rows are positions in their sets. n_epoch: samples of one pass.
    """

    forget: Rows | None
    retain: Rows | None
    n_epoch: int = 0

    def __len__(self) -> int:
        side = self.forget if self.forget is not None else self.retain
        return 0 if side is None else len(side)


def shuffled_stream(n_rows: int, length: int, seed: int, stream: int) -> Rows:
    """`length` positions of a set of `n_rows`, in passes that each use every row once, each pass in a new order."""
    passes = [
        np.random.default_rng([seed, stream, k]).permutation(n_rows) for k in range(math.ceil(length / max(n_rows, 1)))
    ]
    return np.concatenate(passes)[:length].astype(np.int64) if passes else np.zeros(0, dtype=np.int64)


def pair(
    *,
    n_forget: int | None,
    n_retain: int | None,
    n_samples: int,
    seed: int,
    ratio: int = 1,
    n_epoch: int = 0,
) -> Pairing:
    """An interleaved run's samples; a side with no rows (None) is left out. Both sides are drawn without replacement,
    so the anchor only decides how many samples an epoch has, which the caller says by `n_samples`."""
    return Pairing(
        forget=None if n_forget is None else shuffled_stream(n_forget, n_samples, seed, 0),
        retain=None if n_retain is None else shuffled_stream(n_retain, n_samples * ratio, seed, 1).reshape(-1, ratio),
        n_epoch=n_epoch,
    )


def in_chunks(
    *,
    n_forget: int,
    n_retain: int | None,
    chunk_size: int,
    samples_of: Callable[[int], int],
    ratio: int,
    seed: int,
    shuffle: bool,
) -> list[Pairing]:
    """A pairing per chunk of consecutive forget rows; `samples_of` gives the samples of a run over so many rows.

    Every forget row has its own `ratio` retain rows, the same in each pass: the cursor takes the next ones, around the
    retain rows and on from chunk to chunk. `shuffle` puts both sides in a seeded order first.
    """
    retain = None if n_retain is None else _order(n_retain, seed, 1, shuffle)
    out: list[Pairing] = []
    for start, chunk in _chunks(_order(n_forget, seed, 0, shuffle), chunk_size):
        visits = np.arange(samples_of(len(chunk))) % len(chunk)
        beside = None
        if retain is not None:
            cursor = np.arange(start * ratio, (start + len(chunk)) * ratio) % len(retain)
            beside = retain[cursor].reshape(-1, ratio)[visits]
        out.append(Pairing(chunk[visits], beside, len(chunk)))
    return out


def alternating(
    *,
    n_forget: int,
    n_retain: int,
    chunk_size: int,
    samples_of: Callable[[int], int],
    anneal_samples_of: Callable[[int], int],
    every: int,
    share: float,
    seed: int,
    shuffle: bool,
) -> list[Pairing]:
    """Pairings of one side each: every chunk of forget rows; after each `every` whole chunks a random share of the
    retain rows; at the end all retain rows. Each pass of each pairing is in a new seeded order."""
    streams = itertools.count(4)  # 0 to 3 order the other plans
    out: list[Pairing] = []

    def passes(rows: Rows, n_samples: int) -> Rows:
        return rows[shuffled_stream(len(rows), n_samples, seed, next(streams))]

    def anneal(rows: Rows) -> None:
        out.append(Pairing(None, passes(rows, anneal_samples_of(len(rows)))[:, None], len(rows)))

    whole = 0
    for _, chunk in _chunks(_order(n_forget, seed, 0, shuffle), chunk_size):
        out.append(Pairing(passes(chunk, samples_of(len(chunk))), None, len(chunk)))
        whole += len(chunk) == chunk_size
        if len(chunk) == chunk_size and whole % every == 0:
            anneal(shuffled_stream(n_retain, max(1, int(share * n_retain + 1e-9)), seed, next(streams)))
    anneal(np.arange(n_retain, dtype=np.int64))
    return out


def _order(n_rows: int, seed: int, stream: int, shuffle: bool) -> Rows:
    return shuffled_stream(n_rows, n_rows, seed, stream) if shuffle else np.arange(n_rows, dtype=np.int64)


def _chunks(rows: Rows, size: int) -> list[tuple[int, Rows]]:
    """Consecutive parts of at most `size` rows, each with its start."""
    return [(start, rows[start : start + size]) for start in range(0, len(rows), size)]


def choices(visited: Rows, n: int, seed: int) -> Rows:
    """For each visit of a row, which of its `n` alternates it meets: each once, in the row's own order, then again."""
    seen: dict[int, int] = {}
    orders: dict[int, Rows] = {}
    out = np.zeros(len(visited), dtype=np.int64)
    for k, row in enumerate(visited.tolist()):
        if row not in orders:
            orders[row] = np.random.default_rng([seed, 3, row]).permutation(n).astype(np.int64)
        out[k] = orders[row][seen.get(row, 0) % n]
        seen[row] = seen.get(row, 0) + 1
    return out


def group_by_length(order: Rows, lengths: Rows, *, batch: int, seed: int, window: int = 16) -> Rows:
    """Reorder samples so that a batch holds rows of like length, to waste less on padding.

    Within each window of `window` batches the samples are sorted by length and the batches put in a seeded order; no
    sample leaves its window, so the passes of `shuffled_stream` stay passes (but for the windows on their seams).
    """
    out: list[Rows] = []
    span = batch * window
    for k, start in enumerate(range(0, len(order), span)):
        index = np.arange(start, min(start + span, len(order)))
        index = index[np.argsort(lengths[order[index]], kind="stable")]
        blocks = [index[i : i + batch] for i in range(0, len(index), batch)]
        full = [b for b in blocks if len(b) == batch]
        rest = [b for b in blocks if len(b) < batch]
        for b in np.random.default_rng([seed, 2, k]).permutation(len(full)):
            out.append(order[full[b]])
        out.extend(order[b] for b in rest)
    return np.concatenate(out) if out else order
