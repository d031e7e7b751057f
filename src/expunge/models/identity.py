"""The identity of a model or tokenizer for the keys of jobs: every file that loading or a model's code may read.

A file counts unless it is known to have no effect, because a list of files with an effect would miss new ones.
Importing this module loads no torch.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import file_sha256, fingerprint
from expunge.core.outputs import is_aside
from expunge.models.config import (
    ADAPTER,
    WRAPPER,
    ModelConfig,
    adapter_base,
    index_names,
    looks_local,
    model_subfolders,
    named_weights,
    only_as_folder,
    tokenizer_folder,
)
from expunge.models.folder_settings import TEMPLATES

# texts about a model, pictures, and the files of jobs; no loader reads them, and code of a model only if it names them
_ABOUT = re.compile(
    r"(?!.*\.py$)(readme|licen[cs]e|notice|citation|changelog)([._-].*)?|use_policy.*|.*\.(md|rst|pdf|png|jpe?g|gif|svg|webp|ipynb)"
    r"|\.expunge.*|\.git(attributes|ignore)|\.ds_store|(job|done|expunge)\.json|(log|speed|trajectory)\.jsonl|config\.yaml",
    re.IGNORECASE,
)
# states of trainers, and weights in formats that are not read; the code of a model could read them
_UNREAD = re.compile(
    r"\..*|(optimizer|scheduler|scaler)\.(pt|bin)|rng_state.*|training_args\.bin|trainer_state\.json|events\.out\..*"
    r"|(all|train|eval)_results\.json|pytorch_model.*\.bin|tf_model.*\.h5|flax_model.*\.msgpack"
    r"|.*\.(onnx|gguf|ot|pth|tflite|log)",
    re.IGNORECASE,
)
_ASIDE = (".git", ".cache", "__pycache__")  # folders of git, of downloads and of compiled code
_GENERATION = "generation_config.json"
# files of a hub id that are no weights
_SMALL = ["*.json", "*.jinja", "*.txt", "*.model", "*.vocab", "*.bpe", "*.tiktoken", "tokenizer*"]
_WEIGHTS = "model.safetensors"
_VERSION = ("transformers_version", "_from_model_config")  # keys of the generation settings that change nothing
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SETTLED_NS = 2 * 10**9
_sums: dict[tuple[int, ...], str] = {}  # checksums by device, inode, size and time


def identity_files(folder: Path, *, adapter: str = "apply") -> list[str]:
    """Return the names of a model folder's files that may decide its numbers.

    In a folder with Python code these are all files, subfolders included; a text about the model, such as README.md,
    counts if the code names it. In another folder they are its own files, the chat templates, the shards that an index
    names, and the helper models of a wrapper.

    Args:
        folder: The folder.
        adapter: With `ignore`, the files of an adapter are left out.

    Raises:
        ConfigError: An index names a file outside the folder.
    """
    names = _own_files(folder)
    for helper in model_subfolders(folder):
        if helper != TEMPLATES:
            names |= {f"{helper}/{name}" for name in _own_files(folder / helper)}
    return sorted(n for n in names if adapter == "apply" or not n.startswith("adapter_"))


def _own_files(folder: Path) -> set[str]:
    """Return the names of `identity_files` without those of helper models."""
    own = {p.name for p in folder.iterdir() if p.is_file()}
    names = {f"{TEMPLATES}/{p.name}" for p in (folder / TEMPLATES).glob("*.jinja")} | set(named_weights(folder))
    if any(name.endswith(".py") for name in own):
        every = set(_all_files(folder))
        return names | (every - _without_effect(folder, every))
    return names | {name for name in own if not _ABOUT.fullmatch(name) and not _UNREAD.fullmatch(name)}


def _without_effect(folder: Path, names: set[str]) -> set[str]:
    """Return the texts about a model that its Python code does not name; none if a file of code cannot be read."""
    from expunge.core.named_files import mentions, texts

    try:
        code = set().union(*(texts(ast.parse((folder / n).read_bytes())) for n in names if n.endswith(".py")))
    except (SyntaxError, ValueError, RecursionError):
        return set()
    last = {name: name.rpartition("/")[2] for name in names}
    return {name for name in names if _ABOUT.fullmatch(last[name]) and not mentions(code, last[name])}


def has_wrapper(source: str) -> bool:
    """Return whether a source is a folder of a wrapped model (`models.wrapped`)."""
    return looks_local(source) and (Path(source).expanduser() / WRAPPER).is_file()


def _all_files(folder: Path) -> Iterator[str]:
    visited: set[tuple[int, int]] = set()
    for place, inside, names in os.walk(folder, followlinks=True):  # code opens linked folders as well
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in visited:  # a link to a folder above it
            inside.clear()
            continue
        visited.add((stat.st_dev, stat.st_ino))
        inside[:] = sorted(name for name in inside if name not in _ASIDE and not is_aside(name))
        for name in sorted(names):
            if (Path(place) / name).is_file():
                yield (Path(place) / name).relative_to(folder).as_posix()


def source_identity(source: str, revision: str | None, adapter: str = "apply") -> dict[str, Any]:
    """Return the identity of a model: the contents of a folder, or the name and the commit of a hub id.

    A folder of an adapter alone counts with its base model; with `adapter="ignore"`, the base model alone counts.
    """
    base = adapter_base(source)
    if base and adapter == "ignore":
        return source_identity(base, None)
    if base:
        folder = Path(source).expanduser()
        return {"contents": _contents(folder, identity_files(folder)), "base": source_identity(base, None)}
    if not looks_local(source):
        return {"hub": source, "revision": pinned_revision(source, revision)}
    folder = Path(source).expanduser()
    code = code_commit(source)
    return {"contents": _contents(folder, identity_files(folder, adapter=adapter)), **({"code": code} if code else {})}


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """Return the identity of the model that settings name."""
    return source_identity(str(model.source), model.model_args.revision, model.model_args.adapter)


def contents_hash(identity: Mapping[str, Any]) -> str:
    """Return one hash of the files of a folder's identity, a base model included; "" for a hub id."""
    return fingerprint(identity) if "base" in identity else str(identity.get("contents", ""))


def code_commit(source: str) -> str | None:
    """Return the commit of the hub repository that a folder takes its Python code from; None without such code."""
    try:
        settings = json.loads((Path(source).expanduser() / "config.json").read_text(encoding="utf-8"))
        named = str(settings["auto_map"]["AutoModelForCausalLM"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    repository, separator, _ = named.partition("--")
    return pinned_revision(repository, None) if separator else None


def tokenizer_identity(source: str, revision: str | None) -> dict[str, Any]:
    """Return the identity of a tokenizer: that of its model without weights, adapter and generation settings."""
    source = tokenizer_folder(source)
    if not looks_local(source):
        return {"hub": source, "revision": pinned_revision(source, revision)}
    folder = Path(source).expanduser()
    names = identity_files(folder, adapter="ignore")
    return {
        "contents": _contents(folder, [n for n in names if ".safetensors" not in n and n not in (_GENERATION, WRAPPER)])
    }


TOKENISATION = 3  # raise it if `data.encoder` gives other ids for the same text, template and tokenizer


@functools.cache
def tokenisation_identity() -> str:
    """Return the identity of the code that turns texts into token ids: ours, and the releases of two libraries.

    Together with the tokenizer's files, the rendered template and the rows it determines the token ids. Patch releases
    of the libraries leave the ids as they are, so only the first two numbers of a version count.
    """
    releases = [f"{name} {'.'.join(metadata.version(name).split('.')[:2])}" for name in ("tokenizers", "transformers")]
    return ", ".join([f"expunge {TOKENISATION}", *releases])


# per package, the files of the code that turns texts into token ids
_TOKENISERS = {
    "expunge": ("data/**/*.py",),
    "jinja2": ("*.py",),
    "sentencepiece": ("*.so", "*.py"),
    "tiktoken": ("**/*.so", "**/*.py"),
    "tokenizers": ("**/*.so", "**/*.pyd", "**/*.py"),
    "transformers": (
        "tokenization_*.py",
        "convert_slow_tokenizer.py",
        "utils/chat_template_utils.py",
        "models/*/token*.py",
    ),
}


@functools.cache
def tokenisation_files() -> str:
    """Return a fingerprint of the installed code that turns texts into token ids: names, sizes and times of its files.

    It also changes if a file was edited without a new release, which `tokenisation_identity` does not see.
    """
    files: dict[str, list[int]] = {}
    for package, patterns in _TOKENISERS.items():
        spec = importlib.util.find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            for file in (f for pattern in patterns for f in Path(place).glob(pattern)):
                stat = file.stat()
                times = [stat.st_mtime_ns, stat.st_ctime_ns]  # an edit with the earlier mtime has another ctime
                files[f"{package}/{file.relative_to(place).as_posix()}"] = [stat.st_size, *times]
    return fingerprint(files)


def applied_tokenizer_identity(tokenizer: Any, source: str, revision: str | None) -> str:
    """Return the identity of a loaded tokenizer and of the code that applies it, equal for equal copies in two folders.

    A tokenizer class of transformers counts by the contents of its backend, its EOS and its chat template. Another one
    counts by its files, because its code may read them. source, revision: the folder or hub id.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not type(tokenizer).__module__.startswith("transformers."):
        return fingerprint([tokenisation_identity(), tokenizer_identity(source, revision)])
    tree = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    contents = json.dumps(tree, sort_keys=True)
    return fingerprint([tokenisation_identity(), contents, tokenizer.eos_token_id, tokenizer.chat_template])


def _contents(folder: Path, names: list[str]) -> str:
    sums: dict[str, Any] = {name: _sum(folder / name) for name in names if name != _GENERATION}
    settings = _settings(folder / _GENERATION) if _GENERATION in names else None
    return fingerprint({**sums, _GENERATION: settings} if settings else sums)


def _settings(path: Path) -> Any:
    """Return the settings of a generation_config.json; its checksum if it is no JSON mapping, which loading reports."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return {k: v for k, v in settings.items() if k not in _VERSION}
    except (ValueError, AttributeError):
        return file_sha256(path)


def _sum(path: Path) -> str:
    """Return the checksum of a file, computed once per process unless the file changes.

    A file that was changed a moment ago may change again without another time, so it is read each time.
    """
    stat = path.stat()
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) < _SETTLED_NS:
        return file_sha256(path)
    place = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if place not in _sums:
        _sums[place] = file_sha256(path)
    return _sums[place]


def pinned(model: ModelConfig) -> ModelConfig:
    """Return the settings of a model with the commits of its hub ids, so that every job of a plan reads the same."""
    args, tokens = model.model_args, model.tokenizer_args
    if model.source is not None and not looks_local(model.source):
        args = dataclasses.replace(args, revision=pinned_revision(model.source, args.revision))
    named = model.tokenizer_source
    if named is not None and not looks_local(named):
        revision = tokens.revision or (args.revision if tokens.pretrained_model_name_or_path is None else None)
        tokens = dataclasses.replace(tokens, revision=pinned_revision(named, revision))
    return dataclasses.replace(model, model_args=args, tokenizer_args=tokens)


def is_commit(revision: str | None) -> bool:
    """Return whether a revision of a hub id is a commit, which never changes."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


@functools.cache
def pinned_revision(source: str, revision: str | None) -> str | None:
    """Return the commit of a hub id; the revision itself if neither the local cache nor the hub has it.

    A snapshot in the local cache comes first, so that a study does not change while it runs, and so that planning needs
    no network.
    """
    named = revision or "main"
    if is_commit(named):
        return named
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    from expunge.core.hub import cache_if_unreachable, unreachable_errors

    try:
        name = repo_folder_name(repo_id=source, repo_type="model")
    except HFValidationError:
        raise ConfigError(f"model: {source!r:.80} is no folder, and no hub id (OWNER/NAME)") from None
    refs = Path(constants.HF_HUB_CACHE) / name / "refs"
    with contextlib.suppress(OSError, ValueError):
        commit = (refs / named).read_text(encoding="utf-8").strip()
        if _COMMIT.fullmatch(commit):
            return commit
    with contextlib.suppress(HFValidationError, *unreachable_errors()), cache_if_unreachable():
        return HfApi().model_info(source, revision=named, timeout=10).sha
    return revision


@functools.cache
def small_files(source: str, commit: str | None) -> Path | None:
    """Return the folder of a hub id's configuration and tokenizer, from the local cache or downloaded without weights.

    None if the commit is unknown, or if neither the cache nor the hub has its configuration.
    """
    if commit is None or not _COMMIT.fullmatch(commit):
        return None
    return _snapshot(
        source, commit, _SMALL, lambda folder: any((folder / n).is_file() for n in ("config.json", ADAPTER))
    )


def _snapshot(source: str, commit: str | None, patterns: list[str], has_all: Callable[[Path], bool]) -> Path | None:
    """Return the folder of a commit with these files, from the local cache, else downloaded; None if it lacks some."""
    from huggingface_hub import snapshot_download

    from expunge.core.hub import cache_if_unreachable, unreachable_errors

    for local in (True, False):
        access = contextlib.nullcontext() if local else cache_if_unreachable()
        with contextlib.suppress(*unreachable_errors()), access:
            folder = Path(
                snapshot_download(
                    source, revision=commit, allow_patterns=patterns, local_files_only=local, etag_timeout=10
                )
            )
            if has_all(folder):
                return folder
    return None


def whole_files(source: str, commit: str | None) -> Path:
    """Return the folder of a hub id with its weights, from the local cache or downloaded.

    The weights are the files of the index, or model.safetensors, as in transformers.

    Raises:
        ConfigError: If the commit is unknown, or the files are neither in the cache nor on the hub.
    """
    small = small_files(source, commit)
    if small is not None:
        weights = index_names(small, f"{_WEIGHTS}.index.json") or [_WEIGHTS]
        folder = _snapshot(
            source, commit, [*_SMALL, "*.py", *weights], lambda place: all((place / name).is_file() for name in weights)
        )
        if folder is not None:
            return folder
    raise ConfigError(
        f"{source}: no folder of this name; its configuration and weights as safetensors are neither in the local "
        "cache nor to be had from the hub"
    )


def hub_file(source: str, revision: str | None, name: str) -> Path | None:
    """Return a file of a hub id, from the local cache or downloaded; None if it has no such file, or none is to be had.

    The cache notes a missing file, so the hub receives one request.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    from expunge.core.hub import cache_if_unreachable, unreachable_errors

    wrong_name = ConfigError, ValueError  # loading reports it
    with contextlib.suppress(*wrong_name, *unreachable_errors()):
        commit = pinned_revision(source, revision)
        known = try_to_load_from_cache(source, name, revision=commit)
        if known is not None:
            return Path(known) if isinstance(known, str) else None
        with cache_if_unreachable():
            return Path(hf_hub_download(source, name, revision=commit, etag_timeout=10))
    return None


def refuse_parts(source: str, has: Callable[[str], bool]) -> None:
    """Raise ConfigError for a hub id with an adapter or a wrapper, which are read from folders only.

    transformers leaves an adapter next to the weights, and knows no wrapper. has: whether the hub id has a file.
    """
    for name, part in ((ADAPTER, "an adapter"), (WRAPPER, "a wrapper")):
        if has(name):
            raise ConfigError(only_as_folder(source, part))
