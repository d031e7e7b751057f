"""Further arguments of from_pretrained in `model.model_args` and `model.tokenizer_args`.

A model takes loading options and overrides of its configuration; a tokenizer takes its special tokens and behaviour.
Arguments that decide the files to read, their place, and whether code runs keep their own handling here. Importing this
module loads neither torch nor transformers.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, nearest
from expunge.models.config import MODEL_KEY, ModelArgs, TokenizerArgs, looks_local, tokenizer_folder, weights_source

_QUANTIZE = "to train adapters on a quantised model, write trainer.args.lora.quantize=nf4"
_OFFLINE = "set the variable HF_HUB_OFFLINE=1"
_AGAIN = "remove the downloaded snapshot; the next command downloads it again"
_PROXY = "set the variable HTTPS_PROXY"
_CACHE = "set the variable HF_HOME to the folder of downloads"
_TOKEN = "set the variable HF_TOKEN, which no result stores"
_FORMAT = "only safetensors are read; convert the model and name its folder"
_FILES = "the files of the model decide it"
_SPREAD = "model.model_args.device_map=auto spreads a model over devices"
_KERNELS = "kernels of the hub are code that is downloaded and run; models run without them"
_OUTPUTS = "jobs set the outputs of a forward themselves"
_ROPE = "write model.model_args.rope_parameters={rope_type: linear, factor: 2.0, rope_theta: 10000.0}"
_CODE = "the code of a model has the commit of model.model_args.revision"

# Arguments of both that cannot act, with the words to type instead.
_REFUSED = {
    "cache_dir": _CACHE,
    "token": _TOKEN,
    "use_auth_token": _TOKEN,
    "local_files_only": _OFFLINE,
    "force_download": _AGAIN,
    "resume_download": _AGAIN,
    "proxies": _PROXY,
    "subfolder": f"download it, and name the folder in {MODEL_KEY}",
    "code_revision": _CODE,
    "config": _FILES,
    "gguf_file": _FORMAT,
    "auto_map": "the files of the model name its code; it runs only with trust_remote_code=true",
}
MODEL_REFUSED: Mapping[str, str] = {
    **_REFUSED,
    "torch_dtype": "write model.model_args.dtype",
    "quantization_config": _QUANTIZE,
    "load_in_4bit": _QUANTIZE,
    "load_in_8bit": _QUANTIZE,
    "from_tf": _FORMAT,
    "from_flax": _FORMAT,
    "state_dict": f"weights come from files; save the model and name its folder in {MODEL_KEY}",
    "ignore_mismatched_sizes": "tensors that do not fit are an error",
    "output_loading_info": "tensors that the files lack are an error",
    "generation_config": "write eval.generation.*",
    "adapter_name": "write model.model_args.adapter=apply or ignore",
    "adapter_kwargs": "write model.model_args.adapter=apply or ignore",
    **dict.fromkeys(("max_memory", "tp_plan", "tp_size", "device_mesh", "distributed_config"), _SPREAD),
    **dict.fromkeys(("offload_folder", "offload_buffers", "offload_state_dict"), _SPREAD),
    **dict.fromkeys(("use_kernels", "kernel_config", "allow_all_kernels"), _KERNELS),
    "fusion_config": "it renames the modules that methods and adapters name",
    **dict.fromkeys(("model_type", "architectures", "transformers_version", "is_encoder_decoder"), _FILES),
    **dict.fromkeys(("return_dict", "output_attentions", "output_hidden_states"), _OUTPUTS),
    "rope_scaling": _ROPE,
    "rope_theta": _ROPE,
}
TOKENIZER_REFUSED: Mapping[str, str] = {
    **_REFUSED,
    "chat_template": "write model.template_args.chat_template",
    **dict.fromkeys(("tokenizer_class", "backend", "added_tokens_decoder", "processor_class"), _FILES),
    **dict.fromkeys(("tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file"), _FILES),
    **dict.fromkeys(("name_or_path", "is_local"), _FILES),
}
# Arguments that change no result, with the reason.
MODEL_WITHOUT_EFFECT: Mapping[str, str] = {
    "low_cpu_mem_usage": "weights are always read one file at a time",
    "use_cache": "generation uses the cache if the model's own check allows it",
    "use_safetensors": "models are always safetensors",
    "weights_only": "models are always safetensors, which contain no code",
}
TOKENIZER_WITHOUT_EFFECT: Mapping[str, str] = {
    "padding_side": "padding is never read",
    "truncation_side": "model.template_args.max_length cuts the end of an answer",
    "use_fast": "the fast tokenizer is used if there is one",
}
# Documented arguments of transformers' AutoModelForCausalLM.from_pretrained that are passed on.
LOADING = ("variant", "key_mapping", "experts_implementation", "disable_mmap")
# Documented arguments of transformers' tokenizers that are passed on.
TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens", "extra_special_tokens", "add_bos_token", "add_eos_token", "add_prefix_space",
    "clean_up_tokenization_spaces", "split_special_tokens", "model_max_length", "legacy", "from_slow",
    "tokenizer_type", "fix_mistral_regex",
)  # fmt: skip
SCRATCH = "llama"  # the model type of the presets


@dataclass(frozen=True)
class Kind:
    """One of the two groups: its class, its file, and its tables."""

    cls: type[Any]
    file: str
    taken: tuple[str, ...]
    refused: Mapping[str, str]
    without_effect: Mapping[str, str]


KINDS: Mapping[str, Kind] = {
    "model_args": Kind(ModelArgs, "config.json", LOADING, MODEL_REFUSED, MODEL_WITHOUT_EFFECT),
    "tokenizer_args": Kind(TokenizerArgs, "tokenizer_config.json", TOKENS, TOKENIZER_REFUSED, TOKENIZER_WITHOUT_EFFECT),
}


def with_options(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings `model` with further arguments moved into the groups `options`, after checks.

    Raises:
        ConfigError: No from_pretrained takes an argument, it has its own handling here, or its value is not plain.
    """
    out = dict(model)
    for group, kind in KINDS.items():
        args = out.get(group)
        if not isinstance(args, Mapping):
            continue  # decoding reports it
        own = kind.cls.__dataclass_fields__
        nested = args.get("options")
        if nested is not None and not isinstance(nested, Mapping):
            continue
        options = {**(nested or {}), **{k: v for k, v in args.items() if k not in own}}
        if not options:
            continue
        for name, value in options.items():
            _check(out, group, str(name), value)
        out[group] = {**{k: v for k, v in args.items() if k in own}, "options": options}
    return out


def configuration_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a model that override its configuration."""
    return {name: value for name, value in options.items() if name not in LOADING}


def refuse(group: str, names: Iterable[str]) -> None:
    """Raise ConfigError for an argument that has its own handling here. Loading checks this again for library users.

    group: model_args or tokenizer_args.
    """
    kind = KINDS[group]
    for name in names:
        key = f"model.{group}.{name}"
        if name in kind.refused:
            raise ConfigError(f"{key}: {kind.refused[name]}")
        if name in kind.without_effect:
            raise ConfigError(f"{key}: has no effect, so remove it: {kind.without_effect[name]}")
        if name in kind.cls.__dataclass_fields__:
            raise ConfigError(f"{key}: not one of the further arguments; write the key without options")
        if name.startswith("_"):
            raise ConfigError(f"{key}: not one of the further arguments; names with _ are internal to transformers")


def _check(model: Mapping[str, Any], group: str, name: str, value: Any) -> None:
    """Raise ConfigError unless an argument is passed on."""
    kind, key = KINDS[group], f"model.{group}.{name}"
    refuse(group, (name,))
    source = _source(model, group)
    known = set(kind.taken)
    if name not in known:
        read = _fields(source, group, (model.get(group) or {}).get("revision"))
        known |= {field for field in read if not field.startswith("_")}
    if name not in known:
        raise ConfigError(f"{key}: unknown key{_hint(group, name, known, source)}")
    if source is None:
        raise ConfigError(f"{key}: has no effect on a model from scratch; name a model to load in {MODEL_KEY}")
    _check_plain(key, value)


def _hint(group: str, name: str, known: Collection[str], source: str | None) -> str:
    """Return the end of the line on an unknown argument: the nearest name, and which names are allowed."""
    kind = KINDS[group]
    own = [field for field in kind.cls.__dataclass_fields__ if field != "options"]
    near = nearest(name, {*own, *known} - {*kind.refused, *kind.without_effect}).partition(" (allowed")[0]
    near = near.replace("'", f"'model.{group}.", 1)
    unread = source is not None and not looks_local(source) and set(known) == set(kind.taken)
    when = f", once {source} is downloaded" if unread else ""
    return f"{near} (allowed: {', '.join((*own, *kind.taken))}, and the keys of the model's {kind.file}{when})"


def _check_plain(key: str, value: Any) -> None:
    """Raise ConfigError unless a value consists of text, finite numbers, true, false, null, lists and groups."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise ConfigError(f"{key}.{name}: a key must be text, got {name!r}")
            _check_plain(f"{key}.{name}", item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_plain(f"{key}[{i}]", item)
    elif not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
        raise ConfigError(f"{key}: must be text, a finite number, true, false, null, a list or a group, got {value!r}")


def _source(model: Mapping[str, Any], group: str) -> str | None:
    """Return the folder or hub id that the arguments of a group are for; None for a model from scratch."""
    named = (model.get("model_args") or {}).get("pretrained_model_name_or_path")
    if group == "tokenizer_args":
        named = (model.get(group) or {}).get("pretrained_model_name_or_path") or named
    return named if isinstance(named, str) and named else None


def _fields(source: str | None, group: str, revision: str | None) -> Iterator[str]:
    """Yield the settings in a source's config.json or tokenizer_config.json, and those of its configuration class."""
    settings: dict[str, Any] = {"model_type": SCRATCH} if source is None else {}
    if source is not None and (path := _file(source, group, revision)) is not None:
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            read = None  # loading the model reports it
        settings = read if isinstance(read, dict) else {}
        yield from settings
    if group == "model_args" and isinstance(kind := settings.get("model_type"), str):
        yield from class_fields(kind)


def _file(source: str, group: str, revision: str | None) -> Path | None:
    """Return the file with the settings of a source, of a hub id from the local cache; None without one."""
    place = weights_source(source) if group == "model_args" else tokenizer_folder(source)
    if looks_local(place):
        return Path(place).expanduser() / KINDS[group].file
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(place, KINDS[group].file, revision=revision)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


@functools.cache
def class_fields(model_type: str) -> frozenset[str]:
    """Return the fields that transformers' configuration class of a model type declares; empty for an unknown type.

    The class is read from its source file, because an import of transformers takes seconds.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return frozenset()
    mark = f'model_type = "{model_type}"'
    folder = Path(spec.origin).parent / "models"
    likely = folder / model_type.replace("-", "_")
    for path in (*sorted(likely.glob("configuration_*.py")), *sorted(folder.glob("*/configuration_*.py"))):
        text = path.read_text(encoding="utf-8")
        if mark not in text:
            continue
        classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
        for node in classes.values():
            assigned = (ast.unparse(part) for part in node.body if isinstance(part, ast.Assign))
            if f"model_type = {model_type!r}" in assigned:
                return frozenset(_declared(node, classes))
    return frozenset()


def _declared(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Iterator[str]:
    """Yield the annotated fields of a class and of its bases in the same file, and the arguments of `__init__`."""
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from _declared(classes[base.id], classes)
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            yield from (arg.arg for arg in (*part.args.args[1:], *part.args.kwonlyargs))
