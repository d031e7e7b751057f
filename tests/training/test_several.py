"""Two processes against one: the same samples, losses and weights up to rounding, and the same choices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import FAST, Case, fitted, joined, rows_here, said_by_two, tiny, weights_of
from tests.warm import Warm
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from expunge.benchmarks.metric_suite import tofu_panel
from expunge.core import distributed
from expunge.core.distributed import Rank
from expunge.core.errors import JobError
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import Evaluator
from expunge.methods import objective
from expunge.methods.api import Quantity
from expunge.models.build import build_llama, train_tokenizer
from expunge.training.batching import LossInputBuilder
from expunge.training.checkpoint import put_weights, trained_weights
from expunge.training.config import CheckpointArgs, TrainArgs
from expunge.training.data_parallel import gather_whole, per_process, rank_batches
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.in_memory.evaluation_callback import EvalCallback, suite_values
from expunge.training.loop import plan_samples, train
from expunge.training.lora import LoraArgs
from expunge.training.model_selection import ModelSelection, suite_metrics
from expunge.training.phases import ForwardSpec, TrainingSample
from expunge.training.reference import keep

# 7 forget rows, 2 epochs: 14 samples, 7 micro-batches, 4 steps, of which the last has one micro-batch
CASES: dict[str, Case] = {
    "ascent": ("GradDiff", {}, {}),
    "reference": ("NPO", {"retain_loss_type": "KL"}, {}),
    "two forwards": ("RMU", {"module_regex": "model.layers.0", "trainable_params_regex": [".*"]}, {}),
    "chunks": ("GradDiff", {}, {"logits_chunk_size": 3}),
    "three a step": ("GradDiff", {}, {"gradient_accumulation_steps": 3}),
    "checkpointed": ("GradDiff", {}, {"activation_checkpointing": True}),
    "adapters": ("GradDiff", {}, {"lora": LoraArgs(r=2)}),
    "last layer": ("GradDiff", {}, {"trainable_last_k_layers": 1}),
}  # fmt: skip


def panel(model: Any) -> Mapping[str, float]:
    """A number that two processes must not trust themselves to agree on: each adds its own."""
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {"u": 1.0, "f": float(weights.abs().sum()) + distributed.here().number, "none": math.nan}


def run_case(
    name: str, model: Any, rows: Any, *, watch: EvalCallback | None = None, folder: Path | None = None,
    break_at: int = 0,
    **keys: Any,
) -> tuple[list[dict[str, float]], list[float]]:  # fmt: skip
    """The log and all weights of a case."""
    done, fit = fitted(CASES[name], model, rows, watch=watch, folder=folder, break_at=break_at, **keys)
    return done.history, weights_of(fit)


def scenarios(model_of: Any, rows: Any, folder: Path) -> dict[str, Any]:
    """All that two processes do, so that they are started once."""
    content: dict[str, Any] = {name: run_case(name, model_of(), rows) for name in CASES}
    content["world"] = [distributed.here().number, distributed.here().world]
    content["told"] = distributed.broadcast({"who": distributed.here().number})
    content["values"] = distributed.values(float(distributed.here().number))
    content["gathered"] = [len(b) for b in distributed.gather(b"x" * (3 * distributed.here().number))]

    watch = EvalCallback(EvaluateArgs(steps=1, keep="best"), panel, ModelSelection("u", "f", 0.9, -math.inf))
    content["watched"] = run_case("ascent", model_of(), rows, watch=watch)[1]
    content["points"] = [p.line for p in watch.points]

    drops = {"checkpoint": CheckpointArgs(steps=1)}
    content["whole"] = run_case("ascent", model_of(attention_dropout=0.3), rows)
    try:
        run_case("ascent", model_of(attention_dropout=0.3), rows, folder=folder / "kept", break_at=3, **drops)
    except KeyboardInterrupt:
        distributed.meet()
    content["resumed"] = run_case("ascent", model_of(attention_dropout=0.3), rows, folder=folder / "kept", **drops)

    for key, name, keys in (
        ("limit", "ascent", {"max_loss": 1e-9}),
        ("step", "ascent", {"grad_transform": "sam"}),
    ):
        try:
            run_case(name, model_of(), rows, **keys)
        except JobError as error:
            content[key] = str(error)
    try:
        train(model_of(), objective("PDU"), rows, TrainArgs(**FAST), pad_id=0)
    except JobError as error:
        content["dual"] = str(error)
    content["shards"] = in_shards(model_of(), rows)
    content["panel"] = whole_panel()
    return content


def whole_panel() -> dict[str, float]:
    """TOFU's metrics over tokens and texts, as an evaluation during training asks for them: 9 of up to 11 rows."""
    places = ("Paris", "a town by the sea", "Lagos", "an island whose name nobody ever wrote down")
    sets = {}
    for k, name in enumerate(("forget_eval", "retain_eval", "real_authors", "world_facts")):
        calls = []
        for i in range(11 - k):
            output = [f"{places[(i + j) % 4]} {i * j}." for j in range(5)]
            wrong = {f"perturbed_{j}": f"Not there, but in {output[j + 1]}" for j in range(1 + i % 3)}
            answers = {"answer": f"In {output[0]}", "paraphrase": f"It is {output[0]}", **wrong}
            calls.append(Example(i, f"Where does author {i} of {name} live?" + " Say so." * (i % 4), answers))
        sets[name] = ExampleSet(name, tuple(calls))
    texts = [text for rows in sets.values() for row in rows for text in (row.question, *row.answers.values())]
    tokenizer = train_tokenizer(texts, 400, max_length=256)
    encoder = Encoder(Template(), tokenizer)
    model = build_llama("llama-64k", tokenizer, vocab_size=400, seed=0)
    ids = [torch.tensor(encoder.row(rows, row, "answer").ids) for rows in sets.values() for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    steps = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(30):  # each by itself, so that what it says has right words in it
        steps.zero_grad()
        model(input_ids=padded, labels=padded.masked_fill(padded == 0, -100)).loss.backward()
        steps.step()
    metrics = suite_metrics(tofu_panel(), EvaluateArgs(steps=1, panel="full"))
    evaluator = Evaluator(
        metrics=metrics, sets=sets, encoder=encoder, generation=Generation(max_new_tokens=12), n_rows=9
    )
    return suite_values(evaluator, model)


class Gathering:
    """As much of an accelerator as gathers a model in shards."""

    def get_state_dict(self, model: Any) -> Any:
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def in_shards(model: Any, rows: Any) -> dict[str, Any]:
    """A step, log-probabilities and the whole weights of a model under FSDP2."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    one_step(model, rows, logits_chunk_size=0)
    content = trained_weights(model)
    put_weights(model, content)
    reference = keep(model, rows["forget"], range(7), ForwardSpec(Quantity.LOGPS), pad_id=0)
    gather_whole(Gathering(), model, model)
    whole = [] if distributed.here().number else torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
    return {"logps": reference["logps"].tolist(), "whole": whole, "shard": sum(w.numel() for w in content.values())}


def one_step(model: Any, rows: Any, logits_chunk_size: int) -> None:
    """One step of plain descent on the whole loss of two samples."""
    goal = objective("GradDiff")
    server = LossInputBuilder(goal.needs, rows, {}, pad_id=0, logits_chunk_size=logits_chunk_size)
    goal(server.view(model, [TrainingSample(0, 1), TrainingSample(2, 3)], device="cpu")).total.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def process(rank: int, folder: str, port: int) -> None:
    with joined(rank, port):
        output = scenarios(tiny, rows_here(), Path(folder))
        output["first_to_fail"] = distributed.first_to_fail()
    Path(folder, f"{rank}.json").write_text(json.dumps(output))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> list[dict[str, Any]]:
    """What each of two processes says."""
    return said_by_two(process, tmp_path_factory.mktemp("two"), warm)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_equal_loss_curves_and_weights(two: list[dict[str, Any]], name: str) -> None:
    history, weights = run_case(name, tiny(), rows_here())
    for output in two:
        result, theirs = output[name]
        assert len(result) == len(history) >= 3
        for mine, line in zip(history, result, strict=True):
            assert line == pytest.approx(mine, rel=1e-7, abs=1e-9)
        np.testing.assert_allclose(theirs, weights, rtol=1e-7, atol=1e-9)
    assert two[0][name] == two[1][name]


@pytest.mark.slow
def test_what_they_say_to_one_another(two: list[dict[str, Any]]) -> None:
    for rank, output in enumerate(two):
        assert output["world"] == [rank, 2]
        assert output["told"] == {"who": 0}
        assert output["values"] == [0.0, 1.0]
        assert output["gathered"] == [0, 3]
    assert sorted(output["first_to_fail"] for output in two) == [False, True]


@pytest.mark.slow
def test_evaluations_choose_alike(two: list[dict[str, Any]]) -> None:
    """The second process computes other values, and goes by the first's all the same."""
    watch = EvalCallback(EvaluateArgs(steps=1, keep="best"), panel, ModelSelection("u", "f", 0.9, -math.inf))
    weights = run_case("ascent", tiny(), rows_here(), watch=watch)[1]
    for output in two:
        np.testing.assert_allclose([p["f"] for p in output["points"]], [p.values["f"] for p in watch.points], rtol=1e-5)
        np.testing.assert_allclose(output["watched"], weights, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_the_whole_panel_says_the_same(two: list[dict[str, Any]]) -> None:
    """Numbers of tokens and of texts; what lacks a retain model is missing for all alike."""
    alone = whole_panel()
    assert [name for name, value in alone.items() if math.isnan(value)] == ["forget_quality"]
    assert len({round(value, 9) for value in alone.values()}) > 15
    assert 0 < alone["forget_Q_A_ROUGE"] < 1 and 0 < alone["model_utility"] < 1
    for output in two:
        assert list(output["panel"]) == list(alone)
        assert output["panel"] == pytest.approx(alone, rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.slow
def test_a_broken_run_of_two_goes_on_to_the_same_bits(two: list[dict[str, Any]]) -> None:
    """With dropout: each process goes on with its own random numbers."""
    assert two[0]["whole"] == two[0]["resumed"] == two[1]["resumed"]
    assert two[0]["whole"] != two[0]["ascent"]


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused_by_all(two: list[dict[str, Any]]) -> None:
    for output in two:
        assert output["limit"].startswith("GradDiff: the loss passed the limit of 1e-09")
        assert output["step"].startswith("grad_transform runs in one process")
        assert output["dual"].startswith("PDU learns its weights from one micro-batch after another")
    assert two[0]["limit"] == two[1]["limit"]


@pytest.mark.slow
def test_a_model_in_shards_steps_reads_and_is_saved_as_a_whole_one(two: list[dict[str, Any]]) -> None:
    model = tiny()
    n = sum(p.numel() for p in model.parameters())
    one_step(model, rows_here(), logits_chunk_size=256)
    reference = keep(model, rows_here()["forget"], range(7), ForwardSpec(Quantity.LOGPS), pad_id=0)
    for output in two:
        np.testing.assert_allclose(output["shards"]["logps"], reference["logps"].tolist(), rtol=1e-4, atol=2e-5)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
    np.testing.assert_allclose(two[0]["shards"]["whole"], weights, rtol=1e-4, atol=2e-6)
    assert sum(output["shards"]["shard"] for output in two) == n


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("of_step", [1, 2, 3, 4])
def test_shares_are_the_plan(world: int, of_step: int) -> None:
    """Whatever the number of processes: each sample of each step once, and weights that make the step's mean."""
    args = TrainArgs(**{**FAST, "gradient_accumulation_steps": of_step})
    samples = plan_samples(objective("GradDiff"), rows_here(), args)
    shares = [[*rank_batches(samples, args, Rank(k, world))] for k in range(world)]
    each = per_process(args, Rank(0, world))
    assert len({len(s) for s in shares}) == 1
    micros = [samples[i : i + 2] for i in range(0, len(samples), 2)]
    for k in range(0, -(-len(micros) // of_step)):
        step = [m for s in shares for m in s[k * each : (k + 1) * each]]
        expected = micros[k * of_step : (k + 1) * of_step]
        real = [m for m in step if m.weight]
        assert sorted((list(m.samples) for m in real), key=repr) == sorted(expected, key=repr)
        assert all(m.weight / len(step) == pytest.approx(1 / len(expected)) for m in real)
