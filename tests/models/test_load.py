from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.core.errors import ConfigError
from expunge.models.build import build_llama
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import load_model, load_tokenizer, pick_device, save_model
from expunge.models.passport import lacking_refused

CPU = torch.device("cpu")


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Any) -> Path:
    save_model(build_llama("llama-64k", tokenizer, vocab_size=400, seed=0), tokenizer, tmp_path / "m")
    return tmp_path / "m"


def test_round_trip(saved: Path, tokenizer: Any) -> None:
    original = build_llama("llama-64k", tokenizer, vocab_size=400, seed=0).state_dict()
    model = load_model(str(saved), ModelArgs(), device=CPU)
    assert not model.training
    assert all(torch.equal(v, original[k]) for k, v in model.state_dict().items())
    again = load_tokenizer(str(saved), TokenizerArgs())
    text = "Who wrote book 7?  São"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (0, 1, 2)
    assert not list(saved.glob("*.bin"))


def test_saving_again_gives_the_same_weights_file(saved: Path, tmp_path: Path, tokenizer: Any) -> None:
    save_model(load_model(str(saved), ModelArgs(), device=CPU), tokenizer, tmp_path / "again")
    first, second = ((f / "model.safetensors").read_bytes() for f in (saved, tmp_path / "again"))
    assert first == second


def test_dtype_is_that_of_the_weights(saved: Path) -> None:
    model = load_model(str(saved), ModelArgs(dtype="bfloat16"), device=CPU)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_tokenizer_without_a_pad_token_pads_with_eos(saved: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = saved / name
        if path.exists():
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"}))
    tokenizer = load_tokenizer(str(saved), TokenizerArgs())
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


def one_line(saved: Path, **args: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_model(str(saved), ModelArgs(**args), device=CPU)
    output = str(caught.value)
    assert "\n" not in output
    assert str(saved) in output
    return output


def test_refuses_folders_without_safetensors(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    assert "no weights; save the model as safetensors" in one_line(saved)
    torch.save({}, saved / "pytorch_model.bin")
    assert "only pickled weights (.bin), which are not read" in one_line(saved)


def test_refuses_what_is_no_model_folder(saved: Path, tmp_path: Path) -> None:
    (saved / "config.json").unlink()
    assert "contains no config.json" in one_line(saved)
    assert "did you mean 'm'?" in one_line(tmp_path / "mm")
    assert "nor is there a folder" in one_line(tmp_path / "x" / "y")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json is not JSON"),
        ("[]", "expected a group of keys"),
        ("{}", "cannot be loaded"),
        ('{"model_type": "no-such-architecture"}', "cannot be loaded"),
    ],
)
def test_refuses_a_broken_config(saved: Path, text: str, message: str) -> None:
    (saved / "config.json").write_text(text)
    assert message in one_line(saved)


def test_refuses_broken_weights(saved: Path) -> None:
    data = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "cannot be loaded" in one_line(saved)


def test_refuses_weights_that_lack_a_tensor(saved: Path) -> None:
    """transformers draws what is missing at random and goes on; a number of such a model would say nothing."""
    weights = load_file(saved / "model.safetensors")
    weights.pop("model.layers.1.mlp.down_proj.weight")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert re.search(r" 1 of the tensors .*config\.json.*: model\.layers\.1\.mlp\.down_proj\.weight$", one_line(saved))


def test_refuses_weights_of_another_shape(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    assert re.search(r"another shape, 1 of the tensors .*config\.json.*: model\.embed_tokens", one_line(saved))


def test_no_memory_is_allocated_for_tensors_that_the_files_lack(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((saved / "config.json").read_text())
    big = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000}
    (saved / "config.json").write_text(json.dumps(config | big))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **how: pytest.fail("memory is allocated"))
    assert re.search(r"another shape, \d+ of the tensors that its config\.json describes: ", one_line(saved))
    monkeypatch.undo()
    assert load_model(str(_smaller(saved, config)), ModelArgs(), device=CPU)  # the next model is loaded as before


def _smaller(saved: Path, config: dict[str, Any]) -> Path:
    (saved / "config.json").write_text(json.dumps(config))
    return saved


def test_lacking_tensors_are_refused_by_other_releases_of_transformers(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.models.passport.STEP", "_no_such_method")
    test_refuses_weights_that_lack_a_tensor(saved)


def test_models_that_other_threads_load_are_not_refused(saved: Path) -> None:
    """A user's own model may be loaded at the same time, with a head that its files lack."""
    from transformers import AutoModelForSequenceClassification

    with lacking_refused("one"), ThreadPoolExecutor(1) as other:
        model = other.submit(AutoModelForSequenceClassification.from_pretrained, saved).result()
    assert model.score.weight.abs().sum() > 0


def test_refuses_an_unknown_attention(saved: Path) -> None:
    assert "cannot be loaded" in one_line(saved, attn_implementation="no-such-attention")


def test_refuses_folders_without_a_tokenizer(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer_args\.pretrained_model_name_or_path: no folder [^\n]*$"):
        load_tokenizer(str(tmp_path / "x"), TokenizerArgs())
    (saved / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"^tokenizer [^\n]*: cannot be loaded: [^\n]*$"):
        load_tokenizer(str(saved), TokenizerArgs())
    (saved / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer \(tokenizer\.json or tokenizer\.model\)$"):
        load_tokenizer(str(saved), TokenizerArgs())


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("gpu", "cuda:x", "meta", "vulkan", ""):
        with pytest.raises(
            ConfigError, match=r"^model\.device: [^\n]*allowed: auto, cpu, cuda, cuda:N, mps, xpu, xpu:N"
        ):
            pick_device(name)
    for name in ("cuda", "mps", "xpu"):
        with pytest.raises(ConfigError, match=rf"^model\.device: '{name}': this machine has no {name.upper()} device"):
            pick_device(name)
    for result in (torch.xpu, torch.backends.mps):
        monkeypatch.setattr(result, "is_available", lambda: True)
    for result in (torch.xpu, torch.mps):
        monkeypatch.setattr(result, "device_count", lambda: 1)
    assert [pick_device(name).type for name in ("mps", "xpu", "xpu:0")] == ["mps", "xpu", "xpu"]
    with pytest.raises(ConfigError, match=r"^model\.device: 'xpu:1': this machine has 1 XPU devices"):
        pick_device("xpu:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"^model\.device: 'cuda:2': this machine has 2 CUDA devices"):
        pick_device("cuda:2")


def test_a_folder_with_almost_the_name_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("support-model", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no such folder \(did you mean 'support-model'\?\), and "):
        load_tokenizer("suport-model", TokenizerArgs())


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "model-2.safetensors", "notes"])
def test_a_pipe_in_a_model_folder_is_refused_and_not_waited_for(saved: Path, name: str) -> None:
    (saved / name).unlink(missing_ok=True)
    os.mkfifo(saved / name)
    line = rf"{saved}/{name} is a device, a pipe or a socket; remove it from the folder$"
    with pytest.raises(ConfigError, match=line):
        load_model(str(saved), ModelArgs(), device=CPU)
    with pytest.raises(ConfigError, match=line):
        load_tokenizer(str(saved), TokenizerArgs())


def test_a_giant_vocabulary_is_refused_and_not_read(saved: Path) -> None:
    with (saved / "tokenizer.json").open("wb") as file:
        file.truncate(3 << 30)  # a sparse file
    with pytest.raises(ConfigError, match=r"tokenizer\.json has 3221225472 bytes, at most 200000000 are read$"):
        load_tokenizer(str(saved), TokenizerArgs())
