"""The knowledge of the model before an erasure: of the rows to forget in several wordings, and of rows to keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.core.numbers import plain as plain_values
from expunge.core.records import GeneratedText
from expunge.data.encoder import Encoder
from expunge.data.examples import ANSWER, Example, ExampleSet
from expunge.data.general import anchors
from expunge.data.question_text import first_sentence
from expunge.data.variants import variant_of
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import Evaluator
from expunge.judges.api import Judge, JudgeReply
from expunge.metrics.answer_content import contains
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.fluency import is_gibberish
from expunge.metrics.rouge import rouge_scores
from expunge.pipelines.erase.neighbours import neighbour_questions
from expunge.pipelines.erase.wordings import (
    MEASURED,
    TRAINED,
    best_text,
    fitting,
    own_wording,
    picked,
    shortened,
)

PROBABLE = 0.4  # an answer at least this likely, per word piece, is known
PROBABLE_TEXT = 0.1  # the same for plain texts, which have many ways to continue
REPEATED = 0.6  # an answer of which the greedy text repeats this share of the words is known
LONG = 8  # words of such an answer; the words of a shorter one are often those of the question
ANSWERABLE = 0.25  # a wording in which the answer is less likely is not worth training on
MOST_TOKENS = 48  # of a greedy answer
ANCHOR_SHARE = 0.5  # most everyday questions next to the user's rows to keep, as a share of them
MOST_KEPT = 400  # rows to keep whose own wording is looked up
MOST_KEPT_TOKENS = 24  # of an answer to a row to keep, or near a row to forget
MOST_SHOWN = 20  # rows in the terminal
AS_IT_IS = "as it is"


@dataclass(frozen=True, kw_only=True)
class RowKnowledge:
    """The model's answer to one row to forget. `says`: its greedy text; own: its wording of the answer, if other."""

    row: int
    says: str
    probability: float
    rouge: float
    in_text: bool
    """Whether the text contains the content of the answer, by words or by the judge."""
    known: bool
    """Whether the row is known: in a text of one of the wordings, or because the listed answer is likely."""
    wording: str = AS_IT_IS
    """The wording of the question with the own wording of the answer."""
    own: str | None = None
    own_probability: float = math.nan
    trained: tuple[int, ...] = (0,)
    """Positions of the wordings for training in which an answer is likely enough."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The preflight of an erasure, as plain values.

    rows: the rows to forget. near: questions near them with the model's own answers. kept: row to keep -> the model's
    own wording of its answer. unknown_kept: rows to keep that the model does not know. anchors: everyday questions with
    the model's own answers.
    """

    rows: tuple[RowKnowledge, ...]
    near: tuple[tuple[str, str], ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    unknown_kept: tuple[int, ...] = ()
    anchors: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    """Its time, which counts on the budget."""

    @property
    def known(self) -> tuple[int, ...]:
        """The rows to forget that the model knows."""
        return tuple(row.row for row in self.rows if row.known)

    @property
    def unknown(self) -> tuple[int, ...]:
        """The rows to forget that the model does not know."""
        return tuple(row.row for row in self.rows if not row.known)

    @property
    def reworded(self) -> Mapping[int, str]:
        """The model's own wording of the answers of some rows."""
        return {row.row: row.own for row in self.rows if row.own is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; null for NaN."""
        rows = [plain_values(dataclasses.asdict(row)) for row in self.rows]
        near, unknown = [list(pair) for pair in self.near], list(self.unknown_kept)
        own: dict[str, Any] = {"rows": rows, "near": near, "kept": dict(self.kept), "unknown_kept": unknown}
        return {**own, "anchors": [list(pair) for pair in self.anchors], "seconds": self.seconds}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preflight:
        """Return the preflight that `to_dict` has written."""
        rows = []
        for row in values["rows"]:
            numbers = {k: math.nan if row[k] is None else row[k] for k in ("probability", "rouge", "own_probability")}
            rows.append(RowKnowledge(**{**row, **numbers, "trained": tuple(row["trained"])}))
        near, anchored = (tuple((str(q), str(a)) for q, a in values[key]) for key in ("near", "anchors"))
        unknown = tuple(int(i) for i in values["unknown_kept"])
        return cls(rows=tuple(rows), near=near, kept=dict(values["kept"]), unknown_kept=unknown, anchors=anchored,
                   seconds=float(values["seconds"]))  # fmt: skip


@dataclass(frozen=True)
class Examiner:
    """A loaded model that answers questions. judge: scores whether a text contains the answer, 0 to 1."""

    model: Any
    encoder: Encoder
    generation: Generation
    judge: Judge | None = None

    def results(self, rows: ExampleSet, variant: str = ANSWER) -> MetricResult:
        """Return the probability of an answer of each row."""
        metric = Metric("probability", "probability", rows=rows.name, reads={"tokens": (variant,)})
        return self._evaluated(rows, metric)["probability"]

    def probabilities(self, rows: ExampleSet, variant: str = ANSWER) -> list[float]:
        """Return the probability per word piece of an answer of each row."""
        return self.results(rows, variant).column("prob") if len(rows) else []

    def texts(self, rows: ExampleSet) -> list[GeneratedText]:
        """Return the greedy text of each row, in order."""
        from expunge.evaluation.generation import generate_texts

        return generate_texts(self.model, rows, ANSWER, self.encoder, self.generation) if len(rows) else []

    def answers(self, questions: Sequence[str]) -> list[str]:
        """Return the greedy answers to questions."""
        return [text.generation for text in self.texts(_questions(questions))]

    def short(self) -> Examiner:
        """Return a copy that generates short answers."""
        most = min(self.generation.max_new_tokens, MOST_KEPT_TOKENS)
        return dataclasses.replace(self, generation=dataclasses.replace(self.generation, max_new_tokens=most))

    def in_text(self, rows: ExampleSet, texts: Sequence[GeneratedText]) -> list[bool]:
        """Return whether each text contains its row's answer."""
        if self.judge is None:
            return [contains(t.generation, r.answer) for t, r in zip(texts, rows, strict=True)]
        replies = [JudgeReply(t.generation, r.question, r.answer) for t, r in zip(texts, rows, strict=True)]
        return [score.score >= 0.5 for score in self.judge.judge(replies)]

    def _evaluated(self, rows: ExampleSet, metric: Metric) -> dict[str, MetricResult]:
        one = Evaluator(metrics=(metric,), sets={rows.name: rows}, encoder=self.encoder, generation=self.generation)
        return one.results(one.score(self.model))


def _questions(questions: Sequence[str]) -> ExampleSet:
    rows = tuple(Example(i, q, {ANSWER: q}) for i, q in enumerate(questions))
    return ExampleSet("questions", rows)


def examine(
    examiner: Examiner, forget: ExampleSet, retain: ExampleSet, *, make_near: bool, tell: Callable[[str], None]
) -> Preflight:
    """Ask the model about the rows to forget and the rows to keep.

    Args:
        examiner: The loaded model.
        forget: The rows to forget, with prompts.
        retain: The rows to keep.
        make_near: Make rows near the rows to forget, because the user has given no rows to keep.
        tell: Receives a line before each longer stage.
    """
    tell(f"preflight: tests the model on {len(forget)} rows to forget")
    rows = _forget_rows(examiner, forget)
    is_known = any(row.known for row in rows)
    near: tuple[tuple[str, str], ...] = ()
    if make_near and forget.form == "qa" and is_known:
        tell("preflight: makes rows near them")
        near = own_answers(examiner, forget, neighbour_questions([row.question for row in forget], examiner.answers))
        if not near:
            tell("preflight: no rows near them: the questions fit no template, or the model gives no answer")
    anchored: tuple[tuple[str, str], ...] = ()
    if forget.form == retain.form == "qa" and is_known:
        tell("preflight: reads the model's answers to everyday questions")
        anchored = own_answers(examiner, forget, anchors(), None if make_near else int(ANCHOR_SHARE * len(retain)) + 1)
    wordings: dict[str, str] = {}
    unknown: tuple[int, ...] = ()
    if retain.form == "qa" and len(retain) <= MOST_KEPT and is_known:
        tell(f"preflight: tests the model on {len(retain)} rows to keep")
        wordings, unknown = _retain_wordings(examiner, retain)
    return Preflight(rows=rows, near=near, kept=wordings, unknown_kept=unknown, anchors=anchored)


def _forget_rows(examiner: Examiner, forget: ExampleSet) -> tuple[RowKnowledge, ...]:
    texts, probabilities = examiner.texts(forget), examiner.probabilities(forget)
    there = examiner.in_text(forget, texts)
    is_asked = forget.form == "qa"
    least = PROBABLE if is_asked else PROBABLE_TEXT
    rows = []
    for row, text, p, inside in zip(forget, texts, probabilities, there, strict=True):
        rouge = rouge_scores(text)[1]
        repeated = rouge >= REPEATED and len(row.answer.split()) >= LONG
        own = own_wording(text.generation, row.answer) if is_asked else None
        known = inside or p >= least or repeated
        rows.append(
            RowKnowledge(
                row=row.row_id, says=text.generation, probability=p, rouge=rouge, in_text=inside, known=known, own=own
            )
        )
    if not is_asked:
        return tuple(rows)
    for way in MEASURED:
        rows = _in_other_words(examiner, forget, rows, way)
    return tuple(_with_wordings(examiner, forget, rows))


def _in_other_words(examiner: Examiner, forget: ExampleSet, rows: list[RowKnowledge], way: str) -> list[RowKnowledge]:
    """Return the rows. A row is also known if the model answers it only in another wording of the question."""
    variant = variant_of(forget, way)
    fits = set(fitting(examiner.encoder, variant))
    left = [row.row for row in rows if not row.known and row.row in fits]
    if not left:
        return rows
    variant_rows = picked(variant, left, f"{forget.name}_left")
    texts = examiner.texts(variant_rows)
    out = list(rows)
    for i, text, inside in zip(left, texts, examiner.in_text(variant_rows, texts), strict=True):
        if inside:
            own = best_text([text], forget[i].answer)
            out[i] = dataclasses.replace(rows[i], known=True, in_text=True, wording=way, own=own)
    return out


def _with_wordings(examiner: Examiner, forget: ExampleSet, rows: list[RowKnowledge]) -> list[RowKnowledge]:
    """Return the rows with the probability of their own wording, and the wordings that are worth training on."""
    known = [row.row for row in rows if row.known]
    best = {i: rows[i].probability for i in known}
    own = {i: rows[i].own or forget[i].answer for i in known}
    trained: dict[int, list[int]] = {i: [0] for i in known}
    for k, form in enumerate(TRAINED):
        examples = [Example(n, form.replace("{}", forget[i].question), {ANSWER: own[i]}) for n, i in enumerate(known)]
        whole = ExampleSet(f"wording_{k}", tuple(examples))
        fits = fitting(examiner.encoder, whole)
        likely = examiner.probabilities(picked(whole, fits))
        for i, p in zip((known[n] for n in fits), likely, strict=True):
            if k == 0:
                best[i] = p
            elif p >= ANSWERABLE:
                trained[i].append(k)
    return [
        dataclasses.replace(r, own_probability=best[r.row], trained=tuple(trained[r.row])) if r.known else r
        for r in rows
    ]


def own_answers(
    examiner: Examiner, forget: ExampleSet, questions: Sequence[str], most: int | None = None
) -> tuple[tuple[str, str], ...]:
    """Return questions with the model's own answers, if these are sentences and contain no answer to forget.

    most: the number of pairs after which the model answers no further question. None: all.
    """
    out: list[tuple[str, str]] = []
    size = len(questions) if most is None else most
    for start in range(0, len(questions), max(size, 1)):
        part = questions[start : start + size]
        for question, text in zip(part, examiner.short().answers(part), strict=True):
            answer = first_sentence(text)
            leaks = any(contains(answer, row.answer) and not contains(question, row.answer) for row in forget)
            if answer and not leaks and not is_gibberish(text):
                out.append((question, answer))
        if most is not None and len(out) >= most:
            break
    return tuple(out[:most])


def _retain_wordings(examiner: Examiner, retain: ExampleSet) -> tuple[dict[str, str], tuple[int, ...]]:
    """Return the own wordings of rows to keep, and the rows that the model does not know."""
    texts, probabilities = examiner.short().texts(retain), examiner.probabilities(retain)
    own: dict[str, str] = {}
    unknown = []
    for row, text, p in zip(retain, texts, probabilities, strict=True):
        wording = own_wording(text.generation, row.answer)
        if wording is not None and p < PROBABLE:
            own[str(row.row_id)] = wording
        elif p < PROBABLE and not contains(text.generation, row.answer):
            unknown.append(row.row_id)
    return own, tuple(unknown)


def preflight_lines(preflight: Preflight, forget: ExampleSet) -> list[str]:
    """Return the preflight for the terminal: the model's answer to each row, and the rows that it does not know."""
    rows = preflight.rows
    lines = [f"the model knows {len(preflight.known)} of the {len(rows)} rows to forget"]
    for row in rows[:MOST_SHOWN]:
        answer = forget[row.row].answer
        rouge = f"ROUGE {row.rouge:.2f}" if math.isfinite(row.rouge) else "no ROUGE without Latin letters or digits"
        numbers = f"probability {row.probability:.3f}, {rouge}"
        if row.own is not None:
            numbers += f", {row.own_probability:.3f} in its own words"
        word = "known" if row.known else "not known"
        way = "" if row.wording == AS_IT_IS else f", in the wording {row.wording!r}"
        texts = f"listed {shortened(answer, 40)!r}, generated {shortened(row.says)!r}"
        lines.append(f"  row {row.row}: {word}{way}; {texts} ({numbers})")
    if len(rows) > MOST_SHOWN:
        lines.append(f"  ... and {len(rows) - MOST_SHOWN} more rows")
    if preflight.unknown:
        lines.append(f"not known, so not trained on: row {', '.join(map(str, preflight.unknown))} (from 0)")
    if preflight.near:
        lines.append(f"rows near them, with the model's own answers ({len(preflight.near)}, to keep and to measure):")
        lines += [f"  {shortened(q, 60)} -> {shortened(a, 60)}" for q, a in preflight.near[:MOST_SHOWN]]
        if len(preflight.near) > MOST_SHOWN:
            lines.append(f"  ... and {len(preflight.near) - MOST_SHOWN} more")
    if preflight.unknown_kept:
        lines.append(f"{len(preflight.unknown_kept)} of the rows to keep are not known to the model")
    return lines
