"""How to read the numbers, and what to be careful about in this report. Words only; every output shows the same."""

from __future__ import annotations

import math

from expunge.report.model import ReportModel
from expunge.report.stories import READING
from expunge.report.table import format_p

_TARGET = (
    "The target of unlearning is the retain model: trained in the same way, but never on the forget rows. On "
    "the forget rows, a value near the retain model's is good; a lower one is not better."
)
_QUALITY = (
    (
        "p and KS distance come from one test: do the truth ratios of this model and of the retain model, on the "
        "forget rows, follow the same distribution? The KS distance (0 to 1) is the largest gap between the two "
        "curves and says how far apart the models are. p is not an effect size: it says how surprising such a gap "
        "would be by chance."
    ),
    (
        "A small p shows that the models differ. A large p does not show that they are the same: for two equally "
        "good models p falls anywhere between 0 and 1 with equal chance, so 0.9 is not better than 0.3."
    ),
    (
        "p shrinks with the number of rows at the same KS distance: compare p only between runs that were scored "
        "on the same forget rows, and compare KS distances otherwise."
    ),
)
_LEAKAGE = (
    "Privacy leakage is the distance between the attack's AUC on this model and on the retain model, in percent of the "
    "latter. Far below 0 the forget texts are still told apart as known; far above 0 they stand out as unlearned."
)
_CHOICES = (
    "An accuracy on multiple-choice questions is read against guessing, 1 / options (0.25 with four). On hazardous "
    "knowledge the aim is guessing, not less: an accuracy well below it says that answers are known and turned over."
)
_INTERVALS = (
    "Intervals in brackets are 95 % bootstrap intervals over the rows of one model: they say nothing about "
    "how another seed would come out."
)


def reading(model: ReportModel) -> tuple[str, ...]:
    """How to read the columns of this report, line by line."""
    if model.protocol is not None:
        return READING
    choices = any(name.startswith(("mmlu", "wmdp_")) for name in model.shown)
    return (
        _TARGET,
        *(_QUALITY if "forget_quality" in model.shown else ()),
        *((_LEAKAGE,) if "privleak" in model.shown else ()),
        *((_CHOICES,) if choices else ()),
        _INTERVALS,
        floor_line(model),
    )


def floor_line(model: ReportModel) -> str:
    """One sentence on the utility floor: what it is here, or why it could not be applied."""
    full = model.mean_of("full", model.utility)
    if not math.isfinite(full):
        return "The utility floor was not applied: no full model has a utility to compare with."
    by = "" if model.utility == "model_utility" else f" by {model.utility}"
    return (
        f"The utility floor is {model.utility_floor:g} of the full model's utility{by} "
        f"({model.utility_floor * full:.3f}). "
        "A model below it has collapsed: whatever its forget quality, it has not unlearned, it has broken."
    )


def cautions(model: ReportModel) -> tuple[str, ...]:
    """What the numbers of this very report cannot carry: one seed, unlike row counts, a test without power."""
    found: list[str] = []
    groups = [g for g in model.groups() if g[0].role == "unlearn"]
    single = [g[0].label for g in groups if len(g) == 1]
    if groups and len(single) == len(groups):
        found.append("Each method was run with one seed: small differences between methods may be chance.")
    elif single:
        found.append(f"One seed only, so differences may be chance: {', '.join(single)}.")
    if not any(run.role == "retain" for run in model.runs):
        found.append(
            "There is no retain model here, so nothing says how a model that never saw the forget rows behaves."
        )
    counts = {len(r.results["forget_truth_ratio"].per_row) for r in model.runs if "forget_truth_ratio" in r.results} - {
        0
    }
    if len(counts) > 1:
        listed = ", ".join(str(c) for c in sorted(counts))
        found.append(f"The runs were not scored on equally many forget rows ({listed}): their p-values do not compare.")
    p_full = model.mean_of("full", "forget_quality")
    if p_full > 0.05:
        found.append(
            f"The test hardly tells the full model from the retain model (p = {format_p(math.log10(p_full))}): "
            "on these rows a large p of a method says little."
        )
    return tuple(found)
