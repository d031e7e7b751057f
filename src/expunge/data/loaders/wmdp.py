"""WMDP (Li et al. 2024, arXiv:2403.03218): hazardous knowledge as multiple-choice questions, and texts of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.choices import ChoiceQuestion, Style, choice_rows, read_questions
from expunge.data.examples import ExampleSet, text_rows
from expunge.data.source import is_hub_id, load_raw, load_split

HUB_ID = "cais/wmdp"
CORPORA_ID = "cais/wmdp-corpora"
BIO_FORGET_ID = "cais/wmdp-bio-forget-corpus"  # gated: on request from the hub
ABOUT = {"bio": "biology", "chem": "chemistry", "cyber": "cybersecurity"}
FORGET = ("cyber-forget-corpus", "bio-forget-corpus")
RETAIN = ("cyber-retain-corpus", "bio-retain-corpus")
ROBUST_ID = "EleutherAI/wmdp_bio_robust_mcqa"
TOPICS = (  # subsets of the robust questions, as published
    "bioweapons_and_bioterrorism",
    "dual_use_virology",
    "enhanced_potential_pandemic_pathogens",
    "expanding_access_to_threat_vectors",
    "reverse_genetics_and_easy_editing",
    "viral_vector_research",
)


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


def robust_questions(root: str, *, style: Style, limit: int, max_length: int) -> dict[str, ExampleSet]:
    """Return `wmdp_bio_robust` and `wmdp_bio_shortcut`: questions of WMDP-bio without and with superficial clues.

    root: the hub id of the robust questions (O'Brien et al. 2025, arXiv:2508.06601) or a folder of TOPIC/robust and
    TOPIC/shortcut, each with an extension. limit: number of questions of each kind (0: all). Raises DataError.
    """
    out = {}
    for kind in ("robust", "shortcut"):
        questions: list[ChoiceQuestion] = []
        for topic in TOPICS:
            raw, where = load_split(root, topic, kind)
            questions += read_questions(raw, where)
        name = f"wmdp_bio_{kind}"
        first = questions[: limit or None]
        out[name] = choice_rows(name, first, about=ABOUT["bio"], style=style, max_length=max_length)
    return out


def deduplicated_questions(root: str, *, style: Style, limit: int, max_length: int) -> dict[str, ExampleSet]:
    """Return `wmdp_deduplicated`: WMDP's questions without near-duplicates (Deeb and Roger 2024, arXiv:2410.08827).

    root: a folder of split_0.jsonl to split_4.jsonl, with question, choices and answer. limit: number of questions
    (0: all). Raises DataError: the files are in the authors' repository, not on the hub.
    """
    folder = Path(root).expanduser()
    if is_hub_id(root) or not folder.is_dir():
        raise DataError(
            f"{root}: the deduplicated questions are not on the hub; set data.root to a folder of split_0.jsonl to "
            "split_4.jsonl"
        )
    questions: list[ChoiceQuestion] = []
    for number in range(5):
        raw, where = load_raw(f"split_{number}", root=root)
        questions += read_questions(raw, where)
    about = "biology and cybersecurity"
    rows = choice_rows("wmdp_deduplicated", questions[: limit or None], about=about, style=style, max_length=max_length)
    return {"wmdp_deduplicated": rows}


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
