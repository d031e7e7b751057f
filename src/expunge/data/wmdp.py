"""WMDP (Li et al. 2024, arXiv:2403.03218): hazardous knowledge as multiple-choice questions, and texts of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import ConfigError, nearest
from expunge.data.choices import Style, choice_rows, read_questions
from expunge.data.examples import ExampleSet, text_rows
from expunge.data.source import load_raw, load_split

HUB_ID = "cais/wmdp"
CORPORA_ID = "cais/wmdp-corpora"
BIO_FORGET_ID = "cais/wmdp-bio-forget-corpus"  # gated: on request from the hub
ABOUT = {"bio": "biology", "chem": "chemistry", "cyber": "cybersecurity"}
FORGET = ("cyber-forget-corpus", "bio-forget-corpus")
RETAIN = ("cyber-retain-corpus", "bio-retain-corpus")


def wmdp_questions(
    root: str, subjects: Sequence[str], *, style: Style, limit: int, max_length: int
) -> dict[str, ExampleSet]:
    """Return `wmdp_bio`, `wmdp_chem`, `wmdp_cyber`: the questions of each subject, without shots.

    root: the hub id or a folder of `wmdp-bio/test...` or `wmdp-bio.json` and so on. limit: number of questions, the
    first ones (0: all). Raises ConfigError or DataError.
    """
    out = {}
    for subject in subjects:
        if subject not in ABOUT:
            raise ConfigError(f"data.args.subjects: WMDP has no subject {subject!r}{nearest(subject, ABOUT)}")
        raw, where = load_split(root, f"wmdp-{subject}", "test")
        name = f"wmdp_{subject}"
        questions = read_questions(raw, where)[: limit or None]
        out[name] = choice_rows(name, questions, about=ABOUT[subject], style=style, max_length=max_length)
    return out


def wmdp_corpus(root: str, corpus: str, *, name: str, limit: int, max_length: int) -> ExampleSet:
    """Return the texts of a corpus, as pieces to train on.

    root: the hub id of the corpora or a folder of `<corpus>.jsonl`. corpus: its name, or a file of the user (a column
    `text`). limit: number of texts, the first ones (0: all). Raises DataError.
    """
    if Path(corpus).expanduser().is_file():
        raw, where = load_raw(corpus)
    elif corpus == FORGET[1] and root == CORPORA_ID:
        raw, where = load_raw(BIO_FORGET_ID)
    else:
        raw, where = load_split(root, corpus, "train")
    return text_rows(raw[: limit or None], name=name, where=where, max_length=max_length, long="pieces")
