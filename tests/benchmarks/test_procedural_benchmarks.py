"""The procedural tasks as benchmarks: roles, panel, short answers, and a study that can be planned."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.benchmarks import Benchmark, BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError
from expunge.data.template import Encoder, Template
from expunge.models.build import train_tokenizer

SMALL = {"train_rows": 400, "eval_rows": 20, "finetune_rows": 30}


def make(name: str, **args: Any) -> Benchmark:
    return find_benchmark(name).make(BenchmarkConfig(args={**SMALL, **args}))


@pytest.mark.parametrize(("name", "target"), [("pcfg", "count_a"), ("tracr", "counter")])
def test_roles_and_panel(name: str, target: str) -> None:
    made = make(name)
    assert (made.split, made.full_sets, made.retain_sets, made.retain_set) == (target, ("full",), ("retain",), "retain")
    measured = [f"{g}_{k}" for g in ("target", "others") for k in ("uncorrelated", "correlated")]
    assert {(m.name, m.family, m.rows) for m in made.panel} == {
        (f"{key}_{short}", family, key)
        for key in measured
        for short, family in (("accuracy", "exact_match"), ("Prob", "probability"))
    }
    assert set(made.generation) == set(measured)
    assert made.utility in {m.name for m in made.panel} and set(made.shown) < {m.name for m in made.panel}
    assert "target_uncorrelated 0." in made.notes[0]


@pytest.mark.parametrize(("name", "finetune"), [("pcfg", "count_b"), ("tracr", True)])
def test_a_fine_tuning_task_stands_on_the_retain_side(name: str, finetune: object) -> None:
    made, plain = make(name, finetune=finetune), make(name)
    assert made.retain_set == "finetune" and made.retain_sets == ("retain",)
    assert "finetune_correlated_accuracy" in made.shown
    assert (
        made.sets["full"].fingerprint() == plain.sets["full"].fingerprint()
    )  # the full model is trained once for both


@pytest.mark.parametrize("name", ["pcfg", "tracr"])
def test_a_token_for_each_letter_and_answers_that_fit(name: str) -> None:
    made = make(name)
    texts = [t for r in made.sets["full"] for t in (r.question, r.answer)]
    encoder = Encoder(Template(), train_tokenizer(texts, 512, max_length=1024))
    for rows in made.sets.values():
        for row in rows:
            encoded = encoder.row(rows, row, "answer")
            assert encoded.n_prompt <= len(row.question.split(" ")) + 2  # BOS, and a word's first piece without blank
            limit = made.generation.get(rows.name)
            assert limit is None or encoded.n_answer - 1 <= limit.max_new_tokens


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^data\.args\.finetune=count_a: this is the task to forget"):
        make("pcfg", finetune="count_a")
    with pytest.raises(ConfigError, match=r"^data\.root=here: the benchmark tracr has no such setting"):
        find_benchmark("tracr").make(BenchmarkConfig(root="here"))
    with pytest.raises(ConfigError, match=r"^data\.args\.windw: unknown key.*'window'"):
        make("pcfg", windw=3)
