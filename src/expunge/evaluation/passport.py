"""Make a model's passport: the checks of its files and tokenizer, and the checks that run it; stored by fingerprint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from expunge.core.errors import ConfigError
from expunge.core.files import read_note, write_note
from expunge.engine.store import PASSPORTS
from expunge.evaluation.observation import FAILURES, capabilities
from expunge.models.capabilities import (
    ONE_ROW,
    Capabilities,
    forward_options,
    logits_in,
    n_embeddings,
    n_logits,
    plain_model,
    register_capabilities,
)
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import Bits, load_model, load_tokenizer
from expunge.models.passport import (
    TURNS,
    Passport,
    PassportLine,
    folder_lines,
    passport_key,
    tokenizer_lines,
)


def load_checked(
    source: str,
    args: ModelArgs,
    tokenizer: Any,
    *,
    device: torch.device,
    quantize: Bits | None = None,
    store: Path | None = None,
) -> tuple[Any, Passport]:
    """Load a model and return it with its passport. Jobs load every model that they run in this way.

    The arguments are those of `load_model` and `check_model`. Raises ConfigError if the model cannot be loaded, or its
    passport refuses it.
    """
    model = load_model(source, args, device=device, quantize=quantize)
    return model, check_model(model, tokenizer, source, args, store=store)


def check_model(model: Any, tokenizer: Any, source: str, args: ModelArgs, *, store: Path | None = None) -> Passport:
    """Return the passport of a loaded model, and register its capabilities, which later forwards use.

    store: the root of a store; a passport in it is read, and a new one is written to it. Raises ConfigError if the
    passport refuses the model.
    """
    file = None
    if store is not None:
        versions = {name: version(name) for name in ("torch", "transformers")}
        device = next(model.parameters()).device.type
        file = store / PASSPORTS / f"{passport_key(source, args, device, versions)[:32]}.json"
    passport = None if file is None else _stored(file)
    if passport is None:
        passport = _new_passport(model, tokenizer, source, args)
        passport.require()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_note(file, passport.to_dict())
    can = passport.capabilities
    if can is not None:
        one_row = not args.batched and can.generation != "uncached"
        register_capabilities(model, ONE_ROW if one_row else can)
    return passport


def inspect_model(source: str, args: ModelArgs, tokenizer_args: TokenizerArgs, device: torch.device) -> Passport:
    """Load a model and return its passport; the last line of a refused model's passport has the reason."""
    lines = folder_lines(source, args)
    passport = Passport(source, tuple(lines))
    if passport.status == "refused":
        return passport
    try:
        tokenizer = load_tokenizer(tokenizer_args.pretrained_model_name_or_path or source, tokenizer_args)
        model = load_model(source, args, device=device)
    except ConfigError as error:
        return Passport(source, (*lines, PassportLine("loading", "refused", str(error))))
    return _new_passport(model, tokenizer, source, args)


def _stored(file: Path) -> Passport | None:
    """Return the passport in a file; None if the file does not exist, or is damaged and must be made again."""
    try:
        return Passport.from_dict(read_note(file))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _new_passport(model: Any, tokenizer: Any, source: str, args: ModelArgs) -> Passport:
    lines = [*folder_lines(source, args), _dtype(model, args), _tied(model)]
    ends = _end_tokens(model, tokenizer)
    lines += tokenizer_lines(tokenizer, n_embeddings(model), ends)
    try:
        can = capabilities(model)
    except ConfigError as error:
        reason = str(error).removeprefix("model: ")
        return Passport(source, (*lines, PassportLine("scoring", "refused", reason)))
    lines += _reading(can)
    broken = any(line.name == "chat template" and line.status == "fallback" for line in lines)
    if not broken and all(line.status != "refused" for line in lines):
        lines.append(_end_likely(model, tokenizer, ends))
    return Passport(source, tuple(lines), can)


def _dtype(model: Any, args: ModelArgs) -> PassportLine:
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()})
    return PassportLine("dtype", "ok", f"weights in {', '.join(dtypes)} (model.model_args.dtype={args.dtype})")


def _tied(model: Any) -> PassportLine:
    plain = plain_model(model)
    head, table = plain.get_output_embeddings(), plain.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        return PassportLine("LM head", "ok", "the model has no LM head module; all its logits are computed")
    tied = getattr(table, "weight", None) is head.weight
    weights = "tied to the embeddings" if tied else "its own weights"
    return PassportLine("LM head", "ok", f"{n_logits(model)} logits, {weights}")


_WAYS: Mapping[str, str] = {
    "head": "logits at chosen positions",
    "padded": "padded batches",
    "masked": "masked batches",
    "shared_prefix": "shared prefixes",
    "generation": "generation",
}


def _reading(can: Capabilities) -> list[PassportLine]:
    """Return a line for each way of reading: whether it gives the numbers of `model(ids)` of one row."""
    notes = list(can.notes)
    lines = []
    for name, shown in _WAYS.items():
        value = getattr(can, name)
        if value is True or value == "batched":
            lines.append(PassportLine(shown, "ok", "equal to one row by plain transformers"))
        else:
            lines.append(PassportLine(shown, "fallback", _reason(name, can)))
    reasons = {line.reason for line in lines}
    lines += [PassportLine("attention window", "fallback", n) for n in notes if n not in reasons and "window" in n]
    return lines


def _reason(name: str, can: Capabilities) -> str:
    """Return the note on a way of reading that is not used."""
    return {
        "head": "all logits of a row are computed, then chosen",
        "padded": "another result than one row by plain transformers: rows are read one by one",
        "masked": "another result than one row by plain transformers: rows are read one by one",
        "shared_prefix": "no cache of keys and values alone, or another result: each answer is read whole",
        "generation": "another result in padded batches: one prompt at a time, "
        + ("with the cache" if can.generation == "single" else "without a cache"),
    }[name]


def _end_likely(model: Any, tokenizer: Any, ends: frozenset[int]) -> PassportLine:
    """Check that the model ends a finished answer with more than a uniform probability."""
    name = "end of answers"
    uniform = -math.log(n_logits(model))
    ids = _finished(tokenizer)
    at = next((i for i in range(len(ids) - 1, 0, -1) if ids[i] in ends), None)
    if at is None:
        return PassportLine(name, "fallback", "the chat template closes an answer with no token that ends a text")
    if max(ids) >= (n_embeddings(model) or n_logits(model)):
        return PassportLine(name, "ok", "not checked: the sample has ids beyond the embeddings")
    row = torch.tensor([ids[:at]], device=next(model.parameters()).device)
    try:
        with torch.inference_mode():
            logits = logits_in(model(input_ids=row, **forward_options(model)))[0, -1].float()
    except FAILURES as error:
        return PassportLine(name, "fallback", f"not known: the forward of a sample fails ({error})")
    logp = max(float(logits.log_softmax(-1)[i]) for i in ends if i < len(logits))
    if logp >= uniform:
        return PassportLine(name, "ok", f"log p of an end token after a sample answer: {logp:.2f} nats")
    return PassportLine(
        name,
        "fallback",
        f"log p of an end token after a sample answer is {logp:.2f} nats, below the uniform {uniform:.2f}: texts may "
        "run to eval.generation.max_new_tokens",
    )


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokenizer's EOS and the end tokens of the model's generation settings."""
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = [] if listed is None else [listed] if isinstance(listed, int) else listed
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return frozenset(int(i) for i in (*own, *more))


def _finished(tokenizer: Any) -> list[int]:
    """Return the ids of a question and its finished answer, with the end token."""
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(list(TURNS), tokenize=False)
        return list(tokenizer(str(text), add_special_tokens=False)["input_ids"])
    text = f"Question: {TURNS[0]['content']}\nAnswer: {TURNS[1]['content']}"
    return [*tokenizer(text)["input_ids"], int(tokenizer.eos_token_id)]
