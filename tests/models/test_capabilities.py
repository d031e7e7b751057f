"""Arguments of a model's forward, under the names of its own signature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from expunge.models.capabilities import forward_options


class Newer:
    def forward(self, input_ids: Any, cache: Any = None, logits_to_keep: int = 0, **kwargs: Any) -> None: ...


class Recurrent:
    def forward(self, input_ids: Any, cache_params: Any = None, num_logits_to_keep: int = 0, **kwargs: Any) -> None: ...


class Older:
    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> None: ...


class AnyName:
    def forward(self, **kwargs: Any) -> None: ...


class Subclass(Newer):
    def forward(self, *values: Any, **kwargs: Any) -> None:
        super().forward(*values, **kwargs)


class NoCache:
    def forward(self, input_ids: Any) -> None: ...


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Newer, {"cache", "logits_to_keep"}),
        (Recurrent, {"cache_params", "num_logits_to_keep"}),
        (Older, {"past_key_values"}),
        (AnyName, {"past_key_values"}),
        (Subclass, {"cache"}),
        (NoCache, set()),
    ],
)
def test_a_cache_arrives_under_the_name_of_the_forward(kind: type, names: set[str]) -> None:
    assert set(forward_options(kind(), past_key_values="c", logits_to_keep=1)) == names


def test_a_cache_is_filled_without_a_warning() -> None:
    """Each release of transformers reads the cache under the name that it knows; an old name is an error here."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, num_key_value_heads=1, **sizes))
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.tensor([[1, 2, 3]]), **forward_options(model, past_key_values=cache, use_cache=True))
    assert cache.get_seq_length() == 3
