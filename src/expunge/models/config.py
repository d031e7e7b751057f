"""Settings of a model: a folder or hub id, or a preset to build from scratch. Importing this module loads no torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.core.fingerprints import folder_sha256


@dataclass(frozen=True)
class ModelShape:
    """A Llama shape (tied embeddings, SwiGLU, RMSNorm, RoPE).

    published: a shape of arXiv:2311.12786, with its norms (epsilon 1e-5) and its initialisation: the projections wo
    (attention output) and w3 (up projection) have a standard deviation of 0.02 / sqrt(2 layers), not 0.02.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int = 1024
    published: bool = False


PRESETS: Mapping[str, ModelShape] = {
    "llama-64k": ModelShape(32, 64, 2, 2, 512),
    "llama-1m": ModelShape(128, 384, 4, 4, 2048),
    "llama-2m": ModelShape(192, 768, 3, 6, 2048),
    "llama-8m": ModelShape(288, 768, 6, 6, 8192, published=True),
    "llama-30m": ModelShape(512, 1408, 8, 8, 8192, published=True),
    "llama-91m": ModelShape(768, 2048, 12, 12, 8192, published=True),
    "llama-210m": ModelShape(1024, 2752, 16, 16, 8192, published=True),
}


def preset_identity(name: str | None) -> dict[str, Any]:
    """Return the identity of a model from scratch: its preset's name and its kind of initialisation."""
    published = name is not None and PRESETS[name].published
    return {"preset": name, **({"beginning": "published"} if published else {})}


@strict
@dataclass(frozen=True, kw_only=True)
class ModelArgs:
    """Arguments of AutoModelForCausalLM.from_pretrained."""

    pretrained_model_name_or_path: str | None = None
    """A model folder or hub id. None: the preset is built."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype of the weights when a model is scored. Training always uses float32 weights."""
    attn_implementation: str | None = None
    """The attention of transformers, such as sdpa or eager. None: its default."""
    device_map: str | None = None
    """Spread the model over the devices of one process, such as auto. None: one device."""
    trust_remote_code: bool = False
    """Whether code from the model's repository is run."""
    revision: str | None = None
    """The branch, tag or commit of a hub id. None: main."""
    adapter: Literal["apply", "ignore"] = "apply"
    """Use of a peft adapter in the model folder: `apply` adds it to the weights, `ignore` leaves it out."""


@strict
@dataclass(frozen=True, kw_only=True)
class TokenizerArgs:
    """Arguments of AutoTokenizer.from_pretrained."""

    pretrained_model_name_or_path: str | None = None
    """A tokenizer folder or hub id. None: the model's own."""
    trust_remote_code: bool = False
    """Whether code from the tokenizer's repository is run."""
    revision: str | None = None
    """The branch, tag or commit of a hub id. None: main."""


@strict
@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model to load (`model_args`), or else a `preset` to build, with a tokenizer trained on the study's text."""

    preset: str | None = None
    """The shape of a model from scratch, such as llama-1m."""
    vocab_size: int | None = None
    """The number of tokens of a model from scratch. None: the preset's."""
    init_seed: int = 0
    """The seed of the weights of a model from scratch."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    model_args: ModelArgs = field(default_factory=ModelArgs)
    """The model to load."""
    tokenizer_args: TokenizerArgs = field(default_factory=TokenizerArgs)
    """The tokenizer to load."""

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"no preset named {self.preset!r}{nearest(self.preset, PRESETS)}")
        if self.vocab_size is not None and not 260 <= self.vocab_size <= 1_000_000:
            raise ValueError("vocab_size must be between 260 (bytes and specials) and 1000000")

    @property
    def scratch(self) -> str | None:
        """The preset to build, if no model is loaded."""
        return None if self.source else self.preset

    @property
    def source(self) -> str | None:
        """The folder or hub id to load, if any."""
        return self.model_args.pretrained_model_name_or_path

    @property
    def tokenizer_source(self) -> str | None:
        """The folder or hub id of the tokenizer, if any."""
        return self.tokenizer_args.pretrained_model_name_or_path or self.source


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "chat_template.jinja",
    "chat_template.json",
)
ADAPTER = "adapter_config.json"
_IDENTITY = (".safetensors", ".json", ".model", ".jinja", ".txt", ".py", ".tiktoken")  # files that decide its numbers
_OWN = ("expunge.json", "job.json", "done.json")  # records of jobs
_CHAT_TEMPLATES = "additional_chat_templates"
_GENERATION = "generation_config.json"
_UNREAD = ("transformers_version", "_from_model_config")  # keys of the generation settings that change nothing


def looks_local(source: str) -> bool:
    """Return whether a source names a folder: it exists, or it is written as a path and cannot be a hub id."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # too long, no such home, NUL: not a folder here
        if Path(source).expanduser().exists():
            return True
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or source.split("/")[0] in ("saves", "models")


def has_chat_template(source: str) -> bool:
    """Return whether a local tokenizer folder contains a chat template; no tokenizer is loaded."""
    folder = Path(source).expanduser()
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    if (folder / "additional_chat_templates").is_dir():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading the tokenizer reports the error
    return bool(settings.get("chat_template")) if isinstance(settings, dict) else False


def check_source(source: str, key: str) -> None:
    """Raise ConfigError unless a local model folder exists with a config and safetensors. Loads nothing."""
    if not looks_local(source):
        return
    folder = Path(source).expanduser()
    if not folder.is_dir():
        names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = nearest(folder.name, names) if names else f" (nor is there a folder {folder.parent})"
        raise ConfigError(f"{key}: no folder {source}{hint}")
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{key}: {source} contains only an adapter ({ADAPTER}); merge it into its base model, or copy it into the "
            "base model's folder"
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{key}: {source} contains no config.json, so it is not a model folder")
    if not any(not p.name.startswith("adapter_") for p in folder.glob("*.safetensors")):
        weights = "only pickled weights (.bin), which are not read" if any(folder.glob("*.bin")) else "no weights"
        raise ConfigError(f"{key}: {source} contains {weights}; save the model as safetensors")


def identity_files(folder: Path, *, adapter: str = "apply") -> list[str]:
    """Return the names of a model folder's files that decide its numbers: weights, settings, tokenizer, template, code.

    adapter: with `ignore`, the files of an adapter are left out.
    """
    names = [p.name for p in folder.iterdir() if p.is_file() and p.suffix in _IDENTITY and p.name not in _OWN]
    names += [f"{_CHAT_TEMPLATES}/{p.name}" for p in (folder / _CHAT_TEMPLATES).glob("*.jinja")]
    return sorted(n for n in names if adapter == "apply" or not n.startswith("adapter_"))


def source_identity(source: str, revision: str | None, adapter: str = "apply") -> dict[str, Any]:
    """Return the identity of a model for fingerprints: the contents of a folder, or the name and revision of a hub id.

    generation_config.json counts by its settings, which list the end tokens, without the version of transformers.
    """
    if looks_local(source):
        folder = Path(source).expanduser()
        names = identity_files(folder, adapter=adapter)
        out: dict[str, Any] = {"contents": folder_sha256(folder, [n for n in names if n != _GENERATION])}
        settings = _generation_settings(folder / _GENERATION)
        return {**out, "generation": settings} if settings else out
    return {"hub": source, "revision": revision}


def _generation_settings(path: Path) -> Any:
    """Return the settings of a generation_config.json; its text if it is no JSON mapping, which loading reports."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        settings = json.loads(text)
    except ValueError:
        return text
    return {k: v for k, v in settings.items() if k not in _UNREAD} if isinstance(settings, dict) else text


def tokenizer_identity(source: str, revision: str | None) -> dict[str, Any]:
    """Return the identity of a tokenizer for fingerprints."""
    if looks_local(source):
        folder = Path(source).expanduser()
        named = [n for n in TOKENIZER_FILES if (folder / n).is_file()]
        code = sorted(p.name for p in folder.glob("*.py"))
        templates = sorted(f"{_CHAT_TEMPLATES}/{p.name}" for p in (folder / _CHAT_TEMPLATES).glob("*.jinja"))
        return {"contents": folder_sha256(folder, [*named, *code, *templates])}
    return {"hub": source, "revision": revision}
