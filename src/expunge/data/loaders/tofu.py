"""TOFU (Maini et al. 2024, arXiv:2401.06121): its splits, and its sets by role."""

from __future__ import annotations

import functools
from pathlib import Path

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.examples import ExampleSet, qa_rows
from expunge.data.source import find_local, load_raw, read_file

HUB_ID = "locuslab/TOFU"
SHARES = ("01", "05", "10")  # percent of the authors to forget
FORGET = {f"forget{s}": s for s in SHARES}
RETAIN = {f"retain{100 - int(s)}": s for s in SHARES}
HOLDOUT = {f"holdout{s}": s for s in SHARES}
SPLIT_SHARES = {**FORGET, **RETAIN}


def retain_for(forget_split: str) -> str:
    """Return the retain split that completes a forget split: `forget10` -> `retain90`."""
    return f"retain{100 - int(FORGET[forget_split])}"


def holdout_for(forget_split: str) -> str:
    """Return the holdout split of the same size as a forget split: `forget10` -> `holdout10`."""
    return f"holdout{FORGET[forget_split]}"


def check_splits(forget_split: str, retain_split: str, holdout_split: str | None = None, *, where: str = "") -> None:
    """Raise ConfigError unless the split names are TOFU's, and the retain split completes the forget split.

    No model has seen any of the holdout rows, so every holdout split fits.
    `where` is the key of the group that has the three (`benchmark` for `benchmark.forget_split`), for the message.
    """
    at = f"{where}." if where else ""
    names = [("forget_split", forget_split, FORGET), ("retain_split", retain_split, RETAIN)]
    if holdout_split is not None:
        names.append(("holdout_split", holdout_split, HOLDOUT))
    for key, name, allowed in names:
        if name not in allowed:
            raise ConfigError(f"{at}{key}={name}: TOFU has no such split{nearest(name, allowed)}")
    right = retain_for(forget_split)
    if retain_split != right:
        own = next(forget for forget in FORGET if retain_for(forget) == retain_split)
        raise ConfigError(
            f"{at}forget_split={forget_split} requires retain_split={right}, not {retain_split}, which belongs to "
            f"{at}forget_split={own}"
        )


def load_tofu(
    root: str = HUB_ID,
    *,
    forget_split: str,
    retain_split: str,
    holdout_split: str | None = None,
    holdout: bool = False,
) -> dict[str, ExampleSet]:
    """Load TOFU's sets by role, from a local folder of its files or a hub id.

    Training: `full`, `forget`, `retain`. Evaluation (with wrong answers): `forget_eval`, `retain_eval`,
    `real_authors`, `world_facts`. `holdout` (authors in no other set) is read if `holdout` is true or its split is
    named; the default is the one of the forget split's size. `retain_eval` is TOFU's one file for all splits, sampled
    from the authors in every retain split.

    Raises ConfigError for wrong split names, DataError for files that are missing, malformed or inconsistent.
    """
    check_splits(forget_split, retain_split, holdout_split)
    files = {
        "full": "full",
        "forget": forget_split,
        "retain": retain_split,
        "forget_eval": f"{forget_split}_perturbed",
        "retain_eval": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
    }
    if holdout or holdout_split is not None:
        files["holdout"] = holdout_split or holdout_for(forget_split)
    sets, places = {}, {}
    for role, file in files.items():
        sets[role], places[role] = _rows(file, root, role)
    _check_sets(sets, places)
    return sets


def _rows(file: str, root: str, role: str) -> tuple[ExampleSet, str]:
    """Return the rows of a file, and its location. An unchanged file is read once for all splits."""
    path = find_local(root, file)
    if path is None:
        raw, place = load_raw(file, root=root)
        return qa_rows(raw, name=role, where=place), place
    there = path.stat()
    return _local_rows(path, there.st_mtime_ns, there.st_size, role), str(path)


@functools.lru_cache(maxsize=64)
def _local_rows(path: Path, _changed: int, _size: int, role: str) -> ExampleSet:
    return qa_rows(read_file(path), name=role, where=str(path))


def _check_sets(sets: dict[str, ExampleSet], places: dict[str, str]) -> None:
    n_forget, n_retain, n_full = (len(sets[r]) for r in ("forget", "retain", "full"))
    if n_forget + n_retain != n_full:
        raise DataError(
            f"{places['forget']} ({n_forget} rows) and {places['retain']} ({n_retain}) do not add up to "
            f"{places['full']} ({n_full})"
        )
    if len(sets["forget_eval"]) != n_forget:
        raise DataError(
            f"{places['forget_eval']} has {len(sets['forget_eval'])} rows, {places['forget']} has {n_forget}"
        )
    for ours, theirs in zip(sets["forget"], sets["forget_eval"], strict=True):
        if ours.question != theirs.question:
            raise DataError(
                f"{places['forget_eval']} row {ours.row_id}: the question differs from that of {places['forget']}"
            )
    for role in ("forget_eval", "retain_eval", "real_authors", "world_facts"):
        bare = next((row for row in sets[role] if not row.perturbed), None)
        if bare is not None:
            raise DataError(f"{places[role]} row {bare.row_id}: no perturbed_answer")
