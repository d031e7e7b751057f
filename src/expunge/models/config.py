"""Settings of a model: a folder or hub id, or a preset to build from scratch. Importing this module loads no torch."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, nearest
from expunge.core.fingerprints import LATER
from expunge.models.folder_settings import TEMPLATES, WEIGHTS_NAME, check_files, check_settings

MODEL_KEY = "model.model_args.pretrained_model_name_or_path"
TOKENIZER_KEY = "model.tokenizer_args.pretrained_model_name_or_path"


@dataclass(frozen=True)
class ModelShape:
    """A Llama shape (tied embeddings, SwiGLU, RMSNorm, RoPE).

    published: a shape of arXiv:2311.12786, with its norms (epsilon 1e-5) and its initialisation. The projections wo
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
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """The dtype of the weights when a model is scored. Training always uses float32 weights. auto: bfloat16 on a GPU,
    float32 on a CPU.
    """
    attn_implementation: str | None = None
    """The attention of transformers, such as sdpa or eager. None: its default."""
    device_map: str | None = None
    """Spread the model over the devices of one process, such as auto. None: one device."""
    trust_remote_code: bool = False
    """Whether code from the model's repository is run."""
    revision: str | None = None
    """The branch, tag or commit of a hub id. None: main."""
    batched: bool = field(default=True, metadata=LATER)
    """Whether several rows are scored and generated at once. False: one row at a time, without padding and with
    attention in the type of the weights, as transformers' own functions read it. With bfloat16 weights these change
    the rounding, and so a few tokens.
    """
    adapter: Literal["apply", "ignore"] = "apply"
    """Use of a peft adapter in the model folder: `apply` adds it to the weights, `ignore` leaves it out."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of from_pretrained: overrides of config.json, such as attention_dropout, and loading options.
    `model.model_args.NAME` is short for `model.model_args.options.NAME`.
    """

    def __post_init__(self) -> None:
        if self.pretrained_model_name_or_path == "":
            raise ValueError("pretrained_model_name_or_path must be a folder or a hub id (or null)")
        variant = self.options.get("variant")
        if variant is not None and re.fullmatch(r"\w[\w.-]*", str(variant)) is None:
            raise ValueError(f"variant must be a part of a file name, such as fp16, got {variant!r:.40}")


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
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of from_pretrained, such as eos_token or add_bos_token. `model.tokenizer_args.NAME` is short
    for `model.tokenizer_args.options.NAME`.
    """


DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


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
    """auto, cpu, cuda, cuda:N, mps, xpu or xpu:N. auto is CUDA if there is a device, else the CPU."""
    model_args: ModelArgs = field(default_factory=ModelArgs)
    """The model to load."""
    tokenizer_args: TokenizerArgs = field(default_factory=TokenizerArgs)
    """The tokenizer to load."""

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"no preset named {self.preset!r}{nearest(self.preset, PRESETS)}")
        if DEVICE.fullmatch(self.device) is None:
            raise ValueError("device must be auto, cpu, cuda or cuda:N")
        if not 0 <= self.init_seed < 2**32:
            raise ValueError("init_seed must be a whole number from 0 to 2**32 - 1")
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


TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")  # a folder with one of them has a tokenizer
ADAPTER, WRAPPER = "adapter_config.json", "wrapper.json"
INDEX = "*.safetensors.index*.json"  # also that of a variant, such as model.safetensors.index.fp16.json


def looks_local(source: str) -> bool:
    """Return whether a source names a folder: it exists, or it is written as a path and cannot be a hub id."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # too long, no such home, NUL: not a folder here
        if Path(source).expanduser().exists():
            return True
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or source.split("/")[0] in ("saves", "models")


def model_name(source: str) -> str:
    """Return a model's id, or its folder's name: without a path."""
    return Path(source).expanduser().resolve().name if looks_local(source) else source


def adapter_base(source: str) -> str | None:
    """Return the base model that a folder of an adapter alone names: a folder or hub id, "" if it names none.

    None for a source that is no such folder. A relative folder counts from here, or else from the adapter's folder.
    """
    if not looks_local(source):
        return None
    folder = Path(source).expanduser()
    if not (folder / ADAPTER).is_file() or (folder / "config.json").is_file():
        return None
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    named = base if isinstance(base, str) else ""
    inside = folder / Path(named).expanduser()
    return str(inside) if named and not Path(named).expanduser().exists() and inside.is_dir() else named


def only_as_folder(source: str, part: str) -> str:
    """Return the message about a hub id with a part that is read from folders only."""
    return (
        f"{MODEL_KEY}: {source} contains {part}; download it as a folder (hf "
        f"download {source} --local-dir FOLDER) and give model=FOLDER"
    )


def weights_source(source: str) -> str:
    """Return the folder or hub id of a model's base weights: the source itself, or the base of an adapter alone."""
    return adapter_base(source) or source


def tokenizer_folder(source: str) -> str:
    """Return the source of a model's tokenizer: the base model's for a folder of an adapter without a tokenizer."""
    base = adapter_base(source)
    own = any((Path(source).expanduser() / name).is_file() for name in TOKENIZERS)
    return base if base and not own else source


def has_chat_template(source: str) -> bool:
    """Return whether a local tokenizer folder contains a chat template; no tokenizer is loaded."""
    folder = Path(tokenizer_folder(source)).expanduser()
    if (folder / "chat_template.jinja").is_file() or any((folder / TEMPLATES).glob("*.jinja")):
        return True  # chat_template.json belongs to a processor; no tokenizer reads it
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading the tokenizer reports the error
    return bool(settings.get("chat_template")) if isinstance(settings, dict) else False


def refuse_preset(source: str, key: str) -> None:
    """Raise ConfigError if a source is the name of a preset, which has no weights to load."""
    if source in PRESETS:
        raise ConfigError(
            f"{key}: {source} is the shape of a model from scratch and has no weights; name the folder of a trained "
            f"model (expunge train model={source} ... writes one) or a hub id"
        )


def check_source(source: str, key: str) -> None:
    """Raise ConfigError for a preset, and for a local model folder without a config or safetensors. Loads nothing."""
    if not looks_local(source):
        refuse_preset(source, key)
        return
    folder = Path(source).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{key}: {source} is no folder; name the folder of a model")
    if not folder.is_dir():
        parent = folder.parent
        names = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        missing = "" if parent.is_dir() else f" (nor is there a folder {parent})"
        hint = nearest(folder.name, names) if names else missing
        raise ConfigError(f"{key}: no folder {source}{hint}")
    check_files(folder, source, key)
    base = adapter_base(source)
    if base is not None:
        _check_adapter(source, base, key)
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{key}: {source} contains no config.json, so it is not a model folder")
    check_settings(folder, source, key)
    if not any(not p.name.startswith("adapter_") for p in folder.glob("*.safetensors")):
        weights = "only pickled weights (.bin), which are not read" if any(folder.glob("*.bin")) else "no weights"
        raise ConfigError(f"{key}: {source} contains {weights}; save the model as safetensors")
    named_weights(folder)


def _check_adapter(source: str, base: str, key: str) -> None:
    """Raise ConfigError unless a folder of an adapter alone has its weights and names a base model that exists."""
    if not (Path(source).expanduser() / "adapter_model.safetensors").is_file():
        raise ConfigError(f"{key}: {source} contains only an adapter, without adapter_model.safetensors")
    named = f"{key}: {source} contains only an adapter, and base_model_name_or_path in its {ADAPTER}"
    if not base:
        raise ConfigError(f"{named} is missing; write the folder or hub id of its base model there")
    if adapter_base(base) is not None:
        raise ConfigError(f"{named} is another adapter, {base}; merge that one into its base model")
    if looks_local(base) and (Path(base).expanduser() / WRAPPER).is_file():
        raise ConfigError(f"{named} is {base}, which has a wrapper; an adapter needs a base model without one")
    if base.startswith((".", "/", "~")) and not Path(base).expanduser().is_dir():
        raise ConfigError(
            f"{named} is {base}, which does not exist; write the folder or hub id of its base model there"
        )
    check_source(base, f"{key}: {source}: base_model_name_or_path")


def named_weights(folder: Path) -> list[str]:
    """Return the present files that the indices and the config.json of a model folder name as weights.

    Raises:
        ConfigError: An index names a file outside the folder.
    """
    names = {*index_names(folder)}
    with contextlib.suppress(OSError, ValueError, AttributeError):  # loading reports them
        names.add(str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get(WEIGHTS_NAME)))
    return sorted(name for name in names if "\0" not in name and (folder / name).is_file())


def index_names(folder: Path, pattern: str = INDEX) -> list[str]:
    """Return the files that the indices of a model folder name. Raises ConfigError for one outside of it."""
    names: set[str] = set()
    for index in sorted(folder.glob(pattern)):
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):  # loading reports them
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            names |= {str(name) for name in named}
        for name in sorted(names):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise ConfigError(f"{index}: {name!r:.80} is outside the model folder; its shards must be inside")
    return sorted(names)


def model_subfolders(folder: Path) -> list[str]:
    """Return the names of a model folder's subfolders that belong to the model.

    These are the chat templates of its tokenizer, and the helper models that its wrapper.json names.
    """
    try:
        helpers = list(json.loads((folder / WRAPPER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        helpers = []  # loading reports a damaged file
    names = [name for name in map(str, helpers) if name.isidentifier()]
    return sorted(name for name in (TEMPLATES, *names) if (folder / name).is_dir())
