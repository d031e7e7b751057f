"""A model of linear layers that mixes tokens by causal means, and its statistics, for edits that read hidden states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from expunge.methods.weight_edits import Moments, TargetSearch

CONFORMANCE = Path(__file__).parent / "conformance"


def cases(name: str) -> dict[str, Any]:
    """The numbers that the authors' code gave, by case."""
    return json.loads((CONFORMANCE / f"{name}.json").read_text())["cases"]


def tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.up, self.mlp.down = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)

    def forward(self, h: Tensor) -> tuple[Tensor]:
        h = h + h.cumsum(1) / torch.arange(1, h.shape[1] + 1, dtype=h.dtype)[None, :, None]
        return (h + self.mlp.down(torch.tanh(self.mlp.up(h))),)


class Toy(nn.Module):
    """Three blocks of width 4 over a vocabulary of 9."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(9, 4), nn.ModuleList([_Block() for _ in range(3)])
        self.norm, self.head = nn.Identity(), nn.Linear(4, 9, bias=False)
        self.double().load_state_dict({k: tensor(v) for k, v in parameters.items()})

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        h = self.embed(input_ids)
        for layer in self.layers:
            h = layer(h)[0]
        return SimpleNamespace(logits=self.head(self.norm(h)))


class ToyStatistics:
    """The toy's states at the ends of its prompts, with covariances and targets that a test gives."""

    def __init__(self, model: Toy, prompts: Sequence[Sequence[int]], covariance: Sequence[Any], target: Any) -> None:
        self.model, self.prompts, self.target = model, prompts, tensor(target)
        self.covariance = [tensor(c) for c in covariance]

    @torch.no_grad()
    def states(self, name: str, of: Any, at: str, changed: Mapping[str, Tensor]) -> Tensor:
        assert at == "last" and of == "forget"
        module, _, place = name.partition(":")
        model = Toy({**self.model.state_dict(), **changed})
        calls: list[Tensor] = []
        model.get_submodule(module).register_forward_hook(
            lambda _m, args, out: calls.append(args[0] if place else out[0] if isinstance(out, tuple) else out)
        )
        for prompt in self.prompts:
            model(torch.tensor([list(prompt)]))
        return torch.stack([x[0, -1] for x in calls])

    def moments(self, names: Sequence[str], of: Any, at: str) -> dict[str, Moments]:
        """n is 2, so that a mean is told from a sum."""
        assert (of, at) == ("retain", "row")
        return {name: Moments(2, c.sum(0), 2 * c) for name, c in zip(names, self.covariance, strict=True)}

    def targets(self, name: str, search: TargetSearch) -> Tensor:
        assert name == "layers.1"
        return self.target
