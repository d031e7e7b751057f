"""Runs in phases: the order of samples by hand, fresh optimisers, and equality with runs made one by one."""

from __future__ import annotations

import dataclasses
import traceback
from typing import Any

import pytest
import torch

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, JobError
from expunge.core.fingerprints import fingerprint
from expunge.evaluation.observation import capabilities
from expunge.methods import objective
from expunge.models.adapters import merged
from expunge.training.config import TrainArgs
from expunge.training.loop import TrainResult, plan_samples, train
from expunge.training.lora import LoraArgs, with_lora
from expunge.training.phases import TrainingSample, check_run, plan_phases
from expunge.training.schedule import Schedule

CHUNKS = {"kind": "chunks", "chunk_size": 3}
AGAD = {"kind": "alternating", "chunk_size": 3, "anneal_epochs": 1.0}
SHORT = {"chunk_size": 4, "anneal_share": 0.1}  # two chunks, and three or four phases
FAST = {"learning_rate": 1e-2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "logging_steps": 1}


def settings(schedule: dict[str, Any] | None = None, **keys: Any) -> TrainArgs:
    return TrainArgs(**{**FAST, "num_train_epochs": 2, **keys}, schedule=Schedule(**(schedule or {})))


def flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(make_model: Any, rows: Any, args: TrainArgs, goal: Any = None, **keys: Any) -> tuple[torch.Tensor, TrainResult]:
    model = make_model(**keys)
    done = train(model, goal or objective("GradDiff"), rows, args, pad_id=0)
    return flat(model), done


def pairs(samples: Any) -> list[tuple[Any, Any]]:
    return [(s.forget, s.retain) for s in samples]


def test_chunks_by_hand(rows) -> None:
    """7 forget and 5 retain rows, chunks of 3, two retain rows each, two passes. A chunk of 3 needs 6 retain rows, more
    than there are, so its cursor runs on from pass to pass; the chunk of 1 has the same two in each pass."""
    few = {"forget": rows["forget"], "retain": rows["retain"][:5]}
    args = settings({**CHUNKS, "retain_ratio": 2}, group_by_length=False)
    phases = plan_phases(objective("GradDiff"), few, args)
    first = [(0, (0, 1)), (1, (2, 3)), (2, (4, 0)), (0, (1, 2)), (1, (3, 4)), (2, (0, 1))]
    second = [(3, (1, 2)), (4, (3, 4)), (5, (0, 1)), (3, (2, 3)), (4, (4, 0)), (5, (1, 2))]
    third = [(6, (2, 3))] * 2
    assert [pairs(p.samples) for p in phases] == [first, second, third]
    assert [p.n_epoch for p in phases] == [3, 3, 1]
    assert [p.n_steps for p in phases] == [3, 3, 1]


def test_every_forget_row_is_seen_once_a_pass(rows) -> None:
    for keys in (CHUNKS, {**CHUNKS, "shuffle": True, "retain_ratio": 4}, AGAD):
        for grouped in (True, False):
            plan = plan_samples(objective("GradDiff"), rows, settings(keys, group_by_length=grouped))
            assert [sum(s.forget == i for s in plan) for i in range(7)] == [2] * 7
    half = plan_phases(objective("GradDiff"), rows, settings(CHUNKS, num_train_epochs=0.5))
    assert [len(p.samples) for p in half] == [2, 2, 1]


def test_grouping_by_length_stays_within_a_pass(rows) -> None:
    for phase in plan_phases(objective("GradDiff"), rows, settings(CHUNKS, group_by_length=True)):
        records = [s.forget for s in phase.samples]
        passes = [records[i : i + phase.n_epoch] for i in range(0, len(records), phase.n_epoch)]
        assert len(passes) == 2
        assert all(len(set(p)) == phase.n_epoch for p in passes)


def test_alternating_by_hand(rows) -> None:
    """Chunks of 3, 3 and 1; 0.5 of 11 retain rows after each second whole chunk; all of them at the end."""
    keys = {**AGAD, "anneal_every": 2, "anneal_share": 0.5}
    phases = plan_phases(objective("GradDiff"), rows, settings(keys, group_by_length=False))
    assert [sorted({s.forget for s in p.samples} - {None}) for p in phases] == [[0, 1, 2], [3, 4, 5], [], [6], []]
    assert [sorted({s.retain for s in p.samples} - {None}) for p in phases[:2] + phases[3:4]] == [[], [], []]
    assert [len(p.samples) for p in phases] == [6, 6, 5, 2, 11]
    assert len({s.retain for s in phases[2].samples}) == 5
    assert sorted(s.retain for s in phases[4].samples) == list(range(11))
    assert [p.objective.needs.retain is None for p in phases] == [True, True, False, True, False]
    assert [p.objective.needs.forget is None for p in phases] == [False, False, True, False, True]
    assert [p.args.num_train_epochs for p in phases] == [2, 2, 1, 2, 1]


def test_annealing_follows_every_whole_chunk(rows) -> None:
    phases = plan_phases(objective("NPO"), rows, settings({**AGAD, "anneal_share": 0.25}))
    assert [len(p.samples) for p in phases] == [6, 2, 6, 2, 2, 11]
    shares = [{s.retain for s in p.samples} for p in (phases[1], phases[3])]
    assert shares[0] != shares[1]


@pytest.mark.parametrize("keys", [CHUNKS, {**CHUNKS, "shuffle": True}, AGAD, {"retain_ratio": 3}])
def test_a_plan_is_a_function_of_the_seed_and_the_rows(rows, keys: dict[str, Any]) -> None:
    goal = objective("NPO")
    plan = plan_samples(goal, rows, settings(keys))
    assert plan == plan_samples(goal, rows, settings(keys))
    other = plan_samples(goal, rows, settings(keys, seed=1, group_by_length=False))
    same = plan_samples(goal, rows, settings(keys, group_by_length=False))
    assert (other == same) is (keys == CHUNKS)  # chunks without shuffle keep the order of the rows


def test_several_retain_rows_are_drawn_without_replacement(rows) -> None:
    plan = plan_samples(objective("GradDiff"), rows, settings({"retain_ratio": 3}))
    assert len(plan) == 14
    sample = [i for s in plan for i in s.numbers("retain")]
    assert len(sample) == 42
    assert {sample.count(i) for i in range(11)} == {3, 4}
    by_retain = plan_samples(objective("GradDiff"), rows, settings({"retain_ratio": 3}, anchor="retain"))
    assert len(by_retain) == 2 * 4  # 11 rows, 3 a sample


def test_the_retain_term_is_the_token_mean_over_all_retain_rows(make_model, rows) -> None:
    """One step on one sample: forget row and three retain rows, against the two terms computed apart."""
    plain = {"optim": "sgd", "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 0.0}
    args = settings({"retain_ratio": 3}, max_steps=1, **(plain | {"per_device_train_batch_size": 1}))
    (sample,) = plan_samples(objective("GradDiff"), rows, args)
    moved, done = run(make_model, rows, args)
    model = make_model()
    losses = []
    for side in ("forget", "retain"):
        per_token = []
        for i in sample.numbers(side):
            row = rows[side][i]
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.n_prompt - 1 : -1]
            targets = torch.tensor(row.ids[row.n_prompt :])
            per_token.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
        losses.append(torch.cat(per_token).mean())
    (losses[1] - losses[0]).backward()
    expected = flat(model) - 1e-2 * torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6)
    assert done.history[0]["retain"] == pytest.approx(losses[1].item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GradDiff", "NPO"])
def test_one_chunk_of_all_rows_is_the_interleaved_run(make_model, rows, name: str) -> None:
    """One pass in the same seeded order: the same bits."""
    goal = objective(name, {"retain_loss_type": "KL"})
    args = settings(num_train_epochs=1, group_by_length=False)
    chunked = settings({"kind": "chunks", "chunk_size": 99, "shuffle": True}, num_train_epochs=1, group_by_length=False)
    assert plan_samples(goal, rows, args) == plan_samples(goal, rows, chunked)
    plain, first = run(make_model, rows, args, goal, attention_dropout=0.2)
    whole, second = run(make_model, rows, chunked, goal, attention_dropout=0.2)
    assert torch.equal(plain, whole)
    assert first == second


@pytest.mark.slow
def test_each_chunk_is_a_run_of_its_own(make_model, rows) -> None:
    """Chunks of 3 equal runs on those rows one by one: optimiser, warm-up and schedule are fresh, weights go on."""
    args = settings(CHUNKS, warmup_steps=1, group_by_length=False)
    chunked, done = run(make_model, rows, args)
    model = make_model()
    steps = 0
    for start in (0, 3, 6):
        part = {
            "forget": rows["forget"][start : start + 3],
            "retain": [rows["retain"][i % 11] for i in range(start, start + 3)],
        }
        one = dataclasses.replace(args, schedule=Schedule(kind="chunks", chunk_size=3))
        steps += train(model, objective("GradDiff"), part, one, pad_id=0).n_steps
    assert torch.equal(chunked, flat(model))
    assert done.n_steps == steps == 3 + 3 + 1
    whole, _ = run(make_model, rows, settings({**CHUNKS, "chunk_size": 7}, warmup_steps=1, group_by_length=False))
    assert not torch.equal(chunked, whole)


@pytest.mark.slow
def test_the_reference_is_the_model_before_the_first_phase(make_model, rows) -> None:
    """NPO's forget term starts at 2/beta ln 2 only where the model is still the reference."""
    _, done = run(make_model, rows, settings(CHUNKS), objective("NPO"))
    by_phase = {n: next(line for line in done.history if line["phase"] == n) for n in (1, 2, 3)}
    start = 20 * torch.tensor(2.0).log().item()
    assert by_phase[1]["forget"] == pytest.approx(start, rel=1e-4)
    assert abs(by_phase[2]["forget"] - start) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{**CHUNKS, "retain_ratio": 2}, AGAD])
def test_accumulation_of_rows_of_equal_length_changes_nothing(make_model, make_rows, keys: dict[str, Any]) -> None:
    rows = {"forget": make_rows([(9, 4)] * 8, 3), "retain": make_rows([(9, 4)] * 8, 4)}
    sgd = {"optim": "sgd", "max_grad_norm": 0.0, "weight_decay": 0.0, "learning_rate": 0.1, "num_train_epochs": 1}
    sgd["group_by_length"] = False
    keys = keys | SHORT if keys["kind"] == "alternating" else {**keys, "chunk_size": 4}
    whole, _ = run(make_model, rows, settings(keys, **sgd | {"per_device_train_batch_size": 4}))
    apart = settings(keys, **sgd | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4})
    torch.testing.assert_close(run(make_model, rows, apart)[0], whole, rtol=1e-4, atol=2e-6)
    assert not torch.allclose(whole, flat(make_model()), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "method"), [({**CHUNKS, "retain_ratio": 2}, "IdkDPO"), (AGAD | SHORT, "NPO")])
def test_two_runs_give_the_same_bits(make_model, rows, keys: dict[str, Any], method: str) -> None:
    rows = rows | {"alternate": rows["retain"][:7] + rows["retain"][2:9]}
    first, second = (run(make_model, rows, settings(keys), objective(method), attention_dropout=0.2) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]


@pytest.mark.slow
def test_alternating_climbs_then_repairs(make_model, rows) -> None:
    sgd = {"optim": "sgd", "lr_scheduler_type": "constant", "weight_decay": 0.0, "learning_rate": 0.05}
    _, done = run(make_model, rows, settings({**AGAD, "anneal_epochs": 6.0}, num_train_epochs=4, **sgd))
    by_phase = [[line for line in done.history if line["phase"] == n] for n in range(1, 7)]
    assert [set(p[0]) & {"forget", "retain"} for p in by_phase] == [
        {"forget"}, {"retain"}, {"forget"}, {"retain"}, {"forget"}, {"retain"},
    ]  # fmt: skip
    assert by_phase[0][-1]["forget"] < by_phase[0][0]["forget"]  # minus the loss falls: the loss climbs
    assert by_phase[5][-1]["retain"] < by_phase[5][0]["retain"]


def test_progress_and_log_count_all_phases(make_model, rows) -> None:
    calls: list[tuple[int, int]] = []
    args = settings(CHUNKS, logging_steps=2)
    done = train(make_model(), objective("GradDiff"), rows, args, pad_id=0, progress=lambda k, n: calls.append((k, n)))
    assert calls == [(k, 7) for k in range(1, 8)]
    assert done.n_steps == 7
    assert [(line["step"], line["phase"]) for line in done.history] == [(2, 1), (3, 1), (5, 2), (6, 2), (7, 3)]


def test_warm_up_and_the_rate_begin_anew_in_each_phase(make_model, rows) -> None:
    args = settings(CHUNKS, warmup_steps=1, num_train_epochs=2)
    _, done = run(make_model, rows, args)
    rates = [line["learning_rate"] for line in done.history]
    assert rates[:3] == pytest.approx(rates[3:6])
    assert rates[0] == 0.0 and rates[1] == pytest.approx(1e-2)


def test_a_broken_loss_names_its_phase(make_model, rows) -> None:
    args = settings(CHUNKS, max_loss=30.0, learning_rate=0.5, optim="sgd", max_grad_norm=0.0, num_train_epochs=40)
    with pytest.raises(JobError, match=r"at step \d+ of 140 \(phase [123] of 3\); lower the learning rate"):
        run(make_model, rows, args, objective("GradAscent"))


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "step"), [(CHUNKS, "gru"), (AGAD | SHORT, "sam")])
def test_steps_work_in_phases(make_model, rows, keys: dict[str, Any], step: str) -> None:
    plain, _ = run(make_model, rows, settings(keys), objective("NPO"))
    wrapped, done = run(make_model, rows, settings(keys, grad_transform=step), objective("NPO"))
    assert torch.isfinite(wrapped).all()
    assert not torch.allclose(plain, wrapped, rtol=0, atol=1e-5)
    assert done.n_steps == sum(p.n_steps for p in plan_phases(objective("NPO"), rows, settings(keys)))


@pytest.mark.parametrize("keys", [CHUNKS | {"chunk_size": 4}, AGAD | SHORT])
def test_adapters_go_on_through_the_phases(make_model, rows, keys: dict[str, Any]) -> None:
    args = settings(keys, lora=LoraArgs(r=2))
    model = with_lora(make_model(), LoraArgs(r=2), 0)
    before = model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.clone()
    train(model, objective("GradDiff"), rows, args, pad_id=0)
    assert torch.equal(before, model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight)
    assert not torch.allclose(flat(merged(model)), flat(make_model()))


@pytest.mark.usefixtures("bfloat16_cpu")
def test_every_phase_computes_in_bfloat16(make_model, rows) -> None:
    calls: list[tuple[torch.dtype, int]] = []
    model = make_model()
    capabilities(model)  # its observation is no phase
    layer = model.model.layers[0].mlp.down_proj
    layer.register_forward_hook(lambda module, args, out: calls.append((out.dtype, len(traceback.extract_stack()))))
    train(model, objective("GradDiff"), rows, settings(CHUNKS, bf16=True, num_train_epochs=1), pad_id=0)
    assert {dtype for dtype, _ in calls} == {torch.bfloat16}
    assert len({depth for _, depth in calls}) == 1  # no phase wraps the model again


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"schedule": {"kind": "chunked"}}, r"schedule\.kind: .*'chunked'"),
        ({"schedule": {"retain_ratio": 0}}, r"schedule\.retain_ratio: must be at least 1, got 0"),
        ({"schedule": {"retain_ratio": 1.5}}, r"schedule\.retain_ratio: "),
        ({"schedule": {"chunk_size": 32}}, r"schedule\.chunk_size: belongs to kind=chunks or kind=alternating"),
        ({"schedule": {"kind": "chunks"}}, r"schedule\.kind: chunks needs chunk_size"),
        ({"schedule": {"kind": "chunks", "chunk_size": 0}}, r"schedule\.chunk_size: must be at least 1"),
        ({"schedule": {**CHUNKS, "anneal_every": 2}}, r"schedule\.anneal_every: belongs to kind=alternating"),
        ({"schedule": {**AGAD, "anneal_share": 0}}, r"schedule\.anneal_share: must be above 0 and at most 1"),
        ({"schedule": {**AGAD, "anneal_epochs": 0}}, r"schedule\.anneal_epochs: must be a number > 0"),
        ({"schedule": {**AGAD, "retain_ratio": 2}}, r"schedule\.retain_ratio: must be 1 with kind=alternating"),
        ({"schedule": {"shuffle": True}}, r"schedule\.shuffle: belongs to"),
        ({"schedule": {"chunksize": 3}}, r"schedule\.chunksize: unknown key; did you mean 'chunk_size'"),
        ({"schedule": CHUNKS, "max_steps": 9}, r"max_steps: must be -1 with schedule\.kind=chunks"),
    ],
)
def test_wrong_schedules_end_in_one_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^unlearn\.{words}") as caught:
        decode(TrainArgs, keys, where="unlearn")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "method_args", "keys", "words"),
    [
        ("GradAscent", {}, {"schedule": {"retain_ratio": 7}}, r"schedule\.retain_ratio: GradAscent reads no retain"),
        ("GradAscent", {}, {"schedule": AGAD}, r"schedule\.kind: alternating needs a retain term, and GradAscent"),
        ("NPO", {"gamma": 0}, {"schedule": AGAD}, r"schedule\.kind: alternating needs a forget term, and NPO"),
        ("PDU", {}, {"schedule": AGAD}, r"schedule\.kind: .*PDU weighs them by a rule of its own"),
        ("finetune", {}, {"schedule": CHUNKS}, r"schedule\.kind: chunks .*forget rows, and finetune reads none"),
        (
            "NPO",
            {},
            {"schedule": AGAD, "grad_transform": "gru"},
            r"grad_transform: gru weighs the forget against the retain term",
        ),
        ("GradAscent", {}, {"grad_transform": "gru"}, r"grad_transform: gru needs a retain term"),
        (
            "RMU",
            {"trainable_params_regex": [".*down_proj.*"]},
            {"lora": {"r": 2}},
            r"lora: .* RMU's trainable_params_regex",
        ),
    ],
)
def test_what_does_not_fit_the_method_is_told(
    method: str, method_args: dict[str, Any], keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^unlearn\.{words}"):
        check_run(objective(method, method_args), decode(TrainArgs, keys), "unlearn")


def test_a_schedule_counts_in_the_identity_and_leaves_no_trace_without() -> None:
    plain = TrainArgs().identity
    assert "schedule" not in plain
    assert TrainArgs(schedule=Schedule()).identity == plain
    chunked = fingerprint(settings(CHUNKS).identity)
    assert chunked != fingerprint(settings().identity)
    assert chunked != fingerprint(settings({**CHUNKS, "chunk_size": 4}).identity)


def test_a_sample_lists_its_rows() -> None:
    sample = TrainingSample(forget=1, retain=(2, 3))
    assert [sample.numbers(s) for s in ("forget", "retain", "alternate")] == [(1,), (2, 3), ()]
    assert TrainingSample(forget=1, retain=2).numbers("retain") == (2,)
