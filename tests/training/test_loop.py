from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from expunge.core.errors import ConfigError, JobError
from expunge.data.encoder import Encoded
from expunge.evaluation.observation import capabilities
from expunge.methods import Quantity, objective
from expunge.models import dtypes
from expunge.training import trainer
from expunge.training.config import TrainArgs
from expunge.training.loop import TrainResult, plan_samples, train
from expunge.training.phases import ForwardSpec, Phase, TrainingSample
from expunge.training.reference import reference
from expunge.training.trainer import PhaseTrainer, training_arguments

PLAIN = {  # so that one step moves the weights by -learning_rate * gradient
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "group_by_length": False,
}


def run(model: Any, goal: Any, rows: Any, **args: Any) -> TrainResult:
    return train(model, goal, rows, TrainArgs(**args), pad_id=0)


def flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def token_losses(model: Any, rows: list[Encoded]) -> list[torch.Tensor]:
    """Losses of each row's answer tokens, each row by itself."""
    out = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        targets = torch.tensor(row.ids[row.n_prompt :])
        out.append(F.cross_entropy(logits[row.n_prompt - 1 : -1], targets, reduction="none"))
    return out


def mean_loss(model: Any, rows: list[Encoded]) -> float:
    with torch.no_grad():
        return float(torch.cat(token_losses(model, rows)).mean())


def gradient(model: Any, micro_batches: list[list[Encoded]]) -> torch.Tensor:
    """Of the mean over micro-batches of the mean over a micro-batch's tokens."""
    model.zero_grad()
    losses = [torch.cat(token_losses(model, rows)).mean() for rows in micro_batches]
    torch.stack(losses).mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_checkpointing_has_the_name_of_the_release(make_model, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Release:
        def __init__(self, **settings: Any) -> None:
            vars(self).update(settings)

    setattr(Release, name, None)
    monkeypatch.setattr(trainer.transformers, "TrainingArguments", Release)
    phase = Phase(objective("GradAscent"), [], TrainArgs(activation_checkpointing=True), 1)
    settings = vars(training_arguments(phase, 0, "", make_model()))
    assert {key: value for key, value in settings.items() if "checkpointing" in key} == {name: True}


@pytest.mark.parametrize("grouped", [True, False])
def test_plan_is_a_function_of_the_seed(rows, grouped: bool) -> None:
    goal = objective("GradDiff")
    args = TrainArgs(num_train_epochs=3, per_device_train_batch_size=2, group_by_length=grouped)
    plan = plan_samples(goal, rows, args)
    assert plan == plan_samples(goal, rows, args)
    assert plan != plan_samples(goal, rows, TrainArgs(num_train_epochs=3, seed=1, group_by_length=grouped))
    assert len(plan) == 21
    counts = [sum(s.forget == i for s in plan) for i in range(7)]
    assert counts == [3] * 7
    assert {sum(s.retain == i for s in plan) for i in range(11)} == {1, 2}


def test_plan_does_not_depend_on_the_method_or_accumulation(rows) -> None:
    shared = {"num_train_epochs": 2, "group_by_length": False}
    first = plan_samples(objective("GradDiff"), rows, TrainArgs(per_device_train_batch_size=2, **shared))
    second = plan_samples(objective("NPO"), rows, TrainArgs(per_device_train_batch_size=4, **shared))
    assert first == second
    alone = plan_samples(objective("GradAscent"), rows, TrainArgs(**shared))
    assert [s.forget for s in alone] == [s.forget for s in first]
    assert {s.retain for s in alone} == {None}


def test_anchor_sets_the_length_of_an_epoch(rows) -> None:
    args = {"num_train_epochs": 1, "group_by_length": False}
    assert len(plan_samples(objective("GradDiff"), rows, TrainArgs(**args))) == 7
    by_retain = plan_samples(objective("GradDiff"), rows, TrainArgs(anchor="retain", **args))
    assert sorted(s.retain for s in by_retain) == list(range(11))
    tuned = plan_samples(objective("finetune"), rows, TrainArgs(**args))
    assert sorted(s.retain for s in tuned) == list(range(11))


@pytest.mark.parametrize("method", ["GradDiff", "finetune"])
def test_missing_rows_are_named(rows, method: str) -> None:
    with pytest.raises(JobError, match=rf"^{method} needs retain rows, but there are none$"):
        plan_samples(objective(method), {"forget": rows["forget"], "retain": []}, TrainArgs())


def test_two_runs_give_the_same_bits(make_model, rows) -> None:
    """With dropout on, and whatever the global generator was before."""
    args = {"num_train_epochs": 2, "per_device_train_batch_size": 3, "learning_rate": 1e-2, "logging_steps": 1}
    weights, histories = [], []
    for seed in (1, 2):
        model = make_model(attention_dropout=0.2)
        torch.manual_seed(seed)
        done = run(model, objective("NPO", {"retain_loss_type": "KL"}), rows, **args)
        weights.append(flat(model))
        histories.append(done.history)
    assert torch.equal(*weights)
    assert histories[0] == histories[1]
    assert not torch.equal(weights[0], flat(make_model()))
    model = make_model(attention_dropout=0.2)
    run(model, objective("NPO", {"retain_loss_type": "KL"}), rows, seed=5, **args)
    assert not torch.equal(weights[0], flat(model))


def test_the_model_is_left_in_evaluation_mode(make_model, rows) -> None:
    model = make_model()
    calls: list[bool] = []
    capabilities(model)  # its observation is no training
    model.register_forward_pre_hook(lambda module, _: calls.append(module.training))
    run(model, objective("finetune"), rows, num_train_epochs=1)
    assert calls and all(calls)
    assert not model.training


def step_of(make_model, rows, size: int, accumulate: int, **more: Any) -> tuple[Any, torch.Tensor]:
    """One step of plain gradient descent: the samples' order and -gradient."""
    model = make_model()
    before = flat(model)
    keys = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate, "max_steps": 1}
    args = TrainArgs(learning_rate=1.0, **keys, **PLAIN, **more)
    done = train(model, objective("finetune"), rows, args, pad_id=0)
    assert done.n_steps == 1
    order = [rows["retain"][s.retain] for s in plan_samples(objective("finetune"), rows, args)]
    return order, before - flat(model)


def test_accumulation_of_rows_of_equal_length_changes_nothing(make_model, make_rows) -> None:
    rows = {"retain": make_rows([(9, 4)] * 8, 3)}
    order, whole = step_of(make_model, rows, 8, 1)
    torch.testing.assert_close(whole, gradient(make_model(), [order]), rtol=1e-4, atol=2e-6)
    for size, accumulate in ((1, 8), (4, 2)):
        torch.testing.assert_close(step_of(make_model, rows, size, accumulate)[1], whole, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("size", "accumulate"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_accumulation_is_the_token_mean_of_the_step(make_model, rows, size: int, accumulate: int) -> None:
    order, moved = step_of(make_model, rows, size, accumulate)
    torch.testing.assert_close(moved, gradient(make_model(), [order]), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("size", "accumulate"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_the_old_way_is_the_mean_over_micro_batches(make_model, rows, size: int, accumulate: int) -> None:
    """Of token means: with rows of unequal length, a row in a small micro-batch weighs more per token."""
    order, moved = step_of(make_model, rows, size, accumulate, accumulation="mean_of_means")
    micro = [order[i : i + size] for i in range(0, 8, size)]
    torch.testing.assert_close(moved, gradient(make_model(), micro), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("accumulation", ["whole_step", "mean_of_means"])
def test_a_last_short_step_is_the_mean_over_what_it_has(make_model, rows, accumulation: str) -> None:
    """7 rows in micro-batches of 2, where a step would take 8 of them: 4 micro-batches, the last of one row."""
    model = make_model()
    before = flat(model)
    keys = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "num_train_epochs": 1}
    args = TrainArgs(learning_rate=1.0, accumulation=accumulation, **keys, **PLAIN)
    done = train(model, objective("GradAscent"), rows, args, pad_id=0)
    order = [rows["forget"][s.forget] for s in plan_samples(objective("GradAscent"), rows, args)]
    micro = [order[i : i + 2] for i in range(0, 7, 2)]
    assert [len(m) for m in micro] == [2, 2, 2, 1]
    assert done.n_steps == 1 == args.n_steps(7)
    expected = gradient(make_model(), micro if accumulation == "mean_of_means" else [order])
    torch.testing.assert_close(before - flat(model), -expected, rtol=1e-4, atol=2e-6)
    assert done.history[0]["loss"] == pytest.approx(done.history[0]["forget"], rel=1e-6)


def test_steps_progress_and_log(make_model, rows) -> None:
    calls: list[tuple[int, int]] = []
    keys = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    args = TrainArgs(logging_steps=2, learning_rate=1e-3, warmup_steps=2, **keys)
    model = make_model()
    done = train(model, objective("GradDiff"), rows, args, pad_id=0, progress=lambda k, n: calls.append((k, n)))
    assert done.n_steps == args.n_steps(7) == 4
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [line["step"] for line in done.history] == [2.0, 4.0]
    for line in done.history:
        assert line["loss"] == pytest.approx(line["forget"] + line["retain"], rel=1e-6)
        assert all(math.isfinite(v) for v in line.values())
        assert line["grad_norm"] > 0
    # two steps of warm-up, then linear to 0; logged is the rate of the step just made
    assert [line["learning_rate"] for line in done.history] == pytest.approx([0.5e-3, 0.5e-3])


def test_logged_loss_is_the_mean_since_the_last_log(make_model, rows) -> None:
    keys = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "num_train_epochs": 1}
    each, pairs = (
        run(make_model(), objective("finetune"), rows, logging_steps=n, learning_rate=1e-2, **keys).history
        for n in (1, 2)
    )
    assert len(each) == 6
    means = [(a["loss"] + b["loss"]) / 2 for a, b in zip(each[::2], each[1::2], strict=True)]
    assert [line["loss"] for line in pairs] == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("bad", ["nan", "limit"])
def test_a_broken_loss_ends_the_run_in_one_line(make_model, rows, bad: str) -> None:
    model = make_model()
    if bad == "nan":
        with torch.no_grad():
            model.model.norm.weight.fill_(math.nan)
        words = r"^finetune: the loss is not a finite number \(nan\) at step 1 of 2; lower the learning rate[^\n]*$"
    else:
        words = r"^finetune: the loss passed the limit of 0\.001 \([\d.]+\) at step 1 of 2; lower the learning[^\n]*$"
    with pytest.raises(JobError, match=words):
        run(model, objective("finetune"), rows, max_loss=1e-3, per_device_train_batch_size=2, num_train_epochs=1)


def test_a_collapse_is_noticed_at_its_step(make_model, rows) -> None:
    words = r"^GradAscent: the loss passed the limit of 100 \(-[\d.]+\) at step [2-9]\d* of 60;"
    with pytest.raises(JobError, match=words):
        run(
            make_model(), objective("GradAscent"), rows, learning_rate=0.1, max_steps=60, max_loss=100,
            gradient_accumulation_steps=1,
        )  # fmt: skip


SMALL = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "weight_decay": 0.0, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def learnt() -> dict[str, Any]:
    """The weights of a model that has learnt 3 forget and 3 retain rows, once it has."""
    return {}


@pytest.fixture
def memorised(make_model, rows, learnt: dict[str, Any]) -> Any:
    """A model that has learnt 3 forget and 3 retain rows by heart."""
    model = make_model()
    if not learnt:
        few = rows["forget"][:3] + rows["retain"][:3]
        run(model, objective("finetune"), {"retain": few}, num_train_epochs=200, **SMALL)
        learnt.update({k: v.clone() for k, v in model.state_dict().items()})
    model.load_state_dict(learnt)
    return model


def test_finetune_memorises(make_model, rows, memorised: Any) -> None:
    few = rows["forget"][:3] + rows["retain"][:3]
    assert mean_loss(make_model(), few) > 3
    assert mean_loss(memorised, few) < 0.2


@pytest.mark.parametrize("retain", ["NLL", "KL"])
def test_npo_forgets_and_retains(rows, memorised: Any, retain: str) -> None:
    forget, keep = rows["forget"][:3], rows["retain"][:3]
    run(
        memorised, objective("NPO", {"retain_loss_type": retain}), {"forget": forget, "retain": keep},
        num_train_epochs=30, **SMALL,
    )  # fmt: skip
    assert mean_loss(memorised, forget) > 3
    assert mean_loss(memorised, keep) < 1


def test_compat_kl_trains_with_a_resident_reference(make_model, rows) -> None:
    goal = objective("GradDiff", {"retain_loss_type": "KL", "compat": "openunlearning"})
    done = run(make_model(), goal, rows, num_train_epochs=1, logging_steps=1, gradient_accumulation_steps=1)
    assert done.history[0]["retain"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_32bit"])
def test_an_optimizer_of_gpus_only_is_replaced_on_a_cpu(make_model, rows, optim: str, caplog: Any) -> None:
    run(make_model(), objective("finetune"), rows, optim=optim, num_train_epochs=1)
    assert f"optim={optim} needs a GPU; adamw_torch" in caplog.text


@pytest.mark.parametrize(("optim", "other"), [("lion_32bit", "Lion"), ("paged_lion_8bit", "PagedLion8bit")])
def test_another_rule_never_takes_the_place_of_lion_on_a_cpu(make_model, rows, optim: str, other: str) -> None:
    message = rf"^trainer\.args\.optim: {optim} needs a GPU; on a CPU use the class bitsandbytes\.optim\.{other}$"
    with pytest.raises(ConfigError, match=message):
        run(make_model(), objective("finetune"), rows, optim=optim, num_train_epochs=1)


@pytest.mark.parametrize("keys", [{"bf16": True}, {"activation_checkpointing": True}, {"optim": "adafactor"}])
@pytest.mark.usefixtures("bfloat16_cpu")
def test_other_ways_of_computing_train_too(make_model, rows, keys: dict[str, Any]) -> None:
    model = make_model()
    before = mean_loss(model, rows["retain"])
    args = {"num_train_epochs": 6, "learning_rate": 1e-2, "gradient_accumulation_steps": 1}
    run(model, objective("finetune"), rows, **args, **keys)
    assert mean_loss(model, rows["retain"]) < before - 0.5
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("has", [True, False])
def test_a_cpu_trains_in_bfloat16_if_it_has_the_instructions(
    make_model, rows, monkeypatch: pytest.MonkeyPatch, caplog: Any, has: bool
) -> None:
    for module in (trainer, dtypes):
        monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: has)
    finals = []
    for bf16 in (False, True):
        model = make_model()
        run(model, objective("finetune"), rows, bf16=bf16, num_train_epochs=2, learning_rate=1e-2)
        finals.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*finals) != has
    assert finals[1].dtype == torch.float32
    line = "trains in bfloat16 over float32 weights" if has else "has no bfloat16 instructions"
    assert caplog.text.count(line) == 1


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors: `.item()`, `float()`, `bool()` and `.tolist()`."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return func(*args, **(kwargs or {}))


def test_micro_batches_read_nothing_from_the_device(make_model, rows, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads()
    of_micro_batches: list[int] = []
    plain = PhaseTrainer.training_step

    def step(self: Any, *args: Any, **keys: Any) -> Any:
        before = reads.n
        out = plain(self, *args, **keys)
        of_micro_batches.append(reads.n - before)
        return out

    monkeypatch.setattr(PhaseTrainer, "training_step", step)
    # transformers reads one number in each forward to find packed rows, which these batches never have
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    keys = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "num_train_epochs": 2}
    model = make_model()
    capabilities(model)
    totals = []
    for steps in (1, 2):
        reads.n = 0
        with reads:
            run(model, objective("NPO"), rows, **{**keys, "max_steps": steps, "logging_steps": 100})
        totals.append(reads.n)
    assert of_micro_batches == [0] * 12
    n_tensors = sum(1 for _ in model.parameters())  # AdamW on a CPU reads the step of each
    assert totals[1] - totals[0] - n_tensors <= 8


def test_a_teacher_must_be_given(make_model, rows) -> None:
    with pytest.raises(JobError, match=r"^WHP .*teacher.* forget rows"):
        run(make_model(), objective("WHP"), rows, num_train_epochs=1)


def test_a_teacher_is_learnt(make_model, rows) -> None:
    """UNDO from a model that knows nothing of its teacher goes to what the teacher says, on both sides."""
    teacher, model = make_model(), make_model()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    what = ForwardSpec(Quantity.LOGITS)
    content = {f"{s}_teacher": reference(teacher, rows[s], range(len(rows[s])), what, pad_id=0) for s in rows}
    args = TrainArgs(num_train_epochs=200, learning_rate=1e-2, gradient_accumulation_steps=1, logging_steps=1)
    done = train(model, objective("UNDO"), rows, args, pad_id=0, references=content)
    for part in ("forget", "retain"):
        assert done.history[-1][part] < 0.2 * done.history[0][part]


def test_sample_names_its_rows() -> None:
    assert TrainingSample(forget=1, retain=2) != TrainingSample(forget=1)
