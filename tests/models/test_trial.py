"""A configuration that no class accepts and a damaged tokenizer are one line before any job, in a limited process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from test_folder_settings import folder_of

from expunge.core.errors import ConfigError
from expunge.core.limited import run_limited
from expunge.core.names import PartName
from expunge.core.on_use import transformers
from expunge.models import trial, trial_child
from expunge.models.build import build_llama
from expunge.models.config import PRESETS, ModelArgs, ModelConfig, TokenizerArgs, check_source
from expunge.models.identity import small_files
from expunge.models.trial import LOADED, ModelParts, check_part_names, model_parts, preset_parts, try_model


def config_of(source: str, tokenizer: str | None = None, **more: Any) -> ModelConfig:
    return ModelConfig(
        model_args=ModelArgs(pretrained_model_name_or_path=source, **more),
        tokenizer_args=TokenizerArgs(pretrained_model_name_or_path=tokenizer),
    )


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer folder that is not tried, so that the model alone is."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "job.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "nope"}, {"model_type": "nope"}, {"rope_parameters": {"rope_type": "nope"}}]
)  # fmt: skip
def test_a_configuration_that_no_class_accepts(tmp_path: Path, changes: dict[str, Any], own: str) -> None:
    source = folder_of(tmp_path / "m", **changes)
    check_source(source, "MODEL")
    with pytest.raises(ConfigError, match=r"^model\..*/m/config.json describes no model that can be built: ") as error:
        try_model(config_of(source, own))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["flash_attention_2", "nope"])
def test_an_attention_that_cannot_be_used(tmp_path: Path, name: str, own: str) -> None:
    source = folder_of(tmp_path / "m")
    with pytest.raises(ConfigError, match=rf"^model\.model_args\.attn_implementation={name}: .* leave it out for"):
        try_model(config_of(source, own, attn_implementation=name))


def _cut(text: str) -> str:
    return text[: len(text) // 2]


def _unknown_type(text: str) -> str:
    return json.dumps({**json.loads(text), "model": {"type": "Nope"}})


def _no_vocabulary(text: str) -> str:
    values = json.loads(text)
    return json.dumps({**values, "model": {**values["model"], "vocab": {}, "merges": []}})


@pytest.mark.parametrize("damage", [_cut, _unknown_type, _no_vocabulary])
def test_a_damaged_tokenizer(tmp_path: Path, tokenizer: Any, damage: Callable[[str], str]) -> None:
    source = folder_of(tmp_path / "m")
    tokenizer.save_pretrained(source)
    file = tmp_path / "m" / "tokenizer.json"
    file.write_text(damage(file.read_text()))
    output = r"^model\.tokenizer_args\..*: the tokenizer of .*/m cannot be loaded: ."
    with pytest.raises(ConfigError, match=output) as error:
        try_model(config_of(source))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_good_folder_is_tried_once_and_again_after_an_edit(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of(tmp_path / "m")
    tokenizer.save_pretrained(source)
    calls = []

    def counted(*args: Any, **how: Any) -> Any:
        calls.append(args[1])
        return run_limited(*args) if len(calls) == 1 else trial_child.main(args[1])

    monkeypatch.setattr(trial, "run_limited", counted)
    trial._faults.cache_clear()
    for _ in range(2):
        try_model(config_of(source), tmp_path / "store")
        trial._faults.cache_clear()  # as in a new process
    assert len(calls) == 1 and len(list((tmp_path / "store" / LOADED).iterdir())) == 2
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 77}))
    try_model(config_of(source), tmp_path / "store")
    assert len(calls) == 2


def test_a_folder_of_a_job_and_a_hub_id_without_files_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "run_limited", lambda *args, **how: pytest.fail("something was tried"))
    own = folder_of(tmp_path / "own", hidden_act="nope")
    (tmp_path / "own" / "job.json").write_text("{}")
    try_model(config_of(own))
    try_model(config_of("someone/some-model"))
    coded = folder_of(tmp_path / "coded", auto_map={"AutoConfig": "x.Y"}, hidden_act="nope")
    try_model(config_of(coded, own, trust_remote_code=True))


def test_the_small_files_of_a_hub_id_are_tried(tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    place = tmp_path / "models--org--name"
    snapshot = place / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    folder_of(snapshot, hidden_act="nope")
    with pytest.raises(ConfigError, match=r"^model\..*org/name/config.json describes no model that can be built: "):
        try_model(config_of("org/name", own))


def test_a_hub_id_of_an_adapter_is_refused_with_the_way_to_read_it(
    tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "c" * 40
    snapshot = tmp_path / "models--org--lora" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--lora" / "refs").mkdir()
    (tmp_path / "models--org--lora" / "refs" / "main").write_text(commit)
    (snapshot / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(ConfigError, match=r"org/lora contains an adapter; download it as a folder"):
        try_model(config_of("org/lora", own))


def test_a_hub_that_breaks_off_leaves_the_files_to_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenConnectionError(HfHubHTTPError.__mro__[1]):  # type: ignore[misc]  # the HTTP library's, no OSError
        """As of a connection that ends during a download."""

    def broken(*_args: Any, **_kwargs: Any) -> str:
        raise BrokenConnectionError("the connection ended")

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    assert small_files("someone/broken", "b" * 40) is None


def test_a_limit_is_one_line(tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "run_limited", run_limited)
    monkeypatch.setattr(trial, "CPU_S", 1)  # the imports alone need more
    source = folder_of(tmp_path / "m", vocab_size=401)
    output = r"^model\..*/m: loading it without weights does not end within 1 s of computing"
    with pytest.raises(ConfigError, match=output):
        try_model(config_of(source, own))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_parts_of_a_preset_are_those_of_its_model(preset: str, tokenizer: Any) -> None:
    with torch.device("meta"):
        model = build_llama(preset, tokenizer, vocab_size=300, seed=0)
    assert preset_parts(PRESETS[preset]) == ModelParts(**trial_child._parts(model))


def test_marks_of_a_model_whose_head_is_its_own() -> None:
    config = transformers.GPT2Config(
        n_layer=2, n_embd=8, n_head=2, vocab_size=30, n_positions=8, tie_word_embeddings=False
    )
    with torch.device("meta"):
        parts = ModelParts(**trial_child._parts(transformers.GPT2LMHeadModel(config)))
    assert (parts.modules["lm_head"], parts.modules["transformer.h.1.mlp.c_fc"], parts.layers) == ("ML", "ML", 2)
    parts.check(PartName("k", "adapted", "lm_head"))
    parts.check(PartName("k", "weights", r".*c_fc"))
    with pytest.raises(ConfigError, match=r"^k: no module with a weight has a whole name that matches 'c_fc'"):
        parts.check(PartName("k", "weights", "c_fc"))
    with pytest.raises(ConfigError, match=r"^k: the model has no linear module 'transformer.h.1.mlp.act'"):
        parts.check(PartName("k", "matrix", "transformer.h.1.mlp.act"))


def test_the_names_of_a_folder_are_read_once_and_only_for_a_setting_that_names_one(
    tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(_program: Path, request: Any, *_args: Any, **_how: Any) -> Any:
        calls.append(request)
        return trial_child.main(request)

    def new_process() -> None:
        trial._faults.cache_clear()
        trial._PARTS.clear()

    monkeypatch.setattr(trial, "run_limited", counted)
    model, store = config_of(folder_of(tmp_path / "m", num_hidden_layers=2), own), tmp_path / "store"
    new_process()
    check_part_names(model, store, [])
    assert not calls
    right = [PartName("k", "module", r"model\.layers\.1"), PartName("k", "module", "layers.0.mlp:input")]
    for _ in range(2):
        check_part_names(model, store, right)
        new_process()
    assert len(calls) == 1
    wrong = [*right, PartName("args.layers[1]", "module", "model.layers.2")]
    with pytest.raises(
        ConfigError, match=r"^args\.layers\[1\]: the model has no module 'model.layers.2'; did you mean"
    ):
        check_part_names(model, store, wrong)
    for note in (store / LOADED).iterdir():
        note.write_text("")  # as older versions left it
    assert model_parts(model, store) == model_parts(model, store) and len(calls) == 2
    (tmp_path / "m" / "job.json").write_text("{}")  # the folder of a job is not tried, but its names are known
    with pytest.raises(ConfigError, match=r"^args\.layers\[1\]: the model has no module"):
        check_part_names(model, None, wrong)


CODE = """
import torch
from transformers import LlamaForCausalLM
from .own_names import BLOCK

class OwnForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        setattr(self.model, BLOCK, torch.nn.Linear(4, 4))
"""


@pytest.mark.usefixtures("modules_cache")
def test_the_names_of_a_model_with_code_of_its_own(tmp_path: Path, own: str) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM", "AutoTokenizer": ["x.Y", None]}
    folder = folder_of(tmp_path / "m", auto_map=auto_map)
    (tmp_path / "m" / "modeling_own.py").write_text(CODE)
    names = tmp_path / "m" / "own_names.py"
    names.write_text('BLOCK = "memory"\n')
    trusted, store = config_of(folder, own, trust_remote_code=True), tmp_path / "store"
    wrong = [PartName("k", "matrix", "model.memry")]
    check_part_names(trusted, store, [PartName("k", "matrix", "model.memory")])
    with pytest.raises(ConfigError, match=r"^k: .* no linear module 'model.memry'; did you mean 'model.memory'"):
        check_part_names(trusted, store, wrong)
    untrusted = model_parts(config_of(folder, own), store)  # without its code it is the Llama of transformers
    assert untrusted is not None and "model.memory" not in untrusted.modules
    names.write_text('BLOCK = "notes"\n')
    with pytest.raises(ConfigError, match=r"no linear module 'model.memory'; did you mean"):
        check_part_names(trusted, store, [PartName("k", "matrix", "model.memory")])
    names.write_text("raise OSError\n")  # the job reports it
    check_part_names(trusted, store, wrong)
    names.unlink()
    (tmp_path / "m" / "modeling_own.py").unlink()
    assert model_parts(trusted, store) is None
