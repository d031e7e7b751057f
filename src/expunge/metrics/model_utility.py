"""Model utility: the remaining knowledge and skill of the model, as one number."""

from __future__ import annotations

import math
import statistics
from typing import Literal

import numpy as np

from expunge.core.errors import ConfigError
from expunge.metrics.aggregate import not_available
from expunge.metrics.api import MetricInputs, MetricResult, family

Mean = Literal["harmonic", "arithmetic"]


@family(
    "model_utility",
    revision=1,
    higher_is="more of the model is intact",
    range="[0, 1]",
    paper="TOFU (arXiv:2401.06121), section 2.2",
    fidelity="code",
)
def model_utility(inputs: MetricInputs, *, mean: Mean = "harmonic", complement: bool = False) -> MetricResult:
    """Compute the harmonic mean of the model's scores outside the forget rows.

    Formula: n / sum_i (1 / x_i) over the metric's parents; 0 if any of them is 0. TOFU uses nine: probability, ROUGE
    and truth ratio, each on the retain rows, the real authors and the world facts.

    Reads: its parents' values. If one is missing, this is missing and names it: a mean over the others would be another
    quantity under the same name.
    Arguments, which reproduce arcsf's utilities: `mean` arithmetic in place of harmonic. `complement` uses 1 - x_i in
    place of x_i: over probability, clamped truth ratio and ROUGE of the forget rows it is arcsf's forget utility,
    high if little is left of them.
    Good direction: high; compare with the model before unlearning.
    Pitfall: the smallest part dominates. A part near 0 for unrelated reasons (no ROUGE on world facts in a tiny model)
    hides every change in the other eight.
    """
    if not inputs.parents:
        raise ConfigError(f"metric {inputs.metric.name}: family model_utility needs parents")
    for role, part in inputs.parents.items():
        if math.isnan(part.value):
            return not_available(inputs.metric.parents[role], part)
        if part.value < 0 or (complement and part.value > 1):
            allowed = "part outside [0, 1]" if complement else "negative part"
            raise ConfigError(
                f"metric {inputs.metric.name}: its mean takes no {allowed}, "
                f"{inputs.metric.parents[role]} is {part.value:.6g}"
            )
    parts = [1.0 - part.value if complement else part.value for part in inputs.parents.values()]
    if mean == "arithmetic":
        return MetricResult(value=statistics.fmean(parts))
    if 0 in parts:
        return MetricResult(value=0.0)
    return MetricResult(value=1 / float(np.mean([1 / part for part in parts])))
