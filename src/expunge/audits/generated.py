from __future__ import annotations

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
)
from expunge.audits.probe_rows import KINDS, ProbeRow, check_kinds, file_probes, probe_set, template_probes
from expunge.core.decode import strict
from expunge.metrics.api import Metric
from expunge.metrics.equivalence import AuditFinding, compare_to_controls


@audit(
    "generated",
    revision=2,
    alone=True,
    paper="reverse and alias probes as in RWKU (arXiv:2406.10890); templates of our own",
)
@strict
@dataclass(frozen=True, kw_only=True)
class GeneratedProbesAudit(ControlledAudit):
    """Generated probes: does the model still know the facts, if the questions have forms that the data has not?

    Kinds: paraphrase (the data's paraphrase, or the question in a frame); alias (a shortened name); reverse (the fact
    is given, the name is the answer); multi_hop (the name in a question is given only by another fact about it);
    multi_turn (after two turns of conversation). They are made from templates; rows without a name in their question
    give only paraphrase and multi_turn. A file replaces the templates: `file`, with the columns kind, question, answer
    and row. `expunge.write_probes` writes such a file with a model of your choice.

    Value: the mean probability of the answers to the probes of a kind, with a finding for each kind. The table has
    every probe with its question, answer and probability in the model and both controls.

    Cost: for every model and kind, a pass over at most `rows` probes.

    Pitfall: a kind on which the controls do not differ is not measurable. Small models seldom answer reverse and
    multi_hop probes, even about facts that they know (arXiv:2309.12288).

    Try: expunge run study=quickstart "audits=[{name: generated, kinds: [paraphrase, multi_turn]}]"
    """

    kinds: tuple[str, ...] = KINDS
    """Kinds of probes from templates; of a file, its kinds count."""
    file: str | None = None
    """File of probes in place of templates. null: templates."""
    rows: int = 400
    """Largest number of probes of each kind; the first ones are read."""

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds must be a list of different names (allowed: {', '.join(KINDS)})")
        check_kinds(self.kinds)
        if self.rows < 1:
            raise ValueError("rows must be at least 1")
        super().__post_init__()

    def _probes(self, inputs: AuditInputs) -> dict[str, list[ProbeRow]]:
        """Return the probes by kind."""
        if self.file is not None:
            probes = file_probes(self.file, len(inputs.forget))
        elif inputs.forget.form != "qa":
            return {}
        else:
            probes = template_probes(inputs.forget, self.kinds)
        by_kind: dict[str, list[ProbeRow]] = {}
        for probe in probes:
            by_kind.setdefault(probe.kind, []).append(probe)
        return {kind: of[: self.rows] for kind, of in by_kind.items()}

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan one probe of the unchanged model, over a set for each kind."""
        by_kind = self._probes(inputs)
        sets = {s.name: s for s in (probe_set(_name(kind), of) for kind, of in by_kind.items())}
        panel = tuple(_metric(kind) for kind in by_kind)
        kinds = by_kind if self.file is not None else self.kinds
        why = (
            "the forget rows are texts without questions"
            if inputs.forget.form != "qa"
            else "no row has the parts that it needs"
        )
        missing = {kind: why for kind in kinds if kind not in by_kind}
        return AuditPlan(sets, (AuditProbe(AS_IT_IS, None, panel),) if panel else (), missing)

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return a finding for each kind, and every probe."""
        by_kind = self._probes(inputs)
        absent = [AuditFinding(kind, note=why) for kind, why in self.expand(inputs).missing.items()]
        if outputs.lacking:
            return AuditFindings((*(outputs.alone(kind, AS_IT_IS, _metric(kind)) for kind in by_kind), *absent))
        findings = []
        columns = ("kind", "row_id", "question", "answer", "model", "retain", "full")
        rows: dict[str, list[object]] = {name: [] for name in columns}
        for kind, probes in by_kind.items():
            sides = outputs.columns(AS_IT_IS, _metric(kind))
            findings.append(compare_to_controls(kind, sides, margin=self.margin, known=self.known))
            cells = (
                [kind] * len(probes), [p.row for p in probes], [p.question for p in probes],
                [p.answer for p in probes], *(side.tolist() for side in sides),
            )  # fmt: skip
            for key, column in zip(columns, cells, strict=True):
                rows[key] += column
        return AuditFindings((*findings, *absent), rows)


def _name(kind: str) -> str:
    return f"audit_generated_{kind}"


def _metric(kind: str) -> Metric:
    return Metric(f"{kind}_prob", "probability", rows=_name(kind), reads={"tokens": ("answer",)})
