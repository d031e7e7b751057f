"""Values of a wrong type: one line with the name of the argument, from every public function and class."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from library_facts import FORGET, RETAIN, SHORT

import expunge
from expunge.methods.npo import NPO
from expunge.models.build import build_llama

ROWS = datasets.Dataset.from_list(FORGET)
ROW = expunge.Example(0, "Who?", {"answer": "Ada."})


@pytest.fixture(scope="module")
def untrained(tokenizer: Any) -> Any:
    """A model that knows nothing; no test changes it."""
    return build_llama("llama-64k", tokenizer, vocab_size=320, seed=0)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: expunge.Generation(max_new_tokens="x"), "Generation.max_new_tokens: should be a valid integer"),
        (lambda: expunge.Generation(max_new_tokens=math.nan), "Generation.max_new_tokens: should be a"),
        (lambda: expunge.Generation(samples=True), "Generation.samples: should be a number, got True"),
        (lambda: expunge.Generation(max_new_tokens=0), "Generation.max_new_tokens: must be at least 1, got 0"),
        (lambda: expunge.Generation(samples=4), "Generation.samples: must be at least 1, and 1 with greedy decoding"),
        (lambda: expunge.LoraArgs(r=0), "LoraArgs.r: must be at least 1, got 0"),
        (lambda: expunge.Template(max_length=0), "Template.max_length: must be at least 2 tokens, got 0"),
        (lambda: NPO(beta=-1), "NPO.beta: must be a number > 0, got -1"),
        (lambda: expunge.Generation(stop="END"), "Generation.stop: should be a list, got 'END'; write ['END']"),
        (lambda: expunge.Generation(backend="tpu"), "Generation.backend: should be 'hf' or 'vllm', got 'tpu'"),
        (lambda: expunge.Generation(max_tokens=5), "Generation.max_tokens: unknown key; did you mean 'max_new_tok"),
        (lambda: expunge.LoraArgs(r=None), "LoraArgs.r: should be a valid integer, got None"),
        (lambda: expunge.Schedule(anneal_share=[]), "Schedule.anneal_share: should be a valid number, got []"),
        (lambda: expunge.Template(max_length="long"), "Template.max_length: should be a valid integer"),
        (lambda: expunge.NPOConfig(eval_strategy="epochs"), "NPOConfig.eval_strategy: should be 'no', 'steps' or"),
        (lambda: expunge.NPOConfig(beta="x"), "NPOConfig.beta: should be a valid number"),
        (lambda: expunge.NPOConfig(eval_steps="x"), "NPOConfig.eval_steps: should be a valid integer"),
        (lambda: NPO(beta=[1]), "NPO.beta: should be a valid number"),
        (lambda: expunge.RuleJudge(rules="x"), "RuleJudge.rules: should be a list"),
        (lambda: expunge.Metric("m", "rouge", reads="tokens"), "reads: expected a mapping"),
        (lambda: expunge.ExampleSet("s", FORGET), "s: rows[0] must be an Example"),
        (lambda: expunge.ExampleSet("s", 5), "s: rows must be a tuple of examples, got 5"),
        (lambda: expunge.load_benchmark("tofu", forget_spit="x"), "forget_spit: unknown key; did you mean 'forget_spl"),
        (lambda: expunge.load_benchmark(["tofu"]), "benchmark: expected a name, got a list"),
        (lambda: expunge.load_study([None]), "overrides[0]: expected a text, got None"),
        (lambda: expunge.load_study(["study=quickstart"], plugins="x.py"), "plugins: expected a list, got a str"),
        (lambda: expunge.judge({"rules": [{"any_of": ["x"]}]}, [None]), "judge: text 0: expected a text or a dict"),
        (lambda: expunge.unlearning_loss(forget=["logps"]), "unlearning_loss.forget: no quantity named ['logps']"),
        (lambda: expunge.unlearning_loss(layer=7), "unlearning_loss.layer: expected a list, got an int"),
        (lambda: expunge.compare({}, {}, seed="x"), "compare: seed: must be a whole number of at least 0, got 'x'"),
        (lambda: expunge.compare({"m": 0.1}, {"m": 0.2}), "compare: a['m']: expected a MetricResult, got a float"),
        (lambda: expunge.NPOConfig(beta=-1), "NPOConfig.beta: must be a number > 0, got -1"),
        (lambda: expunge.UnlearnConfig(method="task_vector"), "method='task_vector': it is a weight edit"),
        (lambda: expunge.UnlearnConfig(method="in_context"), "expunge.wrap(model, 'in_context', ...)"),
        (lambda: expunge.UnlearnConfig(method="sam"), "set grad_transform='sam'"),
        (lambda: expunge.UnlearnConfig(method="NPOX"), "UnlearnConfig.method: no method named 'NPOX'; did you mean"),
        (lambda: expunge.UnlearnConfig(method="NPO", method_args={"bta": 1}), "UnlearnConfig.method_args.bta: NPO has"),
        (lambda: expunge.UnlearnConfig(method="NPO", gamma=-1), "UnlearnConfig.gamma: "),
        (lambda: expunge.UnlearnConfig(optim="adamw"), "UnlearnConfig.optim: must be a class such as torch.optim.NAd"),
        (lambda: expunge.unlearning_loss(len), "unlearning_loss: declare the quantities that the function reads"),
        (lambda: expunge.examples_from("f.json", "forget"), "forget: expected a list of dicts or a data"),
        (lambda: expunge.examples_from("f.json"), "got a str; read a file first, for example with pandas.read_csv"),
        (lambda: expunge.examples_from(datasets.DatasetDict(a=ROWS)), "one of its splits, such as data['a']"),
        (lambda: expunge.unlearn(None, FORGET, method=expunge.NPOConfig), "NPOConfig is a class of settings; give an"),
        (lambda: expunge.Study.from_yaml(5), "study: expected a path, got an int"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_with_its_name(create: Callable[[], Any], message: str) -> None:
    with pytest.raises(expunge.ExpungeError) as error:
        create()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("usual", "ours"),
    [("lr", "learning_rate"), ("epochs", "num_train_epochs"), ("batch_size", "per_device_train_batch_size"),
     ("scheduler", "lr_scheduler_type"), ("learning_rat", "learning_rate")],
)  # fmt: skip
def test_a_usual_name_of_other_libraries_leads_to_ours(usual: str, ours: str) -> None:
    with pytest.raises(expunge.ConfigError, match=f"did you mean '{ours}'"):
        expunge.unlearn(None, FORGET, **{usual: 1})


def test_settings_show_the_fields_that_are_set() -> None:
    assert repr(expunge.NPOConfig(beta=0.2, learning_rate=1e-4)) == "NPOConfig(learning_rate=0.0001, beta=0.2)"
    assert repr(expunge.UnlearnConfig()) == "UnlearnConfig()"
    config = expunge.RMUConfig(generation={"max_new_tokens": 8}, refusals=("No.",))
    assert (
        eval(repr(config), vars(expunge) | {"RMUConfig": expunge.RMUConfig, "Generation": expunge.Generation}) == config
    )


def test_judgements_are_a_table_in_a_notebook() -> None:
    table = expunge.judge({"rules": [{"any_of": ["Ada"]}], "name": "a < b"}, ["Ada.", "No."])
    assert table.to_pandas()["score"].tolist() == [1.0, 0.0]
    assert table._repr_html_().startswith("<p>JudgementTable(a &lt; b: 0.5") and "<table" in table._repr_html_()


def test_values_are_converted_as_those_of_a_file() -> None:
    assert expunge.Generation(max_new_tokens="5", stop=["END"]) == expunge.Generation(max_new_tokens=5, stop=("END",))
    assert isinstance(expunge.NPOConfig(num_train_epochs=3).num_train_epochs, float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokenizer": 5}, "tokenizer: expected a tokenizer of transformers or its name, got an int"),
        ({"extras": ["agreement"]}, "extras: agreement reads the rows 'retain_eval'"),
        ({"extras": ["leek"]}, "extras: no group of metrics named 'leek'; did you mean 'leak'"),
        ({"forget": expunge.ExampleSet("s", (expunge.Example(0, "q", {}),))}, "forget row 0: 'answers' must map"),
        ({"forget": expunge.ExampleSet("s", (expunge.Example(0, 5, {"answer": "a"}),))}, "forget row 0: 'question'"),
    ],
)  # fmt: skip
def test_evaluate_names_a_wrong_argument(
    untrained: Any, tokenizer: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(expunge.ExpungeError) as error:
        expunge.evaluate(**{"model": untrained, "tokenizer": tokenizer, "forget": FORGET, **arguments})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("read", "where"),
    [
        (lambda name, model, tok: expunge.evaluate(name, tok, forget=FORGET), "model"),
        (lambda name, model, tok: expunge.evaluate(name, forget=FORGET), "model"),
        (lambda name, model, tok: expunge.evaluate(model, name, forget=FORGET), "tokenizer"),
        (lambda name, model, tok: expunge.unlearn(name, FORGET, retain=RETAIN, tokenizer=tok), "model"),
        (lambda name, model, tok: expunge.unlearn(name, FORGET, retain=RETAIN), "model"),
        (lambda name, model, tok: expunge.unlearn(model, FORGET, retain=RETAIN, tokenizer=tok, ref_model=name),
         "ref_model"),
        (lambda name, model, tok: expunge.audit(name, None, ["quantize"], forget=FORGET), "model"),
        (lambda name, model, tok: expunge.audit(model, tok, ["quantize"], forget=FORGET, controls={"full": name}),
         "controls['full']"),
        (lambda name, model, tok: expunge.inspect(name, forget=FORGET), "model"),
        (lambda name, model, tok: expunge.inspect(model, tok, forget=FORGET, reference=name), "reference"),
    ],
)  # fmt: skip
def test_an_absent_folder_is_named_by_its_argument(
    untrained: Any, tokenizer: Any, tmp_path: Path, read: Callable[..., Any], where: str
) -> None:
    """Also if jobs name it by a setting: no key of the command line is shown."""
    name = str(tmp_path / "absent")
    with pytest.raises(expunge.ConfigError) as error:
        read(name, untrained, tokenizer)
    assert str(error.value).startswith(f"{where}: no folder {name}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audits": 5}, "audits: expected a list, got an int"),
        ({"forget": None}, "forget: missing"),
        ({"learning_rate": "x"}, "audit.learning_rate: should be a valid number"),
        ({"controls": {"retain": 5}}, "controls['retain']: expected a model or its name, got an int"),
    ],
)
def test_audit_names_a_wrong_argument(untrained: Any, tokenizer: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(expunge.ExpungeError) as error:
        expunge.audit(**{"model": untrained, "tokenizer": tokenizer, "forget": FORGET, **arguments})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"analyses": 5}, "analyses: expected a list, got an int"),
        ({"analyses": []}, "analyses: names no analysis"),
        ({"reference": 5}, "reference: expected a model or its name, got an int"),
    ],
)
def test_inspect_names_a_wrong_argument(
    untrained: Any, tokenizer: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(expunge.ExpungeError) as error:
        expunge.inspect(**{"model": untrained, "tokenizer": tokenizer, "forget": FORGET, **arguments})
    assert message in str(error.value)


def test_wrap_names_a_wrong_tokenizer_and_refusals(untrained: Any, tokenizer: Any) -> None:
    with pytest.raises(expunge.ConfigError, match="tokenizer: expected a tokenizer"):
        expunge.wrap(untrained, "in_context", tokenizer=5, forget=FORGET, retain=RETAIN)
    with pytest.raises(expunge.ConfigError, match=r"refusals\[0\]: expected a text, got an int"):
        expunge.wrap(untrained, "in_context", tokenizer=tokenizer, forget=FORGET, retain=RETAIN, refusals=[1])


def test_models_that_cannot_be_used_are_named(untrained: Any, tokenizer: Any) -> None:
    with pytest.raises(expunge.ConfigError, match="no language-model head"):
        expunge.evaluate(untrained.model, tokenizer, forget=FORGET)
    with pytest.raises(expunge.ConfigError, match="weights of LlamaForCausalLM are not loaded"):
        expunge.evaluate(copy.deepcopy(untrained).to("meta"), tokenizer, forget=FORGET)
    with torch.no_grad(), pytest.raises(expunge.ConfigError, match="train: gradients are off"):
        expunge.unlearn(copy.deepcopy(untrained), FORGET, retain=RETAIN, tokenizer=tokenizer, **SHORT)


def test_controls_that_are_no_results_are_named() -> None:
    with pytest.raises(expunge.ConfigError, match="with_controls: full: expected an EvalResult, got an int"):
        expunge.EvalResult({}).with_controls(full=5)  # type: ignore[arg-type]
