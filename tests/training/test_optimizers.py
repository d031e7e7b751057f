from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.plugin_code import declared
from expunge.core.plugins import load_plugins
from expunge.methods import objective
from expunge.training.config import TrainArgs
from expunge.training.loop import train
from expunge.training.optimizers import OF_TORCHAO, STOCHASTIC, optimizer_class, weights_dtype
from expunge.training.phases import check_run

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "sign_descent.py"


def test_an_optimizer_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for optim in OF_TORCHAO:
        with pytest.raises(ConfigError, match=rf"^trainer\.args\.optim: {optim} needs torchao: pip install torchao"):
            check_run(objective("finetune"), TrainArgs(optim=optim))
    check_run(objective("finetune"), TrainArgs(optim="adamw_8bit"))


def test_stochastic_rounding_trains_bfloat16_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    args = TrainArgs(optim=STOCHASTIC, learning_rate=1e-3)
    assert (weights_dtype(STOCHASTIC), weights_dtype("adamw_torch_8bit")) == ("bfloat16", "float32")
    with pytest.raises(ConfigError, match=r"stochastic needs an accelerator; use adamw_torch on a CPU$"):
        optimizer_class(args, "cpu")
    result = SimpleNamespace(AdamW8bit=torch.optim.AdamW)
    monkeypatch.setitem(sys.modules, "torchao.optim", result)
    cls, settings = optimizer_class(args, "cuda") or (None, {})
    assert cls is torch.optim.AdamW
    assert settings["bf16_stochastic_round"]
    assert settings["lr"] == 1e-3
    assert optimizer_class(TrainArgs(), "cuda") is None


def test_a_class_by_its_name_and_a_registered_one(tmp_path) -> None:
    args = TrainArgs(optim="torch.optim.NAdam", optim_args={"momentum_decay": 0.01}, learning_rate=1e-3)
    assert optimizer_class(args, "cpu") == (
        torch.optim.NAdam, {"lr": 1e-3, "weight_decay": 0.01, "momentum_decay": 0.01},
    )  # fmt: skip
    check_run(objective("finetune"), args)
    assert args.identity["optim"] == "torch.optim.NAdam" and "optim_args" not in TrainArgs().identity
    load_plugins([str(PLUGIN)])
    cls, settings = optimizer_class(TrainArgs(optim="sign_descent", learning_rate=0.5), "cpu") or (None, {})
    assert settings == {"lr": 0.5}
    assert declared(TrainArgs(optim="sign_descent").identity["optim"]["revision"]) == 1
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.tensor([3.0, -4.0])
    cls([weight], **settings).step()
    assert weight.tolist() == [0.5, 2.5]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"optim": "adamw_torc"}, r"^t\.optim: .*; did you mean 'adamw_torch'\? .* got 'adamw_torc'"),
        ({"optim": "torch.optim.NAdm"}, r"^t\.optim: torch\.optim has no optimizer 'NAdm'; did you mean 'NAdam'"),
        ({"optim": "torch.optm.NAdam"}, r"^t\.optim: torch\.optm\.NAdam: No module named"),
        ({"optim": "torch.optim.SGD", "optim_args": {"momentun": 1}}, r"^t\.optim_args\.momentun: .*'momentum'"),
        ({"optim_args": {"momentum": 1}}, r"^t\.optim_args: adamw_torch takes none"),
        ({"optim": "torch.optim.SGD", "optim_args": {"lr": 1}}, r"^t\.optim_args\.lr: set t\.learning_rate instead"),
        ({"optim": "torch.optim.LBFGS"}, r"^t\.optim: torch\.optim\.LBFGS cannot train these weights: LBFGS doesn't"),
        ({"optim": "torch.optim.SparseAdam"}, r"SparseAdam cannot train these weights: SparseAdam does not support"),
        (
            {"optim": "torch.optim.NAdam", "optim_args": {"betas": 3}},
            r"^t\.optim: torch\.optim\.NAdam with optim_args=\{'betas': 3\} cannot train these weights: ",
        ),
    ],
)
def test_a_wrong_optimizer_is_named(keys, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_run(objective("finetune"), decode(TrainArgs, keys, where="t"), "t")


def test_a_class_for_matrices_trains_adapters_and_names_a_vector(make_model, rows) -> None:
    args = TrainArgs(optim="torch.optim.Muon", max_steps=1, learning_rate=1e-3, warmup_steps=0)
    goal = objective("GradAscent")
    with pytest.raises(ConfigError, match=r"^trainer\.args\.optim: torch\.optim\.Muon cannot train these weights: "):
        train(make_model(), goal, {"forget": rows["forget"]}, args, pad_id=0)
    some = dataclasses.replace(args, trainable_params_regex=(r".*mlp.*",))
    assert train(make_model(), goal, {"forget": rows["forget"]}, some, pad_id=0).n_steps == 1
