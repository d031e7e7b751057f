"""The erasure report for the people who are responsible for it: the request, the actions, and the findings.

Plain values in, HTML and markdown out. Nothing is computed here, and the report contains texts of the data only on
request.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from expunge.metrics.verdict import Verdict
from expunge.report.markup import markdown_section, markdown_table, markdown_text
from expunge.report.page import environment
from expunge.report.verdicts import questions, verdict_lines

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
HASHES = (
    "The commitment (HMAC-SHA256) identifies the rows without showing them. Only the owner of erasure_key.json can "
    "check which rows it stands for: expunge erase --verify-commitment MODEL --key erasure_key.json --forget FILE."
)


@dataclass(frozen=True)
class ErasureRequest:
    """A request to forget. rows: their number; commitment: HMAC-SHA256 of their contents; texts: only on request."""

    name: str
    rows: int
    commitment: str
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One number about the model, with those of the models it is compared with (NaN: unknown).

    meaning: description of the number. reason: why there is no number. verdict: a sentence, from the comparison.
    """

    name: str
    meaning: str
    value: float
    low: float = math.nan
    high: float = math.nan
    full: float = math.nan
    retain: float = math.nan
    reason: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Erasure:
    """All contents of an erasure report on one model.

    models: description of each model file -> its hash. settings: name and value. findings: about the data to forget;
    kept: about the abilities to keep. missing: impossible measurements, and why. achieved: the goals, each after the
    words for its outcome. verdict: the answers of the first paragraph.
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
    verdict: Verdict | None = None


@dataclass(frozen=True)
class ErasureReport:
    """The same report in two formats."""

    html: str
    markdown: str


def erasure_report(erasure: Erasure) -> ErasureReport:
    """Return the report as a page that loads nothing from outside, and as markdown. Every text is escaped."""
    limits = (*(() if erasure.has_retain else (NO_RETAIN,)), *LIMITS, *erasure.notes)
    values = {
        "done": _done(erasure),
        "findings": [(finding, _words(finding)) for finding in erasure.findings],
        "kept": [(finding, _number(finding)) for finding in erasure.kept],
        "limits": limits,
        "missing": by_reason(erasure.missing),
        "hashes": HASHES,
        "questions": questions(erasure.verdict) if erasure.verdict else [],
    }
    page = environment().get_template("erasure.html").render(erasure=erasure, **values)
    return ErasureReport(page, _markdown(erasure, limits))


def by_reason(missing: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return names and reasons with each reason once, behind the names of all that it concerns."""
    names: dict[str, list[str]] = {}
    for name, reason in missing:
        names.setdefault(reason, []).append(name)
    return [(", ".join(of), reason) for reason, of in names.items()]


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
    """Describe a finding about the data: its number, then its verdict if there is one."""
    return f"{_number(finding)} {finding.verdict}".rstrip()


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
    return f"SHA-256 of {name}" if HASH.fullmatch(value) else name[0].upper() + name[1:]


def _markdown(erasure: Erasure, limits: tuple[str, ...]) -> str:
    lines = [f"# {markdown_text(erasure.title)}", "", f"Made {markdown_text(erasure.created)}.", ""]
    if erasure.verdict is not None:
        lines += verdict_lines(erasure.verdict)
    if erasure.achieved:
        lines += [
            "## Goals",
            "",
            *(f"- **{markdown_text(a)}**: {markdown_text(text)}" for a, text in erasure.achieved),
            "",
        ]
    lines += ["## Request", "", HASHES, ""]
    rows = [(markdown_text(a.name), str(a.rows), markdown_text(a.commitment)) for a in erasure.asked]
    lines += [*markdown_table(("set", "rows", "commitment to the rows"), "lrl", rows), ""]
    texts = [text for request in erasure.asked for text in request.texts]
    lines += [*(f"- {markdown_text(text)}" for text in texts), ""] if texts else []
    lines += markdown_section("Actions", [f"{name}: {value}" for name, value in _done(erasure)])
    if erasure.command:
        lines += [*(f"    {line}" for line in erasure.command.splitlines()), ""]
    parts = (
        ("Findings", erasure.findings, _words),
        ("Remaining abilities", erasure.kept, _number),
    )
    for title, findings, words in parts:
        if findings:
            lines += [f"## {title}", ""]
            lines += [
                f"- **{markdown_text(f.name)}** ({markdown_text(f.meaning)}): {markdown_text(words(f))}"
                for f in findings
            ] + [""]
    lines += markdown_section(
        "Impossible measurements", [f"{name}: {reason}" for name, reason in by_reason(erasure.missing)]
    )
    lines += markdown_section("Limits", limits)
    return "\n".join(lines).rstrip() + "\n"
