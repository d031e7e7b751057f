"""Put a wrapper around a model: `wrap` in memory, and `wrapped_by` for examples that are encoded already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, as_texts
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import ExampleSet
from expunge.data.in_memory import examples_from
from expunge.data.refusals import REFUSALS
from expunge.data.template import Template
from expunge.evaluation.evaluator import resolve_template, with_pad_token
from expunge.evaluation.observation import capabilities
from expunge.models.load import load_named, load_named_tokenizer, require_tokenizer
from expunge.models.wrapped import WrappedModel
from expunge.models.wrapper_api import WrapInputs, Wrapper, check_helpers, make_wrapper


def wrap(
    model: Any,
    wrapper: str | Wrapper,
    *,
    tokenizer: Any,
    forget: Any = None,
    retain: Any = None,
    helper: Any = None,
    template: Template | Mapping[str, Any] | None = None,
    refusals: Sequence[str] | None = None,
    **settings: Any,
) -> WrappedModel:
    """Put a wrapper around a model: unlearning at inference. The weights do not change.

    Args:
        model: A causal language model, or the name of one.
        wrapper: The name of a wrapper (`expunge methods` lists them), or its settings object.
        tokenizer: The model's tokenizer.
        forget: Examples to be forgotten, as `evaluate` reads them.
        retain: Examples to be kept.
        helper: The second model of a wrapper that needs one, an object or a name; a pair of them, for the forget and
            the retain examples, of a wrapper that needs two.
        template: How an example becomes text. None: the tokenizer's chat template, or else the default tags.
        refusals: Other answers to the forget questions. None: the built-in refusals.
        **settings: The wrapper's settings, if it is given by name.

    Returns:
        The wrapped model. `evaluate`, `audit` and `inspect` read it as any other model; `save_pretrained` writes it.

    Raises:
        ConfigError: If a setting is wrong, or an input that the wrapper reads is missing.
    """
    if isinstance(wrapper, str):
        rule = make_wrapper(wrapper, settings)
    elif settings:
        raise ConfigError(f"{next(iter(settings))}: wrapper is a settings object; set it there")
    else:
        rule = wrapper
    others = as_texts(refusals or REFUSALS, "refusals")
    sides = [
        [] if data is None else [examples_from(data, side)] for side, data in (("forget", forget), ("retain", retain))
    ]
    tokenizer = load_named_tokenizer(tokenizer, "tokenizer") if isinstance(tokenizer, str | Path) else tokenizer
    require_tokenizer(tokenizer, "tokenizer")
    tokenizer = with_pad_token(tokenizer)
    encoder = Encoder(resolve_template(template, tokenizer), tokenizer)
    passed = () if helper is None else tuple(helper) if isinstance(helper, list | tuple) else (helper,)
    check_helpers(rule, passed)
    helpers = [load_named(one, "helper") for one in passed]
    return wrapped_by(rule, load_named(model), encoder, sides[0], sides[1], others, helpers)


def without_wrapper(model: Any) -> Any:
    """Return the model under a wrapper, observed; any other model itself.

    Analyses of states and weights read this: who can read or train them can also remove the wrapper.
    """
    if not isinstance(model, WrappedModel):
        return model
    capabilities(model.inner)
    return model.inner


def with_merged_adapters(model: Any, where: str) -> Any:
    """Return a copy whose adapters are merged into the weights, observed; a model without adapters itself.

    Audits that change or compare weights read this. where: the name of the model, for errors.
    """
    from expunge.models.adapters import without_adapters

    plain = without_adapters(model, where)
    capabilities(plain)
    return plain


def wrapped_by(
    rule: Wrapper,
    model: Any,
    encoder: Encoder,
    forget: Sequence[ExampleSet],
    retain: Sequence[ExampleSet],
    refusals: Sequence[str],
    helpers: Sequence[Any] = (),
) -> WrappedModel:
    """Return the model with a wrapper whose tensors are computed from these examples."""
    own: list[tuple[tuple[str, str], Encoded]] = []  # the texts that the wrapper encodes, such as refusals

    def encode(question: str, answer: str) -> tuple[Sequence[int], int]:
        own.append(((question, answer), encoder.encode(question, answer)))
        return own[-1][1].ids, own[-1][1].n_prompt

    def ids(sets: Sequence[ExampleSet]) -> list[tuple[Sequence[int], int]]:
        rows = [row for one in sets for row in encoder.rows(one, [(row, "answer") for row in one.rows])]
        return [(row.ids, row.n_prompt) for row in rows]

    pairs = [[(row.question, row.answers["answer"]) for one in sets for row in one.rows] for sets in (forget, retain)]
    inputs = WrapInputs(
        model=model,
        tokenizer=encoder.tokenizer,
        forget=pairs[0],
        retain=pairs[1],
        forget_ids=ids(forget),
        retain_ids=ids(retain),
        encode=encode,
        refusals=refusals,
    )
    state = rule.prepare(inputs)
    encoder.note_pairs(f"texts of {type(rule).__name__}", own)
    return WrappedModel(model, rule, state, helpers).eval()
