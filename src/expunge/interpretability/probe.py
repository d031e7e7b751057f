"""Linear probes: does a logistic regression predict an attribute of a row from a layer's states? The model is frozen.

One binary probe per layer and attribute, on standardised states (arXiv:2311.12786 uses the mean of the last ten
tokens). A high score alone means little. Compare it with the majority floor and with the same probe fitted to
shuffled labels. Compare it also with the same rows in the target model and in a model that never learned them
(`compare`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from expunge.core.errors import ConfigError, DataError
from expunge.core.records import Floats, Ints
from expunge.interpretability.hidden import HiddenStates
from expunge.metrics.aggregate import bootstrap_interval

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ProbeLine:
    """One probe on the test rows. NaN with a `reason` if all or none of the train or test rows have the attribute.

    accuracy with its 95 % bootstrap interval over test rows; auc; floor: accuracy of the constant answer that is more
    frequent in the training rows; shuffled_*: the same probe fitted to permuted training labels.
    """

    attribute: str
    layer: int
    accuracy: float
    ci_low: float
    ci_high: float
    auc: float
    floor: float
    shuffled_accuracy: float
    shuffled_auc: float
    n_train: int
    n_test: int
    n_positive: int
    converged: bool
    reason: str | None = None


@dataclass(frozen=True)
class ProbeResult:
    """Probes of every attribute at every layer, and the settings of their fit."""

    seed: int
    test_share: float
    lines: tuple[ProbeLine, ...]

    def at(self, attribute: str, layer: int) -> ProbeLine:
        """Return one probe. Raises ConfigError if there is none."""
        for line in self.lines:
            if (line.attribute, line.layer) == (attribute, layer):
                return line
        raise ConfigError(f"no probe of {attribute!r} at layer {layer}")


def probe(
    states: HiddenStates,
    labels: Mapping[str, Sequence[bool]],
    *,
    groups: Sequence[Hashable] | None = None,
    test_share: float = 0.3,
    strength: float = 1.0,
    seed: int = 0,
    max_iter: int = 2000,
) -> ProbeResult:
    """Fit and test a probe for every attribute and layer.

    The split depends only on `seed`, the rows and the groups, so that models are compared on equal rows.

    Args:
        states: One vector per row (`hidden_states(at="last")`).
        labels: For each attribute, whether each of the R rows has it.
        groups: Rows of one group (an author) are on one side of the split.
        test_share: Share of the rows, or groups, to test on.
        strength: Inverse of the L2 penalty, scikit-learn's C.
        seed: Seed of the split and of the shuffled labels.
        max_iter: Largest number of iterations of a fit.

    Raises:
        DataError: If labels do not fit the rows.
        ConfigError: If the share is outside ]0, 1[.
    """
    n = states.values_LND.shape[1]
    if len(set(states.row_N.tolist())) != n:
        raise DataError("probe: expected one vector per row; read hidden states with at='last'")
    if not labels:
        raise DataError("labels: no attribute to probe")
    for name, values in labels.items():
        if len(values) != n:
            raise DataError(f"labels: {name!r} has {len(values)} values, there are {n} rows")
    test = split(n, groups, test_share, seed)
    shuffle = np.random.default_rng([seed, 1]).permutation(int((~test).sum()))
    lines: list[ProbeLine] = []
    for k, layer in enumerate(states.layers):
        x = states.values_LND[k].double().numpy()
        scale = StandardScaler().fit(x[~test])
        train_x, test_x = scale.transform(x[~test]), scale.transform(x[test])
        for name, values in labels.items():
            y = np.asarray(values, dtype=bool)
            lines.append(_line(name, layer, train_x, test_x, y, test, shuffle, strength, max_iter))
    return ProbeResult(seed, test_share, tuple(sorted(lines, key=lambda line: (line.attribute, line.layer))))


def split(n: int, groups: Sequence[Hashable] | None, test_share: float, seed: int) -> Bools:
    """Return a mask of the test rows: `test_share` of the n rows, or of the groups, by `seed`; at least one."""
    if not 0 < test_share < 1:
        raise ConfigError(f"test_share must be between 0 and 1, got {test_share}")
    if groups is not None and len(groups) != n:
        raise DataError(f"groups: {len(groups)} values, there are {n} rows")
    number = {group: k for k, group in enumerate(dict.fromkeys(groups))} if groups is not None else None
    of = np.arange(n) if groups is None or number is None else np.array([number[g] for g in groups])
    units = int(of.max()) + 1
    if units < 2:
        raise DataError(f"probe: {units} {'row' if groups is None else 'group'} cannot be split into train and test")
    n_test = min(max(1, round(units * test_share)), units - 1)
    test_units = np.random.default_rng([seed, 0]).permutation(units)[:n_test]
    return np.isin(of, test_units)


def _line(
    name: str,
    layer: int,
    train_x: Floats,
    test_x: Floats,
    y: Bools,
    test: Bools,
    shuffle: Ints,
    strength: float,
    max_iter: int,
) -> ProbeLine:
    train_y, test_y = y[~test], y[test]
    counts = (len(train_y), len(test_y), int(y.sum()))
    common = bool(train_y.mean() >= 0.5)
    floor = float((test_y == common).mean())
    for where, part in (("training", train_y), ("test", test_y)):
        if part.all() or not part.any():
            reason = f"{'all' if part.all() else 'none'} of the {len(part)} {where} rows have it"
            nan = math.nan
            return ProbeLine(name, layer, nan, nan, nan, nan, floor, nan, nan, *counts, True, reason)
    fitted, converged = _fit(train_x, train_y, strength, max_iter)
    control, _ = _fit(train_x, train_y[shuffle], strength, max_iter)
    right = (fitted.predict(test_x) == test_y).astype(np.float64)
    low, high = bootstrap_interval(right) if len(right) > 1 else (math.nan, math.nan)
    return ProbeLine(
        name,
        layer,
        float(right.mean()),
        low,
        high,
        float(roc_auc_score(test_y, fitted.decision_function(test_x))),
        floor,
        float((control.predict(test_x) == test_y).mean()),
        float(roc_auc_score(test_y, control.decision_function(test_x))),
        *counts,
        converged,
    )


def _fit(x: Floats, y: Bools, strength: float, max_iter: int) -> tuple[LogisticRegression, bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` of the line reports it
        model = LogisticRegression(C=strength, max_iter=max_iter, tol=1e-6).fit(x, y)
    return model, bool(model.n_iter_.max() < max_iter)


@dataclass(frozen=True)
class KeptLine:
    """One attribute at one layer in three models, as AUC, and the share of the knowledge that unlearning left.

    kept = (auc - auc_control) / (auc_full - auc_control): 0 equals the model that never learned, 1 the target model.
    NaN with a `reason` if the target model's AUC is not above the control's.
    """

    attribute: str
    layer: int
    auc: float
    auc_full: float
    auc_control: float
    kept: float
    reason: str | None = None


@dataclass(frozen=True)
class ProbeComparison:
    """The same probes on three models; all were fitted and tested on the same rows."""

    lines: tuple[KeptLine, ...]


def compare(unlearned: ProbeResult, full: ProbeResult, control: ProbeResult) -> ProbeComparison:
    """Compare the unlearned model's probes with those of the target and of the never-learned model.

    Raises DataError if the three were not fitted to the same rows, attributes and layers.
    """
    keys = [[(ln.attribute, ln.layer, ln.n_train, ln.n_test, ln.n_positive) for ln in r.lines] for r in
            (unlearned, full, control)]  # fmt: skip
    if (
        keys[0] != keys[1]
        or keys[0] != keys[2]
        or len({(r.seed, r.test_share) for r in (unlearned, full, control)}) > 1
    ):
        raise DataError("compare: the three models' probes differ in rows, attributes, layers or seed")
    lines = []
    for a, b, c in zip(unlearned.lines, full.lines, control.lines, strict=True):
        gap = b.auc - c.auc
        if gap > 0:
            lines.append(KeptLine(a.attribute, a.layer, a.auc, b.auc, c.auc, (a.auc - c.auc) / gap))
            continue
        reason = a.reason or "the target model's probe is no better than that of the model that never learned"
        lines.append(KeptLine(a.attribute, a.layer, a.auc, b.auc, c.auc, math.nan, reason))
    return ProbeComparison(tuple(lines))
