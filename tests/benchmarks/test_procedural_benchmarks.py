"""The procedural tasks as benchmarks: roles, panel, short answers, and a study that can be planned."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.benchmarks import Benchmark, BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoder
from expunge.data.template import Template
from expunge.models.build import train_tokenizer

SMALL = {"train_rows": 400, "eval_rows": 20, "finetune_rows": 30}


def make(name: str, **args: Any) -> Benchmark:
    return find_benchmark(name).make(BenchmarkConfig(args={**SMALL, **args}))


@pytest.mark.parametrize(("name", "target"), [("pcfg", "count_a"), ("tracr", "counter")])
def test_roles_and_panel(name: str, target: str) -> None:
    result = make(name)
    assert (result.split, result.full_sets, result.retain_sets, result.retain_set) == (
        target,
        ("full",),
        ("retain",),
        "retain",
    )
    measured = [f"{g}_{k}" for g in ("target", "others") for k in ("uncorrelated", "correlated")]
    assert {(m.name, m.family, m.rows) for m in result.panel} == {
        (f"{key}_{short}", family, key)
        for key in measured
        for short, family in (("accuracy", "exact_match"), ("Prob", "probability"))
    }
    assert set(result.generation) == set(measured)
    assert result.utility in {m.name for m in result.panel} and set(result.shown) < {m.name for m in result.panel}
    assert "target_uncorrelated 0." in result.notes[0]


@pytest.mark.parametrize(("name", "finetune"), [("pcfg", "count_b"), ("tracr", True)])
def test_a_fine_tuning_task_stands_on_the_retain_side(name: str, finetune: object) -> None:
    result, plain = make(name, finetune=finetune), make(name)
    assert result.retain_set == "finetune" and result.retain_sets == ("retain",)
    assert "finetune_correlated_accuracy" in result.shown
    assert (
        result.sets["full"].fingerprint() == plain.sets["full"].fingerprint()
    )  # the full model is trained once for both


@pytest.mark.parametrize("name", ["pcfg", "tracr"])
def test_a_token_for_each_letter_and_answers_that_fit(name: str) -> None:
    result = make(name)
    texts = [t for r in result.sets["full"] for t in (r.question, r.answer)]
    encoder = Encoder(Template(), train_tokenizer(texts, 512, max_length=1024))
    for rows in result.sets.values():
        for row in rows:
            encoded = encoder.row(rows, row, "answer")
            assert encoded.n_prompt <= len(row.question.split(" ")) + 2  # BOS, and a word's first piece without blank
            limit = result.generation.get(rows.name)
            assert limit is None or encoded.n_answer - 1 <= limit.max_new_tokens


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^data\.args\.finetune=count_a: this is the task to forget"):
        make("pcfg", finetune="count_a")
    with pytest.raises(ConfigError, match=r"^data\.root=here: the benchmark tracr has no such setting"):
        find_benchmark("tracr").make(BenchmarkConfig(root="here"))
    with pytest.raises(ConfigError, match=r"^data\.args\.windw: unknown key.*'window'"):
        make("pcfg", windw=3)
