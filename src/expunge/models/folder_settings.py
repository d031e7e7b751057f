"""Check the JSON files of a model folder before a library reads them: sizes that can exist, an index inside the folder.

Libraries report a negative width, no heads or a text in place of a number by errors from deep inside, or not at all. A
saved folder contains the settings in the forms of older versions as well. Version 5 of transformers writes rotary
settings under `rope_parameters`, the dtype under `dtype` and the chat template as a file. Its tokenizer class does not
exist in versions before 5. Version 4.45 computes with a default base, silently, and reads no file of a template.
Importing this module loads no torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, nearest, one_line
from expunge.core.files import write_text

MOST_BYTES = 200_000_000  # an index of a large mixture of experts has a few MB
# The largest value of a size, by the end of its key: ten times and more above published models.
SIZES: Mapping[str, int] = {
    "hidden_size": 10**6,
    "n_embd": 10**6,
    "d_model": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 10_000,
    "n_layer": 10_000,
    "n_layers": 10_000,
    "num_layers": 10_000,
    "num_attention_heads": 10**5,
    "n_head": 10**5,
    "num_heads": 10**5,
    "num_key_value_heads": 10**5,
    "head_dim": 10**5,
    "vocab_size": 10**8,
    "max_position_embeddings": 10**10,
    "n_positions": 10**10,
}
NUMBER = re.compile(r"(_eps|_epsilon|_theta|dropout|_range)$")
COUNT = re.compile(r"^(num|n)_")
MOST_COUNT = 10**10
INDEX = "model.safetensors.index.json"
WEIGHTS_NAME = "transformers_weights"  # a key of config.json: the file of the weights, in place of model.safetensors
TEMPLATES = "additional_chat_templates"  # folder of the named chat templates of a tokenizer
_VOCABULARY = re.compile(r"(tokenizer|vocab|merges|added_tokens|special_tokens_map).*\.(json|model|txt)")


def check_settings(folder: Path, source: str, key: str) -> None:
    """Raise ConfigError for a config.json or an index that no model can have."""
    _check_config(_read(folder / "config.json", source, key), f"{key}: {source}/config.json")
    if (folder / INDEX).is_file():
        _check_index(folder, _read(folder / INDEX, source, key), f"{key}: {source}/{INDEX}")
    for name in ("generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _check_token_ids(_read(folder / name, source, key), f"{key}: {source}/{name}")


def check_files(folder: Path, source: str, key: str) -> None:
    """Raise ConfigError for a file in a model folder that may have no end (a device, a pipe), or a giant vocabulary."""
    for path in sorted(folder.iterdir()):
        if _VOCABULARY.fullmatch(path.name) and path.is_file() and (size := path.stat().st_size) > MOST_BYTES:
            raise ConfigError(f"{key}: {source}/{path.name} has {size} bytes, at most {MOST_BYTES} are read")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ConfigError(f"{key}: {source}/{path.name} is a device, a pipe or a socket; remove it from the folder")


_CHANGE_TEXTS = {  # settings that change the text of greedy decoding, and their neutral values
    "repetition_penalty": (None, 1),
    "encoder_repetition_penalty": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "num_beams": (None, 1),
    "guidance_scale": (None, 1),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, {}, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "exponential_decay_length_penalty": (None,),
    "forced_bos_token_id": (None,),
}


def unapplied_generation(folder: Path) -> list[str]:
    """Return the settings of a model's generation_config.json that `generate` applies and we do not, as NAME=VALUE."""
    try:
        settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or loading reports it
        return []
    if not isinstance(settings, dict):
        return []
    return [
        f"{k}={settings[k]}" for k, neutral in _CHANGE_TEXTS.items() if k in settings and settings[k] not in neutral
    ]


def _read(path: Path, source: str, key: str) -> dict[str, Any]:
    where = f"{key}: {source}/{path.name}"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{where} has {path.stat().st_size} bytes, at most {MOST_BYTES} are read")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {one_line(error)}") from None
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a group of keys, got {values!r:.60}")
    return values


def _numbers(value: Any) -> Iterator[Any]:
    """Yield the values of a setting that may differ by layer."""
    if isinstance(value, list):
        yield from value
    elif value is not None:
        yield value


def _check_config(config: Mapping[str, Any], where: str) -> None:
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("_config") and name != "quantization_config":
            _check_config(value, f"{where}: {name}")
        for number in _numbers(value) if name in SIZES else ():
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= SIZES[name]:
                raise ConfigError(
                    f"{where}: {name}: should be a whole number from 1 to {SIZES[name]}, got {number!r:.40}"
                )
        if isinstance(value, str) and NUMBER.search(name):
            raise ConfigError(f"{where}: {name}: should be a number, got {value!r:.40}")
        if isinstance(value, int | float) and not isinstance(value, bool) and not _sane(name, value):
            raise ConfigError(f"{where}: {name}: is out of range, got {value!r:.40}")
    _check_token_ids(config, where)
    heads, shared = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise ConfigError(f"{where}: num_key_value_heads: should divide the {heads} attention heads, got {shared}")
    if not isinstance(config.get("auto_map") or {}, dict):
        raise ConfigError(f"{where}: auto_map: should be a group of keys, got {config['auto_map']!r:.40}")
    weights = config.get(WEIGHTS_NAME, "")  # of a mixed folder: the file that is read
    if not isinstance(weights, str) or weights in (".", "..") or Path(weights).name != weights:
        raise ConfigError(f"{where}: {WEIGHTS_NAME}: should name a file of this folder, got {weights!r:.80}")
    kind = config.get("model_type", "")
    if not isinstance(kind, str):
        raise ConfigError(f"{where}: model_type: should be a text, got {kind!r:.40}")
    quantised = config.get("quantization_config")
    if quantised is not None and (
        not isinstance(quantised, dict) or not isinstance(quantised.get("quant_method", ""), str)
    ):
        raise ConfigError(
            f"{where}: quantization_config: should be keys with a text quant_method, got {quantised!r:.60}"
        )


def _check_token_ids(values: Mapping[str, Any], where: str) -> None:
    for name, value in values.items():
        ids = list(_numbers(value)) if name.endswith("_token_id") else []
        if not all(isinstance(i, int) and not isinstance(i, bool) and abs(i) < 2**63 for i in ids):
            raise ConfigError(f"{where}: {name}: should be the number of a token, or a list of them, got {value!r:.40}")


def _sane(name: str, value: float) -> bool:
    if isinstance(value, float):
        return math.isfinite(value) or not NUMBER.search(name)
    return abs(value) < 2**63 and (not COUNT.search(name) or -1 <= value <= MOST_COUNT)


def _check_index(folder: Path, index: Mapping[str, Any], where: str) -> None:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ConfigError(f"{where}: weight_map: should name the file of each tensor")
    for name in sorted(set(places.values())):
        if Path(name).name != name or name in (".", ".."):
            raise ConfigError(f"{where}: weight_map names {name!r:.80}, which is not a file of this folder")
        if not (folder / name).is_file():
            raise ConfigError(f"{where}: no file {name}{nearest(name, [p.name for p in folder.glob('*.safetensors')])}")


OLD_ROTARY_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
NEW_TOKENIZER_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")


def add_older_forms(folder: Path) -> None:
    """Add the fields that transformers 4.45 reads to a saved configuration, and name a tokenizer class that it knows.

    Args:
        folder: A folder from `save_pretrained` of a model and a tokenizer.
    """
    config_file, tokenizer_file = folder / "config.json", folder / "tokenizer_config.json"
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        _write(config_file, _with_older_fields(config))
    if tokenizer_file.is_file():
        settings = json.loads(tokenizer_file.read_text(encoding="utf-8"))
        older = dict(settings)
        if settings.get("tokenizer_class") in NEW_TOKENIZER_CLASSES:
            older["tokenizer_class"] = "PreTrainedTokenizerFast"
        if templates := _chat_templates(folder):
            older["chat_template"] = templates
        if older != settings:
            _write(tokenizer_file, older)


def _chat_templates(folder: Path) -> str | list[dict[str, str]] | None:
    """Return the chat template of a folder's files as a text, or a list if it has several; None without one."""
    default, others = folder / "chat_template.jinja", sorted((folder / TEMPLATES).glob("*.jinja"))
    if not default.is_file():
        return None
    text = default.read_text(encoding="utf-8")
    if not others:
        return text
    named = {"default": text, **{path.stem: path.read_text(encoding="utf-8") for path in others}}
    return [{"name": name, "template": template} for name, template in named.items()]


def _with_older_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, and those nested in it, with the older fields."""
    out = {k: _with_older_fields(v) if k.endswith("_config") and isinstance(v, dict) else v for k, v in config.items()}
    if isinstance(out.get("dtype"), str):
        out.setdefault("torch_dtype", out["dtype"])
    rotary = out.get("rope_parameters")
    if isinstance(rotary, dict) and rotary:
        names = OLD_ROTARY_NAMES.get(str(out.get("model_type")), {})
        for name, value in _older_rotary(rotary).items():
            out.setdefault(names.get(name, name), value)
    return out


def _older_rotary(rotary: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rope_theta`, `rope_scaling` and their relatives. Models with two kinds of layers name each kind."""
    if isinstance(rotary.get("full_attention"), dict):
        out = _older_rotary(rotary["full_attention"])
        local = rotary.get("sliding_attention")
        if isinstance(local, dict) and "rope_theta" in local:
            out["rope_local_base_freq"] = local["rope_theta"]
        return out
    out = {name: rotary[name] for name in ("rope_theta", "partial_rotary_factor") if name in rotary}
    kind = rotary.get("rope_type", "default")
    if kind != "default":
        out["rope_scaling"] = {k: v for k, v in rotary.items() if k not in ("rope_theta", "partial_rotary_factor")}
    return out


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
