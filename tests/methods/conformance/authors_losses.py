"""Runs of the authors' losses, wrappers and optimizers, by the file of their numbers."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from measure import DOUBLE, case, definitions, labelled, returns, shifted, stub, tensor

Inputs = Mapping[str, Any]


@case("jensun", "forget")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(
        folder / "src/trainer/utils.py", ["jensun_multitok_loss"], {},
        DOUBLE,
    )  # fmt: skip
    n = len(inputs["logits"])
    batch = {"input_ids": None, "attention_mask": None, "labels": labelled(n)}
    return code.jensun_multitok_loss(returns(shifted(inputs["logits"])), batch, tokids=[inputs["token"]])[0]


@case("jensun", "retain")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(folder / "src/trainer/utils.py", ["jensun_retain_loss"], {})
    models = [returns(shifted(inputs[key])) for key in ("logits", "reference")]
    return code.jensun_retain_loss(*models, {"labels": labelled(len(inputs["logits"]))})[0]


@case("max_entropy", "loss")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(folder / "trainer/losses.py", ["get_me_loss"], {})
    return code.get_me_loss(shifted(inputs["logits"]), labelled(len(inputs["logits"])))


@case("ihl", "loss")
def _(folder: Path, inputs: Inputs) -> Any:
    one_hot = torch.nn.functional.one_hot  # torchmetrics' to_onehot of class indices
    scope = {"to_onehot": one_hot, "tensor": torch.tensor}
    code = definitions(folder / "TOFU/dataloader.py", ["_custom_multiclass_hinge_loss_update"], scope)
    total, n = code._custom_multiclass_hinge_loss_update(
        tensor(inputs["logits"]), torch.tensor(inputs["tokens"]), alpha=1.0, squared=False
    )
    return total / n


@case("undo", "loss")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(folder / "src/utils/loss_functions.py", ["forward_kl_loss_fn"], {})
    teacher, student = shifted(inputs["teacher"]), shifted(inputs["student"])
    return code.forward_kl_loss_fn(teacher, student, torch.ones(teacher.shape[:2]), pad_token_id=0)


@case("cir", "loss")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(folder / "src/utils/loss_fns.py", ["mlp_confuse"], {"pt": torch}, DOUBLE)
    now, before = tensor(inputs["now"]), tensor(inputs["reference"])
    layers = [SimpleNamespace(mlp=SimpleNamespace(cached_out=torch.cat([h[:1], h])[None])) for h in now]
    batch = {
        "attention_mask": torch.ones(1, now.shape[1] + 1),
        "org_mlp_out": dict(enumerate(before)),
        "org_mlp_out_norm": {i: h.norm(dim=-1).mean() for i, h in enumerate(before)},
    }
    settings = SimpleNamespace(cut_off_tokens=1, layer_range=[0, len(now)], mlp_floor=0)
    return code.mlp_confuse(SimpleNamespace(model=SimpleNamespace(layers=layers)), batch, settings)


@case("cir", "collapse")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(folder / "src/utils/common_cir.py", ["_get_projections", "project_out"], {"pt": torch}, DOUBLE)
    vectors = {}
    for key in ("acts", "grads"):
        vectors[key] = tensor(inputs[key])
        for direction in code._get_projections(vectors[key], 3, niter=200):
            vectors[key] = vectors[key] - code.project_out(vectors[key], direction)
    return torch.einsum("ti,tj->ij", vectors["grads"], vectors["acts"])


@case("r2mu", "loss")
def _(folder: Path, inputs: Inputs) -> Any:
    states = {key: tensor(value)[None] for key, value in inputs.items()}
    logged: list[dict[str, float]] = []
    weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def states_of(model: Any, batch: Any, module: Any, no_grad: bool) -> torch.Tensor:
        del module, no_grad
        name = batch.text + ("_ref" if model.frozen and f"{batch.text}_ref" in states else "")
        return states[name] + 0 * weight

    class Text:
        def __init__(self, text: str) -> None:
            self.text = text

        def to(self, _device: Any) -> Text:
            return self

    def control(*_args: Any, **_kwargs: Any) -> torch.Tensor:
        return states["control"][:, None]  # a vector of length 6.5 / 6.5 after their normalisation

    class Torch:
        rand = staticmethod(control)

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    tool = SimpleNamespace(init=lambda **_: None, log=lambda values: logged.append(values), finish=lambda: None)
    bar = SimpleNamespace(tqdm=lambda **_: _Bar())
    scope = {"wandb": tool, "tqdm": bar, "get_params": lambda *_: [weight], "AdamW": torch.optim.AdamW,
             "forward_with_cache": states_of, "torch": Torch()}  # fmt: skip
    code = definitions(folder / "unlearn_r2mu.py", ["run_rmu"], scope)
    args = SimpleNamespace(
        output_dir="x", wandb_group="x", layer_ids=[], param_ids=[], lr=0.0, module_str="{model_name}", layer_id=0,
        steering_coeff_list=[6.5], alpha=[1.4], assist_loss=1, max_num_batches=1,
    )  # fmt: skip
    names = ("forget", "retain", "trace", "forget", "reasoning", "forget")
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=3), dtype=torch.float64, device="cpu", frozen=False)
    model.train = lambda: model
    frozen = SimpleNamespace(frozen=True)
    batches = [[[name]] for name in names]

    def read(batch: str, **_kwargs: Any) -> Text:
        return Text(batch)

    try:
        code.run_rmu(model, frozen, read, *batches, args)
    except (AttributeError, UnboundLocalError):  # saving the model, after the step
        if not logged:
            raise
    return {key: logged[0][key] for key in ("loss", "unlearn_loss", "extent_loss", "retain_loss", "assistant_loss")}


class _Bar:
    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def update(self, _n: int) -> None: ...

    def set_postfix(self, **_values: Any) -> None: ...


@case("divergence_decoding", "linear")
def _(folder: Path, inputs: Inputs) -> Any:
    return _decoding(folder, inputs, style="alpha", alpha=0.7, log_alpha=False)


@case("divergence_decoding", "top_k")
def _(folder: Path, inputs: Inputs) -> Any:
    mask = torch.zeros(1, len(inputs["model"][0]), dtype=torch.bool)
    return _decoding(folder, inputs, style="topk", topk=2, monte_carlo=False, topk_mask=mask)


def _decoding(folder: Path, inputs: Inputs, **settings: Any) -> Any:
    scope = {"CausalLMOutput": SimpleNamespace, "Path": Path}
    code = definitions(folder / "Benchmarks/src/model/dd.py", ["DD.forward"], scope)
    models = {
        name: returns(tensor(inputs[key])[None])
        for name, key in (("main_model", "model"), ("verifier_forget", "forget"), ("verifier_retain", "retain"))
    }
    own = SimpleNamespace(
        device="cpu", use_ngram=False, cross_tokenizer=False, special_token_ids=[], benchmark="TOFU", **models,
        **settings,
    )  # fmt: skip
    return code.forward(own, torch.zeros(1, len(inputs["model"]), dtype=torch.long)).logits[0]


@case("gated_rotation", "vector")
def _(folder: Path, inputs: Inputs) -> Any:
    _guard(folder)
    from guard.config.normalization import NormalizationConfig  # type: ignore[import-not-found]
    from guard.offline.steering import compute_steering_vector  # type: ignore[import-not-found]

    forget, retain = tensor(inputs["forget"]), tensor(inputs["retain"])
    settings = NormalizationConfig(projection_eps=1e-12)
    sides = [one for side in (forget, retain) for one in (side.mean(0), side.norm(dim=-1).mean())]
    return compute_steering_vector(*sides, "orthogonal", settings)[0]


@case("gated_rotation", "rotation")
def _(folder: Path, inputs: Inputs) -> Any:
    _guard(folder)
    from guard.config.gate import GateConfig  # type: ignore[import-not-found]
    from guard.online.gate import SimilarityGate  # type: ignore[import-not-found]
    from guard.online.scoring import ActivationCosineScorer  # type: ignore[import-not-found]

    states, means, vectors = (tensor(inputs[key]).float() for key in ("states", "means", "vectors"))
    settings = GateConfig(enabled=True, routing_source="activation", threshold=0.1)
    gate = SimilarityGate(means, vectors, settings, activation_scorer=ActivationCosineScorer(means, -1))
    return gate._make_hook([0.7])(None, None, states[:, None])[:, 0]


def _guard(folder: Path) -> None:
    stub("loguru", logger=SimpleNamespace(debug=print, info=print, warning=print))
    for package in ("guard", "guard.config", "guard.offline", "guard.online"):
        stub(package, __path__=[str(folder / "src" / package.replace(".", "/"))])


@case("sophia", "steps")
def _(folder: Path, inputs: Inputs) -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("authors_sophia", folder / "src/optim/sophia.py")
    assert spec is not None and spec.loader is not None
    code = module_from_spec(spec)
    spec.loader.exec_module(code)
    p = torch.nn.Parameter(tensor(inputs["p"]))
    optimizer = code.SophiaG([p], lr=0.01, betas=(0.9, 0.95), rho=0.04, weight_decay=0.1)
    after = []
    for gradient in inputs["gradients"]:
        p.grad = tensor(gradient)
        optimizer.step()
        after.append(p.detach().clone())
    return torch.stack(after)


@case("repnoise", "distance")
def _(folder: Path, inputs: Inputs) -> Any:
    code = definitions(folder / "representation_noising/loss.py", ["MMD_loss"], {})
    return code.MMD_loss()(tensor(inputs["states"]), tensor(inputs["noise"]))


@case("repnoise", "loss")
def _(folder: Path, inputs: Inputs) -> Any:
    """Rows of two tokens in a model of two layers; states and noise at the first tokens are 0."""
    states, logits = tensor(inputs["states"]), tensor(inputs["logits"])  # (L, B, D), (B, V)
    noise = iter(tensor(inputs["noise"]))

    class Torch:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def randn_like(self, like: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.zeros(like.shape[0], like.shape[2]), next(noise)], 1)

    scope = {"torch": Torch(), "DEVICE": "cpu", "register_activation_hook": lambda model: model.activations}
    names = ["MMD_loss", "masked_token_ce_loss", "rep_noise_loss"]
    code = definitions(folder / "representation_noising/loss.py", names, scope, {"mask.float()": "mask.double()"})

    def model(ids: torch.Tensor, **_kwargs: Any) -> Any:
        whole = logits if ids is bad["input_ids"] else torch.zeros_like(logits)
        padded = torch.stack([whole, torch.zeros_like(whole)], 1)
        return SimpleNamespace(logits=padded, hidden_states=[padded])

    model.activations = {  # type: ignore[attr-defined]
        f"model.layers.{i}.mlp": torch.stack([torch.zeros_like(h), h], 1) for i, h in enumerate(states)
    }
    model.base_model = SimpleNamespace(layers=list(states), norm=lambda h: h)  # type: ignore[attr-defined]
    model.get_output_embeddings = lambda: lambda h: h  # type: ignore[attr-defined]
    ids = torch.tensor([[1, token] for token in inputs["tokens"]])
    bad, good = ({"input_ids": one, "attention_mask": None} for one in (ids, ids % 3 + 1))  # no token is the same
    return code.rep_noise_loss(model, bad, good, beta=inputs["beta"], alpha=inputs["alpha"])


@case("rr", "terms")
def _(folder: Path, inputs: Inputs) -> Any:
    """One step at half of the run: a coefficient of alpha for both terms."""
    code = definitions(
        folder / "src/lorra_circuit_breaker.py", ["compute_loss"], {"gc": gc, "cosine_similarity": None},
        {"dtype=torch.float)": "dtype=torch.double)"},
    )  # fmt: skip
    sides = {
        key: tuple(h[None] for h in tensor(inputs[key])) for key in ("forget", "forget_ref", "retain", "retain_ref")
    }
    state = {"frozen": False}

    class Model:
        def disable_adapter(self) -> Any:
            return _switched(state)

        def eval(self) -> None: ...

        def train(self) -> None: ...

        def __call__(self, input_ids: str, **_kwargs: Any) -> Any:
            return {"hidden_states": sides[input_ids + ("_ref" if state["frozen"] else "")]}

    def progress(retain: float) -> SimpleNamespace:
        return SimpleNamespace(current_training_step=0, get_training_progress=lambda: retain)

    n = {key: torch.ones(1, sides[key][0].shape[1]) for key in ("forget", "retain")}
    batch = {"input_ids": "retain", "attention_mask": n["retain"], "input_ids_circuit_breaker": "forget",
             "attention_mask_circuit_breaker": n["forget"]}  # fmt: skip
    layers = list(range(len(sides["forget"])))
    return code.compute_loss(progress(inputs["progress"]), Model(), batch, layers, inputs["alpha"])


@contextmanager
def _switched(state: dict[str, bool]) -> Iterator[None]:
    state["frozen"] = True
    yield
    state["frozen"] = False


@case("tpo", "loss")
def _(folder: Path, inputs: Inputs) -> Any:
    """One example: a question of two tokens, an answer, its end; `tpo_grad_diff` with a retain loss of 0."""
    ids = torch.tensor([[7, 8, 9, *inputs["tokens"]]])  # 8 and 9 stand for the mark of the answer, as in their code
    marks = torch.tensor([[False] * 3 + inputs["unwanted"]])
    labels = torch.where(marks, ids, -100)
    scope: dict[str, Any] = {}
    scope["get_batch_loss"] = definitions(folder / "TOFU/data_module.py", ["get_batch_loss"], {}).get_batch_loss
    code = definitions(
        folder / "TOFU/dataloader.py",
        ["CustomTrainerForgetting.compute_loss", "CustomTrainerForgetting.find_sublist_position"],
        scope, {"torch.tensor([16533, 25])": "torch.tensor([8, 9])", ".float()": ".double()"},
    )  # fmt: skip

    def whole(rows: Any) -> torch.Tensor:  # position t predicts token t + 1; the first answer token is the fourth
        return torch.nn.functional.pad(tensor(rows), (0, 0, 2, 1))[None]

    own = SimpleNamespace(
        loss_type="tpo_grad_diff", model_family="llama3-3b", ref_policy="fine_tuned", beta=inputs["beta"],
        oracle_model=returns(whole(inputs["reference"])), loss_log=[],
        find_sublist_position=lambda *words: code.find_sublist_position(None, *words),
    )  # fmt: skip
    model = returns(whole(inputs["logits"]))
    return code.compute_loss(own, model, ((ids, labels, None), (ids, labels, None)))


@case("whp", "generic")
def _(folder: Path, inputs: Inputs) -> Any:
    scope = {"CausalLMOutput": SimpleNamespace}
    code = definitions(folder / "MUSE/baselines/baselines/whos_harry_potter.py", ["WHPModelForCausalLM.forward"], scope)
    own = SimpleNamespace(
        baseline=returns(tensor(inputs["baseline"])), reinforced=returns(tensor(inputs["reinforced"]))
    )
    own.alpha = inputs["alpha"]
    return code.forward(own).logits


@case("grpo", "kl")
@case("grpo", "loss")
def _(folder: Path, inputs: Inputs) -> Any:
    """The loss and its gradient in the log-probabilities of a padded batch of texts, by TRL's trainer."""
    logps_BT = tensor(inputs["logps"]).requires_grad_()
    code = definitions(
        folder / "trl/trainer/grpo_trainer.py", ["GRPOTrainer._compute_loss"], {"nanmin": min, "nanmax": max}
    )
    own = MagicMock()
    own.configure_mock(
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        beta=inputs.get("beta", 0.0), loss_type=inputs.get("loss_type", "grpo"), epsilon_low=0.2, epsilon_high=0.2,
        use_vllm=False, _entropy_bonus_enabled=False, aux_loss_enabled=False, use_adaptive_entropy=False,
        current_gradient_accumulation_steps=1,
    )  # fmt: skip
    own.args.use_bias_correction_kl = False  # TRL's default
    own.args.delta = None
    own.accelerator.gather = lambda x: x
    own._get_per_token_logps_and_entropies = lambda *_, **__: (logps_BT, torch.zeros_like(logps_BT), None)
    ids = torch.zeros(logps_BT.shape, dtype=torch.long)
    batch = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids,
        "completion_mask": tensor(inputs["mask"]), "advantages": tensor(inputs["advantages"]),
        "ref_per_token_logps": tensor(inputs.get("reference", inputs["logps"])),
    }  # fmt: skip
    loss = code._compute_loss(own, None, batch)
    loss.backward()
    return {"loss": loss, "gradient": logps_BT.grad}


@case("purge", "reward")
def _(folder: Path, inputs: Inputs) -> Any:
    """The authors' reward `binary` of some texts, for a list of terms."""
    code = definitions(folder / "src/rewards/binary.py", ["BinaryReward"], {"re": re, "RewardFunction": object})
    code.BinaryReward.load_forget_words = classmethod(lambda cls, file: set(file))
    code.BinaryReward.preprocess(SimpleNamespace(forget_words_file=inputs["forbidden"]))
    return code.BinaryReward.calc_reward(inputs["texts"])


@case("unilogit", "reverse")
def _(folder: Path, inputs: Inputs) -> Any:
    return _unilogit(folder, inputs, "model_to_target")


@case("unilogit", "forward")
def _(folder: Path, inputs: Inputs) -> Any:
    return _unilogit(folder, inputs, "target_to_model")


def _unilogit(folder: Path, inputs: Inputs, direction: str) -> Any:
    names = ["_as_model_inputs", "compute_unilogit_loss"]
    code = definitions(folder / "src/trainer/unlearn/unilogit.py", names, {}, DOUBLE)
    logits = tensor(inputs["logits"]).requires_grad_()
    whole = torch.cat([logits, torch.zeros_like(logits[:1])])[None]
    labels = torch.tensor([[-100, *inputs["tokens"]]])
    batch = {"input_ids": labels, "attention_mask": labels, "labels": labels}
    loss = code.compute_unilogit_loss(returns(whole), batch, kl_direction=direction)[0]
    loss.backward()
    return {"loss": loss, "gradient": logits.grad}
