"""`audit`: every audit on models in memory. It writes no file and changes no model that you pass.

An audit lists its probes (`expand`) and interprets their results (`read`). This module runs the probes one after
another in this process, on the audited model and on its controls.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expunge.audits.api import (
    Analysis,
    Audit,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    Change,
    Nf4Spec,
    RelearnSpec,
    make_audit,
    numbered_names,
    opens_of,
)
from expunge.audits.changes import attacked_copy, check_forms, relearn, relearn_args, to_nf4
from expunge.core.decode import decode
from expunge.core.errors import ConfigError, as_list, kind_of, nearest
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import NOT_MEASURABLE, AuditFinding
from expunge.metrics.verdict import NO_CONTROLS, NO_MEASUREMENT, NOT_TESTED, Verdict, VerdictAnswer, make_verdict
from expunge.training.config import TrainArgs

if TYPE_CHECKING:
    from expunge.data.encoder import Encoder
    from expunge.data.template import Template
    from expunge.evaluation.config import Generation

CONTROLS = ("retain", "full")
DEFAULT_AUDITS = ("relearn", "quantize", "prompting", "exposure", "probe")
COLUMNS = (
    "value", "low", "high", "retain", "full", "position", "position_low", "position_high", "verdict", "note", "rows",
    "margin", "p_value", "p_equal", "effect", "above", "below", "rows_needed",
)  # fmt: skip


class AuditReport(Mapping[str, tuple[AuditFinding, ...]]):
    """The findings of every audit of one model: a mapping from an audit's name to its findings.

    Attributes:
        controls: The roles of the models that the findings are compared with.
    """

    def __init__(self, findings: Mapping[str, AuditFindings], controls: Sequence[str]) -> None:
        self._findings = dict(findings)
        self.controls = tuple(controls)

    def __getitem__(self, name: str) -> tuple[AuditFinding, ...]:
        if name not in self._findings:
            raise KeyError(f"no audit named {name!r}{nearest(name, self._findings)}")
        return self._findings[name].readings

    def __iter__(self) -> Iterator[str]:
        return iter(self._findings)

    def __len__(self) -> int:
        return len(self._findings)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the model from all findings. Audits do not measure utility."""
        findings = [(name, finding) for name, readings in self.items() for finding in readings]
        utility = VerdictAnswer(NOT_TESTED, "Audits do not measure utility; see evaluate.", finding=NOT_TESTED)
        reason = NO_MEASUREMENT if "retain" in self.controls else NO_CONTROLS
        return make_verdict("model", findings, utility, reason=reason)

    def examples(self, name: str) -> Any:
        """Return an audit's table of examples as a DataFrame; it is empty for an audit without one."""
        import pandas as pd

        self[name]
        return pd.DataFrame({key: list(column) for key, column in self._findings[name].rows.items()})

    def to_pandas(self) -> Any:
        """Return one line per finding: value with its 95 % interval, the controls, the position and the verdict.

        The position is 0 for a model like the retain model and 1 for one like the full model. `AuditFinding` describes
        the columns.
        """
        import pandas as pd

        lines = [
            {"audit": name, "finding": one.name, **{key: getattr(one, key) for key in COLUMNS}}
            for name, readings in self.items()
            for one in readings
        ]
        return pd.DataFrame(lines, columns=["audit", "finding", *COLUMNS])

    def __repr__(self) -> str:
        lines = [f"AuditReport(controls: {', '.join(self.controls) or 'none'})", str(self.verdict)]
        for name, readings in self.items():
            for one in readings:
                place = "" if math.isnan(one.position) else f", position {one.position:.2f}"
                value = "" if math.isnan(one.value) else f" {one.value:.3g}{place}"
                note = f" ({one.note})" if one.verdict == NOT_MEASURABLE and one.note else ""
                lines.append(f"  {name} {one.name}:{value} {one.verdict}{note}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.verdict._repr_html_() + str(
            self.to_pandas().to_html(index=False, float_format=lambda x: f"{x:.3g}", na_rep="")
        )


def audit(
    model: Any,
    tokenizer: Any = None,
    audits: Sequence[str | Mapping[str, Any] | Audit] | str = DEFAULT_AUDITS,
    *,
    forget: Any,
    retain: Any = None,
    holdout: Any = None,
    controls: Mapping[str, Any] | None = None,
    template: Template | Mapping[str, Any] | None = None,
    generation: Generation | Mapping[str, Any] | None = None,
    sampling: Generation | Mapping[str, Any] | None = None,
    learning_rate: float = 1e-5,
) -> AuditReport:
    """Try to recover forgotten examples from a model, and compare it with two controls.

    Each audit treats the model and both controls alike: the retain model, trained without the forget examples, and the
    full model, trained with them. A model that has forgotten them behaves like the retain model (position 0).

    Args:
        model: The audited model, or its name. It is not changed.
        tokenizer: Its tokenizer. None: the one of the model's name.
        audits: Names ("relearn"), settings with a name ({"name": "relearn", "rows": 4}), or audit objects.
        forget: The forgotten examples: any data that `evaluate` reads.
        retain: Examples that the model should still answer. Relearning, few-shot prompts and probes draw from them.
        holdout: Examples like the forget examples that no model was trained on; for membership attacks.
        controls: The control models by role: {"retain": model, "full": model}. Without them there is no verdict.
        template: The template of examples, as for `evaluate`.
        generation: The settings of generation, as for `evaluate`. None: greedy, at most 200 tokens.
        sampling: The same for the several samples of a question (leak@k of the prompting audit). None: 8 samples.
        learning_rate: Learning rate of the relearning audit, if its settings name none.

    Returns:
        The findings by audit. `to_pandas()` is a table with positions between the controls and verdicts.

    Raises:
        ConfigError: If an audit, a setting or a control is wrong, before any model is read.
        DataError: If the examples cannot be read.
    """
    decoded = _audits(audits)
    if not isinstance(controls, Mapping | None):
        raise ConfigError(f"controls: expected a mapping of roles to models, got {kind_of(controls)}")
    for role in controls or {}:
        if role not in CONTROLS:
            raise ConfigError(f"controls: no role named {role!r}{nearest(role, CONTROLS)}")
    if forget is None:
        raise ConfigError("forget: missing; an audit needs the forgotten examples")
    decode(TrainArgs, {"learning_rate": learning_rate}, where="audit")
    from expunge.benchmarks.in_memory import in_memory_benchmark
    from expunge.data.encoder import Encoder
    from expunge.evaluation.evaluator import SAMPLING, resolve_generation, resolve_model, resolve_template
    from expunge.models.capabilities import kept_modes

    texts = (
        resolve_generation(generation),
        resolve_generation(sampling, default=SAMPLING, where="sampling"),
    )
    sets = in_memory_benchmark(forget=forget, retain=retain, holdout=holdout).sets
    model, tokenizer = resolve_model(model, tokenizer)
    models = {"model": model}
    for role, control in (controls or {}).items():
        models[role] = resolve_model(control, tokenizer, f"controls[{role!r}]")[0]
    encoder = Encoder(resolve_template(template, tokenizer), tokenizer)
    inputs = AuditInputs(
        forget=sets["forget_eval"], retain=sets.get("retain"), holdout=sets.get("holdout"),
        opens=opens_of(encoder.template), samples=texts[1].samples,
    )  # fmt: skip
    probes = _Probes(models, encoder, learning_rate, texts)
    findings: dict[str, AuditFindings] = {}
    plans = [one.expand(inputs) for one in decoded]
    with kept_modes(*models.values()):
        for name, one, plan in zip(numbered_names(decoded), decoded, plans, strict=True):
            results = {role: probes.results(role, plan) for role in models}
            outputs = AuditOutputs(results["model"], results.get("retain"), results.get("full"))
            findings[name] = one.read(inputs, outputs)
    return AuditReport(findings, tuple(role for role in CONTROLS if role in models))


def _audits(audits: Sequence[str | Mapping[str, Any] | Audit] | str) -> list[Audit]:
    """Return the audits. Raises ConfigError."""
    entries = [audits] if isinstance(audits, str | Mapping) else as_list(audits, "audits")
    if not entries:
        raise ConfigError("audits: name at least one audit")
    out = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, str | Mapping) and not hasattr(entry, "expand"):
            raise ConfigError(f"audits[{i}]: expected an audit's name, settings or object, got {kind_of(entry)}")
        audit_: Audit = make_audit(entry, f"audits[{i}]") if isinstance(entry, str | Mapping) else entry
        check_forms(audit_, f"audits[{i}]")
        out.append(audit_)
    return out


class _Probes:
    """Runs probes on models in memory: the audited one under "model", the controls under their roles."""

    def __init__(
        self, models: Mapping[str, Any], encoder: Encoder, learning_rate: float, texts: tuple[Generation, Generation]
    ) -> None:
        self._models, self._encoder = models, encoder
        self._plain: dict[str, Any] = {}
        self._learning_rate = learning_rate
        self._generation, self._sampling = texts

    def results(self, role: str, plan: AuditPlan) -> dict[str, Mapping[str, MetricResult]]:
        """Return the results of every probe of a plan on one model; a relearning has one result per step."""
        out: dict[str, Mapping[str, MetricResult]] = {}
        for probe in plan.probes:
            change = probe.change
            if isinstance(change, RelearnSpec):
                out |= {f"{probe.name}@{step}": of for step, of in self._relearned(role, plan, probe, change).items()}
            elif not isinstance(change, Analysis):
                out[probe.name] = self._measured(self._changed(role, change), plan, probe)
            elif all(control in self._models for control in change.beside):
                out[probe.name] = self._analysed(role, plan, change)
        return out

    def _weights(self, role: str) -> Any:
        """Return the model of a role for audits that change or read its weights: adapters are merged, once."""
        if role not in self._plain:
            from expunge.evaluation.wrapping import with_merged_adapters

            self._plain[role] = with_merged_adapters(self._models[role], role)
        return self._plain[role]

    def _measured(self, model: Any, plan: AuditPlan, probe: AuditProbe) -> Mapping[str, MetricResult]:
        from expunge.evaluation.evaluator import Evaluator

        evaluator = Evaluator(
            metrics=probe.panel, sets=plan.sets, encoder=self._encoder, generation=self._generation,
            sampling=self._sampling,
        )  # fmt: skip
        return evaluator.results(evaluator.score(model))

    def _analysed(self, role: str, plan: AuditPlan, analysis: Analysis) -> Mapping[str, MetricResult]:
        from expunge.evaluation.wrapping import without_wrapper

        def load(name: str) -> Any:
            return without_wrapper(self._weights(role if name == "model" else name)).eval()

        return analysis.measure(load, {name: plan.sets[name] for name in analysis.sets}, self._encoder)

    def _changed(self, role: str, change: Change) -> Any:
        """Return the model of a role, or a changed copy of it."""
        model = self._models[role]
        if change is None:
            return model
        if isinstance(change, RelearnSpec | Analysis):
            raise TypeError(f"{type(change).__name__} does not change weights")
        other = copy.deepcopy(self._weights(role))
        if isinstance(change, Nf4Spec):
            to_nf4(other)
            return other
        other.load_state_dict(change(other.state_dict(), []))
        return other

    def _relearned(
        self, role: str, plan: AuditPlan, probe: AuditProbe, change: RelearnSpec
    ) -> dict[int, Mapping[str, MetricResult]]:
        """Return the results after each step of a relearning. Its first steps equal those of a shorter relearning."""
        model = attacked_copy(self._weights(role))
        results: dict[int, Mapping[str, MetricResult]] = {}

        def measure(step: int) -> None:
            results[step] = self._measured(model, plan, probe)

        args = relearn_args(change, TrainArgs(learning_rate=self._learning_rate))
        relearn(model, plan.sets[change.rows], change, args, self._encoder, measure)
        return results
