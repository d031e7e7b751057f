"""Model utility: the remaining knowledge and skill of the model, as one number."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Literal

import numpy as np

from expunge.core.errors import ConfigError
from expunge.metrics.aggregate import not_available, own_interval
from expunge.metrics.api import MetricInputs, MetricResult, Parts, family

Mean = Literal["harmonic", "arithmetic"]


@family(
    "model_utility",
    revision=2,
    higher_is="more of the model is intact",
    range="[0, 1]",
    paper="TOFU (arXiv:2401.06121), section 2.2",
    fidelity="code",
)
def model_utility(inputs: MetricInputs, *, mean: Mean = "harmonic", complement: bool = False) -> MetricResult:
    """Compute the harmonic mean of the model's scores outside the forget rows.

    Formula: n / sum_i (1 / x_i) over the metric's parents; 0 if any of them is 0. TOFU uses nine: probability, ROUGE
    and truth ratio, each on the retain rows, the real authors and the world facts.

    Extra: ci_low and ci_high, the 95 % percentile bootstrap interval over rows (1000 resamples, fixed seed). Each set
    is resampled once for all its parts: probability, ROUGE and truth ratio of a row stay together. There is no interval
    if a part is no mean over rows.
    Reads: its parents' values. If one is missing, this is missing and names it: a mean over the others would be another
    quantity under the same name.
    Arguments, which reproduce arcsf's utilities: `mean` arithmetic in place of harmonic. `complement` uses 1 - x_i in
    place of x_i. Over probability, clamped truth ratio and ROUGE of the forget rows it is arcsf's forget utility,
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
    values = [1.0 - part.value if complement else part.value for part in inputs.parents.values()]
    if mean == "arithmetic":
        value = statistics.fmean(values)
    else:
        value = 0.0 if 0 in values else 1 / float(np.mean([1 / one for one in values]))
    names = inputs.metric.parents
    parts = Parts({names[role]: inputs.parent_sets.get(role, names[role]) for role in names}, mean, complement)
    result = MetricResult(value, parts=parts)
    sides = {names[role]: part for role, part in inputs.parents.items()} | {inputs.metric.name: result}
    return replace(result, extra=own_interval(sides, inputs.metric.name))
