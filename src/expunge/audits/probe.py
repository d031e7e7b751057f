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
    ControlledAudit,
    Models,
    audit,
    sample_rows,
)
from expunge.audits.distinguishability import fitted, groups_of, lacks_unseen, out_of_fold
from expunge.audits.layers import (
    by_layer,
    collect_findings,
    columns,
    layers_of,
    read_layers,
    rows_by_layer,
)
from expunge.audits.position import auc, auc_draws
from expunge.core.decode import strict
from expunge.core.records import Floats
from expunge.data.encoder import Encoder
from expunge.data.examples import ANSWER, PARAPHRASE, ExampleSet, perturbed_name
from expunge.interpretability.hidden import HiddenStates, hidden_states
from expunge.interpretability.inputs import analysis_inputs
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.equivalence import SAME_CONTROLS, AuditFinding, compare_interval, percentile_interval

What = Literal["truth", "membership"]
TRUTH: What = "truth"
MEMBERSHIP: What = "membership"
TAUGHT = "audit_taught"
FORGET_SIDE, OTHER_SIDE = "erased", "unseen"


def true_variant(rows: ExampleSet) -> str:
    """Return the variant of the true answer whose wording resembles the wrong ones."""
    return PARAPHRASE if all(PARAPHRASE in row.answers for row in rows) else ANSWER


def wrong_variants(rows: ExampleSet) -> tuple[str, ...]:
    """Return the wrong answers that every row has."""
    least = min((len(row.perturbed) for row in rows), default=0)
    return tuple(perturbed_name(i) for i in range(least))


def _states(model: object, rows: ExampleSet, encoder: Encoder, variant: str, last: int) -> HiddenStates:
    return hidden_states(model, analysis_inputs(rows, encoder, variant), at="last", last=last)


def _at(states: HiddenStates, k: int) -> Floats:
    values: Floats = states.values_LND[k].double().numpy()
    return values


@dataclass(frozen=True)
class TruthAnalysis(Analysis):
    """A probe for true against wrong answers, fitted on other rows: how often it ranks a row's true answer higher."""

    sets: tuple[str, ...]  # the test rows, and the training rows
    last: int
    strength: float

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """Return, by layer, the share of a row's wrong answers that score below its true one (ties count half)."""
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
    """A probe for forget rows against rows that no model has seen: each row's score from a fold without it."""

    sets: tuple[str, ...]  # the forget rows, and the unseen ones
    last: int
    strength: float
    seed: int

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """Return, by layer and side, the log-odds of being a forget row."""
        erased, unseen = (sets[name] for name in self.sets)
        model = models("model")
        states = [_states(model, rows, encoder, ANSWER, self.last) for rows in (erased, unseen)]
        labels = np.repeat([1, 0], [len(erased), len(unseen)])
        groups = [*groups_of(erased), *groups_of(unseen)]
        scores = []
        for k in range(len(states[0].layers)):
            features = np.concatenate([_at(s, k) for s in states])
            scores.append(out_of_fold(features, labels, groups, self.strength, self.seed))
        odds, n = np.stack(scores, axis=1), len(erased)
        return by_layer(FORGET_SIDE, odds[:n], states[0].layers, range(n)) | by_layer(
            OTHER_SIDE, odds[n:], states[0].layers, range(len(unseen))
        )


@audit("probe", revision=2, paper="arXiv:2311.12786 (probes); controls as in arXiv:2506.00688", fidelity="reading")
@strict
@dataclass(frozen=True, kw_only=True)
class ProbeAudit(ControlledAudit):
    """Probe: does a linear probe of a layer still detect knowledge that the model no longer outputs?

    truth: a logistic regression per layer separates true from wrong answers by the mean state of an answer's last
    `last` tokens. It is fitted on `rows` retain rows, which the model and both controls have learned, and tested on the
    forget rows. The value is how often it ranks the true answer above a wrong one; 0.5 is chance. The true answer is
    the paraphrase if there is one, because its wording resembles the wrong ones. Needs rows with wrong answers.

    membership: a probe per layer separates forget rows from rows that no model has seen. The folds of its fits and
    tests keep an author's rows together. The value is the AUC. Needs holdout rows. It does not measure knowledge: a row
    that unlearning has marked is as conspicuous as a remembered one (see `forensic`).

    Value: the mean over the layers that count: those at which the target model's probe is better than the retain
    model's. Details: every layer's mean.

    Cost: for every model, passes over the forget rows (each answer), `rows` retain rows (twice) and the holdout rows,
    and fits on the CPU.

    Pitfalls: a probe without success proves little: a fact may have another form, or the rows may be too few. If the
    tokenizer was trained on the forget rows (a model from scratch), some names are tokens that the retain model never
    trained. Its states then separate forget from unseen rows, so membership is missing.

    Try: expunge run study=quickstart "audits=[probe]"
    """

    what: tuple[What, ...] = (TRUTH, MEMBERSHIP)
    """The probes to fit: truth, membership, or both."""
    rows: int = 400
    """Largest number of retain rows to fit the truth probe on."""
    last: int = 2
    """Number of tokens at the end of an answer whose states are averaged."""
    strength: float = 0.01
    """Inverse of the L2 penalty of the logistic regression."""
    seed: int = 0
    """Seed of the sample of retain rows and of the folds."""

    def __post_init__(self) -> None:
        if not self.what or len(set(self.what)) != len(self.what):
            raise ValueError("what must be a list of different names (allowed: truth, membership)")
        for key in ("rows", "last"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if not 0 < self.strength < math.inf:
            raise ValueError("strength must be a number > 0")
        super().__post_init__()

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan an analysis for each of `what` that has rows."""
        sets = {inputs.forget.name: inputs.forget}
        probes: list[AuditProbe] = []
        missing: dict[str, str] = {}
        taught = self._taught(inputs)
        if TRUTH in self.what:
            if isinstance(taught, str):
                missing[TRUTH] = taught
            else:
                sets[TAUGHT] = taught
                probes.append(
                    AuditProbe(TRUTH, TruthAnalysis((inputs.forget.name, TAUGHT), self.last, self.strength), ())
                )
        if MEMBERSHIP in self.what:
            why = lacks_unseen(inputs)
            if why or inputs.holdout is None:
                missing[MEMBERSHIP] = why or ""
            else:
                sets[inputs.holdout.name] = inputs.holdout
                names = (inputs.forget.name, inputs.holdout.name)
                probes.append(
                    AuditProbe(MEMBERSHIP, MembershipAnalysis(names, self.last, self.strength, self.seed), ())
                )
        return AuditPlan(sets, tuple(probes), missing)

    def _taught(self, inputs: AuditInputs) -> ExampleSet | str:
        """Return retain rows with a true and a wrong answer, or why there are none."""
        if not wrong_variants(inputs.forget):
            return "the forget rows have no wrong answers"
        if inputs.retain is None:
            return "this benchmark has no retain rows"
        questions = {row.question for row in inputs.forget}
        usable = [row.row_id for row in inputs.retain if row.perturbed and row.question not in questions]
        if len(usable) < 2:
            return "fewer than two retain rows have wrong answers"
        return sample_rows(inputs.retain, self.rows, self.seed, TAUGHT, usable)

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return a finding for each of `what`; the table is that of truth."""
        missing = self.expand(inputs).missing
        readings: list[AuditFinding] = []
        tables: list[Mapping[str, Sequence[object]]] = []
        for what in self.what:
            why = missing.get(what) or outputs.lacking
            if why:
                readings.append(AuditFinding(what, note=why))
            elif what == TRUTH:
                sides = columns(outputs, TRUTH, TRUTH)
                readings.append(read_layers(TRUTH, sides, margin=self.margin, known=self.known))
                tables.append(rows_by_layer(TRUTH, sides))
            else:
                readings.append(self._membership(outputs))
        return collect_findings(readings, tables)

    def _membership(self, outputs: AuditOutputs) -> AuditFinding:
        """Return the AUC over the layers that count, between those of the controls."""
        layers = layers_of(outputs.model[MEMBERSHIP], FORGET_SIDE)
        pairs: dict[int, list[tuple[Floats, Floats]]] = {}
        for layer in layers:
            erased, unseen = (
                outputs.columns(MEMBERSHIP, Metric(f"{side}.{layer}", "")) for side in (FORGET_SIDE, OTHER_SIDE)
            )
            pairs[layer] = list(zip(erased, unseen, strict=True))
        values = {layer: [auc(*pair) for pair in three] for layer, three in pairs.items()}
        resamples = {layer: auc_draws(three) for layer, three in pairs.items()}
        details = {
            f"{who}_layer_{layer}": value
            for layer, three in values.items()
            for who, value in zip(("model", "retain", "full"), three, strict=True)
        }
        used = [layer for layer, d in resamples.items() if percentile_interval(d[:, 2] - d[:, 1])[0] > 0]
        if not used:
            why = "at no layer is the target model's probe better than the retain model's"
            return AuditFinding(MEMBERSHIP, note=why, details=details)
        means = [float(np.mean([values[layer][side] for layer in used])) for side in range(3)]
        draws = np.mean([resamples[layer] for layer in used], axis=0)
        if percentile_interval(draws[:, 2] - draws[:, 1])[0] <= 0:
            return AuditFinding(MEMBERSHIP, note=SAME_CONTROLS, details=details)
        rows = min(len(side) for side in pairs[used[0]][0])
        return compare_interval(
            MEMBERSHIP, means, percentile_interval(draws[:, 0] - draws[:, 1]), gap=means[2] - means[1], rows=rows,
            margin=self.margin, known=self.known, note=f"layers {', '.join(map(str, used))}", details=details,
        )  # fmt: skip
