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
    ControlledAudit,
    Models,
    Results,
    audit,
    rows_of,
)
from expunge.audits.distinguishability import Labels, groups_of, lacks_unseen, out_of_fold, stands_out
from expunge.audits.position import auc
from expunge.core.decode import strict
from expunge.core.records import Floats
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import analysis_inputs
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.equivalence import AuditFinding

STATES = "states"
GREY, WHITE = "grey_box", "white_box"  # the attacker reads token probabilities, or holds the weights
REFERENCE = "with_reference"  # the attacker also has a model that never saw the rows
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
    """Each row's last hidden state: its norm, and its coordinates along the directions of largest variance.

    The state is the last block's, a mean over the row's last ten tokens. The directions (principal components) do not
    depend on which rows were erased.
    """

    sets: tuple[str, ...]
    components: int

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """Return results by signal and side: `length`, `direction_0` and so on."""
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


@audit("forensic", revision=2, paper="the question of FUMA (EMNLP 2025); the attack is our own")
@strict
@dataclass(frozen=True, kw_only=True)
class ErasureDetectionAudit(ControlledAudit):
    """Forensic: does the unlearned model alone reveal WHICH rows were erased?

    The attacker has candidates, some erased and some that no model has seen (`holdout`), and knows the label of part of
    them. Signals of each candidate:
        grey_box   loss, min-k, min-k++, loss by zlib, extraction strength, exact memorisation (token probabilities)
        white_box  also the norms of its loss gradient (`gradients`) and its last hidden state, and its coordinates
                   along the `components` directions of most variance (weights)
    A logistic regression reads every signal and its distance from the median. Four fifths of the candidates fit it and
    the rest tests it, five times. An author's rows stay together. The distance from the median is a signal because
    over-suppressed rows are as conspicuous as rows that are still known.

    with_reference is the strongest: the attacker also has the retain model. Every signal (except the directions) is
    then the difference from that model's on the same row. For the retain model itself it is always 0.5.

    Value: the AUC on test rows, with the retain model's AUC as the control: a model that never saw the rows should
    reveal nothing. The verdict depends on the difference, and is never more than "trace". Details: the AUC of every
    signal alone (its distance from the median). The table has every candidate's odds.

    Only the question is FUMA's: the details of the paper's attack are not known to us, and this is not its
    reproduction. The attacker here does not have the original model.

    Cost: for every model, a pass over forget and holdout rows; with `gradients` a backward pass for each of these rows.

    Pitfalls: the interval resamples rows, but does not fit again. With few authors there are few folds. If forget and
    unseen rows differ in more than training (a tokenizer trained on the forget rows), the retain model shows it as
    well; grey_box and white_box are then not measurable, with a note.

    Try: expunge run study=quickstart data.world.holdout_authors=8 "audits=[forensic]"
    """

    gradients: bool = True
    """Whether the white-box attacker also reads the norm of each row's loss gradient."""
    components: int = 4
    """Number of principal directions of the last hidden states."""
    strength: float = 0.1
    """Inverse of the L2 penalty of the logistic regression."""
    seed: int = 0
    """Seed of the folds."""

    def __post_init__(self) -> None:
        if self.components < 0:
            raise ValueError("components must be at least 0")
        if not 0 < self.strength < math.inf:
            raise ValueError("strength must be a number > 0")
        super().__post_init__()

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan the unchanged model and an analysis of its states; nothing without unseen rows."""
        why = lacks_unseen(inputs)
        if why or inputs.holdout is None:
            return AuditPlan({}, (), {GREY: why or ""})
        named = dict(zip(SIDES, (inputs.forget.name, inputs.holdout.name), strict=True))
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
        sets = {rows.name: rows for rows in (inputs.forget, inputs.holdout)}
        return AuditPlan(sets, (AuditProbe(AS_IT_IS, None, tuple(panel)), AuditProbe(STATES, look, ())))

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return whether erased rows are more conspicuous than in the retain model, and every candidate's odds."""
        why = self.expand(inputs).missing.get(GREY)
        if inputs.holdout is None or outputs.retain is None or why:
            note = why or "there is no retain model to compare it with"
            return AuditFindings(tuple(AuditFinding(name, note=note) for name in (GREY, WHITE, REFERENCE)))
        sizes = (len(inputs.forget), len(inputs.holdout))
        labels = np.repeat([1, 0], sizes)
        groups = [*groups_of(inputs.forget), *groups_of(inputs.holdout)]
        model, retain = (_signals(of, sizes) for of in (outputs.model, outputs.retain))
        usable = [name for name in model if np.isfinite(model[name] + retain[name]).all()]
        if not usable:
            note = "no signal has a value for every candidate in both models"
            return AuditFindings(tuple(AuditFinding(name, note=note) for name in (GREY, WHITE, REFERENCE)))
        relative = {name: model[name] - retain[name] for name in usable if not name.startswith(DIRECTION)}
        attackers: dict[str, tuple[Signals, Signals]] = {
            GREY: (_select(model, usable, SIGNALS), _select(retain, usable, SIGNALS)),
            WHITE: (_select(model, usable, model), _select(retain, usable, model)),
            REFERENCE: (relative, {}),
        }
        table: dict[str, list[object]] = {
            "set": [name for name, size in zip(SIDES, sizes, strict=True) for _ in range(size)],
            "row_id": [i for size in sizes for i in range(size)],
        }
        readings = []
        for attacker, sides in attackers.items():
            odds = [self._odds(signals, labels, groups) for signals in sides]
            pairs = [(odds_R[labels == 1], odds_R[labels == 0]) for odds_R in odds]
            alone = _alone(sides[0], labels)
            readings.append(stands_out(attacker, pairs[0], pairs[1], margin=self.margin, details=alone))
            table[attacker] = odds[0].tolist()
        return AuditFindings(tuple(readings), table)

    def _odds(self, signals: Signals, labels: Labels, groups: Sequence[Hashable]) -> Floats:
        """Return the log-odds of each candidate; 0 for all without signals."""
        if not signals:
            return np.zeros(len(labels))
        return out_of_fold(np.concatenate(_features(signals), axis=1), labels, groups, self.strength, self.seed)


Signals = Mapping[str, Floats]


def _select(signals: Signals, usable: Sequence[str], among: Collection[str]) -> Signals:
    return {name: signals[name] for name in usable if name in among}


def _features(signals: Signals) -> tuple[Floats, Floats]:
    """Return every signal, and its distance from the median; (R, S) each."""
    plain = np.stack(list(signals.values()), axis=1)
    return plain, np.abs(plain - np.median(plain, axis=0))


def _alone(signals: Signals, labels: Labels) -> dict[str, float]:
    """Return the AUC of each signal alone, by its distance from the median."""
    far = _features(signals)[1] if signals else np.zeros((len(labels), 0))
    return {f"auc_{name}": auc(far[labels == 1, k], far[labels == 0, k]) for k, name in enumerate(signals)}


def _signals(of: Results, sizes: tuple[int, int]) -> dict[str, Floats]:
    """Return every signal of the candidates, the erased ones first."""
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
