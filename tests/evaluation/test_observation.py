"""What is observed of a model decides how it is read: models with a fault in one way of reading take another."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForCausalLM, BartForConditionalGeneration, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.gradients import score_grads
from expunge.evaluation.loglikelihood import encode_items, score_tokens
from expunge.evaluation.observation import capabilities, observe
from expunge.models.capabilities import Capabilities, capabilities_of, register_capabilities

WANTED = ("answer", "perturbed")


class Crowded(LlamaForCausalLM):
    """What a row gets depends on the other rows of its batch, as where experts have a capacity."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        out = super().forward(input_ids, **kwargs)
        if len(input_ids) > 1:
            out.logits = out.logits * 1.5
        return out


class LargeLogits(LlamaForCausalLM):
    """Has logits of about 40, and in a batch each differs by up to the spacing of bfloat16's numbers there."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        out = super().forward(input_ids, **kwargs)
        out.logits = out.logits.float() * (40 / out.logits.float().abs().amax())
        if len(input_ids) > 1:
            out.logits = out.logits + 0.25 * torch.cos(torch.arange(out.logits.shape[-1], dtype=torch.float32))
        out.logits = out.logits.bfloat16()
        return out


class Spoken(LlamaForCausalLM):
    """Takes ids alone and gives a tuple of logits, which it computes away from its LM head's module."""

    def forward(self, input_ids: torch.Tensor) -> Any:
        hidden = self.model(input_ids=input_ids).last_hidden_state
        return (torch.nn.functional.linear(hidden, self.lm_head.weight),)


class LastOnly(LlamaForCausalLM):
    """Gives the last logits only, unless all are asked for by the old name."""

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, num_logits_to_keep: int = 1) -> Any:
        return super().forward(input_ids, attention_mask, logits_to_keep=num_logits_to_keep)


class Forgetful(LlamaForCausalLM):
    """Ignores its cache."""

    def forward(self, input_ids: torch.Tensor, past_key_values: Any = None, **kwargs: Any) -> Any:
        kwargs.pop("position_ids", None)
        kwargs.pop("attention_mask", None)
        out = super().forward(input_ids, **kwargs | {"use_cache": False})
        return CausalLMOutputWithPast(logits=out.logits)


class Mirror(LlamaForCausalLM):
    """A token sees later ones."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        out = super().forward(input_ids.flip(1), **kwargs)
        out.logits = out.logits.flip(1)
        return out


class Peeking(LlamaForCausalLM):
    """A prediction is the token that follows."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        out = super().forward(input_ids, **kwargs)
        out.logits = 20 * torch.nn.functional.one_hot(input_ids.roll(-1, 1), out.logits.shape[-1]).float()
        return out


class Broken(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no kernel\nfor this machine")


def model_of_kind(kind: Any, vocabulary: int = 400) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.5, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return kind(config).eval()


def plain(model: Any, ids: Any) -> torch.Tensor:
    options = {"num_logits_to_keep": 0} if isinstance(model, LastOnly) else {}
    with torch.no_grad():
        out = model(input_ids=torch.tensor([list(ids)]), **options)
    return (out[0] if isinstance(out, tuple) else out.logits)[0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (LlamaForCausalLM, Capabilities()),
        (Crowded, {"padded": False, "masked": False, "shared_prefix": False, "generation": "single"}),
        (Spoken, {"head": False, "masked": False, "shared_prefix": False, "generation": "uncached"}),
        (LastOnly, {"shared_prefix": False, "generation": "uncached"}),
        (Forgetful, {"masked": False, "shared_prefix": False, "generation": "uncached"}),
    ],
)
def test_scores_and_texts_are_those_of_plain_rows(kind: Any, expected: Any, rows: ExampleSet, tokenizer: Any) -> None:
    model, encoder = model_of_kind(kind), Encoder(Template(), tokenizer)
    table = score_tokens(model, rows, WANTED, encoder)
    logps = []
    for item in encode_items(rows, WANTED, encoder):
        ids = item.encoded.ids
        result = plain(model, ids)[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        logps.append(result[item.first - 1 :].numpy())
    np.testing.assert_allclose(table["logp"].to_numpy(), np.concatenate(logps), rtol=1e-4, atol=1e-4)
    texts = []
    for prompt in encoder.row_prompts(rows, rows.rows):
        ids = list(prompt)
        while len(ids) < len(prompt) + 5 and (len(ids) == len(prompt) or ids[-1] != 2):
            ids.append(int(plain(model, ids)[-1].argmax()))
        texts.append(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip())
    assert [t.generation for t in generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=5))] == texts
    can = capabilities(model)
    targets = expected if isinstance(expected, Capabilities) else Capabilities(**expected, notes=can.notes)
    assert can == targets
    assert len(can.notes) == sum([not can.head, not can.masked, not can.shared_prefix, can.generation != "batched"])


def test_gradient_norms_of_a_model_that_is_read_row_by_row(rows: ExampleSet, tokenizer: Any) -> None:
    encoder = Encoder(Template(), tokenizer)
    few = ExampleSet("few", rows.rows[:3])
    crowded, sound = (
        score_grads(model_of_kind(kind), few, WANTED, encoder).to_pylist() for kind in (Crowded, LlamaForCausalLM)
    )
    assert [x["l2"] for x in crowded] == pytest.approx([x["l2"] for x in sound], rel=1e-3, nan_ok=True)


def test_rounding_of_large_logits_in_half_precision_does_not_end_batches() -> None:
    assert observe(model_of_kind(LargeLogits).bfloat16()).generation == "batched"
    assert observe(model_of_kind(Crowded).bfloat16()).generation == "single"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Mirror, "model: Mirror cannot be scored: a later token changes the predictions before it, so it is no causal"),
        (Peeking, "model: Peeking cannot be scored: a later token changes the predictions before it, so it is no caus"),
        (Broken, "model: Broken cannot be scored: its forward fails: no kernel$"),
    ],
)
def test_a_model_that_cannot_be_scored_is_refused(kind: Any, words: str, rows: ExampleSet, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{words}") as caught:
        score_tokens(model_of_kind(kind), rows, WANTED, Encoder(Template(), tokenizer))
    assert "\n" not in str(caught.value)


def test_an_encoder_decoder_is_refused() -> None:
    size = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 96}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    with pytest.raises(ConfigError, match=r"^model: BartForConditionalGeneration is an encoder-decoder; only causal"):
        observe(BartForConditionalGeneration(BartConfig(**size, **heads)))
    assert observe(BartForCausalLM(BartConfig(**size, **heads))).head


def test_observation_leaves_model_and_random_numbers_as_they_were() -> None:
    model = model_of_kind(LlamaForCausalLM).train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    observe(model)
    assert model.training
    assert torch.equal(torch.rand(3), expected)
    assert all(p.grad is None for p in model.parameters())


def test_a_model_is_observed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of_kind(LlamaForCausalLM)
    capabilities(model)
    monkeypatch.setattr("expunge.evaluation.observation.observe", lambda _model: pytest.fail("observed again"))
    assert capabilities(model) == Capabilities()


def test_registered_capabilities_are_found_under_wrappers_and_gone_with_the_model() -> None:
    model = model_of_kind(LlamaForCausalLM)
    register_capabilities(model, Capabilities(padded=False))
    assert not capabilities_of(torch.nn.DataParallel(model)).padded
    assert capabilities_of(model_of_kind(LlamaForCausalLM)).padded
    values = Capabilities(padded=False, notes=("a",)).to_dict()
    assert Capabilities.from_dict(values) == Capabilities(padded=False, notes=("a",))


def test_ids_beyond_the_embeddings(rows: ExampleSet, tokenizer: Any) -> None:
    """An id that a row needs is an error with both numbers; a pad id is replaced, and changes nothing."""
    n = len(tokenizer)
    model, encoder = model_of_kind(LlamaForCausalLM, n), Encoder(Template(), tokenizer)
    expected = score_tokens(model, rows, WANTED, encoder)
    texts = generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=4))
    padded = copy.deepcopy(tokenizer)
    padded.add_special_tokens({"pad_token": "<padding>"})
    assert padded.pad_token_id == n
    assert score_tokens(model, rows, WANTED, Encoder(Template(), padded)).equals(expected)
    assert generate_texts(model, rows, "answer", Encoder(Template(), padded), Generation(max_new_tokens=4)) == texts
    padded.add_tokens(["Paris"])
    for use in (
        lambda e: score_tokens(model, rows, WANTED, e),
        lambda e: score_grads(model, rows, WANTED, e),
    ):
        with pytest.raises(
            ConfigError, match=rf"^rows row 1 'answer': token id {n + 1} is beyond the model's {n} embeddings"
        ):
            use(Encoder(Template(), padded))
