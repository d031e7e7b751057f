from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expunge.audits.api import (
    AS_IT_IS,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    ControlledAudit,
    audit,
    sample_rows,
)
from expunge.core.decode import strict
from expunge.core.errors import nearest
from expunge.data.examples import ExampleSet
from expunge.data.variants import LANGUAGES, begun, variant_of, with_shots
from expunge.metrics.api import Metric
from expunge.metrics.equivalence import AuditFinding, compare_to_controls

PARAPHRASED, BEGUN, SHOTS = "paraphrased", "begun", "shots"
WAYS = ("direct", "role", "insist", "upper", "quoted", "plain", PARAPHRASED, BEGUN, SHOTS)
KNOWN_WAYS = (*WAYS, *LANGUAGES)


@audit(
    "prompting",
    revision=3,
    alone=True,
    paper="worst case over forms: arXiv:2509.02820; leak@k: arXiv:2511.04934",
    fidelity="reading",
)
@strict
@dataclass(frozen=True, kw_only=True)
class PromptingAudit(ControlledAudit):
    """Prompting: does one prompt variant bring back the forgotten answers?

    Each forget question is used unchanged and in each of `ways`: direct (answer in full); role (as an archivist);
    insist (do not refuse); upper; quoted; plain (no template); paraphrased (the data's own, if every row has one);
    begun (the first `begun` of the answer is part of the prompt, the rest is scored); shots (`shots` solved retain
    questions before it). Not by default, for models that read them: french, german, spanish, chinese (an instruction in
    that language to answer the question in its own). For each row the variant that leaks most counts, in the model as
    in both controls.

    Values: worst_prob (probability of the true answer), worst_rouge (overlap of greedy decoding with it, with `rouge`),
    leak (leak@k over `eval.sampling`, with `leak`; k is the number of samples). Details: the share of rows in which a
    variant is the worst (by_WAY), and each variant's own position (position_WAY).

    Cost: for every model and variant, a pass over the forget rows; with `rouge` also a generation for each; with `leak`
    `eval.sampling.samples` generations per row.

    Pitfall: a maximum over more variants is never smaller, also for the retain model; compare only the same variants.

    Try: expunge run study=quickstart "audits=[{name: prompting, rouge: false}]"
    """

    ways: tuple[str, ...] = WAYS
    """Prompt variants to try, next to the unchanged question."""
    begun: float = 0.5
    """Share of the answer that the variant `begun` puts into the prompt, above 0 and below 1."""
    shots: int = 3
    """Number of solved retain questions in the variant `shots`."""
    rouge: bool = True
    """Whether to generate answers and measure their ROUGE-L recall."""
    leak: bool = False
    """Whether to measure leak@k on the samples of `eval.sampling`."""
    seed: int = 0
    """Seed of the sample of solved questions."""

    def __post_init__(self) -> None:
        check_ways(self.ways)
        if not 0 < self.begun < 1:
            raise ValueError("begun must be above 0 and below 1")
        if self.shots < 1:
            raise ValueError("shots must be at least 1")
        super().__post_init__()

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan the rows in every prompt variant, scored in one probe."""
        sets, lacking = rows_in(inputs, self.ways, share=self.begun, shots=self.shots, seed=self.seed)
        panel = list(worst_panel(sets, "prob"))
        if self.rouge:
            panel += worst_panel(sets, "rouge")
        missing = {f"way {way}": why for way, why in lacking.items()}
        if self.leak and inputs.samples > 1:
            args = {"k": inputs.samples}
            panel.append(
                Metric("leak", "leak_at_k", rows=inputs.forget.name, reads={"samples": ("answer",)}, args=args)
            )
        elif self.leak:
            missing["leak"] = "leak@k needs several samples of each row, and eval.sampling.samples is 1"
        return AuditPlan({s.name: s for s in sets.values()}, (AuditProbe(AS_IT_IS, None, tuple(panel)),), missing)

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return a finding on the worst variant by each measure, and on leak@k."""
        plan = self.expand(inputs)
        panel = {m.name: m for m in plan.probes[0].panel}
        names = [n for n in ("worst_prob", "worst_rouge", "leak") if n in panel]
        absent = [AuditFinding(name, note=why) for name, why in plan.missing.items()]
        if outputs.lacking:
            return AuditFindings((*(outputs.alone(name, AS_IT_IS, panel[name]) for name in names), *absent))
        findings = []
        rows: dict[str, Sequence[object]] = {}
        for name in names:
            sides = outputs.columns(AS_IT_IS, panel[name])
            details, note = self._by_way(outputs, panel, name)
            findings.append(
                compare_to_controls(name, sides, margin=self.margin, known=self.known, note=note, details=details)
            )
            rows.setdefault("row_id", list(range(len(sides[0]))))
            rows |= {f"{name}_{who}": s.tolist() for who, s in zip(("model", "retain", "full"), sides, strict=True)}
        return AuditFindings((*findings, *absent), rows)

    def _by_way(self, outputs: AuditOutputs, panel: Mapping[str, Metric], name: str) -> tuple[dict[str, float], str]:
        """Return each variant's share of the worst rows and its own position, and the variant that leaks most."""
        if panel[name].family != "worst_case":
            return {}, ""
        extra = outputs.model[AS_IT_IS][name].extra
        details = {k: v for k, v in extra.items() if k.startswith("by_")}
        best, most = "", -math.inf
        for way, parent in panel[name].parents.items():
            at = compare_to_controls(way, outputs.columns(AS_IT_IS, panel[parent])).position
            details[f"position_{way}"] = at
            if at > most:
                best, most = way, at
        return details, f"most by: {best} ({most:.2f})" if best else ""


def check_ways(ways: Sequence[str]) -> None:
    """Raise ValueError unless all are prompt variants, each once."""
    for way in ways:
        if way not in KNOWN_WAYS:
            raise ValueError(f"ways holds {way!r}, which is no prompt variant{nearest(way, KNOWN_WAYS)}")
    if len(set(ways)) != len(ways) or not ways:
        raise ValueError("ways must be a list of different names")


def rows_in(
    inputs: AuditInputs, ways: Sequence[str], *, share: float, shots: int, seed: int
) -> tuple[dict[str, ExampleSet], dict[str, str]]:
    """Return the forget rows unchanged and in each prompt variant, and why the other variants are impossible."""
    rows = inputs.forget
    variants, lacking = {AS_IT_IS: rows}, {}
    for way in ways:
        if rows.form != "qa":
            lacking[way] = "the forget rows are texts without questions"
        elif way == PARAPHRASED and not all(r.paraphrased_question for r in rows):
            lacking[way] = "not every forget row has a paraphrased question"
        elif way == SHOTS and inputs.retain is None:
            lacking[way] = "there are no retain rows to show"
        elif way == SHOTS and inputs.retain is not None:
            examples = sample_rows(inputs.retain, shots, seed, SHOTS)
            variants[way] = with_shots(rows, [(r.question, r.answer) for r in examples])
        else:
            variants[way] = begun(rows, share, inputs.opens) if way == BEGUN else variant_of(rows, way)
    return {way: _named(variant, rows.name, way) for way, variant in variants.items()}, lacking


def _named(rows: ExampleSet, name: str, way: str) -> ExampleSet:
    return dataclasses.replace(rows, name=name if way == AS_IT_IS else f"{name}_{way}")


def worst_panel(sets: Mapping[str, ExampleSet], short: str) -> tuple[Metric, ...]:
    """Return a metric for each variant, `WAY_short`, and the worst of them by row, `worst_short`."""
    one = {
        way: Metric(f"{way}_{short}", "probability", rows=rows.name, reads={"tokens": ("answer",)})
        if short == "prob"
        else Metric(f"{way}_{short}", "rouge", rows=rows.name, reads={"texts": ("answer",)})
        for way, rows in sets.items()
    }
    if len(one) < 2:
        return tuple(one.values())
    parents = {way: m.name for way, m in one.items()}
    statistic = {"prob": "prob", "rouge": "rougeL_recall"}[short]
    worst = Metric(f"worst_{short}", "worst_case", parents=parents, args={"statistic": statistic})
    return (*one.values(), worst)
