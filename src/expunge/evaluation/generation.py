"""The generation pass: batched generation, greedy or sampled, sorted by length. Finished rows leave the batch.

A text does not depend on the other texts of its batch. A sampled token uses a number that depends only on the seed,
the row, the sample and the position.
A prefix of all prompts (solved examples) is read once for the whole set. Tokens of a
greedy text that scoring has shown already are not generated again (`drafts`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from expunge.core.errors import DataError
from expunge.core.records import CLOSED_THOUGHT, GeneratedText
from expunge.data.batch import budget_batches
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.config import CACHE_BYTES, CACHED_PER_TOKEN, GENERATED_TOKENS, Generation, check_backend
from expunge.evaluation.decoding import Decoder
from expunge.evaluation.loglikelihood import SHOTS, context_length
from expunge.evaluation.observation import capabilities
from expunge.evaluation.prefix_cache import PrefixCache, common_length, read_on, slides
from expunge.evaluation.prompts import DraftTexts, Prompt, PromptBatch, make_prompts, with_drafts
from expunge.models.capabilities import check_ids, padding_id


def generate_texts(
    model: Any,
    rows: ExampleSet,
    reference: str,
    encoder: Encoder,
    generation: Generation,
    *,
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
    only: Collection[int] | None = None,
    drafts: DraftTexts | None = None,
) -> list[GeneratedText]:
    """Generate texts for every row's question.

    A text ends at an end token, at a stop text (which is cut off), at `max_new_tokens`, or at the end of the model's
    context. A model whose logits are NaN gives an empty text of 0 tokens.

    Args:
        model: A causal language model.
        rows: The examples.
        reference: The variant that is stored next to the texts as the truth.
        encoder: The template and the tokenizer.
        generation: The settings of generation.
        token_budget: The maximum tokens of a batch at its end. None: GENERATED_TOKENS, or more
            if a small model's cache allows.
        progress: Receives the number of texts of each batch.
        only: The ids of the rows to read. None: all.
        drafts: The first tokens of the greedy text by row, known from the scores of `reference`. They save time and do
            not change the texts.

    Returns:
        The texts, sorted by row and sample.

    Raises:
        DataError: If a prompt fills the model's context, or nothing in a text would show where its trace ends.
        ConfigError: If the backend is not installed.
    """
    check_backend(generation)
    _check_closing(rows, encoder)
    generation = _with_stops(generation, encoder)
    prompts = make_prompts(rows, encoder, generation, context_length(model), only)
    truth = {r.row_id: r.answers[reference] for r in rows.rows}
    ends = end_ids(model, encoder)
    if generation.backend == "vllm":
        batches = [list(prompts)]
        from expunge.evaluation.vllm_generation import continue_prompts

        decode = continue_prompts(model, generation, ends)
    else:
        model.eval()
        check_ids(model, [(f"{rows.name} row {p.row_id}", p.ids) for p in prompts])
        start = _read_start(model, prompts, padding_id(model, encoder.tokenizer.pad_token_id))
        n_all = 0 if start is None else start.mask_BT.shape[1]
        mode = capabilities(model).generation
        if drafts and generation.temperature == 0 and mode == "batched":
            prompts = with_drafts(prompts, drafts, rows, reference, encoder)
        lengths = [len(p.ids) + p.limit for p in prompts]
        costs = [max(n - n_all, n // CACHED_PER_TOKEN) for n in lengths]
        budget = token_budget or max(GENERATED_TOKENS, CACHE_BYTES // _cache_bytes(model))
        batches = budget_batches(prompts, costs, budget)
        decode = Decoder(model, encoder.tokenizer, generation, ends, start, mode=mode)
    out: list[GeneratedText] = []
    for batch in batches:
        for prompt, ended in zip(batch, decode(batch), strict=True):
            text, n = generated_text(ended, encoder, generation, ends), len(ended.ids or [])
            out.append(
                GeneratedText(prompt.row_id, prompt.sample, prompt.text, text, truth[prompt.row_id], n, ended.stopped)
            )
        if progress:
            progress(len(batch))
    return sorted(out, key=lambda t: (t.row_id, t.sample))


def _check_closing(rows: ExampleSet, encoder: Encoder) -> None:
    """Raise DataError if a generation would lose the tag that ends a trace, for examples with traces."""
    row = next((row for row in rows.rows if row.trace is not None), None)
    text = "" if row is None else encoder.closing_text(rows, row)
    if row is not None and CLOSED_THOUGHT.search(text) is None:
        raise DataError(
            f"{rows.name} row {row.row_id}: a generation is cut at the tag that closes its thought, and the tokenizer "
            f"decodes that tag as {text!r}; known tags are </think>, <|END_THINKING|>, <channel|> and <|close|>think"
        )


def _cache_bytes(model: Any) -> int:
    """Return the maximum bytes of a model's cache per token; CACHE_BYTES if its configuration has no sizes."""
    config = model.config.get_text_config()
    layers, width = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if not isinstance(layers, int) or not isinstance(width, int):
        return CACHE_BYTES
    return 2 * layers * width * int(next(model.parameters()).element_size())


def continued(
    model: Any,
    prompts: Sequence[Sequence[int]],
    encoder: Encoder,
    generation: Generation,
    *,
    token_budget: int = GENERATED_TOKENS,
) -> list[str]:
    """Continue prompts of token ids as `generate_texts` does, one text each, by this model in this process.

    A prompt that fills the model's context has an empty continuation.
    """
    context = context_length(model) or sum(map(len, prompts)) + generation.max_new_tokens
    limits = [min(generation.max_new_tokens, context - len(p)) for p in prompts]
    requests = [Prompt(i, 0, "", tuple(p), n) for i, (p, n) in enumerate(zip(prompts, limits, strict=True)) if n > 0]
    out, ends = [""] * len(prompts), end_ids(model, encoder)
    for prompt, ended in zip(requests, new_tokens(model, requests, encoder, generation, token_budget), strict=True):
        out[prompt.row_id] = generated_text(ended, encoder, generation, ends)
    return out


def new_tokens(
    model: Any,
    prompts: Sequence[Prompt],
    encoder: Encoder,
    generation: Generation,
    token_budget: int = GENERATED_TOKENS,
) -> list[PromptBatch]:
    """Return the new tokens of each prompt, in order, by this model in this process; it is left in evaluation mode."""
    model.eval()
    generation = _with_stops(generation, encoder)
    mode = capabilities(model).generation
    decode = Decoder(model, encoder.tokenizer, generation, end_ids(model, encoder), None, mode=mode)
    out: list[PromptBatch] = [PromptBatch(None, False)] * len(prompts)
    lengths = [len(p.ids) + p.limit for p in prompts]
    for batch in budget_batches(range(len(prompts)), lengths, token_budget):
        for i, ended in zip(batch, decode([prompts[i] for i in batch]), strict=True):
            out[i] = ended
    return out


def generated_text(ended: PromptBatch, encoder: Encoder, generation: Generation, ends: Collection[int]) -> str:
    """Return the new tokens as text, without special tokens and cut before the first stop text.

    ends: the ids that end a text (`end_ids`).
    """
    ids = ended.ids or []
    if ids and ids[-1] in ends:  # an end token that is not among the tokenizer's special ones
        ids = ids[:-1]
    text: str = encoder.tokenizer.decode(ids, skip_special_tokens=True)
    for end in _with_stops(generation, encoder).stop:
        text = text.partition(end)[0]
    return text.strip()


def _with_stops(generation: Generation, encoder: Encoder) -> Generation:
    """Return the settings with the texts that end an answer, for a template without an end token."""
    return dataclasses.replace(generation, stop=tuple(dict.fromkeys((*generation.stop, *encoder.stops))))


def end_ids(model: Any, encoder: Encoder) -> frozenset[int]:
    """Return the ids that end a text: EOS, the template's end token, and the ids of the model's generation_config."""
    config = getattr(model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    more = [] if listed is None else [listed] if isinstance(listed, int) else listed
    return frozenset({*encoder.end_ids, *(int(i) for i in more)})


def _read_start(model: Any, prompts: Sequence[Prompt], pad_id: int) -> PrefixCache | None:
    """Return the cache of the prefix of all prompts; None if it is short, or the model cannot continue from it."""
    can = capabilities(model)
    if len(prompts) < 2 or not can.shared_prefix or can.generation != "batched" or slides(model):
        return None
    n = common_length([p.ids for p in prompts])
    n = min(n, min(len(p.ids) for p in prompts) - 1)
    if n < SHOTS:
        return None
    nowhere = torch.zeros(0, dtype=torch.long)
    with torch.inference_mode():
        return read_on(model, None, [prompts[0].ids[:n]], (nowhere, nowhere), pad_id=pad_id, side="left")[0]
