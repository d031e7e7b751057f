"""How to read the numbers, and cautions about this report. Text only; every output format shows the same."""

from __future__ import annotations

import math
import sys

from expunge.metrics.equivalence import LEVEL, holm
from expunge.report.model import ReportModel, run_names
from expunge.report.stories import READING
from expunge.report.table import format_p, log10_p

_TARGET = (
    "Unlearning aims at the retain model: trained in the same way, but never on the forget rows. On the forget rows, a "
    "value near the retain model's is good; a lower one is not better."
)
_QUALITY = (
    (
        "p and KS distance come from one test. Do the truth ratios of this model and of the retain model, on the "
        "forget rows, follow the same distribution? The KS distance (0 to 1) is the largest gap between the two "
        "curves and measures how far apart the models are. The p is not an effect size. It measures how surprising "
        "such a gap would be by chance."
    ),
    (
        "A small p shows that the models differ. A large p does not show that they are the same. For two equally "
        "good models p falls anywhere between 0 and 1 with equal chance, so 0.9 is not better than 0.3."
    ),
    (
        "p shrinks with the number of rows at the same KS distance. Compare p only between runs that were scored "
        "on the same forget rows, and compare KS distances otherwise."
    ),
)
_LEAKAGE = (
    "Privacy leakage is the distance between the attack's AUC on this model and on the retain model, in percent of the "
    "latter. Far below 0 the attack still recognises the forget texts; far above 0 they are conspicuous as unlearned. "
    "It has no upper bound: if the retain model's AUC is below 0.5, it can exceed 100. Such a value is marked with the "
    "two AUCs that it comes from."
)
_CHOICES = (
    "Compare an accuracy on multiple-choice questions with guessing, 1 / options (0.25 with four). On hazardous "
    "knowledge the aim is guessing, not less: an accuracy well below it means that answers are known and inverted."
)
_INTERVALS = (
    "Intervals in brackets are 95 % bootstrap intervals over the rows of one model: they do not include the variation "
    "between seeds."
)


def reading(model: ReportModel) -> tuple[str, ...]:
    """Return how to read the columns of this report, line by line."""
    if model.protocol is not None:
        return READING
    choices = any(name.startswith(("mmlu", "wmdp_")) for name in model.shown)
    return (
        _TARGET,
        *((*_QUALITY, *corrected_line(model)) if "forget_quality" in model.shown else ()),
        *((_LEAKAGE,) if "privleak" in model.shown else ()),
        *((_CHOICES,) if choices else ()),
        _INTERVALS,
        floor_line(model),
    )


def corrected_line(model: ReportModel) -> tuple[str, ...]:
    """Return one line on all tests of forget quality together, by Holm's correction; none for fewer than two tests."""
    named = [pair for group in model.groups() for pair in zip(group, run_names(group), strict=True)]
    results = [(name, run.results.get("forget_quality")) for run, name in named if run.role == "unlearn"]
    logs = [(name, log10_p(result)) for name, result in results if result is not None]
    tests = [(name, 10**log10) for name, log10 in logs if math.isfinite(log10)]
    if len(tests) < 2:
        return ()
    corrected = holm([p for _, p in tests])
    differ = [
        f"{name} (p = {format_p(math.log10(max(p, sys.float_info.min)))})"
        for (name, _), p in zip(tests, corrected, strict=True)
        if p <= LEVEL
    ]
    outcome = f"these differ from the retain model: {', '.join(differ)}" if differ else "no model differs from it"
    return (
        f"The table has {len(tests)} of these tests, so about {LEVEL * len(tests):.2g} of them would give p below "
        f"{LEVEL:g} by chance. After Holm's correction for all of them, {outcome}.",
    )


def floor_line(model: ReportModel) -> str:
    """Return one sentence on the utility floor: its value, or why it was not applied."""
    by = "" if model.utility == "model_utility" else f" by {model.utility}"
    if any(run.cell for run in model.runs):
        return f"The utility floor is {model.utility_floor:g} of the utility{by} of the target model of the same cell."
    full = model.mean_of("full", model.utility)
    if not math.isfinite(full):
        return "The utility floor was not applied: no target model has a utility to compare with."
    return (
        f"The utility floor is {model.utility_floor:g} of the target model's utility{by} "
        f"({model.utility_floor * full:.3f}). "
        "A model below it has collapsed: at any forget quality, it is broken rather than unlearned."
    )


def cautions(model: ReportModel) -> tuple[str, ...]:
    """Return the limits of this report's numbers: one seed, different row counts, a test without power."""
    lines: list[str] = []
    groups = [g for g in model.groups() if g[0].role == "unlearn"]
    single = [g[0].label for g in groups if len(g) == 1]
    if groups and len(single) == len(groups):
        lines.append("Each method was run with one seed: small differences between methods may be chance.")
    elif single:
        lines.append(f"One seed only, so differences may be chance: {', '.join(single)}.")
    if not any(run.role == "retain" for run in model.runs):
        lines.append(
            "There is no retain model here, so the behaviour of a model that never saw the forget rows is unknown."
        )
    counts = {len(r.results["forget_truth_ratio"].per_row) for r in model.runs if "forget_truth_ratio" in r.results} - {
        0
    }
    if len(counts) > 1:
        listed = ", ".join(str(c) for c in sorted(counts))
        lines.append(
            f"The runs were scored on different numbers of forget rows ({listed}): do not compare their p-values."
        )
    p_full = model.mean_of("full", "forget_quality")
    if p_full > 0.05:
        lines.append(
            f"The test hardly separates the target model from the retain model (p = {format_p(math.log10(p_full))}): "
            "on these rows a large p of a method means little."
        )
    return tuple(lines)
