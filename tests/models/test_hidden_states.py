"""Hidden states of several modules equal those that transformers returns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from expunge.core.errors import ConfigError
from expunge.data.batch import collate
from expunge.data.encoder import Encoded
from expunge.methods import Quantity
from expunge.methods.api import ScoredPositions
from expunge.models import capabilities
from expunge.training.forward import forward
from expunge.training.phases import ForwardSpec
from expunge.training.reference import reference

ROWS = [Encoded((5, 6, 7, 8), 2, 0), Encoded((9, 10, 11, 12, 13, 14), 3, 0)]
SITES = ("model.layers.1", "model.layers.0.mlp.down_proj:input", "model.layers.0:input")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def expected(model: Any, row: Encoded, first: int, last: int) -> list[torch.Tensor]:
    records: dict[str, torch.Tensor] = {}
    hook = model.model.layers[0].mlp.down_proj.register_forward_hook(lambda m, a, o: records.update(x=a[0]))
    out = model(torch.tensor([row.ids]), output_hidden_states=True)
    hook.remove()
    return [h[0, first:last] for h in (out.hidden_states[2], records["x"], out.hidden_states[0])]


@torch.no_grad()
@pytest.mark.parametrize("serve", [Quantity.HIDDEN, Quantity.HIDDEN_LOGPS])
@pytest.mark.parametrize("padded", [True, False])
def test_states_of_inputs_and_outputs(model, serve: Quantity, padded: bool, monkeypatch) -> None:
    """Also for a model that reads each row by itself, and at the positions of each quantity."""
    if not padded:
        can = capabilities.Capabilities(padded=False, masked=False)
        for name in ("packed", "hidden_states"):
            monkeypatch.setattr(f"expunge.models.{name}.capabilities_of", lambda model: can)
    own = serve is Quantity.HIDDEN
    spec = ForwardSpec(serve, ScoredPositions.OWN if own else ScoredPositions.ANSWER, SITES)
    batch = collate(ROWS, pad_id=0, positions=spec.positions.value)
    side = forward(model, batch, spec).side(batch, spec)
    assert [h.shape[1] for h in side.layers_ND] == [16, 24, 16]
    at = [(r.n_prompt, len(r.ids)) if own else (r.n_prompt - 1, len(r.ids) - 1) for r in ROWS]
    whole = [expected(model, r, *place) for r, place in zip(ROWS, at, strict=True)]
    for actual, want in zip(side.layers_ND, zip(*whole, strict=True), strict=True):
        torch.testing.assert_close(actual, torch.cat(want))
    if not own:
        logps = torch.log_softmax(model(torch.tensor([ROWS[0].ids])).logits[0, 1:3], -1)
        torch.testing.assert_close(side.logps_N[:2], logps[[0, 1], [7, 8]])
    # a stored reference has the same states, module by module
    stored = reference(model, ROWS, [0, 1], spec, pad_id=0).side([0, 1], batch)
    for actual, want in zip(stored.layers_ND, side.layers_ND, strict=True):
        torch.testing.assert_close(actual, want)
    torch.testing.assert_close(stored.logps_N, side.logps_N)


def test_layers_above_the_last_site_do_not_run(model) -> None:
    ran: list[int] = []
    hook = model.model.layers[2].register_forward_hook(lambda m, a, o: ran.append(1))
    spec = ForwardSpec(Quantity.HIDDEN, ScoredPositions.OWN, SITES)
    forward(model, collate(ROWS, pad_id=0, positions="own"), spec)
    hook.remove()
    assert ran == []


def test_a_missing_module_is_named(model) -> None:
    spec = ForwardSpec(Quantity.HIDDEN, ScoredPositions.OWN, ("model.layers.1", "model.layers.7:input"))
    with pytest.raises(ConfigError, match=r"^trainer.method_args: the model has no module 'model.layers.7'"):
        forward(model, collate(ROWS, pad_id=0, positions="own"), spec)
