"""The erasure report for the people who are responsible for it: the request, the actions, and the findings.

Plain values in, HTML and markdown out. Nothing is computed here, and the report contains texts of the data only on
request.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass
from typing import Literal

from expunge.report.page import environment

LIMITS = (
    "No test can prove that a model contains nothing of a text. The findings describe the results of these tests; "
    "another attack may recover more.",
    "The report covers the model files named above. It does not cover copies, backups, caches, logs and models trained "
    "from them.",
    "It is a record of measurements, and no legal advice.",
)
NO_RETAIN = (
    "There is no retain model (a model trained in the same way without the data). So this report cannot describe how a "
    "model that never saw the data would answer. Forget quality, privacy leakage and every position between never "
    "learned and never forgotten are impossible here."
)


HASH = re.compile("[0-9a-f]{64}")
LEAST_GAP = 0.05  # between the models before and without the data: all findings are shares or probabilities
HASHES = (
    "The hashes identify the contents without showing them. Anyone who guesses all of the rows can verify the guess. "
    "The hash of the file is the output of sha256sum; the hash of the rows does not depend on the file format."
)


@dataclass(frozen=True)
class ErasureRequest:
    """A request to forget. rows: their number; sha256: fingerprint of their contents; texts: only on request.

    file_sha256: hash of the source file, as from `sha256sum` (empty: unknown).
    """

    name: str
    rows: int
    sha256: str
    texts: tuple[str, ...] = ()
    file_sha256: str = ""


@dataclass(frozen=True)
class Finding:
    """One number about the model, with those of the models it is compared with (NaN: unknown).

    meaning: description of the number. high_is_known: whether a larger value means more remaining knowledge.
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
    """All contents of an erasure report on one model.

    models: description of each model file -> its hash. settings: name and value. findings: about the data to forget;
    kept: about the abilities to keep. missing: impossible measurements, and why. achieved: the goals, each after the
    words for its outcome.
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
    """The same report in two formats."""

    html: str
    markdown: str


def erasure_report(erasure: Erasure) -> ErasureReport:
    """Return the report as a page that loads nothing from outside, and as markdown. Every text is escaped."""
    limits = (*(() if erasure.has_retain else (NO_RETAIN,)), *LIMITS)
    values = {
        "done": _done(erasure),
        "findings": [(finding, _words(finding)) for finding in erasure.findings],
        "kept": [(finding, _number(finding)) for finding in erasure.kept],
        "limits": limits,
        "hashes": HASHES,
        "summary": summary(erasure),
    }
    page = environment().get_template("erasure.html").render(erasure=erasure, **values)
    return ErasureReport(page, _markdown(erasure, limits))


def summary(erasure: Erasure) -> str:
    """Return one sentence: how many findings lie near a model without the data, near the old one, or beyond."""
    places = [place for finding in erasure.findings if (place := _place(finding)) in _PLACES]
    if not places:
        return (
            "No finding has a position between a model that never saw the data and the model before unlearning, so "
            "this report cannot say whether forgetting is complete."
        )
    counts = [f"{places.count(place)} {words}" for place, words in _PLACES.items() if place in places]
    return f"Of {len(places)} findings with a position: {', '.join(counts)}."


_PLACES = {
    "retain": "near a model that never saw the data",
    "full": "nearer to the model before unlearning",
    "past": "well beyond a model that never saw the data, which is no better",
}


def _place(finding: Finding) -> Literal["retain", "full", "past", "unsure"] | None:
    """Return the place of a value between the retain model (0) and the target model (1).

    From -1/2 to 1/2 it is near the retain model, above near the target, below beyond the retain model; unsure if the
    interval contains such a border. None if a number is missing, or the models differ so little that the position is
    noise.
    """
    gap = finding.full - finding.retain
    if not math.isfinite(finding.value + gap) or abs(gap) < LEAST_GAP:
        return None
    at, low, high = ((v - finding.retain) / gap for v in (finding.value, finding.low, finding.high))
    if any(min(low, high) <= border <= max(low, high) for border in (-0.5, 0.5)):
        return "unsure"
    return "full" if at > 0.5 else "past" if at < -0.5 else "retain"


def _number(finding: Finding) -> str:
    """Return the number with its interval, and those of the two models."""
    if not math.isfinite(finding.value):
        return f"There is no number: {finding.reason or 'it was not measured'}."
    text = f"{finding.value:.3f}"
    if math.isfinite(finding.low + finding.high):
        text += f" (95 % interval {finding.low:.3f} to {finding.high:.3f})"
    controls = (("before unlearning", finding.full), ("never trained on the data", finding.retain))
    others = [f"{name}: {v:.3f}" for name, v in controls if math.isfinite(v)]
    return text + (f"; {', '.join(others)}." if others else ".")


def _words(finding: Finding) -> str:
    """Describe a finding about the data in a sentence or two."""
    text, place = _number(finding), _place(finding)
    if place == "unsure":
        text += " The interval is too wide to decide which of the two it is nearer to."
    elif place is not None:
        text += f" {_PLACES[place][0].upper()}{_PLACES[place][1:]}."
    elif math.isfinite(finding.value + finding.full + finding.retain):
        text += " The two controls hardly differ here, so it does not measure the remaining knowledge."
    elif math.isfinite(finding.value) and not math.isfinite(finding.retain):
        end = "high" if finding.high_is_known else "low"
        text += f" Without a retain model the right value is unknown; a {end} value means more remaining knowledge."
    return f"{text} {finding.verdict}".rstrip()


def _done(erasure: Erasure) -> list[tuple[str, str]]:
    """Return the actions, as name and value."""
    lines = [("Method", erasure.method)]
    if erasure.steps is not None:
        lines.append(("Optimiser steps", str(erasure.steps)))
    if erasure.seconds is not None:
        lines.append(("Time", f"{erasure.seconds:.1f} s"))
    lines += [(f"Setting {name}", value) for name, value in erasure.settings]
    return [*lines, *((_hashed(name, value), value) for name, value in erasure.models)]


def _hashed(name: str, value: str) -> str:
    """Return the name of a line about a model file: a hash, or, for a model that only the hub names, that name."""
    words = value.split()
    return f"SHA-256 of {name}" if words and all(HASH.fullmatch(w) for w in words) else name[0].upper() + name[1:]


def _markdown(erasure: Erasure, limits: tuple[str, ...]) -> str:
    lines = [f"# {_md(erasure.title)}", "", f"Made {_md(erasure.created)}.", "", summary(erasure), ""]
    if erasure.achieved:
        lines += ["## Goals", "", *(f"- **{_md(a)}**: {_md(text)}" for a, text in erasure.achieved), ""]
    lines += ["## Request", "", HASHES, ""]
    lines += ["| set | rows | SHA-256 of the rows | SHA-256 of the file |", "| --- | --: | --- | --- |"]
    lines += [f"| {_md(a.name)} | {a.rows} | {_md(a.sha256)} | {_md(a.file_sha256)} |" for a in erasure.asked] + [""]
    texts = [text for request in erasure.asked for text in request.texts]
    lines += [*(f"- {_md(text)}" for text in texts), ""] if texts else []
    lines += ["## Actions", "", *(f"- {_md(name)}: {_md(value)}" for name, value in _done(erasure)), ""]
    if erasure.command:
        lines += [*(f"    {line}" for line in erasure.command.splitlines()), ""]
    parts = (
        ("Findings", erasure.findings, _words),
        ("Remaining abilities", erasure.kept, _number),
    )
    for title, findings, words in parts:
        if findings:
            lines += [f"## {title}", ""]
            lines += [f"- **{_md(f.name)}** ({_md(f.meaning)}): {_md(words(f))}" for f in findings] + [""]
    if erasure.missing:
        lines += ["## Impossible measurements", ""]
        lines += [f"- {_md(name)}: {_md(reason)}" for name, reason in erasure.missing] + [""]
    lines += ["## Limits", "", *(f"- {_md(line)}" for line in (*limits, *erasure.notes))]
    return "\n".join(lines).rstrip() + "\n"


def _md(text: str) -> str:
    """Escape text for one line of markdown, also within a table."""
    return re.sub(r"([\\`*\[\]|_])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
