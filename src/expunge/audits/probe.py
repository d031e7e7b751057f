from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from expunge.audits.api import (
    Analysis,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    Finding,
    Models,
    audit,
    check_judging,
    chosen,
)
from expunge.audits.distinguishability import fitted, groups_of, lacks_unseen, out_of_fold
from expunge.audits.layers import (
    by_layer,
    columns,
    layer_means,
    layers_of,
    read_layers,
    rows_by_layer,
    told,
)
from expunge.audits.verdict import ControlPosition, verdict, wins, wins_position
from expunge.core.decode import strict
from expunge.core.records import Floats
from expunge.data.examples import ANSWER, PARAPHRASE, ExampleSet, perturbed_name
from expunge.data.template import Encoder
from expunge.interpretability.hidden import HiddenStates, hidden_states
from expunge.interpretability.inputs import analysis_inputs
from expunge.metrics.api import Metric, MetricResult

What = Literal["truth", "membership"]
TRUTH: What = "truth"
MEMBERSHIP: What = "membership"
TAUGHT = "audit_taught"
FORGET_SIDE, OTHER_SIDE = "erased", "unseen"


def true_variant(rows: ExampleSet) -> str:
    """The variant of the true answer that is worded as the wrong ones are."""
    return PARAPHRASE if all(PARAPHRASE in row.answers for row in rows) else ANSWER


def wrong_variants(rows: ExampleSet) -> tuple[str, ...]:
    """The wrong answers that every row has."""
    least = min((len(row.perturbed) for row in rows), default=0)
    return tuple(perturbed_name(i) for i in range(least))


def _states(model: object, rows: ExampleSet, encoder: Encoder, variant: str, last: int) -> HiddenStates:
    return hidden_states(model, analysis_inputs(rows, encoder, variant), at="last", last=last)


def _at(states: HiddenStates, k: int) -> Floats:
    made: Floats = states.values_LND[k].double().numpy()
    return made


@dataclass(frozen=True)
class TruthAnalysis(Analysis):
    """A probe for true against wrong answers, fitted on other rows: how often it picks a forget row's true answer."""

    sets: tuple[str, ...]  # the rows to test, and those to fit on
    last: int
    strength: float

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """By layer, the share of a row's wrong answers that score below its true one (ties count half)."""
        tested, taught = (sets[name] for name in self.sets)
        model = models("model")
        variants = [true_variant(taught), *wrong_variants(taught)[:1]]
        train = [_states(model, taught, encoder, v, self.last) for v in variants]
        test = [_states(model, tested, encoder, v, self.last) for v in (true_variant(tested), *wrong_variants(tested))]
        labels = np.repeat([1, 0], len(taught))
        shares = []
        for k in range(len(train[0].layers)):
            probe = fitted(np.concatenate([_at(s, k) for s in train]), labels, self.strength)
            true_R, *wrong = (probe.decision_function(_at(s, k)) for s in test)
            shares.append(np.mean([np.sign(true_R - w) / 2 + 0.5 for w in wrong], axis=0))
        return by_layer(TRUTH, np.stack(shares, axis=1), train[0].layers, range(len(tested)))


@dataclass(frozen=True)
class MembershipAnalysis(Analysis):
    """A probe for forget rows against rows that no model has seen: each row's score from a fold it was not in."""

    sets: tuple[str, ...]  # the forget rows, and the unseen ones
    last: int
    strength: float
    seed: int

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """By layer and side, the log-odds of having been a forget row."""
        erased, unseen = (sets[name] for name in self.sets)
        model = models("model")
        states = [_states(model, rows, encoder, ANSWER, self.last) for rows in (erased, unseen)]
        labels = np.repeat([1, 0], [len(erased), len(unseen)])
        groups = [*groups_of(erased), *groups_of(unseen)]
        scores = []
        for k in range(len(states[0].layers)):
            features = np.concatenate([_at(s, k) for s in states])
            scores.append(out_of_fold(features, labels, groups, self.strength, self.seed))
        made, n = np.stack(scores, axis=1), len(erased)
        return by_layer(FORGET_SIDE, made[:n], states[0].layers, range(n)) | by_layer(
            OTHER_SIDE, made[n:], states[0].layers, range(len(unseen))
        )


@audit("probe", revision=1, paper="arXiv:2311.12786 (probes); controls as in arXiv:2506.00688")
@strict
@dataclass(frozen=True, kw_only=True)
class ProbeAudit:
    """Probe: can a linear probe read off a layer what the model no longer says?

    truth: a logistic regression per layer tells true from wrong answers by the mean state of an answer's last `last`
    tokens. It is fitted on `rows` retain rows, which the model and both controls have learned, and tested on the forget
    rows: how often does it put the true answer above a wrong one? 0.5 is chance. The true answer is worded as the wrong
    ones are (the paraphrase), where there is one. Needs rows with wrong answers.

    membership: a probe per layer tells forget rows from rows that no model has seen, fitted and tested across folds
    that keep an author's rows together. The value is the AUC. Needs holdout rows. It does not say what is known:
    a row that unlearning has marked stands out as well as one that is remembered (`forensic` asks about that).

    Value: the mean over the layers that count, which are those where the full model's probe is better than the retain
    model's. Details: every layer's mean. strength: the inverse of the L2 penalty.

    Cost: for every model, passes over the forget rows (each answer), `rows` retain rows (twice) and the holdout rows,
    and fits on the CPU.

    Pitfalls: a probe that finds nothing says little: a fact may be there in another form, or the rows be too few. Where
    the tokenizer was made from the forget rows (a model from scratch), names that only they hold are tokens the retain
    model never trained, and its states tell forget from unseen rows: membership is then missing.

    Try: expunge run study=quickstart "audits=[probe]"
    """

    what: tuple[What, ...] = (TRUTH, MEMBERSHIP)
    rows: int = 400
    last: int = 2
    strength: float = 0.01
    seed: int = 0
    margin: float = 0.05
    known: float = 0.5

    def __post_init__(self) -> None:
        if not self.what or len(set(self.what)) != len(self.what):
            raise ValueError("what must be a list of different ones")
        for key in ("rows", "last"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if not 0 < self.strength < math.inf:
            raise ValueError("strength must be a number > 0")
        check_judging(self.margin, self.known)

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """A look for each of `what` that there are rows for."""
        sets = {ground.forget.name: ground.forget}
        probes: list[AuditProbe] = []
        missing: dict[str, str] = {}
        taught = self._taught(ground)
        if TRUTH in self.what:
            if isinstance(taught, str):
                missing[TRUTH] = taught
            else:
                sets[TAUGHT] = taught
                probes.append(
                    AuditProbe(TRUTH, TruthAnalysis((ground.forget.name, TAUGHT), self.last, self.strength), ())
                )
        if MEMBERSHIP in self.what:
            why = lacks_unseen(ground)
            if why or ground.holdout is None:
                missing[MEMBERSHIP] = why or ""
            else:
                sets[ground.holdout.name] = ground.holdout
                names = (ground.forget.name, ground.holdout.name)
                probes.append(
                    AuditProbe(MEMBERSHIP, MembershipAnalysis(names, self.last, self.strength, self.seed), ())
                )
        return AuditPlan(sets, tuple(probes), missing)

    def _taught(self, ground: AuditInputs) -> ExampleSet | str:
        """Retain rows with a true and a wrong answer, or why there are none."""
        if not wrong_variants(ground.forget):
            return "the forget rows have no wrong answers"
        if ground.retain is None:
            return "this benchmark has no retain rows"
        asked = {row.question for row in ground.forget}
        kept = [row.row_id for row in ground.retain if row.perturbed and row.question not in asked]
        if len(kept) < 2:
            return "fewer than two retain rows have wrong answers"
        return chosen(ground.retain, self.rows, self.seed, TAUGHT, kept)

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """A reading for each of `what`; the table is that of truth."""
        missing = self.expand(ground).missing
        readings: list[Finding] = []
        tables: list[Mapping[str, Sequence[object]]] = []
        for what in self.what:
            why = missing.get(what) or found.lacking
            if why:
                readings.append(Finding(what, note=why))
            elif what == TRUTH:
                sides = columns(found, TRUTH, TRUTH)
                readings.append(read_layers(TRUTH, sides, margin=self.margin, known=self.known))
                tables.append(rows_by_layer(TRUTH, sides))
            else:
                readings.append(self._membership(found))
        return told(readings, tables)

    def _membership(self, found: AuditOutputs) -> Finding:
        """The AUC over the layers that count, between those of the controls."""
        layers = layers_of(found.model[MEMBERSHIP], FORGET_SIDE)
        won: dict[int, list[Floats]] = {}
        for layer in layers:
            erased, unseen = (
                found.columns(MEMBERSHIP, Metric(f"{side}.{layer}", "")) for side in (FORGET_SIDE, OTHER_SIDE)
            )
            won[layer] = [wins(e, u) for e, u in zip(erased, unseen, strict=True)]
        details = layer_means({layer: (a.ravel(), b.ravel(), c.ravel()) for layer, (a, b, c) in won.items()})
        used = [k for k, (_, retain, full) in won.items() if wins_position(retain, retain, full)[0].reason is None]
        if not used:
            why = "at no layer is the full model's probe better than the retain model's"
            return Finding(MEMBERSHIP, note=why, details=details)
        mean = [np.mean([won[layer][side] for layer in used], axis=0) for side in range(3)]
        where, (low, high) = wins_position(mean[0], mean[1], mean[2])
        said, more = verdict(where, margin=self.margin, known=self.known)
        note = f"layers {', '.join(map(str, used))}" + (f"; {more}" if more else "")
        values = [float(m.mean()) for m in mean]
        return _placed(MEMBERSHIP, values, (low, high), where, said, note, details)


def _placed(
    name: str,
    values: Sequence[float],
    ends: tuple[float, float],
    where: ControlPosition,
    said: str,
    note: str,
    details: Mapping[str, float],
) -> Finding:
    return Finding(
        name, values[0], *ends, retain=values[1], full=values[2], position=where.value, position_low=where.low,
        position_high=where.high, verdict=said, note=note, details=details,
    )  # fmt: skip
