"""transformers' callbacks receive the events of a run, however many phases it has."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers
from library_facts import FORGET, RETAIN, SHORT

import expunge
from expunge.core.errors import ConfigError


class Recorder(transformers.TrainerCallback):
    """Notes each event with the step and the epoch."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, float]] = []
        self.logs: list[dict[str, float]] = []
        self.metrics: list[dict[str, float]] = []


def _note(event: str) -> Any:
    def note(self: Recorder, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append((event, state.global_step, state.epoch))
        self.logs += [kwargs["logs"]] if event == "on_log" else []
        self.metrics += [kwargs["metrics"]] if event == "on_evaluate" else []
        assert kwargs["model"] is not None
        if event in ("on_step_end", "on_optimizer_step"):
            assert isinstance(kwargs["optimizer"], torch.optim.Optimizer) or hasattr(kwargs["optimizer"], "optimizer")

    return note


for _name in ("train_begin", "train_end", "epoch_begin", "epoch_end", "step_begin", "step_end", "log", "evaluate",
              "optimizer_step"):  # fmt: skip
    setattr(Recorder, f"on_{_name}", _note(f"on_{_name}"))


def trained(full: Any, tokenizer: Any, callback: Any, **settings: Any) -> expunge.UnlearnTrainer:
    trainer = expunge.UnlearnTrainer(
        full, expunge.NPOConfig(**{**SHORT, **settings}), forget_dataset=FORGET, retain_dataset=RETAIN,
        processing_class=tokenizer, callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    return trainer


def test_a_callback_reads_the_batches_as_they_are_set(full: Any, tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []

    class Reader(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append((args.per_device_train_batch_size, args.gradient_accumulation_steps))

    trained(full, tokenizer, Reader(), per_device_train_batch_size=3, gradient_accumulation_steps=2)
    assert seen == [(3, 2)]


def test_a_callback_sees_one_training(full: Any, tokenizer: Any) -> None:
    recorder = Recorder()
    trainer = trained(full, tokenizer, recorder, per_device_train_batch_size=3)
    names = [event for event, *_ in recorder.events]
    assert (names[0], names[1], names[-1]) == ("on_train_begin", "on_epoch_begin", "on_train_end")
    assert names.count("on_train_begin") == names.count("on_train_end") == 1
    assert [(step, epoch) for event, step, epoch in recorder.events if event == "on_step_end"] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    assert names.count("on_epoch_begin") == names.count("on_epoch_end") == names.count("on_optimizer_step") == 3
    assert [log["loss"] for log in recorder.logs] == [line["loss"] for line in trainer.state.log_history]
    assert trainer.state.max_steps == trainer.state.global_step == 3
    assert {"loss", "forget", "retain", "learning_rate", "epoch", "step"} <= set(trainer.state.log_history[0])


def test_phases_are_one_training(full: Any, tokenizer: Any) -> None:
    recorder = Recorder()
    schedule = expunge.Schedule(kind="chunks", chunk_size=1)
    trainer = trained(full, tokenizer, recorder, schedule=schedule, num_train_epochs=2, per_device_train_batch_size=1)
    steps = [step for event, step, _ in recorder.events if event == "on_step_end"]
    assert steps == [1, 2, 3, 4, 5, 6]  # three chunks, two passes over each
    assert [event for event, *_ in recorder.events].count("on_train_begin") == 1
    assert trainer.state.max_steps == 6
    assert recorder.events[-1] == ("on_train_end", 6, 6.0)


def test_a_callback_ends_all_phases(full: Any, tokenizer: Any) -> None:
    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= 2

    schedule = expunge.Schedule(kind="chunks", chunk_size=1)
    trainer = trained(full, tokenizer, Stop, schedule=schedule, num_train_epochs=1, per_device_train_batch_size=1)
    assert trainer.state.global_step == 2


def test_evaluations_come_when_asked_for(full: Any, tokenizer: Any) -> None:
    recorder = Recorder()
    short = {"max_new_tokens": 4}
    trainer = trained(
        full, tokenizer, recorder, eval_strategy="steps", eval_steps=2, eval_on_start=True, generation=short
    )
    assert [step for event, step, _ in recorder.events if event == "on_evaluate"] == [0, 2]
    assert {"eval_forget_Q_A_Prob", "eval_retain_Q_A_Prob"} <= set(recorder.metrics[0])
    assert recorder.metrics[0]["eval_forget_Q_A_Prob"] > recorder.metrics[1]["eval_forget_Q_A_Prob"]
    result = expunge.evaluate(full, tokenizer, forget=FORGET, retain=RETAIN, metrics=["forget_Q_A_Prob"])
    measured = trainer.evaluate({"forget": FORGET, "retain": RETAIN})
    assert measured["eval_forget_Q_A_Prob"] == result["forget_Q_A_Prob"]


def test_evaluations_follow_a_share_of_the_steps(full: Any, tokenizer: Any) -> None:
    recorder = Recorder()
    trainer = trained(
        full,
        tokenizer,
        recorder,
        eval_strategy="steps",
        logging_steps=0.5,
        max_steps=4,
        generation={"max_new_tokens": 4},
    )
    assert trainer.state.logging_steps == 2
    assert [step for event, step, _ in recorder.events if event == "on_evaluate"] == [2, 4]


def test_evaluation_does_not_change_the_training(full: Any, tokenizer: Any) -> None:
    import copy

    other = copy.deepcopy(full)
    trained(full, tokenizer, Recorder(), eval_strategy="epoch", generation={"max_new_tokens": 4})
    trained(other, tokenizer, Recorder())
    for mine, theirs in zip(full.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_broken_display_does_not_end_the_training(
    full: Any, tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError("the terminal is gone")

    monkeypatch.setattr(transformers.ProgressCallback, "on_log", broken)
    recorder = Recorder()
    with caplog.at_level(logging.WARNING, logger="expunge"):
        trainer = expunge.UnlearnTrainer(
            full, expunge.NPOConfig(**SHORT), forget_dataset=FORGET, retain_dataset=RETAIN, processing_class=tokenizer,
            callbacks=[transformers.ProgressCallback, recorder],
        )  # fmt: skip
        trainer.train()
    assert trainer.state.global_step == 3
    assert len(recorder.logs) == 3
    assert (
        sum("ProgressCallback.on_log failed (OSError: the terminal is gone)" in r.message for r in caplog.records) == 1
    )


def test_an_error_in_ones_own_callback_ends_the_run_and_leaves_the_model_whole(full: Any, tokenizer: Any) -> None:
    class Broken(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise RuntimeError("mine")

    half = full.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="mine"):
        trained(half, tokenizer, Broken)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert all(p.grad is None for p in half.parameters())


def test_callbacks_can_be_added_and_removed(full: Any, tokenizer: Any) -> None:
    trainer = expunge.UnlearnTrainer(
        full, expunge.NPOConfig(**SHORT), forget_dataset=FORGET, retain_dataset=RETAIN, processing_class=tokenizer
    )
    trainer.add_callback(Recorder)
    assert isinstance(trainer.pop_callback(Recorder), Recorder)
    assert trainer.pop_callback(Recorder) is None


def test_early_stopping_ends_the_run(full: Any, tokenizer: Any) -> None:
    settings = {"eval_strategy": "epoch", "metric_for_best_model": "forget_Q_A_Prob", "num_train_epochs": 6,
                "per_device_train_batch_size": 3, "generation": {"max_new_tokens": 4}}  # fmt: skip
    stop = transformers.EarlyStoppingCallback(early_stopping_patience=2)
    trainer = trained(full, tokenizer, stop, greater_is_better=True, **settings)  # it falls, so the first is the best
    assert trainer.state.global_step == 3
    assert trainer.state.best_global_step == 1


def test_early_stopping_without_its_metric_is_an_error(full: Any, tokenizer: Any) -> None:
    stop = transformers.EarlyStoppingCallback()
    with pytest.raises(ConfigError, match=r"NPOConfig.metric_for_best_model: missing"):
        trained(full, tokenizer, stop)
    with pytest.raises(ConfigError, match=r'NPOConfig.eval_strategy: .*got "no"'):
        trained(full, tokenizer, stop, metric_for_best_model="forget_Q_A_Prob")
    with pytest.raises(ConfigError, match="did you mean 'eval_forget_Q_A_Prob'"):
        trained(full, tokenizer, Recorder(), eval_strategy="epoch", metric_for_best_model="forget_Q_A_Prb")
    recorder, names = Recorder(), {"eval_metrics": ["forget_Q_A_Prob"], "metric_for_best_model": "retain_Q_A_Prob"}
    with pytest.raises(ConfigError, match=r"^NPOConfig.metric_for_best_model: the evaluation has no metric"):
        trained(full, tokenizer, recorder, eval_strategy="epoch", **names)
    assert not recorder.events  # before any training


def test_metrics_of_evaluation(full: Any, tokenizer: Any) -> None:
    recorder = Recorder()
    trained(full, tokenizer, recorder, eval_strategy="epoch", num_train_epochs=1, eval_metrics=("answer_in_text",))
    assert [sorted(line)[:2] for line in recorder.metrics] == [
        ["eval_forget_answer_in_text", "eval_retain_answer_in_text"]
    ]
    with pytest.raises(ConfigError, match=r"^NPOConfig\.eval_metrics: no metric named 'answer_in_txt'; did you mean"):
        trained(full, tokenizer, recorder, eval_metrics=("answer_in_txt",))
    with pytest.raises(ConfigError, match=r"^metrics: .*; did you mean 'eval_metrics'\?"):
        expunge.unlearn(full, FORGET, retain=RETAIN, tokenizer=tokenizer, metrics=["forget_Q_A_Prob"])
