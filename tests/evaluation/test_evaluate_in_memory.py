"""evaluate() in memory: the numbers of the job, any shape of data, and results as tables and files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import ExampleSet
from expunge.data.template import Template
from expunge.evaluation.evaluator import Evaluator, results_of
from expunge.evaluation.result import EvalResult
from expunge.metrics.api import Metric
from expunge.metrics.results import read_results
from expunge.models.load import save_model
from expunge.pipelines.study.library import evaluate, load_benchmark
from expunge.pipelines.study.single import SingleJob, carry_out, prepare
from expunge.pipelines.study.task_config import decode_task

SHORT = {"max_new_tokens": 3}
WORLD = {"authors": 4, "questions_per_author": 3, "forget_fraction": 0.25, "facts": 3, "holdout_authors": 1}
FORGET = [
    {"question": f"Who wrote book {i}?", "answer": f"Ana {i}.", "paraphrased_answer": f"It was Ana {i}.",
     "perturbed_answer": ["Bo.", "Cy."]}
    for i in range(4)
]  # fmt: skip
RETAIN = [{"question": f"Where is {i}?", "answer": f"Paris {i}.", "kind": "odd" if i % 2 else "even"} for i in range(4)]
HOLDOUT = [{"question": f"Who is {i}?", "answer": f"Nobody {i}."} for i in range(3)]


@pytest.fixture(scope="module")
def measured(model: Any, tokenizer: Any) -> EvalResult:
    return evaluate(model, tokenizer, forget=FORGET, retain=RETAIN, holdout=HOLDOUT, generation=SHORT)


@pytest.fixture(scope="module")
def job(model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model's folder, and what `expunge eval benchmark=world` writes for it."""
    folder = tmp_path_factory.mktemp("job")
    save_model(model, tokenizer, folder / "model")
    tree = {
        "mode": "eval",
        "task_name": "a",
        "data": {"world": WORLD},
        "model": {"device": "cpu", "model_args": {"pretrained_model_name_or_path": str(folder / "model")}},
        "eval": {"generation": SHORT},
        "paths": {"store": str(folder / "store"), "output_dir": str(folder / "out")},
    }
    carry_out(prepare(decode_task(SingleJob, tree)), lambda event: None)
    return folder / "model", folder / "out"


@pytest.mark.slow
def test_a_benchmark_in_memory_has_the_numbers_of_the_job(job: tuple[Path, Path]) -> None:
    folder, out = job
    benchmark = load_benchmark("world", world=WORLD)
    result = evaluate(str(folder), benchmark=benchmark, template=Template(), generation=SHORT)
    stored, meta = read_results(out / "TOFU_EVAL.json")
    assert list(result) == list(stored)
    for name, expected in stored.items():
        actual = result.results[name]
        assert actual.value == pytest.approx(expected.value, nan_ok=True, rel=1e-12), name
        assert actual.reason == expected.reason
        assert {i: dict(s) for i, s in actual.per_row.items()} == {i: dict(s) for i, s in expected.per_row.items()}
    assert {key: result.meta[key] for key in result.meta} == {key: meta[key] for key in result.meta}


@pytest.mark.slow
def test_a_retain_log_of_either_kind_serves_the_other(job: tuple[Path, Path], tmp_path: Path) -> None:
    folder, out = job
    benchmark = load_benchmark("world", world=WORLD)
    plain = {"benchmark": benchmark, "template": Template(), "generation": SHORT}
    by_file = evaluate(str(folder), **plain, retain_results=out)["forget_quality"]
    loaded = evaluate(str(folder), **plain, retain_results=EvalResult.load(out))["forget_quality"]
    assert by_file == loaded == 1.0  # a model against itself
    log = EvalResult.load(out).save(tmp_path / "log")
    tree = {
        "mode": "eval",
        "task_name": "b",
        "data": {"world": WORLD},
        "model": {"device": "cpu", "model_args": {"pretrained_model_name_or_path": str(folder)}},
        "eval": {"generation": SHORT},
        "retain_logs_path": str(log),
        "paths": {"store": str(out.parent / "store"), "output_dir": str(tmp_path / "out")},
    }
    carry_out(prepare(decode_task(SingleJob, tree)), lambda event: None)
    assert read_results(tmp_path / "out" / "TOFU_EVAL.json")[0]["forget_quality"].value == 1.0


def test_the_default_metrics_follow_the_data(model: Any, tokenizer: Any, measured: EvalResult) -> None:
    assert {"forget_Q_A_Prob", "forget_Q_A_ROUGE", "forget_truth_ratio", "mia_min_k", "model_utility"} <= set(measured)
    assert {"retain_exact_memorization", "retain_extraction_strength"} <= set(measured)
    assert not {"forget_quality", "privleak", "mia_reference"} & set(measured)
    assert not measured.reasons
    only = evaluate(model, tokenizer, retain=RETAIN, generation=SHORT)
    assert set(only) == {
        "retain_Q_A_Prob", "retain_Q_A_ROUGE", "model_utility", "retain_exact_memorization",
        "retain_extraction_strength",
    }  # fmt: skip
    again = evaluate(
        model, tokenizer, forget=FORGET, retain=RETAIN, holdout=HOLDOUT, generation=SHORT, retain_results=measured
    )
    assert again["forget_quality"] == 1.0
    assert "privleak" in again and "mia_reference" not in again.reasons and again.notes == measured.notes
    other = EvalResult(measured.results, meta={**measured.meta, "tokenizer": "another"})
    noted = evaluate(model, tokenizer, forget=FORGET, metrics=["forget_quality"], retain_results=[other, other])
    assert sum("and the retain model were measured with other tokenizers" in note for note in noted.notes) == 1


def test_one_number_against_a_plain_forward(model: Any, tokenizer: Any, measured: EvalResult) -> None:
    prompt = tokenizer("Question: Where is 1?\nAnswer:")["input_ids"]
    answer = [*tokenizer(" Paris 1.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0].double()
    logps = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
    expected = math.exp(float(logps.mean()))
    assert measured.results["retain_Q_A_Prob"].per_row[1]["prob"] == pytest.approx(expected, rel=1e-5)


def test_the_model_is_left_as_it_was(model: Any, tokenizer: Any) -> None:
    model.train()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    try:
        evaluate(model, tokenizer, forget=FORGET, generation=SHORT)
        assert model.training
        with pytest.raises(DataError, match=r"forget_eval row 0: .* tokens"):
            evaluate(
                model, tokenizer, forget=[{"question": "long " * 2000, "answer": "x"}], template={"max_length": 4096}
            )
        assert model.training
    finally:
        model.eval()
    assert torch.equal(torch.get_rng_state(), state)


def test_shapes_of_data_give_one_result(model: Any, tokenizer: Any, measured: EvalResult) -> None:
    result = evaluate(
        model, tokenizer, forget=datasets.Dataset.from_list(FORGET), retain=RETAIN, holdout=HOLDOUT, generation=SHORT
    )
    assert dict(result) == dict(measured)
    texts = evaluate(model, tokenizer, forget=["A text of some words.", "Another text of words."], generation=SHORT)
    assert 0 < texts["forget_Q_A_Prob"] < 1


def test_half_precision_on_the_device_of_the_model(model: Any, tokenizer: Any, measured: EvalResult) -> None:
    half = type(model)(model.config)
    half.load_state_dict(model.state_dict())
    result = evaluate(half.to(torch.bfloat16), tokenizer, retain=RETAIN, generation=SHORT)
    assert result["retain_Q_A_Prob"] == pytest.approx(measured["retain_Q_A_Prob"], rel=0.1)
    assert next(half.parameters()).dtype == torch.bfloat16


def test_samples_follow_the_seed(model: Any, tokenizer: Any) -> None:
    def texts(seed: int) -> list[str]:
        result = evaluate(
            model, tokenizer, forget=FORGET, retain=RETAIN, extras=["leak"], metrics=["forget_leak_at_2"],
            sampling={"samples": 2, "max_new_tokens": 5}, seed=seed,
        )  # fmt: skip
        assert list(result.generations["examples"].unique()) == ["forget_eval"]
        return list(result.generations["generation"])

    assert texts(0) == texts(0) != texts(1)


def test_several_retain_models_serve_attacks_with_reference_models(model: Any, tokenizer: Any) -> None:
    data: dict[str, Any] = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT, "extras": ["lira"]}
    others = []
    for seed in (1, 2):
        other = type(model)(model.config).eval()
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in other.parameters():
                p.copy_(torch.randn_like(p) * 0.1)
        others.append(evaluate(other, tokenizer, **data, metrics=["mia_loss"]))
    result = evaluate(model, tokenizer, **data, metrics=["mia_lira"], retain_results=others)
    assert 0 <= result["mia_lira"] <= 1
    alone = evaluate(model, tokenizer, **data, metrics=["mia_lira"], retain_results=others[0])
    assert "mia_lira" in alone.reasons


def test_agreement_with_an_original_model(model: Any, tokenizer: Any) -> None:
    result = evaluate(
        model, tokenizer, forget=FORGET, retain=RETAIN, extras=["agreement"], original=model, generation=SHORT
    )
    assert result["forget_KL_to_original"] == pytest.approx(0, abs=1e-6)
    alone = evaluate(model, tokenizer, forget=FORGET, retain=RETAIN, extras=["agreement"], generation=SHORT)
    assert alone.reasons["forget_KL_to_original"] == "no original model was given to compare with"


def test_chosen_metrics_and_own_ones(model: Any, tokenizer: Any, measured: EvalResult) -> None:
    result = evaluate(model, tokenizer, forget=FORGET, retain=RETAIN, metrics=["model_utility"], generation=SHORT)
    assert set(result) == {"model_utility", "retain_Q_A_Prob", "retain_Q_A_ROUGE"}
    assert result["model_utility"] == measured["model_utility"]
    odd = Metric("odd", "probability", rows="retain_eval", reads={"tokens": "answer"}, where={"kind": "odd"})
    own = evaluate(model, tokenizer, retain=RETAIN, metrics=[odd])
    assert list(own.results["odd"].per_row) == [1, 3]
    assert own.generations.empty


def test_tables(measured: EvalResult) -> None:
    assert measured.to_pandas().loc["forget_Q_A_Prob", "value"] == measured["forget_Q_A_Prob"]
    utility = measured.to_pandas().loc["model_utility"]
    assert utility["n"] > 0 and utility["ci_low"] <= utility["value"] <= utility["ci_high"]
    table = measured.per_example.query("metric == 'forget_Q_A_Prob' and statistic == 'prob'")
    assert table["value"].mean() == pytest.approx(measured["forget_Q_A_Prob"])
    assert set(table["examples"]) == {"forget_eval"}
    assert len(measured.generations) == 8
    assert repr(measured).startswith("EvalResult(custom)\n  forget_truth_ratio: ")
    assert len(repr(measured).splitlines()) <= 14
    assert "<td>forget_Q_A_Prob</td>" in measured._repr_html_()
    with pytest.raises(KeyError, match="did you mean 'forget_Q_A_Prob'"):
        measured["forget_Q_A_Pob"]


def test_the_verdict_needs_a_retain_model_and_says_so(measured: EvalResult) -> None:
    assert measured.verdict.forgot.word == "not measurable" and "with_controls" in measured.verdict.forgot.sentence
    same = measured.with_controls(retain=measured, full=measured)
    assert same.verdict.forgot.word == "not measurable" and "controls do not differ" in same.verdict.forgot.sentence
    assert dict(same) == dict(measured) and same.records == measured.records


@pytest.mark.parametrize("how", ["with_controls", "retain_results", "saved"])
def test_a_control_of_other_examples_is_refused(
    how: str, model: Any, tokenizer: Any, measured: EvalResult, tmp_path: Path
) -> None:
    other = evaluate(model, tokenizer, forget=FORGET[:3], metrics=["forget_Q_A_Prob"])
    where = "with_controls: retain" if how == "with_controls" else "retain_results"
    with pytest.raises(ConfigError, match=f"^{where}: the forget_eval examples of the two results are not the same$"):
        if how == "with_controls":
            measured.with_controls(retain=other)
        else:
            results = other if how == "retain_results" else other.save(tmp_path)
            evaluate(model, tokenizer, forget=FORGET, metrics=["forget_Q_A_Prob"], retain_results=results)


def test_saved_and_loaded(measured: EvalResult, tmp_path: Path) -> None:
    file = measured.save(tmp_path / "out")
    assert file.name == "CUSTOM_EVAL.json"
    summary = json.loads((tmp_path / "out" / "CUSTOM_SUMMARY.json").read_text())
    assert summary == dict(measured)
    for place in (tmp_path / "out", file):
        again = EvalResult.load(place)
        assert dict(again) == dict(measured)
        assert again.meta == measured.meta and again.examples == measured.examples
        assert again.per_example.equals(measured.per_example)
        assert again.generations.equals(measured.generations)
    with pytest.raises(DataError, match=r"expected one \*_EVAL.json, found none"):
        EvalResult.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ConfigError, "evaluate: nothing to measure; give benchmark=, forget= or retain="),
        ({"holdout": HOLDOUT}, ConfigError, "nothing to measure"),
        ({"retain": RETAIN, "holdout": HOLDOUT}, ConfigError, "holdout= needs forget="),
        ({"benchmark": "tofuu"}, ConfigError, "no benchmark named 'tofuu'; did you mean 'tofu'"),
        ({"benchmark": "tofu", "forget": FORGET}, ConfigError, "give benchmark= or data"),
        ({"forget": FORGET, "retain": FORGET}, DataError, "retain row 0 is also forget row 0: 'Who wrote book 0?'"),
        ({"forget": FORGET, "metrics": ["forget_Q_A_Pob"]}, ConfigError, "did you mean 'forget_Q_A_Prob'"),
        ({"forget": FORGET, "generation": {"max_tokens": 3}}, ConfigError, "generation.max_tokens: unknown key"),
        ({"forget": FORGET, "template": {"user_tag": ""}}, ConfigError, "template.user_tag: unknown key"),
        ({"forget": FORGET, "extras": ["leek"]}, ConfigError, "extras: no group of metrics named 'leek'"),
        ({"forget": FORGET, "extras": "leak"}, ConfigError, "extras: expected a list, got a str; write ['leak']"),
        ({"forget": FORGET, "metrics": "forget_Q_A_Prob"}, ConfigError, "metrics: expected a list, got a str"),
        ({"forget": FORGET, "metrics": []}, ConfigError, "metrics: names no metric"),
        ({"forget": FORGET, "generation": 5}, ConfigError, "generation: expected a Generation or a mapping"),
        ({"forget": FORGET, "template": 5}, ConfigError, "template: expected a Template or a mapping"),
        (
            {"forget": FORGET, "batch_tokens": 0},
            ConfigError,
            "batch_tokens: must be a whole number of at least 1, got 0",
        ),
        ({"forget": FORGET, "batch_tokens": "8"}, ConfigError, "batch_tokens: must be a whole number of at least 1"),
        ({"benchmark": 5}, ConfigError, "benchmark: expected a benchmark or its name, got an int"),
        ({"forget": FORGET, "retain_results": {"a": 1}}, ConfigError, "retain_results: expected an EvalResult, or"),
        (
            {"forget": FORGET, "original": "m"},
            ConfigError,
            "original: no metric of this evaluation reads it; add extras=",
        ),
        ({"forget": FORGET, "embedder": "m"}, ConfigError, "embedder: no metric of this evaluation reads it"),
        (
            {"forget": FORGET, "judge": {"rules": {"rules": [{"max_words": 2}]}}},
            ConfigError,
            "judge: no metric of this evaluation reads it",
        ),
        (
            {"forget": FORGET, "sampling": {"samples": 3}},
            ConfigError,
            "sampling: no metric of this evaluation reads it",
        ),
        ({"forget": ExampleSet("none", ())}, DataError, "forget: there are no rows"),
    ],
)
def test_what_is_wrong_ends_in_one_line(
    model: Any, tokenizer: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        evaluate(model, tokenizer, **options)
    assert words in str(raised.value)


def test_a_model_that_is_none(tokenizer: Any, model: Any) -> None:
    with pytest.raises(ConfigError, match=r"^model: expected a model or its name, got a dict"):
        evaluate({}, tokenizer, forget=FORGET)
    with pytest.raises(ConfigError, match=r"^model: expected a model or its name, got a Linear"):
        evaluate(torch.nn.Linear(2, 2), tokenizer, forget=FORGET)
    with pytest.raises(ConfigError, match=r"^tokenizer: missing"):
        evaluate(model, forget=FORGET)


def test_records_cut_to_some_rows_give_the_results_of_these_rows(rows: ExampleSet, model: Any, tokenizer: Any) -> None:
    """What evaluations during training do with a retain model's records of all rows."""
    from expunge.data.encoder import Encoder

    metrics = [
        Metric("p", "probability", rows="r", reads={"tokens": "answer"}),
        Metric("t", "rouge", rows="r", reads={"texts": "paraphrase"}),
    ]
    settings: dict[str, Any] = {"metrics": metrics, "sets": {"r": rows}, "encoder": Encoder(Template(), tokenizer)}
    few = Evaluator(**settings, n_rows=5)
    whole = Evaluator(**settings)
    tables = whole.score(model)
    mine = few.results(few.score(model))
    cut = results_of(metrics, tables, {"r": rows}, n_rows=5)
    for name in ("p", "t"):
        assert len(cut[name].per_row) == 5
        assert cut[name].value == pytest.approx(mine[name].value, rel=1e-5)


def test_what_decides_a_number_is_noted(model: Any, tokenizer: Any, measured: EvalResult, tmp_path: Path) -> None:
    long = [{"question": "Who?", "answer": "word " * 60}, *FORGET]
    result = evaluate(
        model, tokenizer, forget=long, retain=RETAIN, generation=SHORT, template={"max_length": 40},
        metrics=["forget_Q_A_Prob"],
    )  # fmt: skip
    (note,) = [n for n in result.notes if "truncated" in n]
    assert note.startswith("1 answers of forget_eval are truncated at 40 tokens")
    assert note in repr(result) and note in EvalResult.load(result.save(tmp_path)).notes[0]
    assert not [n for n in measured.notes if "truncated" in n]
