"""The stories protocol in a report: recovery at chosen steps as a table, courses and probes as figures."""

from __future__ import annotations

import csv
import io
import math

from expunge.report.markup import cell_text
from expunge.report.protocol import SCORE, Protocol, ProtocolCourse

FILE = "recovery.csv"
ABOUT = (
    "After so many steps of fine-tuning on stories with the feature: the share of generations that have it (with its "
    "95 % interval); the loss on such stories in nats per token. The never-learned model is the control: knowledge "
    "that it gains in as many steps was not hidden, but learned."
)
READING = (
    "The present model was pretrained on all stories, the never-learned one on those without the feature. A deletion "
    "is the present model after fine-tuning on the data set in its name. It has forgotten to the extent that its "
    "scores and its recovery equal those of the never-learned model.",
    "feature_score is the share of generations in which the judge detects the feature, among prompts that request it; "
    "loss_NAME is on stories of the test set, after their instructions, in nats per token.",
    "probe_auc is taken at the layer where the present and the never-learned model differ most; probe_kept is 0 if it "
    "equals never learned and 1 if it equals present.",
    "recovery_steps: the steps until a share of the gap is regained, by the score and by the loss. The gap is that "
    "of the never-learned and the present model before recovery; between measured steps it is interpolated linearly. "
    "recovery_area: how much higher the curve of the score lies than the control's, on average over the steps.",
    "Intervals of scores are over the prompts of one model; another seed may differ.",
)


def heads(protocol: Protocol) -> tuple[str, ...]:
    """Return the heads of the table of recovery."""
    return ("model", *(f"score @{s}" for s in protocol.shown_at), *(f"loss @{s}" for s in protocol.shown_at))


def recovery_rows(protocol: Protocol) -> list[tuple[str, ...]]:
    """Return the cells of the table of recovery, a row for each course."""
    rows = []
    for course in protocol.recoveries:
        scores = [_score(course, step) for step in protocol.shown_at]
        losses = [_text(course.at(step, f"loss_{protocol.task}")) for step in protocol.shown_at]
        rows.append((course.label, *scores, *losses))
    return rows


def _score(course: ProtocolCourse, step: int) -> str:
    value, low, high = (course.at(step, f"{SCORE}{end}") for end in ("", "_low", "_high"))
    shown = _text(value, 2)
    return f"{shown} [{low:.2f}, {high:.2f}]" if low is not None and high is not None else shown


def _text(value: float | None, digits: int = 3) -> str:
    return "\u2013" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def recovery_csv(protocol: Protocol) -> str:
    """Return every point of every course as CSV: stage, model, step, quantity, value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["stage", "model", "role", "step", "name", "value"])
    for stage, courses in (("deletion", protocol.deletions), ("recovery", protocol.recoveries)):
        for course in courses:
            for point in course.points:
                for name, value in point.items():
                    if name != "step":
                        label, quantity = cell_text(course.label), cell_text(name)
                        writer.writerow([stage, label, course.role, int(point["step"]), quantity, repr(value)])
    return out.getvalue()
