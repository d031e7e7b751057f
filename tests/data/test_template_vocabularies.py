"""Published chat templates on published tokenizers, against plain transformers.

EXPUNGE_VOCABULARIES names a folder with `templates/*.jinja` and `tokenizers/*/tokenizer.json`. The tests are skipped
without it; `test_template_conversation.py` has small cases of the same traits, which always run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoder
from expunge.data.template import Template

ROOT = Path(os.environ.get("EXPUNGE_VOCABULARIES", "/nowhere"))
TEMPLATES = sorted((ROOT / "templates").glob("*.jinja"))
TOKENIZERS = sorted(path.parent for path in (ROOT / "tokenizers").glob("*/tokenizer.json"))
QUESTIONS = ["Who wrote the red book?", "¿Dónde? 你好 🙂"]
ANSWERS = [
    "Ana Silva wrote it.",
    "1991",
    " leading and trailing ",
    "\nfirst\n\nlast\n",
    "🙂 东京",
    "שלום",
    "the red book",
    "-1",
]
MARKS = re.compile(
    r"<[|\uff5c][^<>\s{}'\"]{1,30}[|\uff5c]>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|<channel\|>|<\|channel>"
    r"|\[e~\[|\]~b\]|</?think>|<SPECIAL_1\d>|</assistant>|<sep>|<end_of_sentence>|<seed:eos>"
)
TOOLS_ONLY = "tool_use", "firefunction"  # these templates need tools

pytestmark = pytest.mark.skipif(not TEMPLATES or not TOKENIZERS, reason="EXPUNGE_VOCABULARIES names no folder of them")


@pytest.fixture(scope="module", params=TOKENIZERS, ids=lambda path: path.name)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """A tokenizer that has the special tokens of every template, as the templates' own tokenizers do."""
    result = AutoTokenizer.from_pretrained(request.param)
    marks = {m for path in TEMPLATES for m in MARKS.findall(path.read_text(encoding="utf-8"))}
    result.add_tokens(sorted(marks), special_tokens=True)
    return result


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_ids_are_those_of_the_whole_conversation(tokenizer: Any, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    template = Template(apply_chat_template=True, chat_template=text, max_length=100_000)
    if any(name in path.name for name in TOOLS_ONLY) and "r7b" not in path.name:
        with pytest.raises(ConfigError, match=r"^model\.template_args\.[a-z_]+: [^\n]+$"):
            Encoder(template, tokenizer)
        return
    try:
        encoder = Encoder(template, tokenizer)
    except ConfigError as error:
        assert re.match(r"^model\.template_args\.thought: [^\n]*thought=none[^\n]*$", str(error))
        encoder = Encoder(Template(apply_chat_template=True, chat_template=text, thought="none"), tokenizer)
    conversation = encoder.text.chat
    assert conversation is not None
    for question in QUESTIONS:
        shared = 0
        for answer in ANSWERS:
            row = encoder.encode(question, answer)
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            rendered = conversation.render(turns)
            part = conversation.turn(turns[:1], answer)
            expected = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            if not part.end:  # the template ends no answer: the text up to the answer's end, and EOS
                expected = tokenizer(part.prompt + part.answer, add_special_tokens=False)["input_ids"]
                expected = [*expected, tokenizer.eos_token_id]
            elif not rendered.startswith(part.prompt + part.answer + part.end):  # the end comes with the next turn
                expected = tokenizer(part.prompt + part.answer + part.end, add_special_tokens=False)["input_ids"]
            assert list(row.ids) == expected[: len(row.ids)], answer
            assert row.ids[-1] in encoder.end_ids
            assert answer.strip() in tokenizer.decode(row.ids[row.n_prompt :]).replace("▁", " ")
            shared += encoder.prompt(question) == list(row.ids[: row.n_prompt])
        assert shared >= len(ANSWERS) // 2


@pytest.fixture(scope="module", params=TOKENIZERS, ids=lambda path: path.name)
def plain(request: pytest.FixtureRequest) -> Any:
    """A tokenizer with its own vocabulary alone: most marks of the templates are text."""
    return AutoTokenizer.from_pretrained(request.param)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_marks_that_are_text_have_the_ids_of_the_whole_conversation(plain: Any, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if any(name in path.name for name in TOOLS_ONLY) and "r7b" not in path.name:
        return
    encoder = Encoder(Template(apply_chat_template=True, chat_template=text, thought="none"), plain)
    turns = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": ANSWERS[0]}]
    assert encoder.text.chat is not None
    rendered, part = encoder.text.chat.render(turns), encoder.text.chat.turn(turns[:1], ANSWERS[0])
    expected = plain(rendered, add_special_tokens=False)["input_ids"]
    row = encoder.encode(QUESTIONS[0], ANSWERS[0])
    if part.end and rendered.startswith(part.prompt + part.answer + part.end):
        assert list(row.ids) == expected[: len(row.ids)]
        assert part.end.strip().replace("▁", " ") in plain.decode(row.ids[row.n_prompt :]).replace("▁", " ")
