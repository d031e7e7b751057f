"""train_on: the span of the forget examples that the loss reads."""

from __future__ import annotations

from typing import Any

import pytest

import expunge
from expunge.core.errors import ConfigError, DataError
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.methods.objective import objective
from expunge.models.build import train_tokenizer
from expunge.pipelines.study_jobs.precomputed_references import reference_specs
from expunge.training.config import TrainArgs
from expunge.training.encoding import check_span, encode_sets

FORGET = ExampleSet(
    "forget", tuple(Example(i, f"Who {i}?", {"answer": f"Ana {i}."}, trace=f"Hm {i}.") for i in range(3))
)
RETAIN = ExampleSet(
    "retain", tuple(Example(i, f"What {i}?", {"answer": f"A {i}."}, trace=f"So {i}.") for i in range(3))
)
PLAIN = ExampleSet("plain", (Example(0, "Who?", {"answer": "Ana."}),))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    texts = [text for row in FORGET for text in (row.question, row.text("trace+answer"))]
    return Encoder(Template(), train_tokenizer(texts, 300, max_length=256))


def scored(encoder: Encoder, rows: Any) -> list[str]:
    return [encoder.tokenizer.decode(r.ids[r.n_prompt :], skip_special_tokens=True).strip() for r in rows]


@pytest.mark.parametrize(
    ("span", "texts"),
    [
        ("answer", ["Ana 0.", "Ana 1.", "Ana 2."]),
        ("trace", ["Hm 0.", "Hm 1.", "Hm 2."]),
        ("trace+answer", [f"Hm {i}.\n</think>\n\nAna {i}." for i in range(3)]),
        (None, [f"Hm {i}.\n</think>\n\nAna {i}." for i in range(3)]),
    ],
)
def test_the_loss_reads_one_span(encoder: Encoder, span: Any, texts: list[str]) -> None:
    assert scored(encoder, encode_sets([FORGET], encoder, span)) == texts
    assert scored(encoder, encode_sets([PLAIN], encoder, None if span == "trace" else span)) == ["Ana."]


def test_an_example_without_a_trace_has_no_such_span(encoder: Encoder) -> None:
    with pytest.raises(DataError, match=r"^plain row 0: no trace to train on"):
        encode_sets([PLAIN], encoder, "trace")


def test_the_setting_names_what_it_has_no_effect_on() -> None:
    check_span([FORGET], "trace", forgets=True, alternates=False, where="t")
    check_span([PLAIN], "answer", forgets=False, alternates=True, where="t")
    for message, sets, forgets, alternates in (
        ("t: no example of plain has a trace", [PLAIN], True, False),
        ("t: trace is of the forget side, and this method forgets nothing", [], False, False),
        ("t: this method reads other or sampled answers", [FORGET], True, True),
    ):
        with pytest.raises(ConfigError, match=message):
            check_span(sets, "trace", forgets=forgets, alternates=alternates, where="t")


def test_keys_change_only_where_the_span_does() -> None:
    assert "train_on" not in TrainArgs().identity
    assert TrainArgs(train_on="trace").identity["train_on"] == "trace"
    loss = objective("NPO", {"alpha": 0.0})

    def identity(rows: ExampleSet, span: Any) -> Any:
        args = TrainArgs(train_on=span)
        specs = reference_specs(loss, {"forget": ("forget",)}, {"forget": rows}, 1, args)
        return specs["forget_ref"].identity.get("span")

    assert identity(PLAIN, "answer") is None
    assert [identity(FORGET, span) for span in ("answer", "trace")] == ["answer", "trace"]


def test_the_trainer_trains_on_the_span(encoder: Encoder) -> None:
    from expunge.models.build import build_llama

    model = build_llama("llama-64k", encoder.tokenizer, vocab_size=300, seed=0)
    config = expunge.UnlearnConfig(method="GradDiff", train_on="trace", max_steps=1, template=Template())
    trainer = expunge.UnlearnTrainer(
        model, config, forget_dataset=FORGET, retain_dataset=RETAIN, processing_class=encoder.tokenizer
    )
    assert scored(encoder, trainer._rows["forget"]) == ["Hm 0.", "Hm 1.", "Hm 2."]
    assert scored(encoder, trainer._rows["retain"]) == [f"So {i}.\n</think>\n\nA {i}." for i in range(3)]
    with pytest.raises(ConfigError, match=r"UnlearnConfig.train_on: no example of forget has a trace"):
        expunge.UnlearnTrainer(
            model, config, forget_dataset=[{"question": "q", "answer": "a"}], retain_dataset=RETAIN,
            processing_class=encoder.tokenizer,
        )  # fmt: skip
