"""Adapters that avoid those of earlier requests (O3)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import expunge
from expunge.core.errors import ConfigError
from expunge.methods.objective import objective
from expunge.models.build import train_tokenizer
from expunge.training.config import TrainArgs
from expunge.training.lora import LoraArgs, with_lora
from expunge.training.orthogonal import FILE, adapter_inputs, earlier_adapters, orthogonality, overlap
from expunge.training.phases import check_run
from expunge.training.saved_run import train_and_save


class Layers(torch.nn.Module):
    """Two layers of one adapter each, named as peft names them."""

    def __init__(self, matrices: list[list[list[float]]]) -> None:
        super().__init__()
        self.base_model = torch.nn.Module()
        self.base_model.model = torch.nn.Module()
        self.base_model.model.layers = torch.nn.ModuleList()
        for values in matrices:
            module = torch.nn.Module()
            weight = torch.nn.Linear(2, len(values), bias=False).double()
            weight.weight.data = torch.tensor(values, dtype=torch.float64)
            module.lora_A = torch.nn.ModuleDict({"default": weight})
            layer = torch.nn.Module()
            layer.q_proj = module
            self.base_model.model.layers.append(layer)

    def get_base_model(self) -> torch.nn.Module:
        base: torch.nn.Module = self.base_model.model
        return base


def test_the_term_and_its_gradient_by_hand() -> None:
    # layer 0: E A^T = (1, 0; 0, 2) (3, 1)^T = (3, 2): 13. Layer 1: (1, 1) . (2, -2) = 0. Mean over layers 6.5, weight 2
    model = Layers([[[3, 1]], [[2, -2]]])
    earlier = {
        "layers.0.q_proj": torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64),
        "layers.1.q_proj": torch.tensor([[1.0, 1.0]], dtype=torch.float64),
    }
    term = overlap(model, earlier, 2.0)
    assert term().item() == pytest.approx(13.0, rel=1e-15)
    term().backward()
    # d/dA = 2 A E^T E, times 2 / 2 layers: 2 (3 * 1, 1 * 4)
    matrices = adapter_inputs(model)
    assert matrices["layers.0.q_proj"].grad is not None
    assert matrices["layers.0.q_proj"].grad.tolist() == [[6, 8]]
    a = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    e = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda x: (e @ x.T).square().sum(), (a,))


def test_earlier_adapters_of_other_modules_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"orthogonal: the earlier requests have adapters on other modules \(layers.9"
    ):
        overlap(Layers([[[3, 1]]]), {"layers.9.q_proj": torch.zeros(1, 2)}, 1.0)


def run(
    make_model: Any, rows: Any, folder: Path, start: Path | None, weight: float, seed: int
) -> list[dict[str, float]]:
    args = TrainArgs(
        per_device_train_batch_size=4, gradient_accumulation_steps=1, logging_steps=1, learning_rate=3e-2, seed=seed,
        num_train_epochs=8, lora=LoraArgs(r=2, orthogonal=weight), checkpoint=None,
    )  # fmt: skip
    encoder: Any = SimpleNamespace(tokenizer=train_tokenizer(["a b c"], 300, max_length=64))
    folder.mkdir()
    done = train_and_save(
        folder, make_model(), encoder, objective("GradDiff"), rows, args, reload=make_model, start=start
    )
    return done.history


@pytest.mark.slow
def test_a_second_request_learns_along_other_inputs(make_model: Any, rows: Any, tmp_path: Path) -> None:
    """The first request has no term; its adapters stay next to the model. The second one's overlap falls."""
    first = run(make_model, rows, tmp_path / "one", None, 1.0, 0)
    assert all("regulariser" not in line for line in first)
    one = earlier_adapters(tmp_path / "one")
    assert one and all(a.shape[0] == 2 for a in one.values())

    second = run(make_model, rows, tmp_path / "two", tmp_path / "one", 1.0, 1)
    loose = run(make_model, rows, tmp_path / "loose", tmp_path / "one", 1e-6, 1)
    values, without = ([line["regulariser"] for line in log if "regulariser" in line] for log in (second, loose))
    assert values[0] == pytest.approx(1e6 * without[0], rel=1e-5)
    assert values[-1] < 0.4 * 1e6 * without[-1]
    # the loss contains it
    line = next(line for line in second if "regulariser" in line)
    assert line["loss"] == pytest.approx(line["forget"] + line["retain"] + line["regulariser"], rel=1e-5)
    two = load_file(tmp_path / "two" / FILE)
    for name, a in two.items():
        assert torch.equal(a[:2], one[name]) and a.shape[0] == 4

    run(make_model, rows, tmp_path / "plain", tmp_path / "one", 0.0, 1)
    assert not (tmp_path / "plain" / FILE).exists()


def test_the_setting_is_refused_where_it_has_no_effect(make_model: Any, rows: Any) -> None:
    lora = LoraArgs(r=2, orthogonal=0.1)
    for method, args, words in (
        ("finetune", {}, "finetune forgets nothing"),
        ("GradDiff", {"grad_transform": "gru"}, "a gradient transform does not read it"),
    ):
        with pytest.raises(ConfigError, match=rf"^trainer.args.lora.orthogonal: {words}"):
            check_run(objective(method), TrainArgs(lora=lora, **args))
    with pytest.raises(ConfigError, match=r"lora.orthogonal: a model in memory has no adapters of earlier requests"):
        facts = [{"question": "Q?", "answer": "A."}]
        tokenizer = train_tokenizer(["Q? A."], 300, max_length=64)
        expunge.unlearn(make_model(), facts, retain=facts, tokenizer=tokenizer, method="GradDiff", lora=lora)


def test_only_runs_with_it_have_another_key() -> None:
    keys = [TrainArgs(lora=LoraArgs(r=2, orthogonal=w)).identity["lora"] for w in (0.0, 0.1)]
    assert "orthogonal" not in keys[0] and keys[1]["orthogonal"] == 0.1


def test_a_damaged_file_is_named(make_model: Any, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"x")
    model = with_lora(make_model(), LoraArgs(r=2), 0)
    with pytest.raises(ConfigError, match=rf"{FILE} is damaged: .*; run the earlier request again$"):
        orthogonality(model, tmp_path, 1.0)
