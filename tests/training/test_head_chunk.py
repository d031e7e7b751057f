"""A run whose logits are computed by chunks against one that has them whole."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers
from torch.nn.parallel import DistributedDataParallel

from expunge.core.fingerprints import fingerprint
from expunge.methods import objective
from expunge.models.packed import plain_head
from expunge.training.batching import LossInputBuilder
from expunge.training.config import TrainArgs
from expunge.training.loop import train
from expunge.training.lora import LoraArgs, with_lora
from expunge.training.phases import SIDES, TrainingSample, spec_for
from expunge.training.reference import reference

SAMPLES = [TrainingSample(2, 5, 1), TrainingSample(0, 1, 3), TrainingSample(3, 5, 2), TrainingSample(6, 10, 0)]
CPU = torch.device("cpu")
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("GradDiff", {}),
    ("NPO", {"retain_loss_type": "KL", "nll_weight": 0.5}),
    ("DPO", {}),
    ("SimNPO", {}),
    ("UNDIAL", {"alpha": 1.0}),
    ("CEU", {"alpha": 1.0, "retain_loss_type": "JSD"}),
    ("JensUn", {}),
    ("IHL", {}),
    ("ME", {}),
    ("PDU", {}),
    ("GradDiff", {"retain_loss_type": "KL", "compat": "openunlearning"}),
]
IDS = [f"{name}{'-'.join(map(str, args.values()))}" for name, args in METHODS]


def untied(vocabulary: int = 67, **keys: Any) -> Any:
    """A Llama whose head is its own."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def one_step(model: Any, rows: Any, name: str, args: dict[str, Any], chunk: int, **keys: Any) -> tuple[Any, Any]:
    """Terms and the gradient of every parameter, away from the reference."""
    goal, rows = objective(name, args), {**rows, "alternate": rows["retain"][:7]}
    refs = {}
    for side in SIDES:
        if (what := spec_for(goal.needs, side, ref=True)) is not None:
            refs[side] = reference(model, rows[side], [getattr(s, side) for s in SAMPLES], what, pad_id=0)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.dtype))
    server = LossInputBuilder(goal.needs, rows, refs, pad_id=0, logits_chunk_size=chunk)
    server.memory["epoch"] = 0
    terms = goal(server.view(keys.get("wrapped", model), SAMPLES, device=CPU))
    terms.total.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"total": terms.total.detach(), **{k: v.detach() for k, v in terms.parts.items()}}, grads


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any], rtol: float = 1e-9) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if value is None or theirs[name] is None:
                assert value is theirs[name], name
                continue
            torch.testing.assert_close(value, theirs[name], rtol=rtol, atol=1e-11)


@pytest.mark.parametrize("make", ["tied", "untied"])
@pytest.mark.parametrize(("name", "args"), METHODS, ids=IDS)
def test_losses_and_gradients_are_those_of_whole_logits(
    make_model, rows, make: str, name: str, args: dict[str, Any]
) -> None:
    def model() -> Any:
        return (make_model() if make == "tied" else untied()).double()

    whole = one_step(model(), rows, name, args, 0)
    for chunk in (1, 3, 7, 1000):
        assert_same(one_step(model(), rows, name, args, chunk), whole)


@pytest.mark.parametrize("name", ["GradDiff", "UNDIAL"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters(make_model, rows, name: str, checkpointing: bool) -> None:
    def model() -> Any:
        result = with_lora(make_model().double(), LoraArgs(r=2), seed=0)
        if checkpointing:
            result.get_base_model().activation_checkpointing_enable()
        return result.train()

    assert plain_head(model())
    assert_same(one_step(model(), rows, name, {}, 3), one_step(model(), rows, name, {}, 0))


def test_an_adapter_on_the_head_has_its_logits_whole(rows) -> None:
    args = LoraArgs(r=2, target_modules=("q_proj", "lm_head"))
    models = [with_lora(untied().double(), args, seed=0) for _ in range(2)]
    assert not plain_head(models[0])
    result = [one_step(m, rows, "GradDiff", {}, chunk) for m, chunk in zip(models, (3, 0), strict=True)]
    assert_same(*result)
    assert any("lm_head" in n and g.abs().max() > 0 for n, g in result[0][1].items())


class Scaled(transformers.LlamaForCausalLM):
    """Changes its logits after the head in a way that no setting tells."""

    def forward(self, *args: Any, **keys: Any) -> Any:
        out = super().forward(*args, **keys)
        out.logits = out.logits * 0.7
        return out


def test_an_unknown_model_has_its_logits_whole_and_says_so(rows, caplog: pytest.LogCaptureFixture) -> None:
    def model() -> Any:
        result = untied().double()
        result.__class__ = Scaled
        return result

    with caplog.at_level(logging.WARNING):
        actual = one_step(model(), rows, "GradDiff", {}, 3)
    assert [r.getMessage() for r in caplog.records if "logits_chunk_size" in r.getMessage()]
    assert_same(actual, one_step(model(), rows, "GradDiff", {}, 0))
    plain = one_step(untied().double(), rows, "GradDiff", {}, 0)
    assert abs(actual[0]["total"] - plain[0]["total"]) > 1e-3


def test_no_whole_logits_where_a_loss_does_without(make_model, rows) -> None:
    model, sizes = make_model(), []
    goal = objective("NPO", {"retain_loss_type": "KL"})
    targets = {s: [getattr(x, s) for x in SAMPLES] for s in ("forget", "retain")}
    refs = {
        s: reference(model, rows[s], targets[s], what, pad_id=0)
        for s in targets
        if (what := spec_for(goal.needs, s, ref=True)) is not None
    }
    server = LossInputBuilder(goal.needs, rows, refs, pad_id=0, logits_chunk_size=3)
    model.register_forward_hook(lambda _m, _a, out: sizes.append(out.logits.shape[1]))
    views = [server.view(model, SAMPLES, device=CPU) for _ in range(3)]
    assert sizes == [8, 0, 0]  # compared with the whole model once
    retain, ref = views[-1].retain, views[-1].retain_ref
    assert retain is not None and ref is not None
    goal(views[-1]).total.backward()
    for side in (retain, ref):
        assert not isinstance(side.__dict__["logits_NV"], torch.Tensor)
        assert side.logits_NV is not None and side.logits_NV.shape == (len(side.row_N), 67)  # whole when it is read
        assert isinstance(side.__dict__["logits_NV"], torch.Tensor)
    assert retain.logits_NV is not None and retain.logits_NV.requires_grad
    assert ref.logits_NV is not None and not ref.logits_NV.requires_grad


@pytest.mark.parametrize("keys", [{}, {"activation_checkpointing": True}, {"bf16": True}, {"grad_transform": "gru"}])
@pytest.mark.usefixtures("bfloat16_cpu")
def test_a_run_ends_where_one_with_whole_logits_does(make_model, rows, keys: dict[str, Any]) -> None:
    ends = []
    for chunk in (0, 5):
        model = make_model()
        inputs = {
            "num_train_epochs": 1,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "optim": "sgd",
            **keys,
        }
        args = TrainArgs(**inputs, logits_chunk_size=chunk)
        train(model, objective("NPO", {"retain_loss_type": "KL"}), rows, args, pad_id=0)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(ends[0], torch.cat([p.flatten() for p in make_model().parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=3e-3 if "bf16" in keys else 1e-5)


@pytest.mark.parametrize("unused", [True, False])
def test_distributed_data_parallel(make_model, rows, unused: bool, tmp_path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for name, args in (METHODS[1], METHODS[6]):
            model = untied().double()
            wrapped = DistributedDataParallel(model, find_unused_parameters=unused)
            actual = one_step(model, rows, name, args, 3, wrapped=wrapped)
            assert_same(actual, one_step(untied().double(), rows, name, args, 0))
    finally:
        torch.distributed.destroy_process_group()


def test_chunks_are_part_of_what_a_run_is() -> None:
    prints = {fingerprint(TrainArgs(logits_chunk_size=n).identity) for n in (0, 128, 256)}
    assert len(prints) == 3
    assert "logits_chunk_size" not in TrainArgs(logits_chunk_size=0).identity  # as before there were chunks
