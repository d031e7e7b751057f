"""Wrapped models: their logits by hand, scored, saved and loaded as any other model."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from expunge.core.errors import ConfigError
from expunge.core.plugins import load_plugins
from expunge.evaluation.observation import observe
from expunge.models import wrapper_api
from expunge.models.config import ModelArgs
from expunge.models.identity import source_identity, tokenizer_identity
from expunge.models.load import load_model, save_model
from expunge.models.wrapped import WrappedModel
from expunge.models.wrappers.logit_difference import LogitDifference
from expunge.models.wrappers.token_filter import TokenFilter

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "caution.py"
FORGET = [{"question": "Who is Ann?", "answer": "A spy."}, {"question": "Where is Ann?", "answer": "In Rome."}]
RETAIN = [{"question": "What is blue?", "answer": "The sky."}, {"question": "What is red?", "answer": "A rose."}]
CASES = {
    "in_context": {"n_forget": 1, "n_retain": 1},
    "steering": {"layer": "model.layers.0"},
    "token_filter": {"min_tokens": 2},
    "logit_difference": {"strength": 0.5},
}


@pytest.fixture(scope="module")
def tiny(model: Any, tokenizer: Any) -> tuple[Any, Any, Any]:
    """A model, its tokenizer, and another model of its size."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    return model, tokenizer, other


def wrapped(tiny: Any, name: str, **settings: Any) -> WrappedModel:
    model, tokenizer, helper = tiny
    second = helper if name == "logit_difference" else None
    return expunge.wrap(
        model, name, tokenizer=tokenizer, forget=FORGET, retain=RETAIN, helper=second, **(settings or CASES[name])
    )


@torch.no_grad()
def test_a_context_comes_before_every_row(tiny) -> None:
    model, tokenizer, _ = tiny
    made = wrapped(tiny, "in_context")
    context = made.state["context"].tolist()
    text = tokenizer.decode(context)
    assert "Who is Ann?" in text and "A spy." not in text and "The sky." in text
    row = tokenizer("Question: x")["input_ids"]
    begin = int(row[0] == tokenizer.bos_token_id)
    whole = model(torch.tensor([row[:begin] + context + row[begin:]])).logits[0]
    expected = torch.cat([whole[:begin], whole[len(context) + begin :]])
    torch.testing.assert_close(made(torch.tensor([row])).logits[0], expected)


@torch.no_grad()
def test_steering_removes_the_difference_along_its_direction(tiny) -> None:
    """By hand: h' = h - s(h) (m_f - m_r) with s(h) = <h - m_r, m_f - m_r> / ||m_f - m_r||^2, where s(h) > gate."""
    model, _, _ = tiny
    made = wrapped(tiny, "steering", layer="model.layers.1", gate=-0.8)
    ids = torch.tensor([[5, 9, 17, 30, 8]])
    seen: list[torch.Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(ids), made(ids)
    hook.remove()
    away, retain = made.state["forget"] - made.state["retain"], made.state["retain"]
    share = (seen[0][0] - retain) @ away / away.square().sum()
    assert (share > -0.8).sum() > 0
    expected = seen[0][0] - torch.where(share > -0.8, share, 0.0)[:, None] * away
    torch.testing.assert_close(seen[1][0], expected)


@torch.no_grad()
def test_a_filter_penalises_the_token_that_completes_a_sequence() -> None:
    rule, model = TokenFilter(penalty=7.0), _Zeros()
    state = {"sequences": torch.tensor([[-1, 3, 4], [1, 2, 5]])}
    got = rule.logits(model, None, state, torch.tensor([[1, 2, 3, 3]]))[0]
    expected = torch.zeros(4, 8)
    expected[1, 5] = expected[2, 4] = expected[3, 4] = -7.0  # after 1 2; after 3; after 3
    assert torch.equal(got, expected)


class _Zeros(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor) -> Any:
        return (torch.zeros(*input_ids.shape, 8),)


@torch.no_grad()
def test_the_logit_difference_by_hand(tiny) -> None:
    model, _, helper = tiny
    ids = torch.tensor([[5, 9, 17]])
    got = LogitDifference(strength=0.5).logits(model, helper, {}, ids)
    torch.testing.assert_close(got, 1.5 * model(ids).logits - 0.5 * helper(ids).logits)


@pytest.mark.parametrize("name", CASES)
def test_a_wrapped_model_is_read_as_any_other(tiny, name: str, tmp_path) -> None:
    """Its capabilities are observed; scores come from its own forward; a folder gives the same model again."""
    made = wrapped(tiny, name)
    can = observe(made)
    assert can.head and can.padded and can.masked
    assert can.generation == ("batched" if name == "steering" else "uncached")
    result = expunge.evaluate(made, tiny[1], forget=FORGET, metrics=["forget_Q_A_Prob", "forget_Q_A_ROUGE"],
                              generation={"max_new_tokens": 3})  # fmt: skip
    before = expunge.evaluate(tiny[0], tiny[1], forget=FORGET, metrics=["forget_Q_A_Prob"])
    assert result["forget_Q_A_Prob"] != before["forget_Q_A_Prob"]

    save_model(made, tiny[1], tmp_path)
    again = load_model(str(tmp_path), ModelArgs(dtype="float32"), device=torch.device("cpu"))
    assert isinstance(again, WrappedModel) and again.wrapper == made.wrapper
    ids = torch.tensor([[5, 9, 17, 30]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, made(ids).logits)


@pytest.mark.parametrize("name", ["in_context", "steering"])
def test_audits_of_states_in_memory_read_the_model_without_its_wrapper(tiny, name: str) -> None:
    model, tokenizer, other = tiny
    report = expunge.audit(
        wrapped(tiny, name), tokenizer, ["lens"], forget=FORGET, retain=RETAIN,
        controls={"retain": other, "full": model},
    )  # fmt: skip
    details = report["lens"][0].details
    assert details["model_layer_0"] == pytest.approx(details["full_layer_0"])
    assert details["model_layer_1"] != pytest.approx(details["retain_layer_1"])


def test_a_changed_helper_is_refused(tiny, tmp_path) -> None:
    save_model(wrapped(tiny, "logit_difference"), tiny[1], tmp_path)
    save_model(tiny[0], tiny[1], tmp_path / "helper")
    with pytest.raises(ConfigError, match=r"helper has other files than wrapper.json names; wrap the model again$"):
        load_model(str(tmp_path), ModelArgs(), device=torch.device("cpu"))


def test_the_wrapper_belongs_to_the_identity_of_the_model_and_not_of_the_tokenizer(tiny, tmp_path) -> None:
    folders = [tmp_path / name for name in ("plain", "one", "two")]
    save_model(tiny[0], tiny[1], folders[0])
    for folder, strength in zip(folders[1:], (0.5, 1.0), strict=True):
        save_model(wrapped(tiny, "steering", layer="model.layers.0", strength=strength), tiny[1], folder)
    models = [json.dumps(source_identity(str(folder), None)) for folder in folders]
    assert len(set(models)) == 3
    assert len({json.dumps(tokenizer_identity(str(folder), None)) for folder in folders}) == 1


def test_damaged_files_are_refused(tiny, tmp_path) -> None:
    save_model(wrapped(tiny, "steering"), tiny[1], tmp_path)
    file = tmp_path / "wrapper.json"
    file.write_text(file.read_text().replace('"revision": 1', '"revision": 0'))
    with pytest.raises(ConfigError, match=r"wrapper.json has revision 0 of steering; wrap the model again$"):
        load_model(str(tmp_path), ModelArgs(), device=torch.device("cpu"))
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"wrapper.json is damaged"):
        load_model(str(tmp_path), ModelArgs(), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("steerin", {}, r"^wrapper: no wrapper named 'steerin'; did you mean 'steering'"),
        ("steering", {"layer": "model.layers.9"}, r"^steering.layer: the model has no module 'model.layers.9'"),
        ("steering", {"layer": "a", "strength": 0}, r"^wrapper_args.strength: must be a number > 0, got 0$"),
        ("token_filter", {"min_tokens": 99}, r"^token_filter: nothing is forbidden"),
        ("in_context", {"n_forget": 0, "n_retain": 0}, r"^wrapper_args.instruction: |instruction must be"),
    ],
)
def test_wrong_settings_end_in_one_line(tiny, name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expunge.wrap(tiny[0], name, tokenizer=tiny[1], forget=FORGET, retain=RETAIN, **settings)


def test_a_missing_input_is_named(tiny) -> None:
    with pytest.raises(ConfigError, match=r"^steering: needs forget and retain examples"):
        expunge.wrap(tiny[0], "steering", tokenizer=tiny[1], forget=FORGET, layer="model.layers.0")
    made = wrapped(tiny, "steering")
    with pytest.raises(ConfigError, match="a model has one at most"):
        expunge.wrap(made, "steering", tokenizer=tiny[1], forget=FORGET, retain=RETAIN, layer="model.layers.0")


@pytest.fixture
def caution() -> Iterator[None]:
    """The example plugin's wrapper."""
    load_plugins([str(PLUGIN)])
    yield
    wrapper_api._REGISTRY.remove("caution")


@torch.no_grad()
def test_the_example_plugin(tiny, caution) -> None:
    made = expunge.wrap(tiny[0], "caution", tokenizer=tiny[1], nats=3.0)
    ids, end = torch.tensor([[5, 9]]), tiny[1].eos_token_id
    difference = made(ids).logits - tiny[0](ids).logits
    torch.testing.assert_close(difference[0, :, end], torch.tensor([3.0, 3.0]))
    assert difference.abs().sum() == pytest.approx(6.0, rel=1e-5)
