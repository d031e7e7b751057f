"""Build the model of a folder without weights and load its tokenizer, in a limited process, before any job.

The names of the model's modules and parameters are kept, so that a plan can check the settings that name some.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, nearest
from expunge.core.files import read_note, write_note
from expunge.core.fingerprints import canonical, fingerprint
from expunge.core.garbage import skip_imports
from expunge.core.limited import LimitError, ProcessLimits, run_limited
from expunge.core.names import PartName, find_name
from expunge.core.on_use import import_model_base, transformers
from expunge.models.config import (
    MODEL_KEY,
    PRESETS,
    TOKENIZER_KEY,
    ModelConfig,
    ModelShape,
    adapter_base,
    looks_local,
    tokenizer_folder,
)
from expunge.models.identity import pinned, pinned_revision, refuse_parts, small_files, tokenizer_identity
from expunge.models.options import configuration_options

LOADED = ".loaded"  # in a store: a sealed file for each configuration, with the names of its parts, and tokenizer
OWN = ("job.json", "expunge.json")  # folders that jobs have written from a model that could be loaded
PROGRAM = Path(__file__).with_name("trial_child.py")
CPU_S = 120  # imports and a large vocabulary need about 10 s
WALL_S = 600.0  # on a busy machine
MEMORY = 6 << 30  # a vocabulary of 260,000 tokens needs less than 1.5 GB
CODED = ("AutoConfig", "AutoModelForCausalLM")
VERSIONS = ("transformers", "tokenizers")


def try_model(model: ModelConfig, store: Path | None = None) -> None:
    """Raise ConfigError if a model's configuration describes no model, or its tokenizer cannot be loaded.

    The small files of a hub id are downloaded for it, not the weights; without a connection they are left out. So are
    folders of jobs, models whose own code runs (`trust_remote_code`), which may need their weights, and quantised ones.
    The store notes the sources that could be loaded; these are not tried again.
    """
    named = model.tokenizer_source
    model = pinned(model)
    source, place = _place(model)
    if place is not None and source is not None and not looks_local(source):
        refuse_parts(source, lambda name: (place / name).is_file())
    config = None if place is None else _configuration(place, model)
    revision = model.tokenizer_args.revision
    tokens = None if named is None or model.tokenizer_args.trust_remote_code else _tokenizer(named, revision)
    how = _how(model, None if config is None else place)
    marks = _marks(config, how, tokens)
    if store is not None and all((store / LOADED / mark).exists() for mark in marks):
        return
    folder = None if config is None or place is None else str(place.resolve())
    tokenizer = None if tokens is None else str(tokens[0])
    if folder is None and tokenizer is None:
        return
    faults = _faults(folder, tokenizer, json.dumps(how), marks)
    if faults.get("limit"):
        raise ConfigError(f"{MODEL_KEY}: {source}: loading it without weights {faults['limit']}")
    attention = model.model_args.attn_implementation
    if attention and "attention" in str(faults.get("model")).lower():
        raise ConfigError(
            f"model.model_args.attn_implementation={attention}: cannot be used here; leave it out for transformers' "
            f"default (sdpa), which differs by rounding: {faults['model']}"
        )
    if faults.get("model"):
        options = ", ".join(f"model.model_args.{name}" for name in how["options"])
        changed = f" with {options}" if options else ""
        raise ConfigError(
            f"{MODEL_KEY}: {source}/config.json{changed} describes no model that can be built: {faults['model']}"
        )
    if faults.get("tokenizer"):
        raise ConfigError(f"{TOKENIZER_KEY}: the tokenizer of {named} cannot be loaded: {faults['tokenizer']}")
    if store is not None:
        _note(store, marks, None if config is None else faults.get("parts"))


def _note(store: Path, marks: Sequence[str], parts: Mapping[str, Any] | None) -> None:
    """Note in a store that a configuration, with its parts, and a tokenizer were loaded. marks: as from `_marks`."""
    with contextlib.suppress(OSError):  # a store that cannot be written is left as it is
        (store / LOADED).mkdir(parents=True, exist_ok=True)
        for i, mark in enumerate(marks):
            write_note(store / LOADED / mark, {"parts": None if i else parts})


@dataclass(frozen=True)
class ModelParts:
    """The names of a model's parts. modules: name -> marks (M: a weight matrix, L: linear, T: tied to the embeddings).

    parameters: all names, also the further ones of tied parameters. layers: the length of the longest list of modules.
    """

    modules: Mapping[str, str]
    parameters: Sequence[str]
    layers: int

    def check(self, named: PartName) -> None:
        """Raise ConfigError, with the nearest names, if a setting names a part that the model lacks."""
        key, value = named.key, named.value
        if named.kind == "module":
            find_name(self.modules, value.replace("\\", "").partition(":")[0], key)
        elif named.kind == "matrix" and value not in self._marked("M"):
            raise ConfigError(
                f"{key}: the model has no linear module {value!r}{nearest(value, self._marked('M'), similar=True)}"
            )
        elif named.kind == "adapted":
            self._check_adapted(value, key)
        elif named.kind in ("parameters", "weights"):
            ending = ".weight" if named.kind == "weights" else ""
            names = [name.removesuffix(ending) for name in self.parameters if name.endswith(ending)]
            if not any(re.fullmatch(value, name) for name in names):
                thing = "module with a weight has a whole name that" if ending else "parameter's whole name"
                plain = value.replace("\\", "")
                raise ConfigError(f"{key}: no {thing} matches {value!r}{nearest(plain, names, similar=True)}")
        elif named.kind == "layers" and value > self.layers:
            raise ConfigError(f"{key}: the model has {self.layers} layers, got {value}")

    def _check_adapted(self, value: str, key: str) -> None:
        linear = self._marked("L")
        names = [name for name in linear if name == value or name.endswith(f".{value}")]
        if not names:
            last = {name.rpartition(".")[2] for name in linear}
            raise ConfigError(f"{key}: the model has no linear module {value!r}{nearest(value, last)}")
        if any("T" in self.modules[name] for name in names):
            raise ConfigError(
                f"{key}: {value!r} shares its weights with the embeddings, so an adapter on it cannot be merged"
            )

    def _marked(self, mark: str) -> list[str]:
        return [name for name, marks in self.modules.items() if mark in marks]


def check_part_names(model: ModelConfig, store: Path | None, names: Iterable[PartName]) -> None:
    """Raise ConfigError if a setting names a module, a parameter or a layer that the model lacks.

    The names come from a preset's shape, or from the trial of the model's configuration, which runs only if a setting
    names a part. The trial runs the model's own code if `trust_remote_code` is set and the code is in a local folder.
    A model that cannot be built without weights, and code that is on the hub, are not checked; then the job reports a
    wrong name.
    """
    named = list(names)
    parts = model_parts(model, store) if named else None
    if parts is not None:
        for one in named:
            parts.check(one)


def model_parts(model: ModelConfig, store: Path | None = None) -> ModelParts | None:
    """Return the names of a model's parts; None if they cannot be listed before the model is loaded."""
    if model.scratch is not None:
        return preset_parts(PRESETS[model.scratch])
    model = pinned(model)
    _, place = _place(model)
    config = None if place is None else _configuration(place, model, names=True)
    if config is None or place is None:
        return None
    how = _how(model, place)
    marks = _marks(config, how, None)
    values: Any = _PARTS.get(marks[0])
    if values is None and store is not None:
        with contextlib.suppress(OSError, ValueError):
            values = read_note(store / LOADED / marks[0])["parts"]
    if values is None:
        values = _faults(str(place.resolve()), None, json.dumps(how), marks).get("parts")
        if values is not None and store is not None:
            _note(store, marks, values)
    return None if values is None else ModelParts(**values)


def preset_parts(shape: ModelShape) -> ModelParts:
    """Return the names of the parts of a Llama of a preset's shape, as transformers gives them."""
    modules = {"": "", "model": "", "model.embed_tokens": "M", "model.layers": ""}
    for i in range(shape.num_hidden_layers):
        layer = f"model.layers.{i}"
        attention = {f"{layer}.self_attn.{one}_proj": "ML" for one in "qkvo"}
        mlp = {f"{layer}.mlp.{one}_proj": "ML" for one in ("gate", "up", "down")} | {f"{layer}.mlp.act_fn": ""}
        norms = {f"{layer}.{one}_layernorm": "" for one in ("input", "post_attention")}
        modules |= {layer: "", f"{layer}.self_attn": "", **attention, f"{layer}.mlp": "", **mlp, **norms}
    modules |= {"model.norm": "", "model.rotary_emb": "", "lm_head": "MLT"}
    parameters = [f"{name}.weight" for name, marks in modules.items() if marks or name.endswith("norm")]
    return ModelParts(modules, parameters, shape.num_hidden_layers)


def _place(model: ModelConfig) -> tuple[str | None, Path | None]:
    """Return the source of a pinned model's base weights, and the folder of its small files."""
    source, commit = model.source, model.model_args.revision
    if source is not None and (base := adapter_base(source)):
        source, commit = base, None if looks_local(base) else pinned_revision(base, None)
    return source, None if source is None else _folder(source, commit)


def _how(model: ModelConfig, place: Path | None) -> dict[str, Any]:
    """Return the settings of loading that a trial reads. code: the files of a model whose own code runs.

    place: the folder of the model to try; None: none is tried.
    """
    code = place is not None and model.model_args.trust_remote_code and bool(_own_code(place))
    return {
        **({"code": tokenizer_identity(str(place), None)} if code else {}),
        "attention": model.model_args.attn_implementation,
        "options": canonical(configuration_options(model.model_args.options)),
        "tokenizer_options": canonical(model.tokenizer_args.options),
    }


def _folder(source: str, revision: str | None) -> Path | None:
    """Return the folder of a model's small files; None for a hub id whose files are not to be had."""
    return Path(source).expanduser() if looks_local(source) else small_files(source, revision)


def _configuration(folder: Path, model: ModelConfig, *, names: bool = False) -> str | None:
    """Return the configuration of a folder to try; None if there is nothing to try.

    names: try it for the names of the parts alone. So does the folder of a job, and a model whose own code runs if all
    files of the code are in the folder.
    """
    if not names and any((folder / name).is_file() for name in OWN):
        return None
    text = (folder / "config.json").read_text(encoding="utf-8")
    own = _own_code(folder) if model.model_args.trust_remote_code else {}
    files = [folder / f"{str(name).partition('.')[0]}.py" for name in own.values()]
    unread = own and not (names and all(file.is_file() for file in files))
    return None if unread or json.loads(text).get("quantization_config") else text


def _own_code(folder: Path) -> Mapping[str, Any]:
    """Return the classes of a folder's own code that a model is built from, by the class that finds them."""
    own = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map")
    return {name: own[name] for name in CODED if name in own} if isinstance(own, dict) else {}


def _tokenizer(source: str, revision: str | None) -> tuple[Path, Any] | None:
    """Return the folder and the identity of a tokenizer to try; None if there is nothing to try."""
    place = tokenizer_folder(source)
    folder = _folder(place, revision)
    if folder is None or any((folder / name).is_file() for name in OWN) or not folder.is_dir():
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("auto_map"):
            return None
    return folder.resolve(), tokenizer_identity(place, revision)


def _marks(config: str | None, how: Mapping[str, Any], tokens: tuple[Path, Any] | None) -> tuple[str, ...]:
    """Return the names of the notes on a configuration and a tokenizer, by their contents and the libraries."""
    versions = [metadata.version(name) for name in VERSIONS]
    further = [how[name] for name in ("options", "code") if how.get(name)]
    parts = [] if config is None else [["model", config, how["attention"], *further]]
    own = how["tokenizer_options"]
    parts += [] if tokens is None else [["tokenizer", tokens[1], *([own] if own else [])]]
    return tuple(fingerprint([*part, versions]) for part in parts)


def _import_transformers() -> None:
    """Import the modules of a trial, which loading a model needs afterwards."""
    import_model_base()
    _ = transformers.AutoConfig, transformers.AutoModelForCausalLM, transformers.AutoTokenizer
    skip_imports()


_PARTS: dict[str, Mapping[str, Any]] = {}  # of the configurations tried in this process, by their marks


@functools.lru_cache(maxsize=64)
def _faults(folder: str | None, tokenizer: str | None, how: str, marks: tuple[str, ...]) -> dict[str, Any]:
    """Return the faults of a model and a tokenizer, and the parts of the model.

    how: the settings of loading, as JSON. marks: the contents of the files, so that an edited file is tried again.
    """
    request = {"model": folder, "tokenizer": tokenizer, **json.loads(how)}
    try:
        first = None if "torch" in sys.modules else _import_transformers
        faults = dict(run_limited(PROGRAM, request, ProcessLimits(CPU_S, WALL_S, MEMORY), fork_after=first) or {})
    except LimitError as error:
        return {"limit": str(error)}
    if folder is not None and faults.get("parts"):
        _PARTS[marks[0]] = faults["parts"]
    return faults
