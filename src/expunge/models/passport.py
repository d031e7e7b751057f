"""A model's passport: the result of each check of a model, with its reason.

This module contains the checks of files and tokenizers, and that of tensors while a model is loaded.
`evaluation.passport` adds the checks that run the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.core.errors import ConfigError, first_line, nearest, one_line
from expunge.core.fingerprints import file_sha256, fingerprint
from expunge.core.on_use import transformers
from expunge.models.capabilities import Capabilities
from expunge.models.config import (
    ADAPTER,
    MODEL_KEY,
    WRAPPER,
    ModelArgs,
    adapter_base,
    looks_local,
    named_weights,
    weights_source,
)
from expunge.models.identity import identity_files, pinned_revision

Status = Literal["ok", "fallback", "refused"]
REVISION = 1  # of the checks: raised when the same model would get other lines
QUANTISED = {"bitsandbytes": "bitsandbytes"}  # supported methods of quantised files, and the package that each needs
SLICE, SLICES = 2**16, 16  # bytes of a weights file that its key covers
# The step of transformers that allocates the tensors that no file has, once it has read the others. Without a method of
# this name they are refused after the allocation.
STEP = "_move_missing_keys_from_meta_to_device"
NOTHING = r"(?!)"  # matches no name
_replacing = threading.RLock()


@dataclass(frozen=True)
class PassportLine:
    """One check."""

    name: str
    """The name of the check, in a word or two."""
    status: Status
    """`ok`; `fallback`: a slower or narrower way is used; `refused`: the model cannot be used."""
    reason: str
    """The result, with its numbers."""


@dataclass(frozen=True)
class Passport:
    """All checks of a model, and its capabilities."""

    model: str
    """The folder or hub id."""
    lines: tuple[PassportLine, ...]
    """The checks, in order."""
    capabilities: Capabilities | None = None
    """The capabilities of the model; None if it was refused before a forward."""

    @property
    def status(self) -> Status:
        """The worst status of its lines."""
        statuses = {line.status for line in self.lines}
        return "refused" if "refused" in statuses else "fallback" if "fallback" in statuses else "ok"

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentences of a report on fallbacks in reading and on ids."""
        ids = [line.reason for line in self.lines if line.name == "token ids" and line.status == "fallback"]
        return (*(self.capabilities.notes if self.capabilities else ()), *ids)

    def require(self) -> None:
        """Raise ConfigError with the first line that refuses the model."""
        for line in self.lines:
            if line.status == "refused":
                raise ConfigError(f"model {self.model}: {line.name}: {line.reason}")

    def to_dict(self) -> dict[str, Any]:
        """Return the passport as plain JSON types."""
        reads = self.capabilities.to_dict() if self.capabilities else None
        lines = [asdict(line) for line in self.lines]
        return {"model": self.model, "status": self.status, "lines": lines, "capabilities": reads}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Passport:
        """Invert `to_dict`. Raises KeyError or TypeError for other values."""
        lines = tuple(PassportLine(**line) for line in values["lines"])
        reads = values["capabilities"]
        return cls(values["model"], lines, Capabilities.from_dict(reads) if reads else None)


def passport_key(source: str, args: ModelArgs, device: str, versions: Mapping[str, str]) -> str:
    """Return the fingerprint that a model's passport is stored under.

    It covers the small files of the folder completely, and the names, sizes and slices of the bytes of weights. So it
    is fast. A hub id counts by its name and revision.
    """
    named = _named(source, args.revision)
    if base := adapter_base(source):
        named = {**named, "base": _named(base, None)}
    how: dict[str, Any] = {
        "dtype": args.dtype,
        "attention": args.attn_implementation,
        "adapter": args.adapter,
        "device": device,
    }
    if args.options:
        how["options"] = args.options
    return fingerprint({"revision": REVISION, "source": named, "how": how, "versions": dict(versions)})


def _named(source: str, revision: str | None) -> dict[str, Any]:
    """Return the identity of a hub id, or of the files of a folder."""
    if not looks_local(source):
        return {"hub": source, "revision": pinned_revision(source, revision)}
    folder = Path(source).expanduser()
    names = identity_files(folder)
    weights = [n for n in names if n.endswith(".safetensors")]
    others = {n: file_sha256(folder / n) for n in names if n not in weights}
    return {"files": others, "weights": {n: _sampled_sha256(folder / n) for n in weights}}


def _sampled_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's size and of evenly spaced slices of its bytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as f:
        for k in range(SLICES):
            f.seek(max(0, (size - SLICE) * k // (SLICES - 1)))
            digest.update(f.read(SLICE))
    return digest.hexdigest()


def folder_lines(source: str, args: ModelArgs) -> list[PassportLine]:
    """Return the checks of a model folder that read no weights: remote code, quantisation, adapters.

    A hub id has none: its files are not on this machine.
    """
    if not looks_local(source):
        return []
    folder, base = Path(source).expanduser(), Path(weights_source(source)).expanduser()
    config = _json(base / "config.json")
    lines = [_remote_code(config, base, args), _quantised(config), _adapters(folder, config, args), _wrapper(folder)]
    return [line for line in lines if line is not None]


def check_folder(source: str, args: ModelArgs) -> None:
    """Raise ConfigError for a model folder that cannot be loaded; no weights are read."""
    Passport(source, tuple(folder_lines(source, args))).require()
    if looks_local(source):
        named_weights(Path(source).expanduser())


def check_trainable(source: str) -> None:
    """Raise ConfigError for a folder whose weights are quantised: they can be scored, but not trained."""
    method = quantisation(source)
    if method is not None:
        raise ConfigError(
            f"{MODEL_KEY}: {source} contains {method} weights, which cannot be "
            "trained; give the model before quantisation, with trainer.args.lora.quantize=nf4 or int8 to save memory"
        )


def quantisation(source: str) -> str | None:
    """Return the quantisation method that a model folder's configuration names, or None."""
    source = weights_source(source)
    if not looks_local(source):
        return None
    settings = _json(Path(source).expanduser() / "config.json").get("quantization_config")
    return None if not isinstance(settings, dict) else str(settings.get("quant_method") or "unnamed")


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON file's mapping; an empty one if it does not exist or is no mapping, which loading reports."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _remote_code(config: Mapping[str, Any], folder: Path, args: ModelArgs) -> PassportLine | None:
    if "AutoModelForCausalLM" not in (config.get("auto_map") or {}):
        return None
    if args.trust_remote_code:
        return PassportLine("remote code", "ok", "the folder's own Python files are run, and belong to the key")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # type: ignore[attr-defined]

    if config.get("model_type") in CONFIG_MAPPING_NAMES:
        return PassportLine("remote code", "ok", "the folder's Python files are not run; transformers has this model")
    return PassportLine(
        "remote code",
        "refused",
        f"the architecture {config.get('model_type')!r} is defined by Python files in {folder.name}; read them, then "
        "set model.model_args.trust_remote_code=true",
    )


def _quantised(config: Mapping[str, Any]) -> PassportLine | None:
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        return None
    method = str(settings.get("quant_method") or "unnamed")
    package = QUANTISED.get(method)
    if package is None:
        return PassportLine(
            "quantisation",
            "refused",
            f"the weights are quantised by {method}, which is not supported (supported: {', '.join(QUANTISED)}); save "
            "the model unquantised",
        )
    if importlib.util.find_spec(package) is None:
        return PassportLine("quantisation", "refused", f"{method} weights need {package}; pip install 'expunge[quant]'")
    bits = 4 if settings.get("load_in_4bit") else 8
    return PassportLine("quantisation", "ok", f"{bits}-bit {method} weights: they are scored as they are, not trained")


def _adapters(folder: Path, config: Mapping[str, Any], args: ModelArgs) -> PassportLine | None:
    if not (folder / ADAPTER).is_file():
        return None
    kind = str(_json(folder / ADAPTER).get("peft_type") or "peft").lower()
    if args.adapter == "ignore":
        return PassportLine("adapter", "ok", f"the {kind} adapter in the folder is ignored (model_args.adapter=ignore)")
    if config.get("quantization_config"):
        return PassportLine(
            "adapter",
            "refused",
            f"the {kind} adapter in the folder cannot be added to quantised weights; set "
            "model.model_args.adapter=ignore",
        )
    if fault := _damaged(folder, ADAPTER, {"peft_type": str}, "adapter_model.safetensors"):
        return PassportLine("adapter", "refused", f"{fault}; model.model_args.adapter=ignore leaves the adapter out")
    base = adapter_base(str(folder))
    weights = f"the weights of {base}" if base else "its weights"
    return PassportLine(
        "adapter",
        "ok",
        f"the {kind} adapter in the folder is added to {weights}; model.model_args.adapter=ignore leaves it out",
    )


def _wrapper(folder: Path) -> PassportLine | None:
    if not (folder / WRAPPER).is_file():
        return None
    if fault := _damaged(folder, WRAPPER, {"name": str, "revision": int, "args": dict}, "wrapper_state.safetensors"):
        return PassportLine("wrapper", "refused", f"{fault}; wrap the model again")
    from expunge.models.wrapper_api import wrapper_registry

    name, known = _json(folder / WRAPPER)["name"], wrapper_registry()
    if name in known:
        return None
    return PassportLine(
        "wrapper",
        "refused",
        f"{WRAPPER} names the wrapper {name!r}, which the package does not have; load the plugin that has it "
        f"(--plugin FILE.py){nearest(name, known)}",
    )


def _damaged(folder: Path, name: str, keys: Mapping[str, type], tensors: str) -> str | None:
    """Return the fault of a JSON file that must have keys, or of its tensors' header; None if both can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        for key, kind in keys.items():
            if not isinstance(values, dict) or not isinstance(values.get(key), kind):
                return f"{name} is damaged: it has no {key}"
    except (OSError, ValueError, RecursionError) as error:
        return f"{name} is damaged: {one_line(error)}"
    if not (folder / tensors).is_file():
        return f"{name} has no {tensors} next to it"
    try:
        with safe_open(folder / tensors, framework="np"):
            return None
    except (OSError, SafetensorError) as error:
        return f"{tensors} is damaged: {error}"


def tokenizer_lines(tokenizer: Any, n_embeddings: int | None, ends: Iterable[int]) -> list[PassportLine]:
    """Return the checks of a tokenizer with a model of `n_embeddings` embeddings: ids, chat template, end token.

    ends: the ids that end a text.
    """
    lines = [] if n_embeddings is None else [_ids(tokenizer, n_embeddings)]
    lines.append(_template(tokenizer))
    known = sorted(set(ends))
    if tokenizer.eos_token_id is None:
        lines.append(
            PassportLine("end token", "refused", "the tokenizer has no EOS token, so no answer could ever end")
        )
    elif n_embeddings is not None and tokenizer.eos_token_id >= n_embeddings:
        reason = f"EOS is id {tokenizer.eos_token_id}, beyond the model's {n_embeddings} embeddings"
        lines.append(PassportLine("end token", "refused", reason))
    else:
        shown = ", ".join(f"{i} {tokenizer.convert_ids_to_tokens(i)!r}" for i in known)
        lines.append(PassportLine("end token", "ok", f"a text ends at {shown}"))
    return lines


def _ids(tokenizer: Any, n_embeddings: int) -> PassportLine:
    n_tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    pad = tokenizer.pad_token_id
    if pad is not None and pad >= n_embeddings and n_tokens == pad + 1:
        return PassportLine(
            "token ids",
            "fallback",
            f"the pad token is id {pad}, beyond the model's {n_embeddings} embeddings: padding is filled with id 0, "
            "and masked",
        )
    if n_tokens > n_embeddings:
        return PassportLine(
            "token ids",
            "fallback",
            f"the tokenizer has ids up to {n_tokens - 1}, the model {n_embeddings} embeddings: a row with an id of "
            f"{n_embeddings} or more is an error",
        )
    return PassportLine("token ids", "ok", f"{n_tokens} ids within {n_embeddings} embeddings")


TURNS: Sequence[Mapping[str, str]] = (
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
)


def _template(tokenizer: Any) -> PassportLine:
    if not getattr(tokenizer, "chat_template", None):
        return PassportLine("chat template", "ok", "none: question and answer are joined by the tags of template_args")
    try:
        text = tokenizer.apply_chat_template(list(TURNS), tokenize=False)
        tokenizer.apply_chat_template(list(TURNS[:1]), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise anything: it is a program
        return PassportLine(
            "chat template",
            "fallback",
            f"it fails on a question and its answer ({first_line(error)}); set apply_chat_template=false",
        )
    if str(TURNS[1]["content"]) not in str(text):
        return PassportLine("chat template", "fallback", "it does not write the answer as given; see template_args")
    return PassportLine("chat template", "ok", f"it renders a question and its answer ({len(text)} characters)")


def check_lacking(info: Mapping[str, Any], source: str, *, unless: str = NOTHING) -> None:
    """Raise ConfigError for tensors that a model's files lack, by the information of transformers on a loaded model.

    unless: a pattern of the names of tensors that are not used.
    """
    _refuse({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}, source, unless)


@contextlib.contextmanager
def lacking_refused(source: str, *, unless: str = NOTHING) -> Iterator[None]:
    """Raise ConfigError in `from_pretrained` if files lack tensors, before the memory for these is allocated.

    transformers initialises such tensors at random. A configuration of 7 billion parameters next to weights of a small
    model would fill the memory, before `check_lacking` could name them. Models that other threads load in the meantime
    are not refused. unless: as in `check_lacking`.
    """
    base: Any = transformers.PreTrainedModel
    if not hasattr(base, STEP):
        yield
        return
    here = threading.get_ident()

    def refuse_or_move(model: Any, missing_keys: set[str], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != here:
            return move(model, missing_keys, *args, **kwargs)
        ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
        tied = getattr(model, "all_tied_weights_keys", {})
        _refuse({k for k in missing_keys if k not in tied and not any(p.search(k) for p in ignored)}, source, unless)
        return move(model, missing_keys, *args, **kwargs)

    with _replacing:
        move = getattr(base, STEP)
        setattr(base, STEP, refuse_or_move)
        try:
            yield
        finally:
            setattr(base, STEP, move)


def _refuse(keys: set[str], source: str, unless: str) -> None:
    names = sorted(key for key in keys if not re.fullmatch(unless, key))
    if not names:
        return
    raise ConfigError(
        f"model {source}: its safetensors lack, or have in another shape, {len(names)} of the tensors that its "
        f"config.json describes: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    )
