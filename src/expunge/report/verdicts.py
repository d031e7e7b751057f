"""The verdict on each unlearned model of a report, the ranking, and which model to choose."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from textwrap import TextWrapper

from expunge.metrics.utility import utility_answer
from expunge.metrics.verdict import (
    DIRECT,
    QUESTIONS,
    Verdict,
    choice,
    direct_findings,
    make_verdict,
    ranked,
    utility_left,
)
from expunge.report.markup import markdown_text
from expunge.report.model import ReportModel, once
from expunge.report.table import ABSENT

RANK_HEADS = ("rank", "model", "forgot?", "robust?", "detectable?", "utility left", "why here")
RANKING = (
    "Ordered by: forgot, robust, detectable, then utility. A model below the retain model is distinguishable too, so "
    "over-forgotten and trace have the same rank. The smaller distance from the retain model comes first: that of the "
    "farthest measurement, in whole margins. A broken model (below the utility floor, or gibberish) has no rank, "
    "and neither has one without any answer."
)

WIDE = 60  # characters of a terminal from which an answer continues under its beginning


@dataclass(frozen=True)
class Judgement:
    """The first screen of a report: the sentence on the choice, the models in order, and the broken ones."""

    choice: str
    ranked: tuple[Verdict, ...]
    broken: tuple[Verdict, ...]

    @property
    def all(self) -> tuple[Verdict, ...]:
        """Every verdict, the broken models last."""
        return (*self.ranked, *self.broken)

    @property
    def table(self) -> list[tuple[str, ...]]:
        """The ranked table, in the order of RANK_HEADS."""
        return [_line(place, verdict) for place, verdict in zip(self.places, self.all, strict=True)]

    @property
    def places(self) -> list[str]:
        """The rank of each model; a dash for broken models and for models without any answer."""
        numbers = (str(k) for k in itertools.count(1))
        return [next(numbers) if v.measured and not v.broken else ABSENT for v in self.all]


@once
def judgement(model: ReportModel) -> Judgement | None:
    """Return the verdicts on all unlearned models; None if there is none, or for a study of stories."""
    verdicts = [] if model.protocol is not None else _verdicts(model)
    if not verdicts:
        return None
    alive, broken = ranked(verdicts)
    return Judgement(choice(verdicts), tuple(alive), tuple(broken))


def _verdicts(model: ReportModel) -> list[Verdict]:
    out = []
    for group in model.groups():
        if group[0].role != "unlearn":
            continue
        full, retain = (model.results_of(role, group[0].cell) for role in ("full", "retain"))
        reason = "no metric of the forget rows is paired" if retain else "there is no retain model"
        own = [run.results for run in group]
        label = group[0].label
        findings = [(DIRECT, finding) for finding in direct_findings(own, retain, full)]
        findings += [(line.audit, line) for line in model.audits if line.label == label]
        utility = utility_answer(own, full, model.utility, model.utility_floor)
        gibberish = next((run.gibberish for run in group if run.gibberish), "")
        by_seed = [direct_findings([one], retain, full) for one in own] if len(own) > 1 else []
        out.append(
            make_verdict(
                label, findings, utility, seeds=len(group), by_seed=by_seed, gibberish=gibberish, reason=reason
            )
        )
    return out


def _line(rank: str, verdict: Verdict) -> tuple[str, ...]:
    tested = [answer for answer in (verdict.forgot, verdict.robust) if answer.finding != "not tested"]
    why = verdict.broken or " ".join(_first_clause(answer.sentence) for answer in tested or [verdict.forgot])
    if verdict.forgot.farthest and not verdict.broken:
        why += f" Farthest: {verdict.forgot.farthest}."
    return (
        rank,
        verdict.model,
        verdict.forgot.word,
        verdict.robust.word,
        verdict.detectable.word,
        utility_left(verdict.kept) or ABSENT,
        f"broken: {why}" if verdict.broken else why,
    )


def _first_clause(sentence: str) -> str:
    """Return the numbers of an answer; the card below the table has the whole text."""
    return sentence.partition("; ")[0].rstrip(".") + "."


def answer_lines(verdict: Verdict) -> list[str]:
    """Return the answers as markdown, one line each."""
    return [f"- {q} **{markdown_text(word)}**. {markdown_text(text)}" for q, word, text in questions(verdict)] + [""]


def verdict_lines(verdict: Verdict) -> list[str]:
    """Return the answers as markdown, after the line on a broken model."""
    broken = [f"**The model is broken.** {markdown_text(verdict.broken)}", ""] if verdict.broken else []
    return broken + answer_lines(verdict)


def folded(verdict: Verdict, width: int) -> str:
    """Return the verdict for a terminal: lines of at most `width` characters, continued under the answers."""
    under = len(f"  {max(QUESTIONS.values(), key=len)} ")
    indent = " " * (under if width >= WIDE else 4)
    fold = TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(fold.fill(line) for line in str(verdict).splitlines())


def questions(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Return the question, the word and the sentence of each answer."""
    return [(QUESTIONS[name], answer.word, answer.sentence) for name, answer in verdict.answers.items()]
