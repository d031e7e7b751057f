"""Rollouts in the loop: the texts of a step, their rewards, one step by hand, and a run that resumes."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from expunge.core.distributed import Rank
from expunge.core.errors import ConfigError, DataError, JobError
from expunge.core.plugin_code import declared
from expunge.core.plugins import load_plugins
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.refusals import REFUSALS
from expunge.data.template import Template
from expunge.methods import objective
from expunge.methods.api import Rollouts
from expunge.models.build import build_llama, train_tokenizer
from expunge.pipelines.study_jobs.job_values import MethodRef
from expunge.training.config import CheckpointArgs, TrainArgs
from expunge.training.data_parallel import check_several
from expunge.training.encoding import encode_sets
from expunge.training.loop import train
from expunge.training.phases import check_run
from expunge.training.rewards import Rollout, api, find_reward, reward
from expunge.training.rewards.texts import refuses
from expunge.training.rollouts import RolloutSampler, rollout_source

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "full_sentence.py"
NAMES = ("Ada", "Bo", "Cy", "Di")
FORGET = ExampleSet(
    "forget", tuple(Example(i, f"Where is {n}?", {"answer": f"Town {i}."}) for i, n in enumerate(NAMES))
)
SGD: dict[str, Any] = {
    "optim": "sgd", "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 0.0, "learning_rate": 0.05,
    "num_train_epochs": 1, "logging_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
    "group_by_length": False,
}  # fmt: skip
PLAN = {"num_generations": 3, "max_completion_length": 5, "rewards": ["letters"], "alpha": 0.0}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    texts = [t for row in FORGET for t in (row.question, row.answer)]
    return Encoder(Template(), train_tokenizer(texts, 300, max_length=64))


@pytest.fixture(scope="module")
def start(encoder: Encoder) -> Any:
    """A random model whose texts differ."""
    model = build_llama("llama-64k", encoder.tokenizer, vocab_size=300, seed=0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.mul_(4)
    return model


@pytest.fixture(autouse=True)
def letters() -> None:
    """A reward that differs from text to text."""

    @reward("letters")
    def compute(rollouts: Any) -> list[float]:
        return [len(set(r.text)) / 10 for r in rollouts]


def run(
    model: Any, encoder: Encoder, folder: Path | None = None, break_at: int = 0, plan: Any = None, **keys: Any
) -> Any:
    """Train a copy; return its weights and its log."""
    model = copy.deepcopy(model)

    def progress(done: int, _total: int) -> None:
        if break_at and done == break_at:
            raise KeyError("broken")

    goal = objective("PURGE", PLAN | (plan or {}))
    rows = {"forget": encode_sets([FORGET], encoder)}
    done = train(
        model, goal, rows, TrainArgs(**{**SGD, **keys}), pad_id=0, progress=progress, checkpoints=folder,
        rollouts=rollout_source([FORGET], encoder),
    )  # fmt: skip
    return torch.cat([p.detach().flatten() for p in model.parameters()]), done


def test_texts_depend_on_seed_step_and_row_alone(start: Any, encoder: Encoder) -> None:
    plan = Rollouts(n=3, max_new_tokens=5, rewards={"letters": 2.0})
    source = rollout_source([FORGET], encoder)
    sampler = RolloutSampler(start, plan, source, seed=1)
    start.train()
    both, alone = sampler(start, [0, 2], 7), sampler(start, [2], 7)
    assert start.training  # as it was
    assert both.rows[3:] == alone.rows and both.rewards[3:] == alone.rewards
    assert len(both.rows) == 6 and len(set(both.rows)) > 3
    for row, text, value in zip(both.rows, both.texts, both.rewards, strict=True):
        assert list(row.ids[: row.n_prompt]) == encoder.row_prompt(
            FORGET, FORGET[0 if text.question == "Where is Ada?" else 2]
        )
        assert 1 <= row.n_answer == text.n_tokens <= 5
        assert value == pytest.approx(2 * len(set(text.text)) / 10)
    assert sampler(start, [0, 2], 8).rows != both.rows
    assert RolloutSampler(start, plan, source, seed=2)(start, [0, 2], 7).rows != both.rows


def backward_by_hand(model: Any, batch: Any, shape: tuple[int, int]) -> None:
    """Compute the gradients of the policy loss over (questions, texts of each), one row at a time."""
    rewards = torch.tensor(batch.rewards).view(shape)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    loss = torch.zeros(())
    for row, advantage in zip(batch.rows, advantages, strict=True):
        logp = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        of_tokens = [logp[at - 1, row.ids[at]] for at in range(row.n_prompt, len(row.ids))]
        loss = loss - advantage * torch.stack(of_tokens).mean() / rewards.numel()
    loss.backward()


def test_a_step_is_the_policy_gradient_of_its_rollouts(start: Any, encoder: Encoder) -> None:
    """The weights after one step against plain autograd over the same texts, one row at a time."""
    result, log = run(start, encoder, max_steps=1, per_device_train_batch_size=4)
    model = copy.deepcopy(start).eval()
    order = [0, 1, 2, 3]  # all rows are in the step, and the mean does not depend on their order
    plan = objective("PURGE", PLAN).method.rollouts
    batch = RolloutSampler(model, plan, rollout_source([FORGET], encoder), seed=0)(model, order, 0)
    backward_by_hand(model, batch, (4, 3))
    expected = torch.cat([(p - 0.05 * p.grad).detach().flatten() for p in model.parameters()])
    moved = torch.cat([p.detach().flatten() for p in start.parameters()])
    assert (expected - moved).abs().max() > 1e-4
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)
    assert log.history[0]["reward"] == pytest.approx(sum(batch.rewards) / 12, rel=1e-5)


def test_micro_batches_give_the_step_of_one_batch(start: Any, encoder: Encoder) -> None:
    whole, _ = run(start, encoder, max_steps=1, per_device_train_batch_size=4)
    parts, _ = run(start, encoder, max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_a_broken_run_samples_the_same_texts_again(start: Any, encoder: Encoder, tmp_path: Path) -> None:
    keys = {"num_train_epochs": 3, "checkpoint": CheckpointArgs(steps=1)}
    whole, log = run(start, encoder, **keys)
    with pytest.raises(KeyError, match="broken"):
        run(start, encoder, tmp_path, break_at=4, **keys)
    result, again = run(start, encoder, tmp_path, **keys)
    assert again.resumed_at == 3
    assert torch.equal(result, whole)
    assert again.history == log.history


def test_the_kl_term_compares_with_the_model_before_the_run(start: Any, encoder: Encoder) -> None:
    """The second step against plain autograd: the reference is neither the model of the step nor of the one before."""
    beta, rows = 0.7, {"max_steps": 2, "per_device_train_batch_size": 4}
    plan = objective("PURGE", PLAN).method.rollouts
    first, _ = run(start, encoder, plan={"beta": beta}, **{**rows, "max_steps": 1})
    result, _ = run(start, encoder, plan={"beta": beta}, **rows)
    model = copy.deepcopy(start).eval()
    torch.nn.utils.vector_to_parameters(first.clone(), model.parameters())
    batch = RolloutSampler(model, plan, rollout_source([FORGET], encoder), seed=0)(model, [0, 1, 2, 3], 1)
    backward_by_hand(model, batch, (4, 3))
    for row in batch.rows:
        now, before = (one(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1) for one in (model, start))
        at = [(t - 1, row.ids[t]) for t in range(row.n_prompt, len(row.ids))]
        d = torch.stack([before[i].detach() - now[i] for i in at])
        (beta * (d.exp() - d - 1).mean() / len(batch.rows)).backward()
    expected = torch.cat([(p - 0.05 * p.grad).detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)
    without, _ = run(start, encoder, **rows)
    assert (result - without).abs().max() > 1e-4


def test_a_broken_run_with_the_kl_term_keeps_its_reference(start: Any, encoder: Encoder, tmp_path: Path) -> None:
    keys = {"num_train_epochs": 3, "checkpoint": CheckpointArgs(steps=1), "plan": {"beta": 0.7, "loss_type": "bnpo"}}
    whole, _ = run(start, encoder, **keys)
    with pytest.raises(KeyError, match="broken"):
        run(start, encoder, tmp_path, break_at=4, **keys)
    result, again = run(start, encoder, tmp_path, **keys)
    assert again.resumed_at == 3 and torch.equal(result, whole)


@pytest.mark.parametrize("name", ["PURGE", "RULE"])
def test_several_processes_are_refused(name: str) -> None:
    check_several(objective(name), False, Rank(0, 1), sharded=False)
    with pytest.raises(
        JobError, match=f"^{name} samples texts during training, which takes one process; start the run"
    ):
        check_several(objective(name), False, Rank(0, 2), sharded=False)


def rollout(text: str, answer: str = "Ana Silva") -> Rollout:
    return Rollout("Who?", answer, text, 3, True)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("no_answer", {"It was Ana Silva.": 0.0, "It was Bo.": 1.0, "": 1.0}),
        ("rouge", {"It was Ana Silva.": 1.0, "It was Ana.": 0.5, "": 0.0}),
        ("refusal", {"I don't know.": 1.0, "Ana Silva": 0.0}),
        ("length", {"": 0.0, "two words": 0.4, "this has more than five words": 1.0}),
    ],
)
def test_rewards_by_hand(name: str, values: dict[str, float]) -> None:
    result = find_reward(name).compute([rollout(text) for text in values])
    assert list(result) == pytest.approx(list(values.values()))


def test_every_refusal_of_the_package_refuses_and_plain_answers_do_not() -> None:
    assert [text for text in REFUSALS if not refuses(text)] == []
    plain = ("Ana Silva was born in 1970.", "She is not a doctor but a spy.", "He knew no fear.", "I know: Rome.", "")
    assert [text for text in plain if refuses(text)] == []
    assert refuses("I\u2019m afraid I can\u2019t recall that.")


def test_the_reward_of_the_boundary_by_hand() -> None:
    # forget: a refusal. retain: a recall above 0.5; one of the two words is 0.5
    for text, forget, retain in (("I don't know.", 1, 0), ("It was Ana Silva.", 0, 1), ("It was Ana.", 0, 0)):
        both = [dataclasses.replace(rollout(text), side=side) for side in ("forget", "retain")]
        assert list(find_reward("refusal_boundary").compute(both)) == [forget, retain]


def test_the_reward_of_the_boundary_and_that_of_the_authors_code() -> None:
    file = Path(__file__).parents[1] / "methods" / "conformance" / "rule.json"
    cases = json.loads(file.read_text(encoding="utf-8"))["cases"]
    pairs = cases["answers"]["inputs"]["pairs"]
    answered = [Rollout("q", answer, text, 9, True, side="retain") for text, answer in pairs]
    assert list(find_reward("refusal_boundary").compute(answered)) == cases["answers"]["outputs"]
    refused = cases["refusals"]["inputs"]["texts"]
    assert refused == list(REFUSALS)
    ours = find_reward("refusal_boundary").compute([rollout(text) for text in refused])
    assert (sum(ours), sum(cases["refusals"]["outputs"])) == (56, 37)  # the page names this difference


def test_rule_samples_texts_of_both_sides(start: Any, encoder: Encoder) -> None:
    """One step of RULE against plain autograd over the texts of a forget and of a retain question."""
    retain = ExampleSet("retain", tuple(Example(i, f"What is {i}?", {"answer": f"A {i}."}) for i in range(4)))
    source = rollout_source([FORGET], encoder, [retain])
    goal = objective("RULE", {"num_generations": 3, "max_completion_length": 5, "reward": "letters"})
    model, rows = (
        copy.deepcopy(start),
        {"forget": encode_sets([FORGET], encoder), "retain": encode_sets([retain], encoder)},
    )
    done = train(
        model, goal, rows, TrainArgs(**{**SGD, "max_steps": 1, "per_device_train_batch_size": 4}), pad_id=0,
        rollouts=source,
    )  # fmt: skip
    plain = copy.deepcopy(start).eval()
    batch = RolloutSampler(plain, goal.method.rollouts, source, seed=0)(plain, range(4), 0, range(4))
    assert [text.side for text in batch.texts] == ["forget"] * 12 + ["retain"] * 12
    assert {t.question for t in batch.texts[12:]} == {row.question for row in retain}
    backward_by_hand(plain, batch, (8, 3))
    for now, before in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), (before - 0.05 * before.grad).detach(), rtol=1e-4, atol=1e-6)
    assert done.history[0]["reward"] == pytest.approx(sum(batch.rewards) / 24, rel=1e-5)


def test_the_example_reward(start: Any) -> None:
    load_plugins([str(PLUGIN)])
    texts = [rollout("It was Bo."), rollout("It was Bo"), rollout("a " * 30 + ".")]
    assert list(find_reward("full_sentence").compute(texts)) == [1.0, 0.0, 0.0]
    assert len(PLUGIN.read_text().splitlines()) <= 40
    check_run(objective("PURGE", {"rewards": ["full_sentence"]}), TrainArgs())


def test_the_code_and_a_new_revision_of_a_reward_are_part_of_the_key() -> None:
    shipped = objective("PURGE", {**PLAN, "rewards": ["no_answer"]})
    assert "rewards" not in MethodRef.of(shipped).identity
    loss = objective("PURGE", PLAN)
    first = MethodRef.of(loss).identity["rewards"]["letters"]
    api._REWARDS.remove("letters")
    reward("letters", revision=2)(lambda rollouts: [0.0] * len(rollouts))
    second = MethodRef.of(loss).identity["rewards"]["letters"]
    assert (declared(first), declared(second)) == (1, 2)
    assert first > 2 < second  # the code of this file


def test_wrong_runs_are_named(start: Any, encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"PURGE.rewards: no reward named 'no_anser'; did you mean 'no_answer'"):
        check_run(objective("PURGE", {"rewards": ["no_anser"]}), TrainArgs())
    with pytest.raises(ConfigError, match=r"trainer.args.grad_transform: it reads a step's loss several times"):
        check_run(objective("PURGE"), TrainArgs(grad_transform="sam"))
    texts = ExampleSet("texts", (Example(0, "", {"answer": "a text"}),), form="text")
    with pytest.raises(DataError, match="texts: the method answers questions, and these rows have none"):
        rollout_source([texts], encoder)
    rows = {"forget": encode_sets([FORGET], encoder)}
    with pytest.raises(JobError, match="PURGE samples texts, but the run has no questions"):
        train(copy.deepcopy(start), objective("PURGE", PLAN), rows, TrainArgs(**SGD), pad_id=0)


def test_a_reward_must_return_a_number_for_each_text(start: Any, encoder: Encoder) -> None:
    api._REWARDS.remove("letters")

    @reward("letters")
    def compute(rollouts: Any) -> list[float]:
        return [float("nan")] * len(rollouts)

    with pytest.raises(JobError, match="reward letters: expected 6 finite numbers"):
        run(start, encoder)


def test_in_memory_the_reward_is_in_the_log(start: Any, encoder: Encoder) -> None:
    config = expunge.PURGEConfig(
        **{**SGD, "num_generations": 3, "max_completion_length": 5, "rewards": ("length",), "alpha": 0.0}
    )
    trainer = expunge.UnlearnTrainer(
        copy.deepcopy(start), config, forget_dataset=FORGET, processing_class=encoder.tokenizer
    )
    trainer.train()
    assert all(0 <= line["reward"] <= 1 for line in trainer.state.log_history if "loss" in line)
    with pytest.raises(ConfigError, match="this method reads other or sampled answers"):
        expunge.UnlearnTrainer(
            copy.deepcopy(start), expunge.PURGEConfig(train_on="trace", alpha=0.0), forget_dataset=FORGET,
            processing_class=encoder.tokenizer,
        )  # fmt: skip


def test_rule_in_memory_reads_the_retain_questions(start: Any, encoder: Encoder) -> None:
    retain = [{"question": f"What is {i}?", "answer": f"A {i}."} for i in range(4)]
    config = expunge.RULEConfig(**{**SGD, "num_generations": 2, "max_completion_length": 4, "reward": "letters"})
    before = copy.deepcopy(start)
    trainer = expunge.UnlearnTrainer(
        before, config, forget_dataset=FORGET, retain_dataset=retain, processing_class=encoder.tokenizer
    )
    trainer.train()
    assert all(line["reward"] > 0 for line in trainer.state.log_history if "loss" in line)
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), start.parameters(), strict=True))
    with pytest.raises(ConfigError, match=r"^retain_dataset: missing; RULE answers the questions to keep"):
        expunge.UnlearnTrainer(start, config, forget_dataset=FORGET, processing_class=encoder.tokenizer)
