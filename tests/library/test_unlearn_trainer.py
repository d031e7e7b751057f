"""UnlearnTrainer and unlearn: numbers against the loop, seeds, dtypes, adapters, references and errors."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from library_facts import FACTS, FORGET, RETAIN, SHORT
from peft import LoraConfig, PromptTuningConfig
from tests.upload_stub import Hub
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback
from transformers.integrations import integration_utils

import expunge
from expunge.core.errors import ConfigError, DataError, JobError
from expunge.core.plugins import load_plugins
from expunge.data.encoder import Encoder
from expunge.data.template import Template
from expunge.methods.objective import objective
from expunge.training.config import TrainArgs
from expunge.training.loop import train

Weights = Callable[[Any], torch.Tensor]


def encoded(rows: list[dict[str, str]], tokenizer: Any) -> list[Any]:
    encoder = Encoder(Template(), tokenizer)
    return [encoder.encode(row["question"], row["answer"]) for row in rows]


def test_the_trainer_computes_what_the_loop_computes(full: Any, tokenizer: Any, weights: Weights) -> None:
    by_loop = copy.deepcopy(full)
    rows = {"forget": encoded(FORGET, tokenizer), "retain": encoded(RETAIN, tokenizer)}
    train(by_loop, objective("NPO", {"beta": 0.2}), rows, TrainArgs(**SHORT), pad_id=tokenizer.pad_token_id)
    trainer = expunge.UnlearnTrainer(
        full, expunge.NPOConfig(beta=0.2, **SHORT), forget_dataset=FORGET, retain_dataset=RETAIN,
        processing_class=tokenizer,
    )  # fmt: skip
    out = trainer.train()
    assert out.global_step == 3
    assert trainer.model is full  # trained in place
    assert torch.equal(weights(full), weights(by_loop))


@pytest.mark.slow
def test_one_seed_gives_one_result_and_another_seed_another(full: Any, tokenizer: Any, weights: Weights) -> None:
    def run(seed: int) -> torch.Tensor:
        model = copy.deepcopy(full)
        settings = {**SHORT, "per_device_train_batch_size": 2, "seed": seed}
        expunge.unlearn(model, FORGET, retain=RETAIN, tokenizer=tokenizer, **settings)
        return weights(model)

    first = run(1)
    assert torch.equal(first, run(1))
    assert not torch.equal(first, run(2))


@pytest.mark.slow
def test_data_of_every_form_gives_the_same_weights(full: Any, tokenizer: Any, weights: Weights) -> None:
    def run(forget: Any) -> torch.Tensor:
        model = copy.deepcopy(full)
        expunge.unlearn(model, forget, tokenizer=tokenizer, method="GradAscent", **{**SHORT, "learning_rate": 1e-4})
        return weights(model)

    turns = [
        {"messages": [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]}
        for r in FORGET
    ]
    dicts = run(FORGET)
    for other in (Dataset.from_list(FORGET), turns, expunge.examples_from(FORGET, "mine")):
        assert torch.equal(run(other), dicts)


@pytest.mark.slow
def test_prompts_and_texts_are_trained_on(full: Any, tokenizer: Any) -> None:
    prompts = [{"prompt": r["question"], "completion": r["answer"]} for r in FORGET]
    for forget in (prompts, [r["answer"] for r in FORGET]):
        result = expunge.unlearn(copy.deepcopy(full), forget, tokenizer=tokenizer, method="GradAscent", **SHORT)
        assert result.n_steps == 3


@pytest.mark.slow
def test_half_precision_weights_are_trained_in_float32_and_come_back(
    full: Any, tokenizer: Any, weights: Weights
) -> None:
    half = copy.deepcopy(full).to(torch.bfloat16)
    masters = copy.deepcopy(half).float()
    # a step of 1e-5 is lost in bfloat16, and twenty of them add up in float32
    settings = {**SHORT, "learning_rate": 2e-5, "num_train_epochs": 20, "lr_scheduler_type": "constant"}
    for model in (half, masters):
        expunge.unlearn(model, FORGET, tokenizer=tokenizer, method="GradAscent", **settings)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(weights(half), weights(masters.to(torch.bfloat16)))


@pytest.mark.slow
def test_a_tokenizer_without_a_pad_token_is_used_and_left_as_it_is(full: Any, tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    padded = expunge.unlearn(copy.deepcopy(full), FORGET, tokenizer=tokenizer, method="GradAscent", **SHORT)
    result = expunge.unlearn(full, FORGET, tokenizer=bare, method="GradAscent", **SHORT)
    assert bare.pad_token is None
    assert result.log[-1]["loss"] == pytest.approx(padded.log[-1]["loss"])


def test_adapters_alone_are_trained(full: Any, tokenizer: Any, weights: Weights) -> None:
    before = weights(full)
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    result = expunge.unlearn(full, FORGET, retain=RETAIN, tokenizer=tokenizer, peft_config=adapters, **SHORT)
    assert hasattr(result.model, "peft_config")
    base = [p for n, p in result.model.named_parameters() if "lora_" not in n]
    assert torch.equal(torch.cat([p.detach().double().flatten() for p in base]), before)
    assert not torch.equal(weights(result.model.merge_and_unload()), before)


@pytest.mark.slow
def test_a_given_reference_model_is_what_the_loss_compares_with(full: Any, tokenizer: Any) -> None:
    def first_loss(**more: Any) -> float:
        model = copy.deepcopy(full)
        settings = {**SHORT, "max_steps": 1, "alpha": 0.0}
        return expunge.unlearn(model, FORGET, tokenizer=tokenizer, **settings, **more).log[0]["forget"]

    other = copy.deepcopy(full)
    expunge.unlearn(other, FORGET, tokenizer=tokenizer, method="GradAscent", **SHORT)
    assert first_loss() == pytest.approx(2 / 0.1 * 0.6931, rel=1e-3)  # at the start the model is its own reference
    assert first_loss(ref_model=full) == pytest.approx(first_loss())
    assert first_loss(ref_model=other) > first_loss() + 1  # the reference finds the answers less likely


@pytest.mark.slow
@pytest.mark.parametrize("config", [expunge.DPOConfig, expunge.AltPOConfig, expunge.WHPConfig, expunge.UNDOConfig,
                                    expunge.KLConfig, expunge.UNDIALConfig])  # fmt: skip
def test_methods_with_alternates_teachers_and_distributions(config: Any, full: Any, tokenizer: Any) -> None:
    retain = RETAIN if config is not expunge.WHPConfig else None
    settings = config(**SHORT, generation={"max_new_tokens": 8})
    result = expunge.unlearn(full, FORGET, retain=retain, tokenizer=tokenizer, args=settings)
    assert result.method == config.METHOD
    assert result.n_steps == 3


@pytest.mark.slow
def test_rmu_trains_and_restores_which_parameters_are_trained(full: Any, tokenizer: Any) -> None:
    settings = expunge.RMUConfig(
        module_regex="model.layers.0", trainable_params_regex=(r".*layers\.0\.mlp.*",), **SHORT
    )
    original = full.model.layers[1].mlp.down_proj.weight.detach().clone()
    changed = full.model.layers[0].mlp.down_proj.weight.detach().clone()
    expunge.unlearn(full, FORGET, retain=RETAIN, tokenizer=tokenizer, args=settings)
    assert torch.equal(full.model.layers[1].mlp.down_proj.weight, original)
    assert not torch.equal(full.model.layers[0].mlp.down_proj.weight, changed)
    assert all(p.requires_grad for p in full.parameters())


def test_a_loss_of_ones_own_equals_the_method_it_copies(full: Any, tokenizer: Any, weights: Weights) -> None:
    @expunge.unlearning_loss(forget="logps")
    def ascent(inputs: expunge.LossInputs) -> torch.Tensor:
        assert inputs.forget is not None
        return inputs.forget.logps_N.mean()

    other = copy.deepcopy(full)
    mine = expunge.unlearn(full, FORGET, retain=RETAIN, tokenizer=tokenizer, method=ascent, **SHORT)
    expunge.unlearn(other, FORGET, retain=RETAIN, tokenizer=tokenizer, method="GradDiff", **SHORT)
    assert mine.method == "ascent"
    assert torch.allclose(weights(full), weights(other), atol=1e-6)


@pytest.mark.slow
def test_a_method_object_and_a_method_class_are_methods(full: Any, tokenizer: Any) -> None:
    from expunge.methods.npo import NPO

    def last(method: Any) -> float:
        done = expunge.unlearn(copy.deepcopy(full), FORGET, retain=RETAIN, tokenizer=tokenizer, method=method, **SHORT)
        return float(done.log[-1]["loss"])

    assert last(NPO(beta=0.3)) == last(expunge.NPOConfig(beta=0.3, **SHORT))
    assert last(NPO) == last("NPO")


def test_the_settings_of_a_plugins_method_are_keywords(
    full: Any, tokenizer: Any, tmp_path: Path, method_file: Callable[..., Path]
) -> None:
    body = """
    floor: float = -10.0

    def __post_init__(self) -> None:
        if self.floor >= 0:
            raise ValueError("floor must be a log-probability < 0")

    def forget_loss(self, view: LossInputs) -> Tensor:
        return require(view.forget, "forget").logps_N.clamp(min=self.floor).mean()
    """
    load_plugins([str(method_file(tmp_path, "Floor", body))])
    run = partial(expunge.unlearn, copy.deepcopy(full), FORGET, tokenizer=tokenizer, method="Floor", max_steps=1)
    assert run(floor="-5").config.method_args == {"floor": "-5"}
    for settings, message in (
        ({"floor": 3}, "UnlearnConfig.method_args.floor: must be a log-probability < 0, got 3"),
        ({"flor": -3}, "flor: UnlearnConfig has no such setting; did you mean 'floor'?"),
        ({"floor": -3, "method_args": {"floor": -2}}, "floor: method_args is set as well; set it there"),
    ):
        with pytest.raises(ConfigError) as error:
            run(**settings)
        assert message in str(error.value)


def test_a_diverging_run_leaves_a_usable_model(full: Any, tokenizer: Any) -> None:
    half = full.to(torch.bfloat16)
    limited = {"max_loss": 50.0}
    with pytest.raises(JobError, match="GradAscent: the loss"):
        expunge.unlearn(half, FORGET, tokenizer=tokenizer, method="GradAscent",
                        **{**SHORT, "num_train_epochs": 30, "learning_rate": 1.0}, **limited)  # fmt: skip
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert not half.training


def test_the_result_is_short_and_saves(full: Any, tokenizer: Any, tmp_path: Path) -> None:
    result = expunge.unlearn(full, FORGET, retain=RETAIN, tokenizer=tokenizer, **SHORT)
    assert repr(result).startswith("UnlearnResult(NPO, LlamaForCausalLM, 3 steps; last logged: loss ")
    assert list(result.to_pandas()["step"]) == [1, 2, 3]
    assert "<table" in result._repr_html_()
    folder = str(result.save(tmp_path / "model"))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["torch_dtype"] == "float32"  # the field that transformers 4.45 reads
    again = expunge.evaluate(folder, forget=FORGET, metrics=["forget_Q_A_Prob"])
    here = expunge.evaluate(full, tokenizer, forget=FORGET, metrics=["forget_Q_A_Prob"])
    assert again["forget_Q_A_Prob"] == pytest.approx(here["forget_Q_A_Prob"], rel=1e-4)
    loaded = expunge.unlearn(folder, FORGET, method="GradAscent", **SHORT)  # a name; its tokenizer lies next to it
    assert loaded.n_steps == 3 and loaded.model is not full


def test_nothing_is_written_unless_asked(
    full: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = expunge.UnlearnTrainer(
        full, expunge.NPOConfig(output_dir="out", **SHORT), forget_dataset=FORGET, retain_dataset=RETAIN,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert list(tmp_path.iterdir()) == []
    assert (trainer.save_model() / "model.safetensors").is_file()


LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
PUSH = {"push_to_hub": True, "hub_model_id": "me/forgetful", **SHORT}


def test_the_model_and_the_tokenizer_are_pushed(
    full: Any, tokenizer: Any, weights: Weights, hub: Hub, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}"
    expunge.unlearn(full, FORGET, retain=RETAIN, tokenizer=tokenizer, args=expunge.NPOConfig(**PUSH))
    assert hub.created[0] == {"name": "me/forgetful", "repo_type": "model", "private": True, "exist_ok": True}
    assert torch.equal(weights(AutoModelForCausalLM.from_pretrained(hub.write(tmp_path))), weights(full))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
    assert b"chat_template" in hub.files["tokenizer_config.json"]  # transformers 4.45 reads no other file
    card = hub.files["README.md"].decode()
    assert "# forgetful" in card and "- **method**: NPO" in card


@pytest.mark.filterwarnings("ignore:Could not find a config file")  # of a base model that is not there
@pytest.mark.parametrize(
    ("base", "peft_config", "name"),
    [
        ("", LORA, None),
        ("/home/me/base", LORA, None),
        ("you/base", LORA, "you/base"),
        ("/home/me/base", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "base"),
    ],
)
def test_pushed_adapters_can_be_loaded_elsewhere(
    base: str, peft_config: Any, name: str | None, full: Any, tokenizer: Any, hub: Hub, tmp_path: Path
) -> None:
    full.name_or_path = base
    trainer = expunge.UnlearnTrainer(
        full, expunge.NPOConfig(**SHORT), forget_dataset=FORGET, retain_dataset=RETAIN, processing_class=tokenizer,
        peft_config=copy.deepcopy(peft_config),
    )  # fmt: skip
    trainer.push_to_hub("me/forgetful")
    assert ("adapter_config.json" in hub.files) is (name is not None)
    if name is None:
        ids = torch.tensor([[5, 6, 7]])
        loaded = AutoModelForCausalLM.from_pretrained(hub.write(tmp_path))
        assert torch.allclose(loaded(ids).logits, trainer.model(ids).logits, atol=1e-5)
    else:
        assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == name
    assert not any(b"/home/me" in content for content in hub.files.values())


def test_a_hub_that_refuses_ends_before_the_training(full: Any, tokenizer: Any, hub: Hub) -> None:
    hub.refusal = ConnectionError("no network\nhere")
    with pytest.raises(JobError, match="push_to_hub: me/forgetful was not uploaded: no network here; nothing is tr"):
        expunge.unlearn(None, FORGET, retain=RETAIN, args=expunge.NPOConfig(**PUSH))
    trainer = expunge.UnlearnTrainer(
        full, expunge.NPOConfig(**SHORT), forget_dataset=FORGET, retain_dataset=RETAIN, processing_class=tokenizer
    )
    with pytest.raises(JobError, match="no network here; the model in memory is trained: call push_to_hub again"):
        trainer.push_to_hub("me/forgetful")


def test_a_model_that_the_hub_refuses_after_the_training_is_kept(
    full: Any, tokenizer: Any, weights: Weights, hub: Hub, tmp_path: Path
) -> None:
    hub.commit_refusal = ValueError("403 forbidden")
    args = expunge.NPOConfig(output_dir=str(tmp_path / "out"), **PUSH)
    with pytest.raises(JobError, match=r"403 forbidden; the trained model is in .*: `hf upload me/forgetful "):
        expunge.unlearn(full, FORGET, retain=RETAIN, tokenizer=tokenizer, args=args)
    (folder,) = (tmp_path / "out").iterdir()
    assert torch.equal(weights(AutoModelForCausalLM.from_pretrained(folder)), weights(full))


def test_an_integration_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("WandbCallback requires wandb to be installed.\nRun `pip install wandb`.")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", missing)
    with pytest.raises(ConfigError, match=r"NPOConfig.report_to: .* to be installed. Run `pip install wandb`"):
        expunge.unlearn(None, FORGET, retain=RETAIN, report_to="wandb")


def small_llama(n_tokens: int) -> Any:
    """Return a small model of random weights with a vocabulary of some size."""
    config = LlamaConfig(
        vocab_size=n_tokens, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "NPOO"}, "did you mean 'NPO'"),
        ({"bta": 0.1}, "did you mean 'beta'"),
        ({"retain": None}, "retain_dataset: missing; NPO has a retain term"),
        ({"forget": None}, "forget_dataset: missing"),
        ({"learning_rate": "fast"}, "NPOConfig.learning_rate: should be a valid number"),
        ({"beta": -1.0}, "NPOConfig.beta: must be a number > 0"),
        ({"method": "finetune"}, "forget_dataset: finetune forgets nothing"),
        ({"method": lambda inputs: 0.0}, "decorate a loss function with @expunge.unlearning_loss"),
        ({"eval_steps": 2}, "eval_steps: has no effect"),
        (
            {"peft_config": LoraConfig(task_type="SEQ_CLS")},
            "peft_config.task_type: SEQ_CLS is for other",
        ),
        ({"report_to": "wandbb"}, "report_to: no integration named 'wandbb'; did you mean 'wandb'"),
        ({"push_to_hub": True}, "push_to_hub: name a repository"),
        ({"push_to_hub": True, "hub_model_id": "a b"}, "push_to_hub: 'a b' names no repository"),
        ({"tokenizer": None}, "processing_class: missing"),
        (
            {"peft_config": LoraConfig(task_type="CAUSAL_LM"), "lora": expunge.LoraArgs()},
            "lora: peft_config is set as well",
        ),
        ({"method": "UNDO", "lora": expunge.LoraArgs()}, "UNDO changes the weights"),
        ({"peft_config": 5}, "peft_config: expected a configuration of peft, got an int"),
        ({"callbacks": [5]}, "callbacks: expected TrainerCallbacks of transformers, got an int"),
        ({"callbacks": TrainerCallback()}, "callbacks: expected a list, got a TrainerCallback"),
        ({"ref_model": 5}, "ref_model: expected a model or its name, got an int"),
        (
            {"ref_model": small_llama(50)},
            "ref_model: it has 50 tokens and the model 320; both need the same vocabulary",
        ),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str, full: Any, tokenizer: Any) -> None:
    settings = {"forget": FORGET, "retain": RETAIN, "tokenizer": tokenizer, **SHORT, **arguments}
    forget = settings.pop("forget")
    with pytest.raises(ConfigError) as error:
        expunge.unlearn(full, forget, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_with_a_wrapper_is_not_trained(full: Any, tokenizer: Any) -> None:
    wrapped = expunge.wrap(full, "in_context", tokenizer=tokenizer, forget=FORGET, retain=RETAIN)
    with pytest.raises(ConfigError, match=r"^model: it has the wrapper InContext, .*\(model\.inner\), and wrap"):
        expunge.unlearn(wrapped, FORGET, retain=RETAIN, tokenizer=tokenizer, **SHORT)


def test_the_random_generators_of_the_caller_stay(full: Any, tokenizer: Any) -> None:
    """transformers' Trainer seeds all generators; numbers that the caller draws afterwards must not repeat."""
    random.seed(11)
    np.random.seed(11)
    torch.manual_seed(11)

    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    before = states()
    settings = {**SHORT, "max_steps": 1, "method": "NPO", "tokenizer": tokenizer}
    expunge.unlearn(copy.deepcopy(full), FORGET, retain=RETAIN, **settings)
    assert states() == before


def test_wrong_data_is_named(full: Any, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="forget: there are no rows"):
        expunge.unlearn(full, [], retain=RETAIN, tokenizer=tokenizer)
    with pytest.raises(DataError, match="forget row 1"):
        expunge.unlearn(full, [FACTS[0], {"question": "Why?", "answer": ""}], retain=RETAIN, tokenizer=tokenizer)
    with pytest.raises(DataError, match="retain row 1 is also forget row 0"):
        expunge.unlearn(full, FORGET, retain=[RETAIN[0], FORGET[0]], tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="model: no folder"):
        expunge.unlearn("./nowhere/model", FORGET, retain=RETAIN)


def test_truncated_examples_are_reported(full: Any, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = [{"question": "Who?", "answer": "word " * 60}, *FORGET]
    short = {**SHORT, "template": {"max_length": 40}}
    expunge.UnlearnTrainer(
        full, expunge.NPOConfig(**short), forget_dataset=long, retain_dataset=RETAIN, processing_class=tokenizer
    ).train()
    assert [r for r in caplog.records if f"1 of {len(long)} answers of forget are truncated at 40" in r.getMessage()]
