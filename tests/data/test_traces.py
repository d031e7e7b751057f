"""Examples with parts: a trace with a span of its own, earlier turns, and where a template writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.test_template_conversation import CHAT, MAKERS, OPENS, THINKS, TURNS, chat, text_of

from expunge.core.errors import DataError
from expunge.core.fingerprints import canonical, fingerprint_rows
from expunge.data.column_roles import Columns
from expunge.data.custom import load_examples
from expunge.data.encoder import Encoder
from expunge.data.examples import SPANS, Example, ExampleSet, qa_rows
from expunge.data.in_memory import examples_from
from expunge.data.template import Template

TRACES = ["She lives there.", "let me think: 1991.\n\nWait", "东京是城市。", "חושב", " سلام ", "ends in a blank "]
ANSWERS = ["Ana Silva wrote it.", "1991", "东京", "שלום עולם", "...", "🙂 yes"]
# like Qwen3's: the trace is a field of the message, or is cut from its content
FIELD = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}<think>\n"
    "{{ (m.reasoning_content or '').strip('\n') }}\n</think>\n\n{{ m.content.lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|stop|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# like DeepSeek-R1's: the traces of a conversation are removed, and the generation prompt opens one
STRIPS = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}"
    "<|stop|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
)
THOUGHT = {"strips": "empty", "opens": "empty"}
TEMPLATES = {"chat": CHAT, "field": FIELD, "strips": STRIPS, "opens": OPENS, "empty": THINKS}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {name: MAKERS[name]() for name in ("byte_level", "prepend", "unigram")}


def one(trace: str | None, answer: str = "Ana Silva wrote it.", **parts: Any) -> ExampleSet:
    return ExampleSet("x", (Example(0, "Who wrote the red book?", {"answer": answer}, trace=trace, **parts),))


def encoder_of(tokenizer: Any, name: str) -> Encoder:
    if name == "tags":
        return Encoder(Template(apply_chat_template=False), tokenizer)
    return Encoder(chat(TEMPLATES[name], thought=THOUGHT.get(name, "auto")), tokenizer)


@pytest.mark.parametrize("name", ["tags", *TEMPLATES])
@pytest.mark.parametrize("kind", ["byte_level", "prepend", "unigram"])
def test_the_spans_are_parts_of_one_tokenised_text(tokenizers: dict[str, Any], kind: str, name: str) -> None:
    encoder = encoder_of(tokenizers[kind], name)
    lossless = kind == "byte_level"  # the others drop characters or blanks when they decode
    for trace in TRACES:
        for answer in ANSWERS:
            if kind == "unigram" and not (trace + answer).isascii():
                continue  # it joins unknown characters, line breaks included, in one token
            rows = one(trace, answer)
            of_answer, of_trace, of_both = (encoder.row(rows, rows[0], span) for span in SPANS)
            # one text: the trace begins at the prompt of generation, and the answer ends both longer rows
            prompt = encoder.row_prompt(rows, rows[0])
            assert list(of_both.ids[: of_both.n_prompt]) == prompt
            assert of_trace.n_prompt == of_both.n_prompt < len(of_trace.ids) < of_answer.n_prompt
            assert of_both.ids[: len(of_trace.ids)] == of_trace.ids
            assert of_both.ids == of_answer.ids
            assert of_both.ids[-1] in encoder.end_ids
            if lossless:
                display = [
                    text_of(encoder.tokenizer, row.ids[row.n_prompt :]) for row in (of_answer, of_trace, of_both)
                ]
                assert display[1].strip() == trace.strip()
                end = display[0].removeprefix(answer)
                assert display[0] == answer + end
                assert display[2].split() == f"{trace} </think> {display[0]}".split()
            # together as one by one
            assert encoder.rows(rows, [(rows[0], span) for span in SPANS]) == [of_answer, of_trace, of_both]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_opens_the_thought_once(tokenizers: dict[str, Any], name: str) -> None:
    encoder = encoder_of(tokenizers["byte_level"], name)
    rows = one("Let me see.")
    text = text_of(encoder.tokenizer, encoder.row_prompt(rows, rows[0]))
    assert text.endswith("<|assistant|>\n<think>\n")
    whole = text_of(encoder.tokenizer, encoder.row(rows, rows[0], "trace+answer").ids)
    assert whole.endswith("<think>\nLet me see.\n</think>\n\nAna Silva wrote it.<|stop|>")
    assert whole.count("<think>") == 1


def test_an_empty_trace_is_a_closed_thought(tokenizers: dict[str, Any]) -> None:
    encoder = encoder_of(tokenizers["byte_level"], "field")
    rows = one("")
    row = encoder.row(rows, rows[0], "answer")
    assert text_of(encoder.tokenizer, row.ids[: row.n_prompt]).endswith("<think>\n\n</think>\n\n")
    assert rows[0].names == ("answer", "trace+answer")


def test_a_token_with_a_part_of_the_trace_belongs_to_the_trace(tokenizers: dict[str, Any]) -> None:
    """The byte-level tokenizer can join the last full stop and the line break: the visible character decides."""
    encoder = encoder_of(tokenizers["byte_level"], "tags")
    rows = one("x.")
    row = encoder.row(rows, rows[0], "trace")
    assert text_of(encoder.tokenizer, row.ids[row.n_prompt :]).rstrip("\n") == "x."


def test_other_answers_follow_the_same_trace(tokenizers: dict[str, Any]) -> None:
    encoder = encoder_of(tokenizers["byte_level"], "chat")
    rows = ExampleSet("x", (Example(0, "Who?", {"answer": "Ana.", "paraphrase": "It was Ana."}, trace="Hm."),))
    own, other = (encoder.row(rows, rows[0], name) for name in ("answer", "paraphrase"))
    assert own.ids[: own.n_prompt] == other.ids[: other.n_prompt]


def test_special_text_in_a_trace_is_plain_text(tokenizers: dict[str, Any]) -> None:
    encoder = encoder_of(tokenizers["byte_level"], "chat")
    rows = one("the <|stop|> sign")
    row = encoder.row(rows, rows[0], "trace+answer")
    stop = encoder.tokenizer.convert_tokens_to_ids("<|stop|>")
    assert list(row.ids).count(stop) == 2  # after the question and after the answer
    assert "the <|stop|> sign" in text_of(encoder.tokenizer, row.ids)


def test_a_trace_that_closes_itself_is_refused(tokenizers: dict[str, Any]) -> None:
    encoder = encoder_of(tokenizers["byte_level"], "chat")
    rows = one("so </think> then")
    with pytest.raises(DataError, match=r"^x row 0: the trace contains a tag that closes a thought"):
        encoder.row(rows, rows[0], "answer")


def test_a_rewritten_trace_is_refused(tokenizers: dict[str, Any]) -> None:
    encoder = Encoder(chat(FIELD.replace(".strip('\n')", ".upper()")), tokenizers["byte_level"])
    rows = one("Let me see.")
    with pytest.raises(DataError, match=r"^x row 0: the chat template rewrites this trace"):
        encoder.row(rows, rows[0], "answer")


def test_compat_has_no_form_for_parts(tokenizers: dict[str, Any]) -> None:
    encoder = Encoder(Template(apply_chat_template=False, compat="openunlearning"), tokenizers["byte_level"])
    with pytest.raises(DataError, match="x row 0: a trace or earlier turns have no form"):
        encoder.row(one("Hm."), one("Hm.")[0], "answer")


@pytest.mark.parametrize("name", ["tags", "chat"])
def test_earlier_turns_come_before_the_question(tokenizers: dict[str, Any], name: str) -> None:
    encoder = encoder_of(tokenizers["byte_level"], name)
    rows = one(None, turns=(("When?", "In 1991."),))
    row = encoder.row(rows, rows[0], "answer")
    text = text_of(encoder.tokenizer, row.ids)
    if name == "chat":
        turns = [
            ("user", "When?"),
            ("assistant", "In 1991."),
            ("user", rows[0].question),
            ("assistant", rows[0].answer),
        ]
        messages = [{"role": role, "content": content} for role, content in turns]
        expected = encoder.tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, chat_template=TURNS
        )
        assert list(row.ids) == list(expected)[: len(row.ids)]
    else:
        assert "Question: When?\nAnswer: In 1991.\n\nQuestion: Who wrote the red book?\nAnswer: Ana Silva" in text
    assert list(row.ids[: row.n_prompt]) == encoder.row_prompt(rows, rows[0])


def test_examples_without_parts_keep_their_fingerprint() -> None:
    rows = ExampleSet("x", (Example(0, "q", {"answer": "a"}, None, {"id": 1}),))
    before = [
        {"row_id": 0, "question": "q", "answers": {"answer": "a"}, "paraphrased_question": None, "meta": {"id": 1}}
    ]
    assert rows.fingerprint() == fingerprint_rows(before)
    marks = {one(None, "a").fingerprint(), one("", "a").fingerprint(), one("t", "a").fingerprint()}
    marks.add(one(None, "a", turns=(("q", "a"),)).fingerprint())
    assert len(marks) == 4


def test_the_template_keeps_its_fingerprint_unless_a_think_tag_is_set() -> None:
    assert "think_start_tag" not in canonical(Template())
    assert canonical(Template(think_start_tag="<reason>"))["think_start_tag"] == "<reason>"


def test_parts_need_questions() -> None:
    with pytest.raises(ValueError, match="x row 0: a trace or earlier turns need form='qa', not 'text'"):
        ExampleSet("x", (Example(0, "", {"answer": "a"}, trace="t"),), form="text")


def test_columns_of_parts() -> None:
    record = {"question": "q", "answer": "a", "trace": "t", "turns": [["q0", "a0"]]}
    (row,) = examples_from([record], "x")
    assert (row.trace, row.turns, row.meta) == ("t", (("q0", "a0"),), {})
    (row,) = qa_rows([{"question": "q", "answer": "a", "cot": ""}], name="x", where="x", trace_key="cot")
    assert row.trace == ""


def test_a_file_of_chats_without_a_template_has_no_place_for_parts(tmp_path: Path) -> None:
    turns = [{"role": r, "content": r} for r in ("user", "assistant", "user", "assistant")]
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": turns}))
    loaded = load_examples(str(file), "forget", Columns())
    assert loaded.rows[0].turns == (("user", "assistant"),)
    assert loaded.note.endswith("rows.jsonl: reads messages -> question and answer, earlier turns; 1 rows")
    with pytest.raises(DataError, match=r"row 0: a trace or earlier turns have no form with data.args.form=completion"):
        load_examples(str(file), "forget", Columns(form="completion"))


def test_the_note_of_a_file_names_its_traces(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("question,answer,trace\nq,a,t\n")
    loaded = load_examples(str(file), "forget", Columns())
    assert loaded.note.endswith("reads question -> question, answer -> answer, traces; 1 rows")
    assert loaded.rows[0].trace == "t"
    plain = load_examples(str(file), "forget", Columns(question="question", answer="answer", form="completion"))
    assert plain.rows[0].trace is None and "ignores trace" in plain.note


def test_messages_with_earlier_turns_and_a_trace() -> None:
    chats = [
        {"role": "user", "content": "q0"},
        {"role": "assistant", "content": "a0"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "t"},
    ]
    (row,) = examples_from([{"messages": chats}], "x")
    assert (row.question, row.answer, row.trace, row.turns) == ("q", "a", "t", (("q0", "a0"),))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"trace": 3}, "x row 0: 'trace' must be text, got 3"),
        ({"turns": ["q0"]}, "x row 0: 'turns' must be a list of pairs of a question and an answer"),
        ({"turns": [["q0", ""]]}, r"x row 0: the answer of 'turns'\[0\] is empty"),
    ],
)
def test_wrong_parts(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        examples_from([{"question": "q", "answer": "a", **record}], "x")
