"""The identity of a model: a changed byte that changes an output gives another identity, in folders of six kinds."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import select
import shutil
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from expunge.core.errors import ConfigError
from expunge.models import identity
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import ModelArgs, ModelConfig, TokenizerArgs, check_source
from expunge.models.identity import (
    identity_files,
    pinned,
    pinned_revision,
    source_identity,
    tokenisation_files,
    tokenizer_identity,
)
from expunge.models.load import load_model, load_tokenizer, save_model
from expunge.models.passport import check_folder

CODE = """
from transformers import LlamaForCausalLM
from .own_parts import SCALE

class OwnForCausalLM(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * SCALE
        return out
"""
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def single(folder: Path, model: Any, tokenizer: Any) -> None:
    save_model(model, tokenizer, folder)


def sharded(folder: Path, model: Any, tokenizer: Any) -> None:
    single(folder, model, tokenizer)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").is_file()


def with_code(folder: Path, model: Any, tokenizer: Any) -> None:
    single(folder, model, tokenizer)
    (folder / "modeling_own.py").write_text(CODE)
    (folder / "own_parts.py").write_text("SCALE = 2.0\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"architectures": ["OwnForCausalLM"], "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}}
    (folder / "config.json").write_text(json.dumps(config | own))


def with_adapter(folder: Path, model: Any, tokenizer: Any) -> None:
    single(folder, model, tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft reads a deprecated attribute of transformers
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, p in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.constant_(p, 0.3)
    adapted.save_pretrained(folder)


def with_template(folder: Path, model: Any, tokenizer: Any) -> None:
    single(folder, model, tokenizer)
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (folder / "added_tokens.json").write_text('{"<new>": 400}')


def with_merges(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a tokenizer as a vocabulary and merges, as older models have it, and several chat templates."""
    single(folder, model, tokenizer)
    (folder / "tokenizer.json").unlink()
    tokenizer.backend_tokenizer.model.save(str(folder))
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text(CHAT)


KINDS: dict[str, Callable[[Path, Any, Any], None]] = {
    f.__name__: f for f in (single, sharded, with_code, with_adapter, with_template, with_merges)
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["Who wrote the book? Ann Lee wrote it."] * 4, 300, max_length=64)
    for name, make in KINDS.items():
        make(place / name, build_llama("llama-64k", tokenizer, vocab_size=400, seed=0), tokenizer)
        (place / name / "README.md").write_text("a model")
        (place / name / "optimizer.pt").write_text("not read")
    return place


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def outputs(folder: Path) -> tuple[Any, ...]:
    """Return the logits, the ends, the ids and the text of a conversation; the error, if the folder has one."""
    try:
        code = (folder / "modeling_own.py").exists()
        model = load_model(str(folder), ModelArgs(trust_remote_code=code), device=torch.device("cpu"))
        tokenizer = load_tokenizer(str(folder), TokenizerArgs())
        ids = tokenizer("Who wrote the book? <new>")["input_ids"]
        chat = [{"role": "user", "content": "Who?"}]
        text = tokenizer.apply_chat_template(chat, tokenize=False) if tokenizer.chat_template else ""
        with torch.no_grad():
            logits = model(input_ids=torch.arange(3, 30)[None]).logits
        return logits.double().sum(-1).tolist(), str(model.generation_config.eos_token_id), tuple(ids), text
    except Exception as error:  # any damage
        return (type(error).__name__,)


def identities(folder: Path) -> tuple[Any, Any]:
    try:
        return source_identity(str(folder), None), tokenizer_identity(str(folder), None)
    except ConfigError as error:
        return str(error), None


@pytest.mark.slow
@pytest.mark.usefixtures("modules_cache")
@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_that_changes_an_output_changes_the_identity(folders: Path, kind: str, tmp_path: Path) -> None:
    draw = random.Random(kind)
    folder = Path(shutil.copytree(folders / kind, tmp_path / "base"))
    before = outputs(folder)
    assert len(before) == 4, before
    changed: set[str] = set()
    for number, name in enumerate(files_of(folder) * 3):
        other = Path(shutil.copytree(folder, tmp_path / f"m{number}"))
        data = bytearray((other / name).read_bytes())
        # of weights a high byte of the last tensors, else any character
        at = len(data) - 1 if name.endswith(".safetensors") else draw.randrange(len(data))
        data[at] ^= 1 << draw.randrange(6)
        (other / name).write_bytes(bytes(data))
        if outputs(other) != before:
            changed.add(name)
            assert identities(other) != identities(folder), (name, at)
        if name in ("README.md", "optimizer.pt"):
            assert name not in changed and (kind == "with_code" or identities(other) == identities(folder))
        shutil.rmtree(other)
    expected = {
        "single": {"model.safetensors", "tokenizer.json"},
        "sharded": {"config.json", "tokenizer.json"},
        "with_code": {"modeling_own.py", "own_parts.py"},
        "with_adapter": {"adapter_model.safetensors"},
        "with_template": {"chat_template.jinja", "generation_config.json"},
        "with_merges": {"vocab.json", "merges.txt"},
    }
    assert expected[kind] <= changed


@contextlib.contextmanager
def opened_files(folder: Path) -> Iterator[set[str]]:
    """Yield a set that has the names of all files of a folder that this process has opened, when the block ends.

    The kernel reports them (inotify), so files that libraries open in compiled code are among them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init()
    names: set[str] = set()
    try:
        places = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
        watched = {libc.inotify_add_watch(handle, os.fsencode(place), 0x20): place for place in places}  # IN_OPEN
        assert min(watched) > 0
        yield names
        data = b""
        while select.select([handle], [], [], 0)[0]:
            data += os.read(handle, 1 << 16)
        while data:
            number, mask, _, length = struct.unpack_from("iIII", data)
            name, data = data[16 : 16 + length].rstrip(b"\0").decode(), data[16 + length :]
            if name and not mask & 0x40000000:  # IN_ISDIR
                names.add((watched[number] / name).relative_to(folder).as_posix())
    finally:
        os.close(handle)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify reports opened files on Linux alone")
@pytest.mark.usefixtures("modules_cache")
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_that_loading_opens_belongs_to_the_identity(folders: Path, kind: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / kind, tmp_path / "m"))
    if kind == "with_code":
        (folder / "table.md").write_text("1")
        with (folder / "modeling_own.py").open("a") as code:
            code.write(f"\nwith open({str(folder)!r} + '/table.md') as table:\n    table.read()\n")
    with opened_files(folder) as names:
        assert len(outputs(folder)) == 4
    tokens = {"vocab.json", "merges.txt"} if kind == "with_merges" else {"tokenizer.json"}
    assert {"config.json", *tokens} <= names
    assert any(name.endswith(".safetensors") for name in names)
    assert ("table.md" in names) == (kind == "with_code")
    assert names <= set(identity_files(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_but_texts_about_the_model_belongs_to_the_identity(folders: Path, kind: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / kind, tmp_path / "m"))
    (folder / "LICENSE").write_text("free")
    (folder / "job.json").write_text("{}")
    before = source_identity(str(folder), None)
    for path in map(folder.joinpath, files_of(folder)):
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        about = path.name in ("README.md", "LICENSE", "job.json", *(["optimizer.pt"] * (kind != "with_code")))
        assert (source_identity(str(folder), None) == before) == about, path.name
        path.write_bytes(data)
    assert source_identity(str(folder), None) == before


def test_code_may_read_any_file_of_its_folder(folders: Path, tmp_path: Path) -> None:
    before = {}
    for kind in ("single", "with_code"):
        folder = Path(shutil.copytree(folders / kind, tmp_path / kind))
        (folder / "sub").mkdir()
        before[kind] = source_identity(str(folder), None)
        (folder / "sub" / "table.bin").write_text("1")
        (folder / "evals").mkdir()
        (folder / "evals" / "numbers.json").write_text("1")
    assert source_identity(str(tmp_path / "single"), None) == before["single"]
    assert source_identity(str(tmp_path / "with_code"), None) != before["with_code"]


@pytest.mark.parametrize("name", ["notice.py", "license_parts.py", "readme.py", "changelog.py", "CITATION.py"])
def test_code_counts_under_any_name(folders: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(folders / "with_code", tmp_path / "m"))
    (folder / name).write_text("SCALE = 2.0\n")
    before = source_identity(str(folder), None)
    (folder / name).write_text("SCALE = 3.0\n")
    assert source_identity(str(folder), None) != before


@pytest.mark.parametrize(
    "text", ["open('table.MD')", "(folder / 'parts' / 'table.md')", "glob('t*.md')", "open(f'{name}.md')", "('"]
)
def test_a_text_about_a_model_counts_if_its_code_names_it(folders: Path, tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(folders / "with_code", tmp_path / "m"))
    (folder / "parts").mkdir()
    (folder / "parts" / "table.md").write_text("1")
    before = source_identity(str(folder), None)
    (folder / "parts" / "table.md").write_text("2")
    assert source_identity(str(folder), None) == before
    (folder / "own_parts.py").write_text(f"SCALE = 2.0\n{text}\n")
    before = source_identity(str(folder), None)
    (folder / "parts" / "table.md").write_text("3")
    assert source_identity(str(folder), None) != before


def test_code_may_read_linked_folders(folders: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / "with_code", tmp_path / "m"))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "table.bin").write_text("1")
    (folder / "parts").symlink_to(tmp_path / "parts")
    (folder / "again").symlink_to(folder)  # a loop
    before = source_identity(str(folder), None)
    (tmp_path / "parts" / "table.bin").write_text("2")
    assert source_identity(str(folder), None) != before


def test_the_helper_models_of_a_wrapper_count(folders: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / "single", tmp_path / "m"))
    shutil.copytree(folders / "single", folder / "helper")
    (folder / "wrapper.json").write_text('{"name": "any", "helper": {}}')
    before = source_identity(str(folder), None)
    (folder / "helper" / "README.md").write_text("another text")
    assert source_identity(str(folder), None) == before
    data = (folder / "helper" / "model.safetensors").read_bytes()
    (folder / "helper" / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert source_identity(str(folder), None) != before


def test_a_tokenizer_counts_the_configuration_that_names_its_class(folders: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / "with_adapter", tmp_path / "m"))
    before = tokenizer_identity(str(folder), None)
    for name, counts in (("config.json", True), ("generation_config.json", False), ("model.safetensors", False),
                         ("adapter_config.json", False)):  # fmt: skip
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data + b"\n")
        assert (tokenizer_identity(str(folder), None) != before) == counts, name
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/outside.safetensors", "sub/../../x.safetensors"])
def test_an_index_cannot_name_a_file_outside_its_folder(folders: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(folders / "sharded", tmp_path / "m"))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    path.write_text(json.dumps(index))
    for check in (lambda: check_source(str(folder), "model"), lambda: check_folder(str(folder), ModelArgs())):
        with pytest.raises(ConfigError, match=r"outside the model folder|not a file of this folder"):
            check()


@pytest.mark.parametrize("name", ["README.safetensors", ".hidden.safetensors", "license.safetensors"])
def test_the_weights_that_a_configuration_names_count(folders: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(folders / "single", tmp_path / "m"))
    shutil.copy(folder / "model.safetensors", folder / name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
    check_source(str(folder), "model")
    before = source_identity(str(folder), None)
    (folder / name).write_bytes((folder / name).read_bytes() + b"0")
    assert source_identity(str(folder), None) != before


@pytest.mark.parametrize("name", ["sub/w.safetensors", "../w.safetensors", "/etc/w.safetensors", "..", 3])
def test_a_configuration_cannot_name_weights_in_another_folder(folders: Path, tmp_path: Path, name: Any) -> None:
    folder = Path(shutil.copytree(folders / "single", tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
    with pytest.raises(ConfigError, match="transformers_weights: should name a file of this folder"):
        check_source(str(folder), "model")


def test_the_index_of_a_variant_is_an_index(folders: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / "single", tmp_path / "m"))
    index = folder / "model.safetensors.index.half.json"
    (folder / "sub").mkdir()
    (folder / "sub" / "w.safetensors").write_bytes(b"0")
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "sub/w.safetensors"}}))
    assert "sub/w.safetensors" in identity_files(folder)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../w.safetensors"}}))
    with pytest.raises(ConfigError, match="outside the model folder"):
        check_folder(str(folder), ModelArgs())


@pytest.mark.parametrize("name", ["a/b", "../x", "", "a\0b"])
def test_a_variant_is_a_part_of_a_name(name: str) -> None:
    ModelArgs(options={"variant": "fp16"})
    with pytest.raises(ValueError, match="variant must be a part of a file name"):
        ModelArgs(options={"variant": name})


def test_shards_in_a_subfolder_count(folders: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders / "sharded", tmp_path / "m"))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    key, shard = next(iter(index["weight_map"].items()))
    (folder / "sub").mkdir()
    shutil.copy(folder / shard, folder / "sub" / shard)
    index["weight_map"][key] = f"sub/{shard}"
    path.write_text(json.dumps(index))
    before = source_identity(str(folder), None)
    (folder / "sub" / shard).write_bytes((folder / "sub" / shard).read_bytes() + b"0")
    assert source_identity(str(folder), None) != before


@pytest.mark.parametrize("name", [":", "a b", "-x", "a" * 97])
def test_a_name_that_is_no_folder_and_no_hub_id(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is no folder, and no hub id \(OWNER/NAME\)$"):
        pinned_revision(name, None)


def test_a_hub_id_is_pinned_to_the_commit_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    (refs / "old").write_text("b" * 40)
    pinned_revision.cache_clear()
    model = ModelConfig(model_args=ModelArgs(pretrained_model_name_or_path="org/name"))
    assert pinned(model).model_args.revision == pinned(model).tokenizer_args.revision == "a" * 40
    older = ModelConfig(model_args=ModelArgs(pretrained_model_name_or_path="org/name", revision="old"))
    assert pinned(older).model_args.revision == pinned(older).tokenizer_args.revision == "b" * 40
    assert pinned(pinned(older)) == pinned(older)
    assert source_identity("org/name", None) == {"hub": "org/name", "revision": "a" * 40}
    assert tokenizer_identity("org/name", "c" * 40) == {"hub": "org/name", "revision": "c" * 40}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "org/name--modeling.Own"}}')
    assert source_identity(str(tmp_path / "m"), None)["code"] == "a" * 40  # its code is that of a hub repository
    assert pinned_revision("org/unknown", "v1") == "v1"  # neither the cache nor the hub has it
    pinned_revision.cache_clear()


def test_a_checksum_is_computed_once_per_process(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(folders / "single", tmp_path / "m"))
    monkeypatch.setattr(identity, "_SETTLED_NS", -(10**18))
    before = source_identity(str(folder), None)
    monkeypatch.setattr(identity, "file_sha256", lambda path: pytest.fail(f"{path} is read again"))
    assert source_identity(str(folder), None) == before


def test_an_edit_with_the_earlier_time_counts(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(folders / "single", tmp_path / "m"))
    monkeypatch.setattr(identity, "_SETTLED_NS", -(10**18))
    before = source_identity(str(folder), None)
    edit_with_earlier_time(folder / "model.safetensors")
    assert source_identity(str(folder), None) != before


def test_code_of_a_tokenizer_with_the_earlier_time_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tokenizers").mkdir()
    code = tmp_path / "own_tokenizers" / "code.py"
    code.write_text("X = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(identity, "_TOKENISERS", {"own_tokenizers": ("*.py",)})
    before = tokenisation_files.__wrapped__()
    assert tokenisation_files.__wrapped__() == before
    edit_with_earlier_time(code)
    assert tokenisation_files.__wrapped__() != before


def edit_with_earlier_time(file: Path) -> None:
    """Change one byte of a file, and set its time back, as `touch -r` does."""
    stat = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
