"""`inspect`: analyse a model layer by layer, next to other models. In memory, without files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.errors import ConfigError, as_list, kind_of, nearest
from expunge.data.encoder import Encoder
from expunge.data.in_memory import examples_from
from expunge.data.template import Template
from expunge.evaluation.evaluator import resolve_model, resolve_template
from expunge.evaluation.wrapping import with_merged_adapters, without_wrapper
from expunge.interpretability.inputs import AnalysisInputs, analysis_inputs
from expunge.interpretability.layer_report import ANALYSES, LayerReport, layer_report


def inspect(
    model: Any,
    tokenizer: Any = None,
    analyses: Sequence[str] | str | None = None,
    *,
    forget: Any,
    reference: Any = None,
    retain: Any = None,
    controls: Mapping[str, Any] | None = None,
    template: Template | Mapping[str, Any] | None = None,
    n: int = 200,
) -> LayerReport:
    """Analyse a model layer by layer, next to its reference and control models.

    Args:
        model: The model to inspect, or its name. It is not changed. A wrapped model is read without its wrapper.
        tokenizer: Its tokenizer. A model given by name needs none.
        analyses: Some of "drift" (relative change of each layer's weights against the reference); "cka" (similarity of
            each layer's states to the reference's, 1: equal); "lens" (log-probability of the forget answers read from
            each layer, in nats per token); "probe" (AUC of classifying forget against retain examples). None: all that
            the arguments allow.
        forget: The examples that are read: any data that `evaluate` reads.
        reference: The model before unlearning. "drift" and "cka" need it.
        retain: Examples to keep. "probe" needs them.
        controls: Further models by name, such as {"retain": model}; "lens" and "probe" read them as well.
        template: How an example becomes text, as for `evaluate`.
        n: Examples of each side at most.

    Returns:
        The report. `to_pandas()` has a line per layer; `details(name)` has the finest numbers.

    Raises:
        ConfigError: If an analysis is unknown or an argument that it needs is missing.
        DataError: If the examples cannot be read.
    """
    if not isinstance(n, int) or n < 1:
        raise ConfigError(f"n: must be a whole number of at least 1, got {n!r}")
    if not isinstance(controls, Mapping | None):
        raise ConfigError(f"controls: expected a mapping of names to models, got {kind_of(controls)}")
    selection = _select(analyses, reference, retain)
    model, tokenizer = resolve_model(model, tokenizer)
    encoder = Encoder(resolve_template(template, tokenizer), tokenizer)
    models = {"model": model}
    if reference is not None:
        models["reference"] = resolve_model(reference, tokenizer, "reference")[0]
    models |= {
        name: resolve_model(other, tokenizer, f"controls[{name!r}]")[0] for name, other in (controls or {}).items()
    }
    models = {name: with_merged_adapters(without_wrapper(one), name) for name, one in models.items()}
    read = _inputs(forget, "forget", n, encoder)
    other = None if retain is None else _inputs(retain, "retain", n, encoder)
    skipped = [a for a in ANALYSES if a not in selection] if analyses is None else []
    notes = [f"left out: {', '.join(skipped)} (reference= or retain= is missing)"] if skipped else []
    return layer_report(selection, models, read, other, notes)


def _select(analyses: Sequence[str] | str | None, reference: Any, retain: Any) -> list[str]:
    """Return the analyses to run. Raises ConfigError for an unknown one, or one whose arguments are missing."""
    lacks = {"drift": reference is None, "cka": reference is None, "probe": retain is None}
    if analyses is None:
        return [name for name in ANALYSES if not lacks.get(name)]
    named = [analyses] if isinstance(analyses, str) else as_list(analyses, "analyses")
    if not named:
        raise ConfigError("analyses: names no analysis; name one or more, or leave it out for all")
    for name in named:
        if name not in ANALYSES:
            raise ConfigError(f"analyses: no analysis named {name!r}{nearest(name, ANALYSES)}")
        if lacks.get(name):
            raise ConfigError(f"analyses: {name} needs {'retain' if name == 'probe' else 'reference'}=")
    return named


def _inputs(data: Any, name: str, n: int, encoder: Encoder) -> AnalysisInputs:
    examples = examples_from(data, name)
    return analysis_inputs(dataclasses.replace(examples, rows=examples.rows[:n]), encoder)
