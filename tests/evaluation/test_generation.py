"""Stop texts, sampling that no batch changes, shared examples, the model's context, and logits that are not numbers."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest
import torch

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, DataError
from expunge.core.records import GeneratedTexts, texts_table
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.template import Template
from expunge.evaluation import generation
from expunge.evaluation.config import Generation, check_backend
from expunge.evaluation.decoding import StopStrings
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.prompts import Prompt, draws
from expunge.metrics.api import Metric
from expunge.metrics.compute import compute

SHOTS = tuple((f"Where is number {i}?", f"In town {i}, by the sea.") for i in range(3))


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(Template(), tokenizer)


def make(model: Any, rows: ExampleSet, encoder: Encoder, budget: int = 16384, **settings: Any) -> list[Any]:
    return generate_texts(model, rows, "answer", encoder, Generation(**settings), token_budget=budget)


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_sampling_does_not_depend_on_the_batch(model: Any, rows: ExampleSet, encoder: Encoder, budget: int) -> None:
    how = {"temperature": 1.0, "samples": 3, "seed": 5, "max_new_tokens": 8}
    whole = make(model, rows, encoder, **how)
    assert len({t.generation for t in whole}) > 40
    assert make(model, rows, encoder, budget, **how) == whole
    some = generate_texts(model, rows, "answer", encoder, Generation(**how), only={2, 11})
    assert some == [t for t in whole if t.row_id in (2, 11)]
    fewer = make(model, rows, encoder, **{**how, "samples": 2})
    assert fewer == [t for t in whole if t.sample < 2]
    assert make(model, rows, encoder, **{**how, "seed": 6}) != whole


def test_sampling_draws_from_the_model_s_distribution(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    """4000 first tokens of one prompt against softmax(logits / T), by a chi-square over the tokens expected often."""
    n, temperature = 4000, 2.0
    one = ExampleSet("one", rows.rows[:1])
    records = np.zeros(400)
    for t in make(model, one, encoder, 10**6, temperature=temperature, samples=n, max_new_tokens=1):
        ids = encoder.tokenizer(t.generation, add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            records[ids[0]] += 1
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([encoder.row_prompt(one, one[0])])).logits[0, -1]
    expected = n * torch.softmax(logits.double() / temperature, -1).numpy()

    def comes_back(token: int) -> bool:
        """Whether the stripped text of a token is that token again."""
        task = encoder.tokenizer.decode([token]).strip()
        return bool(task) and encoder.tokenizer(task, add_special_tokens=False)["input_ids"] == [token]

    often = [i for i in np.flatnonzero(expected > 20).tolist() if comes_back(i)]
    assert len(often) >= 5
    z = (records[often] - expected[often]) / np.sqrt(expected[often])
    assert np.abs(z).max() < 4.5


def test_draws_are_uniform_and_all_different() -> None:
    result = np.stack([draws(s, Prompt(r, k, "", (1,), 50)) for s in (0, 1) for r in range(20) for k in range(5)])
    assert len(np.unique(result)) == result.size
    assert abs(result.mean() - 0.5) < 4 * np.sqrt(1 / 12 / result.size)
    longer = draws(0, Prompt(3, 1, "", (1,), 90))
    assert longer[:50].tolist() == draws(0, Prompt(3, 1, "", (1,), 50)).tolist(), "the limit changes no draw"


@pytest.mark.parametrize("budget", [1, 100_000])
def test_stop_texts_end_and_cut(model: Any, rows: ExampleSet, encoder: Encoder, budget: int) -> None:
    """Against the same generations without stops, cut by hand: equal texts, in no more tokens."""
    plain = make(model, rows, encoder, max_new_tokens=24)
    stop = (plain[0].generation[5:8], plain[3].generation[4:6], "never said")
    actual = make(model, rows, encoder, budget, max_new_tokens=24, stop=stop)
    cut = 0
    for a, b in zip(plain, actual, strict=True):
        places = [a.generation.find(s) for s in stop if s in a.generation]
        if not places:
            assert b == a
            continue
        cut += 1
        assert b.generation == a.generation[: min(places)].strip()
        assert b.stopped
        assert b.n_new_tokens <= a.n_new_tokens
    assert cut >= 2
    assert any(b.n_new_tokens < a.n_new_tokens for a, b in zip(plain, actual, strict=True))


@pytest.mark.parametrize("stop", ["\n\n", "\nQuestion:", "São", " by ", "🙂!"])
def test_a_stop_text_is_found_with_its_last_token(encoder: Encoder, stop: str) -> None:
    text = f"It was written in Paris{stop} and more"
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    stops = StopStrings((stop,), encoder.tokenizer)
    first = next(n for n in range(1, len(ids) + 1) if stop in encoder.tokenizer.decode(ids[:n]))
    assert [stops.ended(ids[:n]) for n in range(1, first + 1)] == [False] * (first - 1) + [True]


def test_most_tokens_are_not_decoded_again(encoder: Encoder) -> None:
    stops = StopStrings(("\nQ:",), encoder.tokenizer)
    calls: list[int] = []
    plain = encoder.tokenizer

    class Counting:
        def decode(self, ids: list[int], **kwargs: Any) -> str:
            calls.append(len(ids))
            return plain.decode(ids, **kwargs)

    stops.tokenizer = Counting()
    ids = plain("who wrote the book in the town by the sea " * 20, add_special_tokens=False)["input_ids"]
    for n in range(1, len(ids) + 1):
        stops.ended(ids[:n])
    assert len(calls) == len(set(ids)), "each kind of token once"


@pytest.mark.parametrize("form", ["qa", "completion"])
def test_shared_examples_change_nothing(
    model: Any, rows: ExampleSet, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    shot = ExampleSet("shot", rows.rows, form=form, shots=SHOTS)
    actual = make(model, shot, encoder, 2000, max_new_tokens=12)
    read = generation._read_start(model, generation.make_prompts(shot, encoder, Generation(), None, None), 0)
    assert read is not None
    assert read.mask_BT.shape[1] >= 32
    monkeypatch.setattr(generation, "_read_start", lambda *_a: None)
    assert make(model, shot, encoder, 2000, max_new_tokens=12) == actual


def test_the_context_ends_a_text(model: Any, rows: ExampleSet, tokenizer: Any) -> None:
    encoder = Encoder(Template(), tokenizer)
    lengths = [len(encoder.row_prompt(rows, r)) for r in rows]
    content = model.config.max_position_embeddings
    try:
        model.config.max_position_embeddings = max(lengths) + 3
        actual = make(model, rows, encoder, max_new_tokens=9)
        assert max(t.n_new_tokens for t in actual if lengths[t.row_id] == max(lengths)) == 3
        assert max(t.n_new_tokens for t in actual) == 9
        model.config.max_position_embeddings = max(lengths)
        row = lengths.index(max(lengths))
        with pytest.raises(DataError, match=rf"^rows row {row}: the prompt has {max(lengths)} tokens, which fill"):
            make(model, rows, encoder, max_new_tokens=9)
    finally:
        model.config.max_position_embeddings = content


def test_logits_that_are_not_numbers_make_no_text(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    """Row 1 of a batch breaks: its ROUGE is missing, the others keep theirs."""

    def run() -> list[Any]:
        return make(model, ExampleSet("r", rows.rows[:4]), encoder, max_new_tokens=6)

    whole = run()
    bad = set(encoder.row_prompt(rows, rows[1])) - {i for r in (0, 2, 3) for i in encoder.row_prompt(rows, rows[r])}
    assert bad
    weights = model.get_input_embeddings().weight
    original = weights.detach().clone()
    with torch.no_grad():
        weights[sorted(bad)] = float("nan")
        head = model.get_output_embeddings()
        tied = head.weight
        head.weight = torch.nn.Parameter(original)  # the head alone stays as it was
        try:
            actual = run()
        finally:
            head.weight = tied
            weights.copy_(original)
    assert (actual[1].generation, actual[1].n_new_tokens, actual[1].stopped) == ("", 0, False)
    assert [actual[i] for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]
    result = compute(
        [Metric("m", "rouge", rows="r", reads={"texts": ("answer",)})], {"texts": {"r": GeneratedTexts(actual)}}
    )["m"]
    assert np.isnan(result.per_row[1]["rougeL_recall"])
    assert result.extra["n_missing"] == 1
    assert result.value == pytest.approx(np.mean([result.per_row[i]["rougeL_recall"] for i in (0, 2, 3)]))
    assert texts_table(actual).num_rows == 4


class Output:
    """What vLLM gives for a prompt, as far as it is read."""

    def __init__(self, ids: list[int], reason: str) -> None:
        self.outputs = [types.SimpleNamespace(token_ids=ids, finish_reason=reason)]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of vLLM's shape: `LLM(model=...)`, `generate(prompts, sampling_params)`, `SamplingParams`."""
    calls: dict[str, Any] = {}

    class LLM:
        def __init__(self, model: str, **kwargs: Any) -> None:
            calls["model"], calls["engine"] = model, kwargs

        def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool = True) -> list[Output]:
            calls["prompts"], calls["params"] = prompts, params
            return [Output([*p["prompt_token_ids"][-2:], 2], "stop") if k % 2 else Output([7] * 3, "length")
                    for k, p in enumerate(prompts)]  # fmt: skip

    module = types.ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, lambda **kwargs: kwargs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return calls


def test_vllm_is_asked_for_the_same_texts(
    model: Any, rows: ExampleSet, encoder: Encoder, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.config, "_name_or_path", "some/folder")
    how = {"temperature": 0.7, "samples": 2, "max_new_tokens": 5, "stop": ("\n\n",), "backend": "vllm"}
    actual = make(model, rows, encoder, **how)
    assert vllm["model"] == "some/folder"
    assert vllm["engine"]["dtype"] == "float32"
    assert vllm["prompts"][2] == {"prompt_token_ids": encoder.row_prompt(rows, rows[1])}
    first = vllm["params"][0]
    assert {k: first[k] for k in ("temperature", "max_tokens", "stop", "stop_token_ids")} == {
        "temperature": 0.7, "max_tokens": 5, "stop": ["\n\n"], "stop_token_ids": [2]
    }  # fmt: skip
    assert len({p["seed"] for p in vllm["params"]}) == 2 * len(rows)
    assert [(t.row_id, t.sample) for t in actual] == [(i, k) for i in range(len(rows)) for k in (0, 1)]
    assert [t.n_new_tokens for t in actual[:2]] == [3, 3]
    assert [t.stopped for t in actual[:2]] == [False, True]


def test_vllm_that_is_not_installed_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^eval\.generation\.backend: vllm is not installed: pip install "):
        check_backend(Generation(backend="vllm"))
    check_backend(Generation())


@pytest.mark.parametrize(
    ("source", "message"),
    [({"stop": [""]}, "stop: must list texts of at least one character"), ({"backend": "tgi"}, "backend: ")],
)
def test_wrong_settings(source: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^eval.generation.{message}"):
        decode(Generation, source, where="eval.generation")
