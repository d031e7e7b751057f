"""Losses of named sets, generation tables, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoded, Encoder
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.methods.objective import objective
from expunge.models.build import train_tokenizer
from expunge.training import eval_losses
from expunge.training.config import TrainArgs
from expunge.training.eval_losses import EvalLosses, GenerationTable
from expunge.training.evaluate_args import EvaluateArgs, is_due
from expunge.training.in_memory.evaluation_callback import EvalCallback
from expunge.training.loop import plan_samples, train

ARGS = TrainArgs(num_train_epochs=2.0, per_device_train_batch_size=4, gradient_accumulation_steps=1)


def by_hand(model: Any, rows: list[Encoded]) -> float:
    """The mean over all scored tokens, row by row in float64."""
    losses = []
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].double()
        losses.append(F.cross_entropy(logits, ids[0, 1:], reduction="none")[max(row.n_prompt, 1) - 1 :])
    return float(torch.cat(losses).mean())


def test_the_loss_is_the_mean_over_tokens_whatever_the_batch(
    make_model: Callable[..., Any], rows: dict[str, list[Encoded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    model.train()
    before = torch.get_rng_state()
    for budget in (8192, 20):
        monkeypatch.setattr(eval_losses, "BUDGET", budget)
        result = EvalLosses(rows, 0)(model)
        assert result == {f"loss/{n}": pytest.approx(by_hand(model, r), abs=1e-6) for n, r in rows.items()}
    assert model.training and torch.equal(torch.get_rng_state(), before)


def test_the_early_steps_are_logged_and_evaluated_closely(
    make_model: Callable[..., Any], rows: dict[str, list[Encoded]]
) -> None:
    args = TrainArgs(**{**vars(ARGS), "max_steps": 50, "logging_steps": 20, "dense_logging_steps": 3})
    watch = EvalCallback(EvaluateArgs(steps=20), EvalLosses(rows, 0))
    done = train(make_model(), objective("finetune"), rows, args, pad_id=0, watch=watch)
    assert [line["step"] for line in done.history] == [1, 2, 3, 20, 40, 50]
    assert [p.step for p in watch.points] == [0, 2, 20, 40, 50]
    assert watch.points[-1].values["loss/retain"] < watch.points[0].values["loss/retain"]


def test_a_share_of_the_steps_is_logged(make_model: Callable[..., Any], rows: dict[str, list[Encoded]]) -> None:
    args = TrainArgs(**{**vars(ARGS), "max_steps": 10, "logging_steps": 0.4})
    done = train(make_model(), objective("finetune"), rows, args, pad_id=0)
    assert [line["step"] for line in done.history] == [4, 8, 10]


def test_a_tenth_of_the_period_up_to_the_step() -> None:
    due = [
        k for k in range(1, 41)
        if is_due(EvaluateArgs(steps=20), k, before=0, rows=1, n_epoch=1, n_samples=99, finegrained=6)
    ]  # fmt: skip
    assert due == [2, 4, 6, 20, 40]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Template(), train_tokenizer(["a story of a cat", "a cat and a dog"], 280, max_length=64))


def test_prompts_are_continued_when_their_turn_has_come(make_model: Callable[..., Any], encoder: Encoder) -> None:
    model = make_model(vocab_size=len(encoder.tokenizer))
    ids = encoder.tokenizer("a story of a cat")["input_ids"]
    messages: list[int] = []
    row = Encoded(tuple(ids), 4)
    table = GenerationTable(
        {"x": [row, row]}, encoder, Generation(max_new_tokens=5, temperature=1.0), every=2, always=3,
        tell=lambda lines, new: messages.append(len(lines)),
    )  # fmt: skip
    before = torch.get_rng_state()
    for number, step in enumerate((0, 2, 10, 20, 30)):
        table(model, step, number)
    assert [line["step"] for line in table.lines] == [0, 0, 2, 2, 10, 10, 30, 30] and messages == [2, 4, 6, 8]
    first, second = table.lines[:2]
    assert first["prompt"] == encoder.tokenizer.decode(ids[:4], skip_special_tokens=True)
    assert first["target"] == encoder.tokenizer.decode(ids[4:])
    assert first["generation"] != second["generation"]  # each row draws by itself
    assert [x["generation"] for x in table.lines[6:]] == [first["generation"], second["generation"]]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_holds_the_table(encoder: Encoder) -> None:
    table = GenerationTable({}, encoder, Generation())
    table.lines = [{"step": 0, "set": "x", "prompt": "a", "generation": "b", "target": "c"}]
    state = EvalCallback(EvaluateArgs(steps=2), lambda model: {}, table=table).state()
    other = GenerationTable({}, encoder, Generation())
    EvalCallback(EvaluateArgs(steps=2), lambda model: {}, table=other).restore(state)
    assert other.lines == table.lines


class _Shards(list[Encoded]):
    """Rows that know their lengths, and that nobody may read."""

    def __init__(self, lengths: list[int]) -> None:
        import numpy as np

        super().__init__([Encoded((1,) * n, 0) for n in lengths])
        self.lengths = np.array(lengths)

    def __iter__(self) -> Any:
        raise AssertionError("read")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("read")


def test_planning_reads_no_row() -> None:
    lengths = [5, 9, 3, 7, 7, 4, 8, 6, 5]
    plain = [Encoded((1,) * n, 0) for n in lengths]
    finetune = objective("finetune")
    assert plan_samples(finetune, {"retain": _Shards(lengths)}, ARGS) == plan_samples(finetune, {"retain": plain}, ARGS)


@pytest.mark.parametrize(
    "off",
    [
        {"report_to": ("wandb",)}, {"report_dir": "x"}, {"peak_tflops": 3.0}, {"dense_logging_steps": 9},
        {"logging_steps": 9},
    ],
)  # fmt: skip
def test_what_is_only_looked_at_is_no_part_of_the_identity(off: dict[str, Any]) -> None:
    assert TrainArgs(**off).identity == TrainArgs().identity
    keys = TrainArgs(evaluate=EvaluateArgs(steps=3)).identity
    assert set(keys["evaluate"]) == {"every", "steps", "panel", "rows", "at_start", "keep", "patience", "rule"}
    assert not {"compile", "dense_logging_steps"} & set(keys)


def test_what_decides_the_numbers_is() -> None:
    how = EvaluateArgs(steps=3)
    result = [
        TrainArgs(), TrainArgs(compile=True), TrainArgs(evaluate=how), TrainArgs(evaluate=how, dense_logging_steps=2),
        TrainArgs(evaluate=EvaluateArgs(steps=3, losses=("a",))), TrainArgs(evaluate=EvaluateArgs(steps=3, prompts=1)),
    ]  # fmt: skip
    assert len({str(args.identity) for args in result}) == len(result)


def test_settings_that_say_nothing_are_refused() -> None:
    for group in ({"losses": ("a",)}, {"prompts": 2}):
        with pytest.raises(ConfigError, match=r"^EvaluateArgs\.(losses|prompts): is set, .* every \(epochs\) or steps"):
            EvaluateArgs(**group)
    with pytest.raises(ConfigError, match=r"^TrainArgs\.peak_tflops: must be a number > 0"):
        TrainArgs(peak_tflops=0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, when its compiler loads
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_compiled_layers_have_the_same_losses(
    make_model: Callable[..., Any], make_rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes for a model this small
    inputs = {"retain": make_rows([(12, 3)] * 8, 3)}
    lines = {}
    for compiled in (False, True):
        args = TrainArgs(**{**vars(ARGS), "compile": compiled, "logging_steps": 1, "learning_rate": 1e-3})
        model = make_model(num_hidden_layers=1)
        lines[compiled] = [x["loss"] for x in train(model, objective("finetune"), inputs, args, pad_id=0).history]
        assert model.model._compiled_call_impl is None and "model.norm.weight" in model.state_dict()
    assert lines[True] == pytest.approx(lines[False], abs=1e-4) and len(lines[True]) == 4
