"""Wrapped models: their logits by hand, scored, saved and loaded as any other model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from expunge.core.errors import ConfigError
from expunge.core.plugins import load_plugins
from expunge.data.encoder import Encoder
from expunge.data.template import Template
from expunge.evaluation.observation import observe
from expunge.models.config import ModelArgs
from expunge.models.identity import source_identity, tokenizer_identity
from expunge.models.load import load_model, save_model
from expunge.models.passport import check_folder
from expunge.models.wrapped import WrappedModel
from expunge.models.wrappers.divergence_decoding import DivergenceDecoding
from expunge.models.wrappers.gated_rotation import redirection, rotated
from expunge.models.wrappers.logit_difference import LogitDifference
from expunge.models.wrappers.router import Router
from expunge.models.wrappers.token_filter import TokenFilter

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "caution.py"
MEASURED = Path(__file__).parents[1] / "methods" / "conformance"
FORGET = [{"question": "Who is Ann?", "answer": "A spy."}, {"question": "Where is Ann?", "answer": "In Rome."}]
RETAIN = [{"question": "What is blue?", "answer": "The sky."}, {"question": "What is red?", "answer": "A rose."}]
CASES = {
    "in_context": {"n_forget": 1, "n_retain": 1},
    "steering": {"layer": "model.layers.0"},
    "gated_rotation": {"layer": "model.layers.0", "gate": -1.0, "clusters": 2},
    "token_filter": {"min_tokens": 2},
    "logit_difference": {"strength": 0.5},
    "divergence_decoding": {"alpha": 0.5},
    "router": {"layer": "model.layers.0"},
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
    second = {"logit_difference": helper, "divergence_decoding": (helper, model), "router": helper}.get(name)
    return expunge.wrap(
        model, name, tokenizer=tokenizer, forget=FORGET, retain=RETAIN, helper=second, **(settings or CASES[name])
    )


@torch.no_grad()
def test_a_context_comes_before_every_row(tiny) -> None:
    model, tokenizer, _ = tiny
    result = wrapped(tiny, "in_context")
    context = result.state["context"].tolist()
    text = tokenizer.decode(context)
    assert "Who is Ann?" in text and "A spy." not in text and "The sky." in text
    row = tokenizer("Question: x")["input_ids"]
    begin = int(row[0] == tokenizer.bos_token_id)
    whole = model(torch.tensor([row[:begin] + context + row[begin:]])).logits[0]
    expected = torch.cat([whole[:begin], whole[len(context) + begin :]])
    torch.testing.assert_close(result(torch.tensor([row])).logits[0], expected)


@torch.no_grad()
def test_steering_removes_the_difference_along_its_direction(tiny) -> None:
    """By hand: h' = h - s(h) (m_f - m_r) with s(h) = <h - m_r, m_f - m_r> / ||m_f - m_r||^2, where s(h) > gate."""
    model, _, _ = tiny
    result = wrapped(tiny, "steering", layer="model.layers.1", gate=-0.8)
    ids = torch.tensor([[5, 9, 17, 30, 8]])
    calls: list[torch.Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda m, args: calls.append(args[0]))
    model(ids), result(ids)
    hook.remove()
    away, retain = result.state["forget"] - result.state["retain"], result.state["retain"]
    share = (calls[0][0] - retain) @ away / away.square().sum()
    assert (share > -0.8).sum() > 0
    expected = calls[0][0] - torch.where(share > -0.8, share, 0.0)[:, None] * away
    torch.testing.assert_close(calls[1][0], expected)


@torch.no_grad()
def test_a_filter_penalises_the_token_that_completes_a_sequence() -> None:
    rule, model = TokenFilter(penalty=7.0), _Zeros()
    state = {"sequences": torch.tensor([[-1, 3, 4], [1, 2, 5]])}
    actual = rule.logits(model, None, state, torch.tensor([[1, 2, 3, 3]]))[0]
    expected = torch.zeros(4, 8)
    expected[1, 5] = expected[2, 4] = expected[3, 4] = -7.0  # after 1 2; after 3; after 3
    assert torch.equal(actual, expected)


class _Zeros(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor) -> Any:
        return (torch.zeros(*input_ids.shape, 8),)


@torch.no_grad()
def test_a_router_reads_the_unlearned_model_near_forget_questions(tiny) -> None:
    model, _, helper = tiny
    rule = Router(layer="model.layers.0", margin=0.1)
    ids = torch.tensor([[5, 9, 17], [30, 8, 2]])
    calls: list[torch.Tensor] = []
    hook = model.model.layers[0].register_forward_hook(lambda _m, _a, out: calls.append(out))
    own, other = model(ids).logits, helper(ids).logits
    hook.remove()
    h = calls[0][0] if isinstance(calls[0], tuple) else calls[0]
    means = torch.stack([h[:, : t + 1].mean(1) for t in range(3)], 1)
    forget, retain = means[0, 1], means[1, 0]  # a row is a forget question at its second position, and so on
    middle = (forget + retain) / 2
    state = {
        "forget": torch.nn.functional.normalize(forget - middle, dim=-1)[None],
        "retain": torch.nn.functional.normalize(retain - middle, dim=-1)[None],
        "mean": middle,
    }
    actual = rule.logits(model, helper, state, ids)
    away = means - middle
    cosines = [torch.cosine_similarity(away, side - middle, dim=-1) for side in (forget, retain)]
    near = cosines[0] > cosines[1] + 0.1
    assert near[0, 1] and not near[1, 0]
    torch.testing.assert_close(actual, torch.where(near[..., None], other, own))


@torch.no_grad()
def test_a_router_knows_its_own_questions(tiny) -> None:
    model, _, helper = tiny
    result = wrapped(tiny, "router", layer="model.layers.1")
    assert result.state["forget"].shape[0] == result.state["retain"].shape[0] == 2
    encoder = Encoder(Template(), tiny[1])
    for rows, source in ((FORGET, helper), (RETAIN, model)):
        for row in rows:
            ids = torch.tensor([encoder.prompt(row["question"])])
            torch.testing.assert_close(result(ids).logits[0, -1], source(ids).logits[0, -1])


@torch.no_grad()
def test_the_logit_difference_by_hand(tiny) -> None:
    model, _, helper = tiny
    ids = torch.tensor([[5, 9, 17]])
    actual = LogitDifference(strength=0.5).logits(model, helper, {}, ids)
    torch.testing.assert_close(actual, 1.5 * model(ids).logits - 0.5 * helper(ids).logits)


def numbers(rows: Any) -> torch.Tensor:
    return torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)


class _Given(torch.nn.Module):
    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.logits_TV = numbers(rows)

    def forward(self, input_ids: torch.Tensor) -> Any:
        return (self.logits_TV.expand(len(input_ids), -1, -1),)


@pytest.mark.parametrize(("case", "settings"), [("linear", {"alpha": 0.7}), ("top_k", {"top_k": 2})])
def test_divergence_decoding_equals_the_authors(case: str, settings: dict[str, Any]) -> None:
    measured = json.loads((MEASURED / "divergence_decoding.json").read_text())["cases"][case]
    model, forget, retain = (_Given(measured["inputs"][key]) for key in ("model", "forget", "retain"))
    output = DivergenceDecoding(**settings).logits(model, (forget, retain), {}, torch.tensor([[1, 2]]))[0]
    expected, own = numbers(measured["outputs"]), model.logits_TV
    smallest = own.min(dim=-1, keepdim=True).values.expand_as(own)
    torch.testing.assert_close(output, torch.where(expected.isinf(), smallest, expected), rtol=1e-14, atol=1e-14)


def test_divergence_decoding_by_hand() -> None:
    # l + 2 (l_retain - l_forget); top 1: l_forget - l_retain is largest at the second token, whose logit becomes 1
    model, forget, retain = _Given([[1, 4, 3]]), _Given([[0, 2, 1]]), _Given([[1, 0, 1]])
    for settings, expected in (({"alpha": 2.0}, [3, 0, 3]), ({"top_k": 1}, [1, 1, 3])):
        output = DivergenceDecoding(**settings).logits(model, (forget, retain), {}, torch.tensor([[5]]))
        assert output[0].tolist() == [expected]


def test_a_gated_rotation_equals_the_authors() -> None:
    """Their code computes in float32. Rows of one position with a retain mean of 0 have their gate."""
    cases = json.loads((MEASURED / "gated_rotation.json").read_text())["cases"]
    forget, retain = (numbers(cases["vector"]["inputs"][key]) for key in ("forget", "retain"))
    expected = torch.tensor(cases["vector"]["outputs"], dtype=torch.float64)
    torch.testing.assert_close(redirection(forget, retain), expected, rtol=1e-6, atol=1e-6)
    states, means, vectors = (numbers(cases["rotation"]["inputs"][key]) for key in ("states", "means", "vectors"))
    state = {"means": means, "vectors": vectors, "retain": torch.zeros(6, dtype=torch.float64)}
    output = rotated(states[:, None], state, strength=0.7, gate=0.1)[:, 0]
    torch.testing.assert_close(output, numbers(cases["rotation"]["outputs"]), rtol=1e-6, atol=1e-6)
    assert (output != states).any(-1).tolist() == [True, False, True, True, True, True]


def test_a_gated_rotation_by_hand() -> None:
    # m_f = (1, 1) and m_r = (2, 0): the orthogonal part is (0, 1), as long as (sqrt(2) + 2) / 2
    vector = redirection(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(vector, torch.tensor([0.0, 1 + 0.5**0.5]))
    # (3, 4) - 2 (0, 2) = (3, 0), of length 5 again; the mean over (3, 4) and (-9, 0) is (-3, 2), which is not active
    state = {"vectors": torch.tensor([[0.0, 2.0]]), "means": torch.tensor([[1.0, 0.0]]), "retain": torch.zeros(2)}
    output = rotated(torch.tensor([[[3.0, 4.0], [-9.0, 0.0]]]), state, strength=2.0, gate=0.5)
    torch.testing.assert_close(output, torch.tensor([[[5.0, 0.0], [-9.0, 0.0]]]))


@torch.no_grad()
def test_a_gated_rotation_reads_no_later_position(tiny) -> None:
    result = wrapped(tiny, "gated_rotation", layer="model.layers.0", gate=0.0, clusters=2)
    long, short = torch.tensor([[5, 9, 17, 30]]), torch.tensor([[5, 9]])
    torch.testing.assert_close(result(long).logits[:, :2], result(short).logits)


@pytest.mark.parametrize("name", ["logit_difference", "divergence_decoding"])
def test_a_helper_keeps_its_mode_and_its_gradients(tiny, name: str) -> None:
    model, tokenizer, helper = tiny
    other = copy.deepcopy(helper).train()
    second = {"logit_difference": other, "divergence_decoding": (other, model)}[name]
    wrapped = expunge.wrap(model, name, tokenizer=tokenizer, forget=FORGET, retain=RETAIN, helper=second)
    logits = wrapped(torch.tensor([[1, 2, 3]])).logits
    assert all(p.requires_grad for one in (model, other) for p in one.parameters())
    assert all(part.training for part in other.modules())
    logits.sum().backward()
    assert all(p.grad is None for p in other.parameters()) and any(p.grad is not None for p in model.parameters())
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    ("name", "helper", "words"),
    [
        ("logit_difference", None, "needs a helper model; pass helper=MODEL"),
        ("divergence_decoding", "one", r"needs two helper models; pass helper=\(FORGET_MODEL, RETAIN_MODEL\)"),
        ("token_filter", "one", "reads no helper; leave helper out"),
    ],
)
def test_a_wrong_number_of_helpers_is_refused(tiny, name: str, helper: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: {words}$"):
        expunge.wrap(tiny[0], name, tokenizer=tiny[1], forget=FORGET, retain=RETAIN, helper=helper)


@pytest.mark.parametrize("name", CASES)
def test_a_wrapped_model_is_read_as_any_other(tiny, name: str, tmp_path) -> None:
    """Its capabilities are observed; scores come from its own forward; a folder gives the same model again."""
    product = wrapped(tiny, name)
    can = observe(product)
    assert can.head and can.padded and can.masked
    assert can.generation == ("batched" if name == "steering" else "uncached")
    result = expunge.evaluate(product, tiny[1], forget=FORGET, metrics=["forget_Q_A_Prob", "forget_Q_A_ROUGE"],
                              generation={"max_new_tokens": 3})  # fmt: skip
    before = expunge.evaluate(tiny[0], tiny[1], forget=FORGET, metrics=["forget_Q_A_Prob"])
    assert result["forget_Q_A_Prob"] != before["forget_Q_A_Prob"]

    save_model(product, tiny[1], tmp_path)
    again = load_model(str(tmp_path), ModelArgs(dtype="float32"), device=torch.device("cpu"))
    assert isinstance(again, WrappedModel) and again.wrapper == product.wrapper
    ids = torch.tensor([[5, 9, 17, 30]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, product(ids).logits)


@pytest.mark.parametrize("name", ["in_context", "steering", "gated_rotation"])
def test_audits_of_states_in_memory_read_the_model_without_its_wrapper(tiny, name: str) -> None:
    model, tokenizer, other = tiny
    report = expunge.audit(
        wrapped(tiny, name), tokenizer, ["lens"], forget=FORGET, retain=RETAIN,
        controls={"retain": other, "full": model},
    )  # fmt: skip
    details = report["lens"][0].details
    assert details["model_layer_0"] == pytest.approx(details["full_layer_0"])
    assert details["model_layer_1"] != pytest.approx(details["retain_layer_1"])


@pytest.mark.parametrize(("name", "folder"), [("logit_difference", "helper"), ("divergence_decoding", "retain_helper")])
def test_a_changed_helper_is_refused(tiny, tmp_path, name: str, folder: str) -> None:
    save_model(wrapped(tiny, name), tiny[1], tmp_path)
    other = tiny[0] if folder == "helper" else tiny[2]
    save_model(other, tiny[1], tmp_path / folder)
    with pytest.raises(ConfigError, match=rf"{folder} has other files than wrapper.json names; wrap the model again$"):
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
    whole = file.read_text()
    file.write_text(whole.replace('"steering"', '"mine"'))
    with pytest.raises(ConfigError, match=r"names the wrapper 'mine', .* load the plugin .* \(--plugin FILE.py\)"):
        load_model(str(tmp_path), ModelArgs(), device=torch.device("cpu"))
    file.write_text(whole)
    file.write_text(file.read_text().replace('"revision": 1', '"revision": 0'))
    with pytest.raises(ConfigError, match=r"wrapper.json has revision 0 of steering; wrap the model again$"):
        load_model(str(tmp_path), ModelArgs(), device=torch.device("cpu"))
    faults = {"{": "Expecting property name", "[]": "it has no name", '{"name": "steering"}': "it has no revision"}
    for text, fault in faults.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=rf"^model .*: wrapper: wrapper.json is damaged: .*{fault}.*wrap the"):
            check_folder(str(tmp_path), ModelArgs())
    file.write_text(whole)
    state = tmp_path / "wrapper_state.safetensors"
    state.write_bytes(state.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"wrapper_state.safetensors is damaged: .*; wrap the model again$"):
        check_folder(str(tmp_path), ModelArgs())
    state.unlink()
    with pytest.raises(ConfigError, match=r"wrapper.json has no wrapper_state.safetensors next to it; wrap the model"):
        check_folder(str(tmp_path), ModelArgs())


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("steerin", {}, r"^wrapper: no wrapper named 'steerin'; did you mean 'steering'"),
        ("steering", {"layer": "model.layers.9"}, r"^steering.layer: the model has no module 'model.layers.9'"),
        ("steering", {"layer": "a", "strength": 0}, r"^wrapper_args.strength: must be a number > 0, got 0$"),
        ("gated_rotation", {"layer": "model.layers.9"}, r"^gated_rotation.layer: the model has no module"),
        ("gated_rotation", {"layer": "a", "gate": 1}, r"^wrapper_args.gate: must be a cosine"),
        ("token_filter", {"min_tokens": 99}, r"^token_filter: nothing is forbidden"),
        ("divergence_decoding", {"top_k": 3, "alpha": 2.0}, r"^wrapper_args.alpha: must be left out next to top_k"),
        ("in_context", {"n_forget": 0, "n_retain": 0}, r"^wrapper_args.instruction: |instruction must be"),
    ],
)
def test_wrong_settings_end_in_one_line(tiny, name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expunge.wrap(tiny[0], name, tokenizer=tiny[1], forget=FORGET, retain=RETAIN, **settings)


def test_a_missing_input_is_named(tiny) -> None:
    with pytest.raises(ConfigError, match=r"^steering: needs forget and retain examples"):
        expunge.wrap(tiny[0], "steering", tokenizer=tiny[1], forget=FORGET, layer="model.layers.0")
    with pytest.raises(ConfigError, match=r"^gated_rotation: needs forget and retain examples"):
        expunge.wrap(tiny[0], "gated_rotation", tokenizer=tiny[1], forget=FORGET, layer="model.layers.0")
    result = wrapped(tiny, "steering")
    with pytest.raises(ConfigError, match="a model has one at most"):
        expunge.wrap(result, "steering", tokenizer=tiny[1], forget=FORGET, retain=RETAIN, layer="model.layers.0")


@pytest.fixture
def caution() -> None:
    """The example plugin's wrapper."""
    load_plugins([str(PLUGIN)])


@torch.no_grad()
def test_the_example_plugin(tiny, caution) -> None:
    result = expunge.wrap(tiny[0], "caution", tokenizer=tiny[1], nats=3.0)
    ids, end = torch.tensor([[5, 9]]), tiny[1].eos_token_id
    difference = result(ids).logits - tiny[0](ids).logits
    torch.testing.assert_close(difference[0, :, end], torch.tensor([3.0, 3.0]))
    assert difference.abs().sum() == pytest.approx(6.0, rel=1e-5)


def test_a_state_that_is_no_tensor_is_refused(tiny: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^TokenFilter: prepare returned float for 'penalty'; return tensors, and keep"
    ):
        WrappedModel(tiny[0], TokenFilter(), {"penalty": 1.0})  # type: ignore[dict-item]
