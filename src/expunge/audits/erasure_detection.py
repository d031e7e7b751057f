from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.audits.api import (
    AS_IT_IS,
    Analysis,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    Finding,
    Models,
    Results,
    audit,
    check_judging,
    rows_of,
)
from expunge.audits.distinguishability import Labels, groups_of, lacks_unseen, out_of_fold, stands_out
from expunge.audits.verdict import auc
from expunge.core.decode import strict
from expunge.core.records import Floats
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import analysis_inputs
from expunge.metrics.api import Metric, MetricResult

STATES = "states"
GREY, WHITE = "grey_box", "white_box"  # who sees probabilities of tokens, and who holds the weights
REFERENCE = "with_reference"  # who also holds a model that never saw the rows
DIRECTION = "direction_"
SIDES = ("erased", "unseen")
SIGNALS = {
    "loss": "loss_score",
    "min_k": "min_k_score",
    "min_k_plus_plus": "min_k_plus_plus_score",
    "zlib": "zlib_score",
    "extraction": "extraction_strength",
    "memorised": "exact_memorization",
}
GRADIENT = "gradient"


@dataclass(frozen=True)
class HiddenStatesAnalysis(Analysis):
    """Each row's last state: its length, and its place along the directions in which the rows differ most.

    The state is the last block's, a mean over the row's last ten tokens. The directions (principal components) are
    found without knowing which rows were erased.
    """

    sets: tuple[str, ...]
    components: int

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """By signal and side: `length`, `direction_0` and so on."""
        model = models("model")
        states = [
            hidden_states(model, analysis_inputs(sets[name], encoder), at="last").values_LND[-1].double().numpy()
            for name in self.sets
        ]
        every = np.concatenate(states)
        centred = every - every.mean(axis=0)
        *_, axes = np.linalg.svd(centred, full_matrices=False)
        signals = {"length": np.linalg.norm(every, axis=1)}
        signals |= {f"{DIRECTION}{k}": centred @ axis for k, axis in enumerate(axes[: self.components])}
        n = len(states[0])
        return {
            f"{name}.{side}": _result(column)
            for name, both in signals.items()
            for side, column in zip(SIDES, (both[:n], both[n:]), strict=True)
        }


def _result(column_R: Floats) -> MetricResult:
    rows = {i: {"score": float(v)} for i, v in enumerate(column_R)}
    return MetricResult(float(column_R.mean()), per_row=rows)


@audit("forensic", revision=1, paper="the question of FUMA (EMNLP 2025); the attack is our own")
@strict
@dataclass(frozen=True, kw_only=True)
class ErasureDetectionAudit:
    """Forensic: can someone who has the unlearned model alone tell WHICH rows were erased?

    The attacker has candidates, some erased and some that no model has seen (`holdout`), and knows of some which they
    are. Signals of each candidate: loss, min-k, min-k++, loss by zlib, extraction strength, exact memorisation
    (grey_box: who sees the probabilities of tokens), and the norm of its loss gradient (with `gradients`), the length
    of its last state and its place along the `components` directions in which the candidates differ most (white_box:
    who holds the weights). A logistic regression on every signal and on its distance from the
    median (rows pushed too far down stand out as well as rows still known) is fitted on four fifths of the candidates
    and tried on the rest, five times, an author's rows always together.

    with_reference is the strongest: the attacker also holds the retain model, and reads every signal (but the
    directions) as its difference from that model's on the same row. The retain model itself then gives nothing, 0.5.

    Value: the AUC on rows it was not fitted on, with the retain model's AUC as the control: a model that never saw the
    rows should give nothing away. The verdict is read off the difference, and is never more than "traces". Details: the
    AUC of every signal alone (by its distance from the median). The table has every candidate's odds.

    Only the question is FUMA's: the paper's attack is not known to us in its details, and this is not its
    reproduction. The attacker here does not have the original model.

    Cost: for every model, a pass over forget and holdout rows; with `gradients` a backward pass for each of these rows.

    Pitfalls: the interval draws rows, but does not fit again. With few authors the folds are few. Where forget rows
    and unseen rows differ in more than having been trained on (a tokenizer made from the first), the retain model
    shows it as well; grey_box and white_box are then undecided, and say so.

    Try: expunge run study=quickstart data.world.holdout_authors=8 "audits=[forensic]"
    """

    gradients: bool = True
    components: int = 4
    strength: float = 0.1
    seed: int = 0
    margin: float = 0.05
    known: float = 0.5

    def __post_init__(self) -> None:
        if self.components < 0:
            raise ValueError("components must be at least 0")
        if not 0 < self.strength < math.inf:
            raise ValueError("strength must be a number > 0")
        check_judging(self.margin, self.known)

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """The model as it is, and a look at its states; nothing without unseen rows."""
        why = lacks_unseen(ground)
        if why or ground.holdout is None:
            return AuditPlan({}, (), {GREY: why or ""})
        named = dict(zip(SIDES, (ground.forget.name, ground.holdout.name), strict=True))
        panel = [
            Metric(f"{signal}.{side}", family, rows=rows, reads={"tokens": ("answer",)})
            for side, rows in named.items()
            for signal, family in SIGNALS.items()
        ]
        if self.gradients:
            panel += [
                Metric(f"{GRADIENT}.{side}", "gradnorm_score", rows=rows, reads={"grads": ("answer",)})
                for side, rows in named.items()
            ]
        look = HiddenStatesAnalysis(tuple(named.values()), self.components)
        sets = {rows.name: rows for rows in (ground.forget, ground.holdout)}
        return AuditPlan(sets, (AuditProbe(AS_IT_IS, None, tuple(panel)), AuditProbe(STATES, look, ())))

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """Whether erased rows stand out more than in the retain model, and every candidate's odds."""
        why = self.expand(ground).missing.get(GREY)
        if ground.holdout is None or found.retain is None or why:
            note = why or "there is no retain model to hold it against"
            return AuditFindings(tuple(Finding(name, note=note) for name in (GREY, WHITE, REFERENCE)))
        sizes = (len(ground.forget), len(ground.holdout))
        labels = np.repeat([1, 0], sizes)
        groups = [*groups_of(ground.forget), *groups_of(ground.holdout)]
        model, retain = (_signals(of, sizes) for of in (found.model, found.retain))
        usable = [name for name in model if np.isfinite(model[name] + retain[name]).all()]
        if not usable:
            note = "no signal has a value for every candidate in both models"
            return AuditFindings(tuple(Finding(name, note=note) for name in (GREY, WHITE, REFERENCE)))
        apart = {name: model[name] - retain[name] for name in usable if not name.startswith(DIRECTION)}
        tries: dict[str, tuple[Signals, Signals]] = {
            GREY: (_kept(model, usable, SIGNALS), _kept(retain, usable, SIGNALS)),
            WHITE: (_kept(model, usable, model), _kept(retain, usable, model)),
            REFERENCE: (apart, {}),
        }
        table: dict[str, list[object]] = {
            "set": [name for name, size in zip(SIDES, sizes, strict=True) for _ in range(size)],
            "row_id": [i for size in sizes for i in range(size)],
        }
        readings = []
        for attacker, sides in tries.items():
            odds = [self._odds(signals, labels, groups) for signals in sides]
            pairs = [(odds_R[labels == 1], odds_R[labels == 0]) for odds_R in odds]
            alone = _alone(sides[0], labels)
            readings.append(
                stands_out(attacker, pairs[0], pairs[1], margin=self.margin, known=self.known, details=alone)
            )
            table[attacker] = odds[0].tolist()
        return AuditFindings(tuple(readings), table)

    def _odds(self, signals: Signals, labels: Labels, groups: Sequence[Hashable]) -> Floats:
        """The log-odds of each candidate; 0 for all where there is nothing to go by."""
        if not signals:
            return np.zeros(len(labels))
        return out_of_fold(np.concatenate(_features(signals), axis=1), labels, groups, self.strength, self.seed)


Signals = Mapping[str, Floats]


def _kept(signals: Signals, usable: Sequence[str], among: Collection[str]) -> Signals:
    return {name: signals[name] for name in usable if name in among}


def _features(signals: Signals) -> tuple[Floats, Floats]:
    """Every signal, and its distance from the median; (R, S) each."""
    plain = np.stack(list(signals.values()), axis=1)
    return plain, np.abs(plain - np.median(plain, axis=0))


def _alone(signals: Signals, labels: Labels) -> dict[str, float]:
    """The AUC of each signal by itself, by its distance from the median."""
    far = _features(signals)[1] if signals else np.zeros((len(labels), 0))
    return {f"auc_{name}": auc(far[labels == 1, k], far[labels == 0, k]) for k, name in enumerate(signals)}


def _signals(of: Results, sizes: tuple[int, int]) -> dict[str, Floats]:
    """Every signal of the candidates, the erased ones first."""
    results = {**of[AS_IT_IS], **of[STATES]}
    names = dict.fromkeys(key.rpartition(".")[0] for key in results)
    return {
        name: np.concatenate(
            [
                rows_of(results[f"{name}.{side}"], Metric(name, ""), range(n))
                for side, n in zip(SIDES, sizes, strict=True)
            ]
        )
        for name in names
    }
