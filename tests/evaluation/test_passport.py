"""The passport of model folders: what it refuses, what it falls back on, and that jobs and the command read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from expunge.cli.main import main
from expunge.core.errors import ConfigError
from expunge.engine.store import PASSPORTS
from expunge.evaluation import observation
from expunge.evaluation.passport import check_model, inspect_model
from expunge.models.build import build_llama
from expunge.models.capabilities import Capabilities, observed_capabilities
from expunge.models.config import ModelArgs, TokenizerArgs, check_source
from expunge.models.dtypes import stored_dtype
from expunge.models.identity import source_identity
from expunge.models.load import context_of, load_model, load_tokenizer, save_model
from expunge.models.passport import Passport, PassportLine, check_folder, check_trainable, passport_key, tokenizer_lines

CPU = torch.device("cpu")


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Any) -> Path:
    save_model(build_llama("llama-64k", tokenizer, vocab_size=400, seed=0), tokenizer, tmp_path / "m")
    return tmp_path / "m"


def changed(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def line(passport: Passport, name: str) -> PassportLine:
    return next(x for x in passport.lines if x.name == name)


def test_a_sound_model(saved: Path) -> None:
    passport = inspect_model(str(saved), ModelArgs(), TokenizerArgs(), CPU)
    assert passport.capabilities == Capabilities()
    assert {x.status for x in passport.lines if x.name != "end of answers"} == {"ok"}
    assert line(passport, "LM head").reason == "400 logits, tied to the embeddings"
    assert line(passport, "end token").reason == "a text ends at 2 '<eos>'"
    assert "float32" in line(passport, "dtype").reason
    assert Passport.from_dict(json.loads(json.dumps(passport.to_dict()))) == passport


def test_the_command(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passport", str(saved), "--device", "cpu"]) == 0
    assert "padded batches" in capsys.readouterr().out
    assert main(["passport", str(saved), "dtype=float32", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["capabilities"]["generation"] == "batched"
    changed(saved / "config.json", quantization_config={"quant_method": "fp8"})
    assert main(["passport", str(saved), "--device", "cpu"]) == 2
    output = capsys.readouterr()
    assert "refused" in output.out
    assert output.err.startswith(f"expunge: error: {saved}: quantisation: the weights are quantised by fp8")
    assert main(["passport", str(saved / "x"), "--device", "cpu"]) == 2
    assert main(["passport", str(saved), "dtyp=float32"]) == 2
    assert "did you mean 'model.model_args.dtype'" in capsys.readouterr().err


def test_all_end_tokens_are_listed(saved: Path) -> None:
    changed(saved / "generation_config.json", eos_token_id=[2, 7])
    reason = line(inspect_model(str(saved), ModelArgs(), TokenizerArgs(), CPU), "end token").reason
    assert reason.startswith("a text ends at 2 '<eos>', 7 ")


@pytest.mark.parametrize("method", ["fp8", "gptq", "mxfp4"])
def test_other_quantised_weights_are_refused_before_they_are_read(saved: Path, method: str) -> None:
    changed(saved / "config.json", quantization_config={"quant_method": method})
    (saved / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(
        ConfigError, match=f"^model {saved}: quantisation: the weights are quantised by {method}, which"
    ):
        load_model(str(saved), ModelArgs(), device=CPU)
    with pytest.raises(ConfigError, match="cannot be trained"):
        check_trainable(str(saved))


def test_bitsandbytes_weights_are_scored_and_not_trained(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(saved / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"bitsandbytes weights need bitsandbytes; pip install 'expunge\[quant\]'$"):
        check_folder(str(saved), ModelArgs())
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    check_folder(str(saved), ModelArgs())
    with pytest.raises(ConfigError, match="bitsandbytes weights, which cannot be trained"):
        check_trainable(str(saved))


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_4_bit_weights(saved: Path, tmp_path: Path, tokenizer: Any) -> None:
    pytest.importorskip("bitsandbytes")
    quantised = load_model(str(saved), ModelArgs(), device=CPU, quantize="nf4")
    save_model(quantised, tokenizer, tmp_path / "q")
    passport = inspect_model(str(tmp_path / "q"), ModelArgs(), TokenizerArgs(), CPU)
    assert passport.status != "refused"
    assert passport.lines[0].reason.startswith("4-bit bitsandbytes weights")
    again = load_model(str(tmp_path / "q"), ModelArgs(), device=CPU)
    ids = torch.arange(3, 30)[None]
    torch.testing.assert_close(again(input_ids=ids).logits, quantised(input_ids=ids).logits)


def test_remote_code_is_refused_until_it_is_trusted(saved: Path) -> None:
    changed(saved / "config.json", model_type="strange", auto_map={"AutoModelForCausalLM": "strange.Strange"})
    with pytest.raises(ConfigError, match=r"set model\.model_args\.trust_remote_code=true$"):
        check_folder(str(saved), ModelArgs())
    check_folder(str(saved), ModelArgs(trust_remote_code=True))


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_in_the_folder_is_applied_or_ignored(saved: Path, tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    plain = load_model(str(saved), ModelArgs(), device=CPU)
    ids = torch.arange(3, 30)[None]
    base = plain(input_ids=ids).logits
    adapted = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora" in name:
                p.fill_(0.3)
    expected = adapted(input_ids=ids).logits
    assert not torch.allclose(base, expected, atol=1e-3)
    before = source_identity(str(saved), None)
    adapted.save_pretrained(saved)
    applied = load_model(str(saved), ModelArgs(), device=CPU)
    torch.testing.assert_close(applied(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert type(applied).__name__ == "LlamaForCausalLM"
    assert all(p.requires_grad for p in applied.parameters()), "a model with its adapter can be trained"
    ignored = load_model(str(saved), ModelArgs(adapter="ignore"), device=CPU)
    torch.testing.assert_close(ignored(input_ids=ids).logits, base)
    (saved / "README.md").unlink(missing_ok=True)
    assert source_identity(str(saved), None, "ignore") == before
    assert source_identity(str(saved), None) != before
    for args, words in ((ModelArgs(), "is added to its weights"), (ModelArgs(adapter="ignore"), "is ignored")):
        assert words in line(inspect_model(str(saved), args, TokenizerArgs(), CPU), "adapter").reason


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_an_adapter_alone_takes_the_base_that_it_names(saved: Path, tokenizer: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    ids = torch.arange(3, 30)[None]
    base = load_model(str(saved), ModelArgs(), device=CPU)
    before = base(input_ids=ids).logits
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora" in name:
                p.fill_(0.3)
    expected = adapted(input_ids=ids).logits
    alone = tmp_path / "adapter"
    adapted.save_pretrained(alone)
    assert json.loads((alone / "adapter_config.json").read_text())["base_model_name_or_path"] == str(saved)
    torch.testing.assert_close(
        load_model(str(alone), ModelArgs(), device=CPU)(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4
    )
    plain = load_model(str(alone), ModelArgs(adapter="ignore"), device=CPU)
    torch.testing.assert_close(plain(input_ids=ids).logits, before)
    passport = inspect_model(str(alone), ModelArgs(), TokenizerArgs(), CPU)
    assert passport.status != "refused"
    assert f"is added to the weights of {saved}" in line(passport, "adapter").reason
    assert load_tokenizer(str(alone), TokenizerArgs()).get_vocab() == tokenizer.get_vocab()
    assert (context_of(str(alone)), stored_dtype(str(alone))) == (context_of(str(saved)), "float32")
    identity, key = source_identity(str(alone), None), passport_key(str(alone), ModelArgs(), "cpu", {})
    assert source_identity(str(alone), None, "ignore") == source_identity(str(saved), None)
    changed(saved / "generation_config.json", eos_token_id=[1, 2])  # the base decides the numbers as well
    assert source_identity(str(alone), None) != identity
    assert passport_key(str(alone), ModelArgs(), "cpu", {}) != key
    for name, words in (
        ("", "is missing"),
        (str(tmp_path / "none"), "which does not exist"),
        (str(alone), "another ad"),
    ):
        changed(alone / "adapter_config.json", base_model_name_or_path=name)
        with pytest.raises(ConfigError, match=rf"^MODEL: {alone} .*base_model_name_or_path in [^\n]*{words}[^\n]*$"):
            check_source(str(alone), "MODEL")


def test_an_adapter_that_does_not_fit(saved: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["no_such_module"], "base_model_name_or_path": "x"}
    (saved / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(1)}, saved / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=f"^model {saved}: its adapter does not fit its weights: [^\n]*$"):
        load_model(str(saved), ModelArgs(), device=CPU)


def test_tokenizer_lines(tokenizer: Any) -> None:
    def lines(n: int) -> dict[str, PassportLine]:
        return {x.name: x for x in tokenizer_lines(tokenizer, n, [2])}

    n = len(tokenizer)
    assert lines(n)["token ids"].reason == f"{n} ids within {n} embeddings"
    beyond = lines(n - 5)["token ids"]
    assert (beyond.status, f"ids up to {n - 1}, the model {n - 5} embeddings" in beyond.reason) == ("fallback", True)
    assert lines(2)["end token"].status == "refused"
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    try:
        assert lines(n)["chat template"].status == "fallback"
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        assert lines(n)["chat template"].status == "ok"
    finally:
        tokenizer.chat_template = None


def test_a_stored_passport_is_read_and_not_made_again(
    saved: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ModelArgs()
    first = check_model(load_model(str(saved), args, device=CPU), tokenizer, str(saved), args, store=tmp_path / "s")
    (file,) = (tmp_path / "s" / PASSPORTS).iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(observation, "observe", lambda _model: pytest.fail("observed again"))
        again = load_model(str(saved), args, device=CPU)
        assert check_model(again, tokenizer, str(saved), args, store=tmp_path / "s") == first
        assert observed_capabilities(again) == Capabilities()
    file.chmod(0o644)
    file.write_text("{")
    model = load_model(str(saved), args, device=CPU)
    assert check_model(model, tokenizer, str(saved), args, store=tmp_path / "s") == first
    changed(saved / "generation_config.json", eos_token_id=[2, 7])
    model = load_model(str(saved), args, device=CPU)
    check_model(model, tokenizer, str(saved), args, store=tmp_path / "s")
    assert len(list((tmp_path / "s" / PASSPORTS).iterdir())) == 2
