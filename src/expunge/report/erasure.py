"""The erasure report: what was asked to be forgotten, what was done, and what was found, for those who must answer for
it. Plain values in, HTML and markdown out; nothing is computed here, and no text of the data is shown unless given."""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass
from typing import Literal

from expunge.report.page import environment

LIMITS = (
    "No test can prove that a model holds nothing of a text. The findings say what these tests could and could not "
    "bring back; another attack may bring back more.",
    "The report covers the model files named above. Copies, backups, caches, logs and models trained from them are not "
    "covered.",
    "It is a record of measurements, and no legal advice.",
)
NO_RETAIN = (
    "There is no retain model, one trained in the same way without the data. So it cannot be said how a model that "
    "never saw the data would answer: forget quality, privacy leakage and every position between never learned "
    "and never forgotten are impossible here."
)


HASH = re.compile("[0-9a-f]{64}")
LEAST_GAP = 0.05  # between the models before and without the data: all findings are shares or probabilities
HASHES = (
    "The hashes name the contents without showing them; who can guess all of the rows can check the guess by them. "
    "That of the file is what sha256sum gives; that of the rows stays the same when they come in another kind of file."
)


@dataclass(frozen=True)
class ErasureRequest:
    """What was to be forgotten. rows: how many; sha256: fingerprint of their contents; texts: only if asked for;
    file_sha256: of the file they came in, as `sha256sum` gives it (empty: not known)."""

    name: str
    rows: int
    sha256: str
    texts: tuple[str, ...] = ()
    file_sha256: str = ""


@dataclass(frozen=True)
class Finding:
    """One number about the model, beside those of the models it is compared with (NaN: not known).

    meaning: what the number is, in words. high_is_known: whether a larger value says that more is still known.
    reason: why there is no number.
    """

    name: str
    meaning: str
    value: float
    low: float = math.nan
    high: float = math.nan
    full: float = math.nan
    retain: float = math.nan
    high_is_known: bool = True
    reason: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Erasure:
    """All that an erasure report says of one model.

    models: what each model file is -> its hash. settings: name and value. findings: of the data that was to be
    forgotten; kept: of what the model should still do. missing: what could not be measured, and why. achieved: what
    was stated as a goal, each with whether it was met (in words) before it.
    """

    title: str
    created: str
    asked: tuple[ErasureRequest, ...]
    method: str
    settings: tuple[tuple[str, str], ...] = ()
    steps: int | None = None
    seconds: float | None = None
    models: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    kept: tuple[Finding, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    has_retain: bool = True
    achieved: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True)
class ErasureReport:
    """The same report twice."""

    html: str
    markdown: str


def erasure_report(erasure: Erasure) -> ErasureReport:
    """The report as a page that loads nothing from outside, and as markdown. Every text is escaped."""
    limits = (*(() if erasure.has_retain else (NO_RETAIN,)), *LIMITS)
    said = {
        "done": _done(erasure),
        "findings": [(finding, _words(finding)) for finding in erasure.findings],
        "kept": [(finding, _number(finding)) for finding in erasure.kept],
        "limits": limits,
        "hashes": HASHES,
        "summary": summary(erasure),
    }
    page = environment().get_template("erasure.html").render(erasure=erasure, **said)
    return ErasureReport(page, _markdown(erasure, limits))


def summary(erasure: Erasure) -> str:
    """One sentence: how many of the findings lie near a model that never saw the data, near the old one, or past."""
    places = [place for finding in erasure.findings if (place := _place(finding)) in _PLACES]
    if not places:
        return (
            "None of the findings can be placed between a model that never saw the data and one that was not changed."
        )
    counts = [f"{places.count(place)} {words}" for place, words in _PLACES.items() if place in places]
    return f"Of {len(places)} findings that can be placed: {', '.join(counts)}."


_PLACES = {
    "retain": "near a model that never saw the data",
    "full": "nearer to the model before unlearning",
    "past": "well past a model that never saw the data, which is no better",
}


def _place(finding: Finding) -> Literal["retain", "full", "past", "unsure"] | None:
    """Where a value lies on the way from the retain model (0) to the full one (1): from -1/2 to 1/2 near the retain
    model, above near the full one, below past the retain one; unsure where the interval holds such a border. None
    where a number is missing, or the models differ by so little that the way is noise."""
    gap = finding.full - finding.retain
    if not math.isfinite(finding.value + gap) or abs(gap) < LEAST_GAP:
        return None
    at, low, high = ((v - finding.retain) / gap for v in (finding.value, finding.low, finding.high))
    if any(min(low, high) <= border <= max(low, high) for border in (-0.5, 0.5)):
        return "unsure"
    return "full" if at > 0.5 else "past" if at < -0.5 else "retain"


def _number(finding: Finding) -> str:
    """The number with its interval, beside those of the two models."""
    if not math.isfinite(finding.value):
        return f"There is no number: {finding.reason or 'it was not measured'}."
    said = f"{finding.value:.3f}"
    if math.isfinite(finding.low + finding.high):
        said += f" (95 % interval {finding.low:.3f} to {finding.high:.3f})"
    known = (("before unlearning", finding.full), ("never trained on the data", finding.retain))
    beside = [f"{name}: {v:.3f}" for name, v in known if math.isfinite(v)]
    return said + (f"; {', '.join(beside)}." if beside else ".")


def _words(finding: Finding) -> str:
    """What a finding about the data says, in a sentence or two."""
    said, place = _number(finding), _place(finding)
    if place == "unsure":
        said += " The interval is too wide to say which of the two it is nearer to."
    elif place is not None:
        said += f" {_PLACES[place][0].upper()}{_PLACES[place][1:]}."
    elif math.isfinite(finding.value + finding.full + finding.retain):
        said += " The two models that it is held against hardly differ in this, so it says nothing of what is left."
    elif math.isfinite(finding.value) and not math.isfinite(finding.retain):
        end = "high" if finding.high_is_known else "low"
        said += f" Without a retain model it cannot be said what value is right; a {end} one says more is still known."
    return f"{said} {finding.verdict}".rstrip()


def _done(erasure: Erasure) -> list[tuple[str, str]]:
    """What was done, as name and value."""
    lines = [("Method", erasure.method)]
    if erasure.steps is not None:
        lines.append(("Optimiser steps", str(erasure.steps)))
    if erasure.seconds is not None:
        lines.append(("Time", f"{erasure.seconds:.1f} s"))
    lines += [(f"Setting {name}", value) for name, value in erasure.settings]
    return [*lines, *((_hashed(name, value), value) for name, value in erasure.models)]


def _hashed(name: str, value: str) -> str:
    """What a line about a model file says it is: a hash, or, of a model that only the hub names, that name."""
    words = value.split()
    return f"SHA-256 of {name}" if words and all(HASH.fullmatch(w) for w in words) else name[0].upper() + name[1:]


def _markdown(erasure: Erasure, limits: tuple[str, ...]) -> str:
    lines = [f"# {_md(erasure.title)}", "", f"Made {_md(erasure.created)}.", "", summary(erasure), ""]
    if erasure.achieved:
        lines += ["## What was achieved", "", *(f"- **{_md(a)}**: {_md(text)}" for a, text in erasure.achieved), ""]
    lines += ["## What was asked to be forgotten", "", HASHES, ""]
    lines += ["| set | rows | SHA-256 of the rows | SHA-256 of the file |", "| --- | --: | --- | --- |"]
    lines += [f"| {_md(a.name)} | {a.rows} | {_md(a.sha256)} | {_md(a.file_sha256)} |" for a in erasure.asked] + [""]
    texts = [text for asked in erasure.asked for text in asked.texts]
    lines += [*(f"- {_md(text)}" for text in texts), ""] if texts else []
    lines += ["## What was done", "", *(f"- {_md(name)}: {_md(value)}" for name, value in _done(erasure)), ""]
    if erasure.command:
        lines += [*(f"    {line}" for line in erasure.command.splitlines()), ""]
    parts = (
        ("What was found", erasure.findings, _words),
        ("What the model can still do", erasure.kept, _number),
    )
    for title, findings, words in parts:
        if findings:
            lines += [f"## {title}", ""]
            lines += [f"- **{_md(f.name)}** ({_md(f.meaning)}): {_md(words(f))}" for f in findings] + [""]
    if erasure.missing:
        lines += ["## What could not be measured", ""]
        lines += [f"- {_md(name)}: {_md(reason)}" for name, reason in erasure.missing] + [""]
    lines += ["## Limits", "", *(f"- {_md(line)}" for line in (*limits, *erasure.notes))]
    return "\n".join(lines).rstrip() + "\n"


def _md(text: str) -> str:
    """Text on one line that markdown shows as it is, also within a table."""
    return re.sub(r"([\\`*\[\]|_])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
