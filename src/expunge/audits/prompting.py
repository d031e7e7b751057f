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
    Finding,
    audit,
    check_judging,
    chosen,
    held_against,
)
from expunge.audits.verdict import position
from expunge.core.decode import strict
from expunge.core.errors import nearest
from expunge.data.examples import ExampleSet
from expunge.data.variants import LANGUAGES, begun, variant_of, with_shots
from expunge.metrics.api import Metric

PARAPHRASED, BEGUN, SHOTS = "paraphrased", "begun", "shots"
WAYS = ("direct", "role", "insist", "upper", "quoted", "plain", PARAPHRASED, BEGUN, SHOTS)
KNOWN_WAYS = (*WAYS, *LANGUAGES)


@audit("prompting", revision=1, paper="worst case over forms: arXiv:2509.02820; leak@k: arXiv:2511.04934")
@strict
@dataclass(frozen=True, kw_only=True)
class PromptingAudit:
    """Prompting: is one way to ask enough to bring out what was to be forgotten?

    Every forget question is asked as it is and in each of `ways`: direct (asked to answer in full), role (as an
    archivist), insist (told not to refuse), upper, quoted, plain (no template), paraphrased (the other words that came
    with the data, where every row has them), begun (the first `begun` of the answer is given, the rest is scored),
    shots (`shots` solved retain questions before it). Not by default, for models that read them: french, german,
    spanish, chinese (asked in that language to answer the question in its own). For each row the way that brings out
    most counts, in the model as in both controls.

    Values: worst_prob (probability of the true answer), worst_rouge (what greedy decoding repeats of it, with `rouge`),
    leak (leak@k over `eval.sampling`, with `leak`; k is the number of samples). Details: the share of rows in which a
    way is the worst (by_WAY), and each way's own position (position_WAY).

    Cost: for every model and way, a pass over the forget rows; with `rouge` also a generation for each; with `leak`
    `eval.sampling.samples` generations a row.

    Pitfall: a maximum over more ways is never smaller, for the retain model too; compare over the same ways.

    Try: expunge run study=quickstart "audits=[{name: prompting, rouge: false}]"
    """

    ways: tuple[str, ...] = WAYS
    begun: float = 0.5
    shots: int = 3
    rouge: bool = True
    leak: bool = False
    seed: int = 0
    margin: float = 0.05
    known: float = 0.5

    def __post_init__(self) -> None:
        check_ways(self.ways)
        if not 0 < self.begun < 1:
            raise ValueError("begun must be above 0 and below 1")
        if self.shots < 1:
            raise ValueError("shots must be at least 1")
        check_judging(self.margin, self.known)

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """The rows in every way, scored in one probe."""
        sets, lacking = rows_in(ground, self.ways, share=self.begun, shots=self.shots, seed=self.seed)
        panel = list(worst_panel(sets, "prob"))
        if self.rouge:
            panel += worst_panel(sets, "rouge")
        missing = {f"way {way}": why for way, why in lacking.items()}
        if self.leak and ground.samples > 1:
            args = {"k": ground.samples}
            panel.append(
                Metric("leak", "leak_at_k", rows=ground.forget.name, reads={"samples": ("answer",)}, args=args)
            )
        elif self.leak:
            missing["leak"] = "leak@k takes the best of several samples, and eval.sampling.samples is 1"
        return AuditPlan({s.name: s for s in sets.values()}, (AuditProbe(AS_IT_IS, None, tuple(panel)),), missing)

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """A reading of the worst way by each measure, and of leak@k."""
        asked = self.expand(ground)
        panel = {m.name: m for m in asked.probes[0].panel}
        names = [n for n in ("worst_prob", "worst_rouge", "leak") if n in panel]
        readings = [Finding(name, note=why) for name, why in asked.missing.items()]
        if found.lacking:
            return AuditFindings((*(Finding(name, note=found.lacking) for name in names), *readings))
        made = []
        rows: dict[str, Sequence[object]] = {}
        for name in names:
            sides = found.columns(AS_IT_IS, panel[name])
            details, note = self._by_way(found, panel, name)
            made.append(
                held_against(
                    name, sides, position(*sides), margin=self.margin, known=self.known, note=note, details=details
                )
            )
            rows.setdefault("row_id", list(range(len(sides[0]))))
            rows |= {f"{name}_{who}": s.tolist() for who, s in zip(("model", "retain", "full"), sides, strict=True)}
        return AuditFindings((*made, *readings), rows)

    def _by_way(self, found: AuditOutputs, panel: Mapping[str, Metric], name: str) -> tuple[dict[str, float], str]:
        """Each way's share of the worst rows and its own position, and which way brings out most."""
        if panel[name].family != "worst_case":
            return {}, ""
        extra = found.model[AS_IT_IS][name].extra
        details = {k: v for k, v in extra.items() if k.startswith("by_")}
        best, most = "", -math.inf
        for way, parent in panel[name].parents.items():
            where = position(*found.columns(AS_IT_IS, panel[parent]))
            details[f"position_{way}"] = where.value
            if where.value > most:
                best, most = way, where.value
        return details, f"most by: {best} ({most:.2f})" if best else ""


def check_ways(ways: Sequence[str]) -> None:
    """Raise ValueError unless all are ways to ask, each once."""
    for way in ways:
        if way not in KNOWN_WAYS:
            raise ValueError(f"ways holds {way!r}, which is no way to ask{nearest(way, KNOWN_WAYS)}")
    if len(set(ways)) != len(ways) or not ways:
        raise ValueError("ways must be a list of different ones")


def rows_in(
    ground: AuditInputs, ways: Sequence[str], *, share: float, shots: int, seed: int
) -> tuple[dict[str, ExampleSet], dict[str, str]]:
    """The forget rows as they are and in each way to ask, and why the other ways cannot be asked."""
    rows = ground.forget
    found, lacking = {AS_IT_IS: rows}, {}
    for way in ways:
        if rows.form != "qa":
            lacking[way] = "the forget rows are texts without questions"
        elif way == PARAPHRASED and not all(r.paraphrased_question for r in rows):
            lacking[way] = "not every forget row has a paraphrased question"
        elif way == SHOTS and ground.retain is None:
            lacking[way] = "there are no retain rows to show"
        elif way == SHOTS and ground.retain is not None:
            shown = chosen(ground.retain, shots, seed, SHOTS)
            found[way] = with_shots(rows, [(r.question, r.answer) for r in shown])
        else:
            found[way] = begun(rows, share, ground.opens) if way == BEGUN else variant_of(rows, way)
    return {way: _named(made, rows.name, way) for way, made in found.items()}, lacking


def _named(rows: ExampleSet, name: str, way: str) -> ExampleSet:
    return dataclasses.replace(rows, name=name if way == AS_IT_IS else f"{name}_{way}")


def worst_panel(sets: Mapping[str, ExampleSet], short: str) -> tuple[Metric, ...]:
    """A measure of each way, by `WAY_short`, and the worst of them by row, `worst_short`."""
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
