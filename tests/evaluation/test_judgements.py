"""Judgements as a record kind, with their metric, and a local judge."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.judges import local
from expunge.judges.api import JudgeReply
from expunge.judges.local import LocalJudge, LocalJudgeConfig
from expunge.judges.make import choose_judge
from expunge.models.load import save_model
from expunge.pipelines.study.library import evaluate

ROWS = [{"question": f"Who wrote book {i}?", "answer": f"Ana {i}."} for i in range(3)]
LONG = {"rules": {"name": "long", "rules": [{"min_words": 2}]}}


def test_a_judge_scores_the_generations_of_an_evaluation(model, tokenizer) -> None:
    result = evaluate(
        model, tokenizer, forget=ROWS, metrics=["judgement"], judge=LONG, generation={"max_new_tokens": 4}
    )
    texts = result.records["forget_eval.texts"].to_pylist()
    expected = [float(len(line["generation"].split()) >= 2) for line in texts]
    assert [line["score"] for line in result.records["forget_eval.judgements"].to_pylist()] == expected
    assert result["forget_judgement"] == pytest.approx(sum(expected) / 3)


def test_without_a_judge_the_result_is_missing_with_the_setting_to_give(model, tokenizer) -> None:
    result = evaluate(model, tokenizer, forget=ROWS, metrics=["judgement"], generation={"max_new_tokens": 2})
    assert math.isnan(result["forget_judgement"]) and "eval.judge" in str(result.results["forget_judgement"].reason)


def test_texts_without_a_score_have_the_judges_reason(model, tokenizer) -> None:
    judge = {
        "http": {
            "question": "Is it?",
            "model": "m",
            "base_url": "http://127.0.0.1:9/v1",
            "api_key_env": "",
            "retries": 0,
        }
    }
    result = evaluate(
        model, tokenizer, forget=ROWS, metrics=["judgement"], judge=judge, generation={"max_new_tokens": 2}
    )
    reason = result.records["forget_eval.judgements"].to_pylist()[0]["reason"]
    assert reason and reason in result.reasons["forget_judgement"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, r"^eval.judge: expected one of rules, http, model, classifier, got \[\]$"),
        ({"rule": {}}, r"^eval.judge.rule: no kind of judge; did you mean 'rules'"),
        ({"rules": {"name": "x", "rules": []}}, r"^eval.judge.rules"),
        ({"model": {"question": "?", "mode": "x"}}, r"^eval.judge.model.mode: unknown key; did you mean 'model'"),
        ({"classifier": "/nowhere"}, r"^eval.judge.classifier: /nowhere: not a saved classifier"),
    ],
)
def test_wrong_judges_end_in_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_judge(settings, "eval.judge")


def test_the_key_of_a_judge_leaves_out_its_connection() -> None:
    base = {"question": "Is it?", "model": "m"}
    plain, other, judge = (
        choose_judge({"http": {**base, **more}}, "j").identity
        for more in ({}, {"workers": 1, "cache": "x", "api_key_env": "OTHER"}, {"question": "Was it?"})
    )
    assert plain == other != judge


def test_a_local_judge_compares_yes_with_no_and_stores_its_scores(model, tokenizer, tmp_path, monkeypatch) -> None:
    import torch

    save_model(model, tokenizer, tmp_path / "model")
    config = LocalJudgeConfig(
        question="Is it a name?", model=str(tmp_path / "model"), template="{question} {text}", dtype="float32",
        cache=str(tmp_path / "cache"), device="cpu",
    )  # fmt: skip
    judge = LocalJudge(config)
    (score,) = judge.judge([JudgeReply("Ana")])
    text = local.message(config.template, config.question, JudgeReply("Ana"), 100)
    ids = [tokenizer(w, add_special_tokens=False)["input_ids"] for w in ("Yes", "No")]
    k = next(i for i in range(9) if ids[0][i] != ids[1][i])
    row = [*tokenizer(f"{text}\n")["input_ids"], *ids[0][:k]]
    logits = model(torch.tensor([row])).logits[0, -1].detach().double()
    yes, no = (logits[one[k]] for one in ids)
    assert score.score == pytest.approx(float(torch.sigmoid(yes - no)), rel=1e-5)
    monkeypatch.setattr(judge, "_logits", lambda ids: pytest.fail("the score is stored"))
    assert judge.judge([JudgeReply("Ana")]) == [score]


def test_a_local_judge_reads_the_same_date_each_day(model, tokenizer, tmp_path) -> None:
    own = copy.deepcopy(tokenizer)
    start = "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    own.chat_template = {"default": start + "{% if add_generation_prompt %}[assistant]{% endif %}", "rag": "{{ 1 }}"}
    save_model(model, own, tmp_path / "model")
    config = LocalJudgeConfig(question="Is it?", model=str(tmp_path / "model"), dtype="float32", device="cpu")
    text = own.decode(LocalJudge(config)._ids("Is Ana a name?"))
    assert "".join(text.split()) == "2025-04-10[user]IsAnaaname?[assistant]"


def test_a_judge_whose_template_fails_ends_in_one_line(model, tokenizer, tmp_path) -> None:
    own = copy.deepcopy(tokenizer)
    own.chat_template = "{{ raise_exception('two turns, please') }}"
    save_model(model, own, tmp_path / "model")
    config = LocalJudgeConfig(question="Is it?", model=str(tmp_path / "model"), dtype="float32", device="cpu")
    with pytest.raises(ConfigError, match=r"^judge model [^\n]*two turns, please$"):
        LocalJudge(config)
