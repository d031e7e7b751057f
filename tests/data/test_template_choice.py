"""The chat template that is chosen, its variables, and an end of text that shares a token with the text after it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.test_template_conversation import CHAT, THINKS, Slow, byte_level, chat, text_of, whole
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, DataError
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.models.config import TokenizerArgs, has_chat_template
from expunge.models.load import load_tokenizer

TEXT_END = "{% for m in messages %}[{{ m.role }}] {{ m.content }}[/end]\n{% endfor %}"
TRACES = TEXT_END.replace("{{ m.content }}", "<think>\n{{ m.reasoning_content }}\n</think>\n\n{{ m.content }}")
LATE_TEXT_END = (
    "{% if messages[0].role != 'system' %}Be kind?{% endif %}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}{% else %}\n[{{ m.role }}]{{ m.content }}"
    "{% if m.role == 'assistant' and not loop.last %}[stop]{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ANSWERS = ["1991", "Ana Silva wrote it.", " two \n", "the </s> price"]


@pytest.fixture(scope="module")
def tok() -> Any:
    return byte_level()


@pytest.fixture(scope="module")
def joins() -> Any:
    """A tokenizer with one token for "]" and the line end after it, as many large vocabularies have."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["]\n"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_end_of_text_has_the_tokens_of_the_whole_conversation(joins: Any, answer: str) -> None:
    encoder = Encoder(chat(TEXT_END), joins)
    row = encoder.encode("When?", answer)
    if "</s>" not in answer:
        assert list(row.ids) == whole(joins, "When?", answer, TEXT_END)
    assert joins.convert_ids_to_tokens(row.ids[-1]) == "]Ċ"
    assert text_of(joins, row.ids[row.n_prompt :]) == f" {answer}[/end]\n"
    assert text_of(joins, row.ids[-encoder.n_end(row.ids) :]) == "[/end]\n"
    rows = ExampleSet("forget", (Example(0, "When?", {"answer": answer}), Example(1, "Who?", {"answer": "Ana"})))
    together = encoder.rows(rows, [(example, "answer") for example in rows])
    assert together == [row, encoder.encode("Who?", "Ana")]
    assert encoder.row_prompts(rows, list(rows))[0] == list(row.ids[: row.n_prompt])


@pytest.mark.parametrize("template", [TRACES, TEXT_END], ids=["written", "added"])
def test_the_end_after_a_trace_has_them_too(joins: Any, template: str) -> None:
    encoder = Encoder(chat(template, thought="none"), joins)
    row = Example(0, "When?", {"answer": "1991"}, trace="The cover has it.")
    rows = ExampleSet("forget", (row,))
    for variant, start in (("answer", "1991"), ("trace+answer", "The cover has it.")):
        encoded = encoder.row(rows, row, variant)
        assert joins.convert_ids_to_tokens(encoded.ids[-1]) == "]Ċ"
        assert text_of(joins, encoded.ids[encoded.n_prompt :]).strip().startswith(start)
        assert text_of(joins, encoded.ids).endswith("1991[/end]\n")


def test_such_an_end_needs_offsets(tok: Any, joins: Any) -> None:
    slow, fast = Encoder(chat(TEXT_END), Slow(tok)), Encoder(chat(TEXT_END), tok)
    assert slow.encode("When?", "1991") == fast.encode("When?", "1991")
    with pytest.raises(DataError, match=r"gives no offsets"):
        Encoder(chat(TEXT_END), Slow(joins))


@pytest.mark.parametrize("more", [{}, {"system_prompt": "Be brief."}, {"few_shot": (("a?", "b"),)}], ids=str)
def test_an_end_of_text_is_the_same_for_every_conversation(tok: Any, more: dict[str, Any]) -> None:
    encoder = Encoder(chat(LATE_TEXT_END, **more), tok)
    assert encoder.stops == ("[stop]",)
    assert text_of(tok, encoder.encode("When?", "1991").ids).endswith("[assistant]1991[stop]")


@pytest.fixture(scope="module")
def several(tok: Any) -> Any:
    """A tokenizer with a default template, and another one that removes blanks and reads today's date."""
    out = copy.deepcopy(tok)
    out.chat_template = {"default": CHAT, "tool_use": "{{ strftime_now('%Y') }}" + THINKS}
    return out


def test_a_name_chooses_one_of_the_templates_of_a_tokenizer(several: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    own = Encoder(Template(), several).encode("When?", " 1991 ")
    assert list(own.ids) == whole(several, "When?", " 1991 ", CHAT)[: len(own.ids)]
    for template in (Template(chat_template="tool_use"), Template(template_kwargs={"tools": tools})):
        encoder = Encoder(template, several)
        row = encoder.encode("When?", " 1991 ")
        assert list(row.ids) == whole(several, "When?", " 1991 ", "2025" + THINKS)[: len(row.ids)]
        assert text_of(several, row.ids[row.n_prompt :]) == "1991<|stop|>"
        assert any("today's date" in note for note in encoder.notes)


@pytest.mark.parametrize(
    ("named", "choice", "message"),
    [
        (
            True,
            "tool_us",
            r"'tool_us' is not a chat template; did you mean 'tool_use'\? \(allowed: default, tool_use\)",
        ),
        (False, "5", "'5' is not a chat template; give the Jinja text of one"),
        (False, "chat.jinja", r"'chat.jinja' is not a chat template; give the Jinja text of one"),
    ],
)
def test_a_name_of_no_template_is_refused(tok: Any, several: Any, named: bool, choice: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.template_args\.chat_template: {message}$"):
        Encoder(Template(chat_template=choice), several if named else tok)


def test_templates_without_a_default_are_named(tok: Any) -> None:
    other = copy.deepcopy(tok)
    other.chat_template = {"rag": CHAT, "tool_use": CHAT}
    with pytest.raises(ConfigError, match=r"chat_template: [^\n]*no default[^\n]*\(allowed: rag, tool_use\)$"):
        Encoder(Template(), other)
    assert Encoder(Template(chat_template="rag"), other).encode("When?", "1991").n_answer >= 2


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("chat_template", "write template_args.chat_template"),
        ("max_length", "write template_args.max_length"),
        ("tokenize", "remove it"),
        ("add_generation_prompt", "remove it"),
        ("continue_final_message", "remove it"),
        ("messages", "remove it"),
    ],
)
def test_an_argument_of_the_rendering_is_no_variable(name: str, act: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"template_kwargs: '{name}' is not a variable of a chat template \({act}\), got"
    ):
        decode(Template, {"template_kwargs": {name: True}}, where="model.template_args")


@pytest.mark.parametrize("name", ["tools", "documents"])
def test_a_template_that_needs_a_list_names_it(tok: Any, name: str) -> None:
    template = "{% for t in " + name + " %}{{ t.name }}{% endfor %}" + CHAT
    with pytest.raises(
        ConfigError, match=rf"^model\.template_args\.template_kwargs: [^\n]*\{{{name}: \[\]\}} for none$"
    ):
        Encoder(chat(template), tok)
    row = Encoder(chat(template, template_kwargs={name: []}), tok).encode("When?", "1991")
    assert list(row.ids) == whole(tok, "When?", "1991", CHAT)[: len(row.ids)]


@pytest.mark.parametrize(
    ("files", "setting"),
    [
        ({}, None),
        ({"chat_template.jinja": CHAT}, None),
        ({"additional_chat_templates/rag.jinja": CHAT}, None),
        ({"additional_chat_templates/notes.txt": "empty"}, None),
        ({"chat_template.json": json.dumps({"chat_template": CHAT})}, None),
        ({}, CHAT),
        ({}, [{"name": "default", "template": CHAT}, {"name": "rag", "template": CHAT}]),
        ({}, []),
    ],
)
def test_a_folder_has_the_template_that_its_tokenizer_has(
    tok: Any, tmp_path: Path, files: dict[str, str], setting: Any
) -> None:
    bare = copy.deepcopy(tok)
    bare.chat_template = None
    bare.save_pretrained(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    if setting is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": setting}))
    loaded = load_tokenizer(str(tmp_path), TokenizerArgs())
    assert has_chat_template(str(tmp_path)) == bool(loaded.chat_template)
