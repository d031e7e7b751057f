"""Steps around real losses of a tiny model. Their own rules are tested in tests/methods, by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, JobError
from expunge.core.fingerprints import fingerprint
from expunge.methods import objective
from expunge.methods.grad_transforms import GradientRequest, grad_transform, make_grad_transform
from expunge.methods.objective import Objective
from expunge.training.batching import LossInputBuilder
from expunge.training.config import TrainArgs
from expunge.training.loop import TrainResult, plan_samples, train
from expunge.training.phases import SIDES, spec_for
from expunge.training.reference import reference
from expunge.training.step import GradTransformRunner
from expunge.training.term_parts import check_grad_transform, forget_part, relearn_part, retain_part

CPU = torch.device("cpu")
SHORT = {"num_train_epochs": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1}


@pytest.fixture
def probes() -> None:
    """Two steps for tests alone: one that changes nothing, and one that takes the terms apart and adds them again."""

    @grad_transform("identity", revision=1, needs=(), paper="none")
    @dataclass(frozen=True)
    class Identity:
        def __call__(
            self, ask: GradientRequest, params: Sequence[torch.Tensor], memory: dict[str, Any]
        ) -> list[torch.Tensor]:
            memory["calls"] = memory.get("calls", 0) + 1
            return ask("total")

    @grad_transform("apart", revision=1, needs=("forget", "retain"), paper="none")
    @dataclass(frozen=True)
    class Apart:
        def __call__(
            self, ask: GradientRequest, params: Sequence[torch.Tensor], memory: dict[str, Any]
        ) -> list[torch.Tensor]:
            return [f + r for f, r in zip(ask("forget"), ask("retain"), strict=True)]


def flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(make_model: Any, rows: Any, goal: Objective, **args: Any) -> tuple[torch.Tensor, TrainResult]:
    model = make_model()
    done = train(model, goal, rows, TrainArgs(**{**SHORT, **args}), pad_id=0)
    return flat(model), done


GOALS = [
    ("GradDiff", {}),
    ("NPO", {"retain_loss_type": "KL", "gamma": 0.7, "alpha": 1.3}),
    ("GradAscent", {}),
    ("RMU", {"module_regex": r"model\.layers\.0"}),
    ("finetune", {}),
]


@pytest.mark.parametrize(("name", "keys"), GOALS)
@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_step_that_changes_nothing_is_the_plain_run(
    make_model, rows, probes, name: str, keys: dict[str, Any], accumulate: int
) -> None:
    """With clipping on, a last short step, and layers that no loss reaches (RMU), which get no weight decay."""
    goal = objective(name, keys)
    args = {"gradient_accumulation_steps": accumulate, "max_grad_norm": 0.5, "weight_decay": 0.1}
    if accumulate == 3:  # Adam blows up the last bit of gradients near 0
        args |= {"optim": "sgd"}
    plain, first = run(make_model, rows, goal, **args)
    wrapped, second = run(make_model, rows, goal, grad_transform="identity", **args)
    assert not torch.equal(plain, flat(make_model()))
    if accumulate == 3:  # a third is rounded, before the backward there and after it here
        torch.testing.assert_close(plain, wrapped, rtol=2**-23, atol=1e-7)  # one unit in the last place near 1
    else:
        assert torch.equal(plain, wrapped)
    assert first.n_steps == second.n_steps
    assert len(first.history) == len(second.history)
    for a, b in zip(first.history, second.history, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        *GOALS[:2],
        ("GradDiff", {"retain_loss_type": "KL", "compat": "openunlearning"}),
        ("NPO", {"retain_loss_type": "KL", "nll_weight": 0.4}),
        ("IdkDPO", {}),
        ("RMU", {"module_regex": r"model\.layers\.0", "retain_loss_type": "EMBED_DIFF"}),
        ("UNDO", {"alpha": 0.3}),
    ],
)
def test_the_terms_apart_sum_to_the_total(make_model, rows, probes, name: str, keys: dict[str, Any]) -> None:
    goal = objective(name, keys)
    rows = rows | {"alternate": rows["retain"][:7]}
    whole, apart = (_gradient(make_model(), rows, goal, which) for which in ("identity", "apart"))
    torch.testing.assert_close(whole, apart, rtol=1e-4, atol=1e-6)
    assert whole.abs().max() > 1e-3


def _gradient(model: Any, rows: Any, goal: Objective, name: str) -> torch.Tensor:
    """One micro-batch of three samples through a step, with its gradient."""
    args = TrainArgs(per_device_train_batch_size=3, max_steps=1, gradient_accumulation_steps=1)
    samples = plan_samples(goal, rows, args)
    references = {
        f"{s}_teacher" if teacher else s: reference(model, rows[s], [getattr(x, s) for x in samples], what, pad_id=0)
        for s in SIDES
        for teacher in (False, True)
        if (what := spec_for(goal.needs, s, ref=not teacher, teacher=teacher))
    }

    def serve(needs: Any) -> LossInputBuilder:
        return LossInputBuilder(needs, rows, references, pad_id=0)

    server = serve(goal.needs)
    server.memory["epoch"] = 0
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)  # so that the reference is elsewhere
    stepper = GradTransformRunner(make_grad_transform(name, {}), goal, server, serve)
    stepper(model, [lambda which, its: which(its.view(model, samples, device=CPU))], share=1.0)
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


SETTINGS: dict[str, dict[str, Any]] = {
    "latent": {"layer": "model.layers.0"}, "tar": {"steps": 4, "every": 2}, "cir": {"refresh": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", ["sam", "gru", "blur", "mudman", "latent", "tar", "cir"])
def test_every_step_trains_and_is_a_function_of_the_seed(make_model, rows, name: str) -> None:
    args = {"grad_transform": name, "grad_transform_args": SETTINGS.get(name, {})}
    plain, _ = run(make_model, rows, objective("NPO"))
    first, done = run(make_model, rows, objective("NPO"), **args)
    second, _ = run(make_model, rows, objective("NPO"), **args)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()
    assert not torch.allclose(first, plain, rtol=0, atol=1e-5)
    assert {"forget", "retain", "loss", "grad_norm"} <= set(done.history[0])
    # the terms are logged as they were before the step moved anything (latent, mudman and tar log their adversary's):
    # at step 1 NPO stands at its reference
    if name not in ("latent", "mudman", "tar"):
        assert done.history[0]["forget"] == pytest.approx(20 * torch.tensor(2.0).log().item(), rel=1e-4)
        assert done.history[0]["loss"] == pytest.approx(done.history[0]["forget"] + done.history[0]["retain"], rel=1e-5)


@pytest.mark.slow
def test_activation_checkpointing_changes_no_step(make_model, rows) -> None:
    for name, keys in (("gru", {}), ("latent", {"layer": "model.layers.0", "eps": 0.5}), ("cir", {"refresh": 1})):
        args = {"grad_transform": name, "grad_transform_args": keys, "num_train_epochs": 1}
        plain, _ = run(make_model, rows, objective("NPO"), **args)
        saved, _ = run(make_model, rows, objective("NPO"), activation_checkpointing=True, **args)
        torch.testing.assert_close(plain, saved, rtol=0, atol=1e-6)


def test_the_latent_perturbation_reaches_the_loss_and_raises_it(make_model, rows) -> None:
    """An ascent step on delta raises the forget term that the model is then trained on."""
    matches: list[float] = []
    model, goal = make_model(), objective("GradDiff")
    samples = plan_samples(goal, rows, TrainArgs(per_device_train_batch_size=3, max_steps=1))[:3]

    def serve(needs: Any) -> LossInputBuilder:
        return LossInputBuilder(needs, rows, {}, pad_id=0)

    def compute(part: Objective, server: LossInputBuilder) -> Any:
        terms = part(server.view(model, samples, device=CPU))
        matches.append(float(terms.total.detach()))
        return terms

    rule = make_grad_transform("latent", {"layer": "model.layers.0", "eps": 2.0, "inner_steps": 3})
    GradTransformRunner(rule, goal, serve(goal.needs), serve)(model, [compute], share=1.0)
    forget = matches[:4]  # three inner steps, then the one that trains
    assert forget == sorted(forget) and forget[-1] > forget[0] + 0.1
    assert len(matches) == 5  # and the retain term, without it
    assert not model.model.layers[0]._forward_hooks


def test_the_vectors_of_tokens_make_up_the_gradient(make_model, rows) -> None:
    """The gradient of a linear weight is the sum of g a^T over its tokens; other terms' tokens do not count."""
    model = make_model()
    name, result = "model.layers.0.mlp.down_proj", {}

    @grad_transform("reads_tokens", revision=1, needs=("forget", "retain"), paper="none")
    @dataclass(frozen=True)
    class Reads:
        def __call__(self, ask: GradientRequest, params: Any, memory: Any) -> Any:
            gradient, tokens = ask.with_tokens("forget", [name])
            result.update(g=gradient[list(ask.names).index(f"{name}.weight")], tokens=tokens[name])
            return ask("total")

    _gradient(model, rows, objective("NPO"), "reads_tokens")
    inputs, slopes = result["tokens"]
    torch.testing.assert_close(slopes.T @ inputs, result["g"], rtol=1e-4, atol=1e-6)
    assert len(inputs) == len(slopes) > 3 and result["g"].abs().max() > 1e-4


def test_a_layer_that_is_not_there_is_named(make_model, rows) -> None:
    args = {"grad_transform": "latent", "grad_transform_args": {"layer": "model.layer.0"}}
    with pytest.raises(
        ConfigError, match=r"trainer\.args\.grad_transform_args\.layer: the model has no module 'model\.layer\.0'"
    ):
        run(make_model, rows, objective("NPO"), **args)


def test_a_layer_above_the_loss_is_told(make_model, rows) -> None:
    goal = objective("RMU", {"module_regex": r"model\.layers\.0"})
    with pytest.raises(JobError, match=r"the forget term does not run the layer 'model\.layers\.1'"):
        run(make_model, rows, goal, grad_transform="latent", grad_transform_args={"layer": "model.layers.1"})


def test_a_loss_that_runs_away_ends_the_run(make_model, rows) -> None:
    with pytest.raises(JobError, match=r"^GradDiff: the loss passed the limit of 1 .* at step 1 of "):
        run(make_model, rows, objective("GradDiff"), grad_transform="gru", max_loss=1.0)


def test_clipping_is_on_the_steps_gradient(make_model, rows) -> None:
    sgd = {"optim": "sgd", "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_steps": 1, "learning_rate": 1.0}
    moved, _ = run(make_model, rows, objective("NPO"), grad_transform="blur", max_grad_norm=0.25, **sgd)
    assert float((moved - flat(make_model())).norm()) == pytest.approx(0.25, rel=1e-3)


def test_a_frozen_parameter_takes_no_part_in_a_step(make_model, rows) -> None:
    model = make_model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    args = TrainArgs(**SHORT, grad_transform="sam", grad_transform_args={"rho": 0.5}, trainable_last_k_layers=1)
    train(model, objective("NPO"), rows, args, pad_id=0)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) is not name.startswith("model.layers.1."), name


def test_terms_that_are_not_there_are_named_before_training() -> None:
    with pytest.raises(
        ConfigError, match=r"^trainer\.args\.grad_transform: gru needs a retain term, and GradAscent has none"
    ):
        check_grad_transform(make_grad_transform("gru", {}), objective("GradAscent"))
    with pytest.raises(ConfigError, match="mudman needs a retain term, and NPO has none with these weights"):
        check_grad_transform(make_grad_transform("mudman", {}), objective("NPO", {"alpha": 0}))
    with pytest.raises(ConfigError, match="sam needs a forget term, and finetune has none"):
        check_grad_transform(make_grad_transform("sam", {}), objective("finetune"))
    with pytest.raises(ConfigError, match="PDU weighs them by a rule of its own"):
        check_grad_transform(make_grad_transform("sam", {}), objective("PDU"))
    check_grad_transform(make_grad_transform("sam", {}), objective("GradAscent"))  # the forget term is enough
    check_grad_transform(make_grad_transform("blur", {}), objective("NPO"))


def test_the_parts_ask_for_their_own_sides_alone() -> None:
    goal = objective("NPO", {"retain_loss_type": "KL"})
    forget, retain = forget_part(goal), retain_part(goal)
    assert forget is not None and retain is not None
    assert forget.needs.forget and forget.needs.forget_ref and not forget.needs.retain and not forget.needs.retain_ref
    assert retain.needs.retain and retain.needs.retain_ref and not retain.needs.forget and not retain.needs.forget_ref
    assert retain_part(objective("GradAscent")) is None and forget_part(objective("finetune")) is None


def test_settings_of_steps_in_the_training_settings() -> None:
    for keys, words in (
        ({"grad_transform_args": {"rho": 1}}, "grad_transform_args: is set, but grad_transform is not"),
        ({"grad_transform": "sam", "fp16": True}, "fp16: cannot be on together with a grad_transform"),
        ({"grad_transform": 3}, "grad_transform"),
    ):
        with pytest.raises(ConfigError, match=rf"^train\.{words}"):
            decode(TrainArgs, keys, where="train")


def test_a_step_counts_in_the_identity_and_leaves_no_trace_without() -> None:
    plain = TrainArgs().identity
    assert not {
        "grad_transform",
        "grad_transform_args",
        "lora",
        "trainable_last_k_layers",
        "trainable_params_regex",
    } & set(plain)
    sam = TrainArgs(grad_transform="sam").identity
    assert sam == {**plain, "grad_transform": {"name": "sam", "revision": 2, "args": {"rho": 0.01, "at": "forget"}}}
    assert fingerprint(sam) == fingerprint(TrainArgs(grad_transform="sam", grad_transform_args={"rho": 0.01}).identity)
    assert fingerprint(sam) != fingerprint(TrainArgs(grad_transform="sam", grad_transform_args={"rho": 0.02}).identity)
    with pytest.raises(ConfigError, match=r"^trainer\.args\.grad_transform: no gradient transform named 'sma'"):
        _ = TrainArgs(grad_transform="sma").identity


def test_relearning_is_the_answers_own_likelihood_unweighted_and_not_logged(make_model, rows) -> None:
    """For a weighted objective, its gradient is that of fine-tuning on the same rows."""
    model, goal = make_model(), objective("NPO", {"gamma": 0.1, "retain_loss_type": "KL", "nll_weight": 0.5})
    part = relearn_part(goal)
    assert (
        part is not None and spec_for(part.needs, "retain") is None and spec_for(part.needs, "forget", ref=True) is None
    )
    samples = plan_samples(goal, rows, TrainArgs(per_device_train_batch_size=3, max_steps=1))[:3]
    terms = part(LossInputBuilder(part.needs, rows, {}, pad_id=0).view(model, samples, device=CPU))
    tuned = objective("finetune")
    same = [dataclasses.replace(s, retain=s.forget, forget=None) for s in samples]
    learnt = tuned(
        LossInputBuilder(tuned.needs, {"retain": rows["forget"]}, {}, pad_id=0).view(model, same, device=CPU)
    )
    assert terms.total.item() == pytest.approx(learnt.total.item(), rel=1e-6)
    assert relearn_part(objective("IdkNLL")) is None


def test_an_adversary_changes_the_run_and_not_the_log(make_model, rows) -> None:
    ends = []
    for keys in ({"meta": False}, {"meta": True, "adversary_lr": 0.1}):
        end, done = run(make_model, rows, objective("NPO"), grad_transform="mudman", grad_transform_args=keys)
        assert set(done.history[0]) == {"step", "phase", "forget", "retain", "loss", "learning_rate", "grad_norm"}
        ends.append(end)
    assert not torch.allclose(*ends, rtol=0, atol=1e-5)


def test_a_method_that_never_reads_the_forget_answers_has_no_adversary() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^trainer\.args\.grad_transform: with these grad_transform_args mudman relearns .* IdkNLL never",
    ):
        check_grad_transform(make_grad_transform("mudman", {}), objective("IdkNLL"))
    check_grad_transform(make_grad_transform("mudman", {"meta": False}), objective("IdkNLL"))
