"""The verdict on one model: forgetting, remaining abilities, detectability, robustness, and certainty."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from expunge.core.numbers import plain
from expunge.core.records import Floats
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import (
    KNOWN,
    NO_TRACE,
    NOT_MEASURABLE,
    OVER,
    SEVERITY,
    TRACE,
    UNDECIDED,
    WORDS,
    AuditFinding,
    combined_word,
    compare_to_controls,
    worst,
)

Results = Mapping[str, MetricResult]
FORGET_METRICS = (
    "forget_Q_A_Prob",
    "forget_Q_A_ROUGE",
    "forget_verbmem_ROUGE",
    "forget_knowmem_ROUGE",
    "extraction_strength",
)  # larger means more knowledge of the forget rows; those with a number per row are tested
QUESTIONS: Mapping[str, str] = {
    "forgot": "Forgot?",
    "kept": "Kept the rest?",
    "detectable": "Detectable?",
    "robust": "Robust?",
    "certainty": "How sure?",
}
DIRECT = "metric"  # the name of the direct measurements among the audits
ABOUT_FORGETTING = (DIRECT, "lens", "depth")
ABOUT_DETECTION = ("forensic", "three_class")
SINGLE = {"exposure known_rows": "forgot", "exposure erased_rows": "detectable", "probe truth": "forgot",
          "probe membership": "detectable"}  # fmt: skip
NOT_TESTED = "not tested"
KEPT, DAMAGED, BROKEN = "kept", "damaged", "broken"
DAMAGE = 0.05  # largest loss of utility, as a share of the target model's, that counts as kept
NO_TARGET = "without a target model, the margin is a share of the distance from the retain model to 1"
NO_CONTROLS = "there is no retain model to compare it with"
NO_MEASUREMENT = "no audit of the model as it is has run: exposure, probe, lens or depth; evaluate has metrics of it"
# The smallest rank is best. A model below the retain model is distinguishable, so it gains nothing from it: a trace has
# the same rank, and the smaller distance comes first.
RANK: Mapping[str, int] = {NO_TRACE: 0, UNDECIDED: 1, NOT_MEASURABLE: 1, NOT_TESTED: 1, OVER: 2, TRACE: 2, KNOWN: 3}
DIFFERENT = (OVER, TRACE, KNOWN)
DETECTION: Mapping[str, str] = {NO_TRACE: "not detectable", TRACE: "detectable", KNOWN: "detectable",
                                OVER: "detectable"}  # fmt: skip
ROBUSTNESS: Mapping[str, str] = {NO_TRACE: "robust", TRACE: "recoverable", KNOWN: "recoverable"}


@dataclass(frozen=True)
class VerdictAnswer:
    """The answer to one question, with the evidence for it. NaN or an empty text: there is none."""

    word: str
    """The answer in a word, such as "no trace"."""
    sentence: str
    """The answer in plain words, with its number."""
    number: float = math.nan
    """The measured number: the mean over rows, or the share of utility that is left."""
    low: float = math.nan
    """Lower end of the 95 % interval of the number."""
    high: float = math.nan
    """Upper end of the interval."""
    effect: float = math.nan
    """The difference from the control, in standard deviations of the rows' differences."""
    control: float = math.nan
    """The same number of the control: the retain model, or the target model for `kept`."""
    metric: str = ""
    """The metric or audit with the number."""
    finding: str = NOT_MEASURABLE
    """The word of the statistical comparison behind it, for the order of models."""
    distance: float = math.nan
    """Distance from the control in margins, on either side; the largest of the measurements that differ from it."""
    farthest: str = ""
    """The measurement with this distance, in words: it decides the place among models with the same word."""

    @property
    def place(self) -> tuple[int, float]:
        """The rank of the word, then the distance in whole margins: two models within one margin are as far away."""
        if self.finding not in DIFFERENT:
            return RANK[self.finding], 0.0
        return RANK[self.finding], float(round(self.distance)) if math.isfinite(self.distance) else math.inf


@dataclass(frozen=True)
class Verdict:
    """The verdict on one model, with one answer per question.

    `str()` gives a few lines of plain words, `to_dict()` plain values for JSON.
    """

    model: str
    """Name of the model."""
    forgot: VerdictAnswer
    """Whether the model answers the forget rows as a model that never saw them."""
    kept: VerdictAnswer
    """Whether utility and general ability are left."""
    detectable: VerdictAnswer
    """Whether an attacker can tell that rows were erased, and which."""
    robust: VerdictAnswer
    """Whether the rows stay forgotten after relearning, quantisation and other prompts."""
    certainty: VerdictAnswer
    """Rows, seeds, controls and the correction for several tests."""
    broken: str = ""
    """Why the model is broken (under the utility floor, or gibberish); it is then never ranked. Empty: it is not."""

    @property
    def answers(self) -> dict[str, VerdictAnswer]:
        """The answers by the names of their questions."""
        return {name: getattr(self, name) for name in QUESTIONS}

    @property
    def rank_key(self) -> tuple[float, ...]:
        """Key for sorting: the best model has the smallest. Utility only decides between equal answers."""
        places = (self.forgot.place, self.robust.place, self.detectable.place)
        utility = self.kept.number if math.isfinite(self.kept.number) else 0.0
        return float(bool(self.broken)), *(number for place in places for number in place), -round(utility, 3)

    @property
    def measured(self) -> bool:
        """Whether any question has an answer; without one the model has no rank."""
        answers = (self.forgot, self.kept, self.detectable, self.robust)
        return any(answer.word not in (NOT_MEASURABLE, NOT_TESTED) for answer in answers)

    @property
    def line(self) -> str:
        """The words of all answers in one line."""
        words = "; ".join(f"{QUESTIONS[name].rstrip('?').lower()}: {a.word}" for name, a in self.answers.items())
        return f"{self.model}: {words}"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [f"{self.model}: broken, not ranked: {self.broken}" if self.broken else self.model]
        width = max(map(len, QUESTIONS.values()))
        for name, answer in self.answers.items():
            lines.append(f"  {QUESTIONS[name]:<{width}} {answer.word}. {answer.sentence}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{html.escape(QUESTIONS[name])}</th><td><strong>{html.escape(a.word)}</strong></td>"
            f"<td>{html.escape(a.sentence)}</td></tr>"
            for name, a in self.answers.items()
        )
        broken = f"<p>Broken, not ranked: {html.escape(self.broken)}</p>" if self.broken else ""
        return f"<h4>{html.escape(self.model)}</h4>{broken}<table>{cells}</table>"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; null for NaN."""
        return dict(plain(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Return the verdict that `to_dict` has written."""

        def answer(of: Mapping[str, Any]) -> VerdictAnswer:
            texts = {key: of[key] for key in ("word", "sentence", "metric", "finding", "farthest") if key in of}
            numbers: dict[str, Any] = {k: math.nan if v is None else float(v) for k, v in of.items() if k not in texts}
            return VerdictAnswer(**texts, **numbers)

        answers = {name: answer(values[name]) for name in QUESTIONS}
        return cls(values["model"], **answers, broken=values["broken"])


def make_verdict(
    model: str,
    findings: Sequence[tuple[str, AuditFinding]],
    utility: VerdictAnswer,
    *,
    seeds: int = 1,
    by_seed: Sequence[Sequence[AuditFinding]] = (),
    gibberish: str = "",
    reason: str = NO_CONTROLS,
) -> Verdict:
    """Join the findings on a model to its verdict.

    Args:
        model: Name of the model.
        findings: Each finding with the name of its audit; DIRECT for a metric of the forget rows.
        utility: The answer about utility, from `metrics.utility.utility_answer`.
        seeds: Number of seeds of the model.
        by_seed: The direct findings of each seed alone, if `findings` has those of the mean over several seeds.
        gibberish: Why the model's texts are gibberish, or empty.
        reason: Why there is no finding, if there is none.
    """
    parts: dict[str, list[tuple[str, AuditFinding]]] = {"forgot": [], "detectable": [], "robust": []}
    for audit, finding in findings:
        parts[_question(audit, finding.name)].append((audit, finding))
    compared = any(math.isfinite(finding.retain) for _, finding in findings)
    forgot = _answer(parts["forgot"], {}, NO_MEASUREMENT if compared and reason == NO_CONTROLS else reason)
    if not parts["forgot"] and not compared and reason != NO_MEASUREMENT:
        forgot = replace(forgot, word=NOT_MEASURABLE, finding=NOT_MEASURABLE)
    forgot, agree = _with_seeds(forgot, by_seed)
    detectable = _answer(parts["detectable"], DETECTION, "no audit has tried it: exposure or forensic")
    robust = _answer(parts["robust"], ROBUSTNESS, "no audit has tried it: relearn, tamper, quantize or prompting")
    reason_broken = f"{utility.sentence.partition(';')[0].rstrip('.')}."  # `kept` has the whole sentence
    broken = gibberish or (reason_broken if utility.word == BROKEN else "")
    certainty = _certainty([f for _, f in findings], seeds, agree)
    return Verdict(model, forgot, utility, detectable, robust, certainty, broken)


def _with_seeds(forgot: VerdictAnswer, by_seed: Sequence[Sequence[AuditFinding]]) -> tuple[VerdictAnswer, bool]:
    """Return the answer with the words of single seeds, and whether they agree.

    A mean hides a seed with a trace next to one below the retain model. A difference of one seed counts if it is left
    after the correction for the findings of all seeds.
    """
    words = [combined_word(seed) for seed in by_seed]
    if len(set(words)) < 2:
        return forgot, True
    one_by_one = [(DIRECT, finding) for seed in by_seed for finding in seed]
    word = combined_word([finding for _, finding in one_by_one])
    if word in DIFFERENT and SEVERITY[word] > SEVERITY[forgot.finding]:
        forgot = _answer(one_by_one, {}, "")
    counts = ", ".join(f"{words.count(w)} {w}" for w in WORDS if w in words)
    return replace(forgot, sentence=f"{forgot.sentence} Seeds disagree: {counts}."), False


def _question(audit: str, name: str) -> str:
    kind = audit.split(" ")[0]  # the second relearning of a study is "relearn 2"
    if single := SINGLE.get(f"{kind} {name}"):
        return single
    return "forgot" if kind in ABOUT_FORGETTING else "detectable" if kind in ABOUT_DETECTION else "robust"


def _answer(findings: Sequence[tuple[str, AuditFinding]], words: Mapping[str, str], reason: str) -> VerdictAnswer:
    if not findings:
        return VerdictAnswer(NOT_TESTED, as_sentence(reason), finding=NOT_TESTED)
    word = combined_word([finding for _, finding in findings])
    # The shown finding is one that carries the word; after the correction it need not be the worst one.
    same = [pair for pair in findings if pair[1].verdict == word]
    if word == NOT_MEASURABLE:  # without a comparison, the largest number shows most remaining knowledge
        same.sort(key=lambda pair: pair[1].value if math.isfinite(pair[1].value) else -math.inf, reverse=True)
    audit, one = same[0] if same else findings[[f for _, f in findings].index(worst([f for _, f in findings]))]
    source = _source(audit, one)
    sentence = describe(one, source)
    alone = Counter(f.verdict for _, f in findings)
    if alone.total() > alone[NOT_MEASURABLE] + 1:
        counts = ", ".join(f"{alone[w]} {w}" for w in WORDS if alone[w])
        sentence += f" All measurements alone: {counts}; together, with Holm's correction: {word}."
    return VerdictAnswer(
        words.get(word, word), sentence, one.value, one.low, one.high, one.effect, one.retain, source, word,
        *_farthest(findings),
    )  # fmt: skip


def _source(audit: str, finding: AuditFinding) -> str:
    """Return the name of a measurement: that of its metric, after the audit if it has another."""
    return finding.name if audit in (DIRECT, finding.name) else f"{audit} {finding.name}"


def _farthest(findings: Sequence[tuple[str, AuditFinding]]) -> tuple[float, str]:
    """Return the largest distance from the retain model in margins, and its measurement in words."""
    distances = [
        (abs(f.value - f.retain) / f.margin, audit, f)
        for audit, f in findings
        if f.verdict in DIFFERENT and f.margin > 0
    ]
    if not distances:
        return math.nan, ""
    distance, audit, one = max(distances, key=lambda item: item[0])
    side = "below" if one.verdict == OVER else "above"
    return distance, f"{_source(audit, one)}, {distance:.1f} margins {side} the retain model"


def describe(finding: AuditFinding, source: str) -> str:
    """Return a finding in a sentence: number, interval, control, position, and why it is not more certain."""
    if not math.isfinite(finding.value):
        return as_sentence(f"{source}: {finding.note or 'there is no number'}")
    digits = _digits(finding)
    text = f"{source} is {number_with_interval(finding.value, finding.low, finding.high, digits)}"
    if math.isfinite(finding.retain):
        text += f", {finding.retain:.{digits}g} in the retain model"
    if math.isfinite(finding.full):
        text += f" and {finding.full:.3g} in the target model"
    if math.isfinite(finding.margin):
        text += f"; differences up to {finding.margin:.2g} count as none"
    return as_sentence(f"{text}; {finding.note}" if finding.note else text)


def _digits(finding: AuditFinding) -> int:
    """Return the digits, 3 to 6, with which the interval shows on which side of it the retain model lies."""

    def sides(digits: int) -> list[bool]:
        low, retain, high = (float(f"{x:.{digits}g}") for x in (finding.low, finding.retain, finding.high))
        return [low > retain, high < retain]

    exact = [finding.low > finding.retain, finding.high < finding.retain]
    return next((digits for digits in range(3, 6) if sides(digits) == exact), 6)


def number_with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return "0.12 [0.1, 0.14]", without the interval if it is not finite."""
    ends = f" [{low:.{digits}g}, {high:.{digits}g}]" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{value:.{digits}g}{ends}"


def as_sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop; a metric's name at its beginning keeps its letters."""
    is_name = "_" in text.partition(" ")[0]  # the name of a metric keeps its letters
    return f"{text}." if is_name else f"{text[:1].upper()}{text[1:]}."


def _certainty(findings: Sequence[AuditFinding], seeds: int, agree: bool = True) -> VerdictAnswer:
    there = [f for f in findings if f.verdict != NOT_MEASURABLE]
    if not there:
        return VerdictAnswer(NOT_MEASURABLE, "Nothing could be compared with a model that never saw the rows.")
    rows = min(f.rows for f in there)
    needed = [f.rows_needed for f in there if math.isfinite(f.rows_needed)]
    parts = [
        f"{rows} rows" if len({f.rows for f in there}) == 1 else f"{rows} rows or more",
        "one seed" if seeds == 1 else f"{seeds} seeds",
        f"{len(there)} measurement{'s' if len(there) > 1 else ''}",
    ]
    text = f"{', '.join(parts)}. The 95 % intervals cover rows, not the spread over training seeds."
    if len(there) > 1:
        text += " Holm's correction covers the measurements of each answer."
    if needed:
        text += f" About {max(needed):.0f} rows would decide the undecided measurements."
    undecided = not agree or any(f.verdict == UNDECIDED for f in there)
    return VerdictAnswer("partly" if undecided else "one seed" if seeds == 1 else "sure", text, float(rows))


def direct_findings(
    models: Sequence[Results], retain: Sequence[Results], full: Sequence[Results]
) -> list[AuditFinding]:
    """Compare the metrics of the forget rows with those of the controls; rows are means over each side's seeds.

    Without a target model, the gap reaches from the retain model to 1, the largest value of these metrics.
    """
    if not (models and retain):
        return []
    out = []
    for name in FORGET_METRICS:
        sides = [[r[name] for r in of if name in r and r[name].per_row] for of in (models, retain, full)]
        statistic = next((s for r in sides[0][:1] if (s := statistic_of(r))), None)
        if statistic is None or not all(sides[: 3 if full else 2]):
            continue
        ids = sorted(set.intersection(*(set(r.per_row) for side in sides for r in side)))
        if not ids:
            continue
        columns = [[column_of(r, statistic, ids) for r in side] for side in sides]
        model_R, retain_R = (np.mean(column, axis=0) for column in columns[:2])
        full_R = np.mean(columns[2], axis=0) if full else None
        out.append(compare_direct(name, model_R, retain_R, full_R))
    return out


def compare_direct(name: str, model_R: Floats, retain_R: Floats, full_R: Floats | None) -> AuditFinding:
    """Compare a measurement without an attack with the controls.

    Without a target model, the gap reaches from the retain model to 1, and the finding has no position.
    """
    if full_R is not None:
        return compare_to_controls(name, (model_R, retain_R, full_R))
    finding = compare_to_controls(name, (model_R, retain_R, np.ones_like(model_R)), note=NO_TARGET)
    nan = math.nan
    return replace(finding, full=nan, position=nan, position_low=nan, position_high=nan)


def statistic_of(result: MetricResult) -> str | None:
    """Return the statistic of single rows whose mean is the metric's value, or None."""
    return next(iter(result.averaged), None)


def column_of(result: MetricResult, name: str, ids: Sequence[int]) -> Floats:
    """Return a statistic of some rows, shape (R,): of several answers the mean; NaN for a missing value."""
    values = result.by_row.get(name, {})
    return np.array([values.get(i, math.nan) for i in ids], dtype=float)


def share_text(share: float, limit: float = 1 - DAMAGE) -> str:
    """Return a share in percent, with decimals if rounding would move it to or over the limit."""

    def side(number: float) -> int:
        return (number > limit) - (number < limit)

    digits = next((n for n in range(4) if side(round(share, n + 2)) == side(share)), 4)
    return f"{share:.{digits}%}"


def utility_left(answer: VerdictAnswer) -> str:
    """Return the share of utility in percent, with its interval if there is one; empty without a share."""
    if not math.isfinite(answer.number):
        return ""
    is_sure = math.isfinite(answer.low + answer.high)
    ends = f" [{share_text(answer.low)}, {share_text(answer.high)}]" if is_sure else ""
    return f"{share_text(answer.number)}{ends}"


def ranked(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """Return the models from the best to the worst, and the broken ones, which have no rank."""
    alive = sorted((v for v in verdicts if not v.broken), key=lambda v: v.rank_key)
    return alive, [v for v in verdicts if v.broken]


def choice(verdicts: Sequence[Verdict]) -> str:
    """Return which model to choose and why, in one or two sentences."""
    alive, broken = ranked(verdicts)
    if not verdicts:
        return ""
    if not alive:
        return "Choose none: every model is broken. Lower the learning rate or the number of steps."
    best = alive[0]
    if not any(v.measured for v in alive):
        return f"No choice: nothing could be compared, so the models have no rank. {best.forgot.sentence}"
    cost = "" if not math.isfinite(best.kept.number) else f", {utility_left(best.kept)} of the utility is left"
    equal = [v.model for v in alive[1:] if v.rank_key[:-1] == best.rank_key[:-1]]
    word = best.forgot.word
    if best.robust.finding in DIFFERENT:
        word += f", but {best.robust.word} under attack ({best.robust.metric})"
    if best.detectable.finding in DIFFERENT:
        word += f", and {best.detectable.word} as erased ({best.detectable.metric})"
    if best.forgot.finding == NO_TRACE:
        text = f"Choose {best.model}: {word}{cost}."
    elif best.forgot.finding in DIFFERENT:
        far = f" ({best.forgot.farthest})" if best.forgot.farthest else ""
        text = f"No model matches the retain model. {best.model} is the nearest{far}: {word}{cost}."
    else:
        text = f"No choice is proven. {best.model} is listed first: {word}{cost}."
    if equal and best.forgot.finding not in (NO_TRACE, *DIFFERENT):
        text += f" Nothing separates it from {', '.join(equal)} but utility."
    elif equal:
        is_known = any(math.isfinite(v.kept.number) for v in alive if v.rank_key[:-1] == best.rank_key[:-1])
        decided = "utility decided" if is_known else "no utility is known that could decide"
        text += f" By forgetting alone it is equal to {', '.join(equal)}; {decided}."
    return text + (f" Broken and not ranked: {', '.join(v.model for v in broken)}." if broken else "")
