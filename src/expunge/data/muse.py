"""MUSE (Shi et al. 2024, arXiv:2407.06460): news articles and books to forget, and questions about them."""

from __future__ import annotations

import dataclasses

from expunge.core.errors import ConfigError, nearest
from expunge.data.examples import ExampleSet, qa_rows, text_rows
from expunge.data.source import load_split

HUB_IDS = {"News": "muse-bench/MUSE-News", "Books": "muse-bench/MUSE-Books"}
SERIES = ("scal", "sust")  # growing and consecutive forget sets: News only
RETAIN = ("retain1", "retain2")


def forget_source(forget_split: str, data_split: str, series: str | None) -> tuple[str, str]:
    """Return the subset and split of a forget split: `forget`, `scal_1`..`scal_4`, `sust_1`..`sust_4`.

    With a series also `forget_1`..`forget_4`. Raises ConfigError.
    """
    sources = {"forget": ("raw", "forget")}
    if data_split == "News":
        sources |= {f"{s}_{k}": (s, f"forget_{k}") for s in SERIES for k in range(1, 5)}
        sources |= {f"forget_{k}": (series, f"forget_{k}") for k in range(1, 5) if series}
    if forget_split not in sources:
        raise ConfigError(
            f"forget_split={forget_split}: MUSE-{data_split} has no such split{nearest(forget_split, sources)}"
        )
    return sources[forget_split]


def load_muse(
    root: str, *, forget: tuple[str, str], retain: str = "retain1", max_length: int = 2048
) -> dict[str, ExampleSet]:
    """Load MUSE's sets by role, from a hub id or a folder of the same layout (`raw/forget`, `knowmem/forget_qa`, ...).

    Training, as pieces of max_length tokens: `forget`, `retain`, and `retain2` (further texts of the target model).
    Evaluation: `forget_knowmem`, `retain_knowmem` (questions, with ten solved ones before each), `forget_verbmem`
    (beginnings of texts to continue), `privleak_forget`, `privleak_holdout` (texts for the membership attack).

    Raises DataError for files that are missing or malformed.
    """
    sets = {}
    for name, (subset, split) in {"forget": forget, "retain": ("raw", retain), "retain2": ("raw", "retain2")}.items():
        raw, where = load_split(root, subset, split)
        sets[name] = text_rows(raw, name=name, where=where, max_length=max_length, long="pieces")
    for side in ("forget", "retain"):
        sets[f"{side}_knowmem"] = _knowmem(root, side)
    raw, where = load_split(root, "verbmem", "forget")
    completed = qa_rows(raw, name="forget_verbmem", where=where, question_key="prompt", answer_key="gt")
    sets["forget_verbmem"] = dataclasses.replace(completed, form="completion", max_length=2 * max_length)
    for side in ("forget", "holdout"):
        raw, where = load_split(root, "privleak", side)
        sets[f"privleak_{side}"] = text_rows(raw, name=f"privleak_{side}", where=where, max_length=max_length)
    return sets


def _knowmem(root: str, side: str) -> ExampleSet:
    name = f"{side}_knowmem"
    solved, shots_at = load_split(root, "knowmem", f"{side}_qa_icl")
    shots = tuple((r.question, r.answer) for r in qa_rows(solved, name=name, where=shots_at))
    raw, where = load_split(root, "knowmem", f"{side}_qa")
    return dataclasses.replace(qa_rows(raw, name=name, where=where), shots=shots)
