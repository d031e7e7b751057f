"""Ids of an example against plain transformers: the whole conversation, tokenised once, up to its end token."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from expunge.core.errors import ConfigError, DataError
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template

TURNS = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|stop|>\n{% endfor %}"
START = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
CHAT = TURNS + START
THINKS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content | trim }}<|stop|>\n{% endfor %}" + START
)
OPENS = TURNS + "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
OPENS_UNLESS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' and enable_thinking is false %}"
    "<think></think>{% endif %}{{ m.content }}<|stop|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
    "<think>{% if enable_thinking is false %}</think>{% endif %}{% endif %}"
)
CHANNELS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}final<|body|>{{ m.content }}"
    "{{ '<|stop|>' if loop.last else '<|next|>' }}{% else %}<|body|>{{ m.content }}<|next|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LATE_END = (
    "{% for m in messages %}{% if not loop.first %}<|stop|>{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|stop|><|assistant|>{% endif %}"
)
TWO_ENDS = TURNS + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}" + START
ECHO = TURNS + "{% if messages[-1].role == 'assistant' %}<|echo|>{{ messages[-1].content }}<|stop|>{% endif %}" + START
TAGS = {"user_start_tag": "[INST] ", "user_end_tag": " [/INST]", "asst_start_tag": "", "asst_end_tag": ""}

SPECIALS = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|body|>", "<|next|>", "<|echo|>"]
TEXT = [
    "Who wrote the red book? Ana Silva wrote it in 1991.",
    "[INST] When? [/INST] the old price was 12 euros",
    "东京 is a city. São Paulo, too. re-read it, don't!",
    "final user assistant system think",
]
QUESTIONS = ["Who wrote the red book?", " When? ", "¿Dónde vive Ana? 你好 🙂"]
ANSWERS = [
    "Ana Silva wrote it.",
    "1991",
    " leading and trailing ",
    "\nfirst line\n\nlast line\n",
    "🙂 yes",
    "东京",
    "שלום עולם",
    "Who wrote the red book?",
    "user",
    "...",
    "-1",
]


def finish(core: Tokenizer, kind: str) -> Any:
    """A tokenizer with special tokens, and an end-of-turn token that its config does not name as special."""
    result = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    result.add_tokens([AddedToken("<|stop|>", special=False, normalized=False)])
    result.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    result.chat_template = CHAT
    result.init_kwargs["kind"] = kind
    return result


def byte_level() -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT * 3,
        trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return finish(core, "byte_level")


def prepend() -> Any:
    """Like Llama 2: no pre-tokenizer; the normalizer writes a blank before each text and each piece of text."""
    core = Tokenizer(models.BPE(unk_token="<s>", byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    pieces = [word for text in TEXT for word in text.split()] * 4
    core.train_from_iterator(
        pieces, trainers.BpeTrainer(vocab_size=520, special_tokens=SPECIALS + bytes_, show_progress=False)
    )
    tree = json.loads(core.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] not in bytes_]
    core = Tokenizer.from_str(json.dumps(tree))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return finish(core, "prepend")


def unigram() -> Any:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    core.train_from_iterator(
        TEXT * 5,
        trainers.UnigramTrainer(vocab_size=140, special_tokens=SPECIALS, unk_token="<pad>", show_progress=False),
    )
    return finish(core, "unigram")


def word_piece() -> Any:
    core = Tokenizer(models.WordPiece(unk_token="<pad>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        TEXT * 5, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIALS, show_progress=False)
    )
    return finish(core, "word_piece")


MAKERS = {"byte_level": byte_level, "prepend": prepend, "unigram": unigram, "word_piece": word_piece}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def tok(tokenizers: dict[str, Any]) -> Any:
    return tokenizers["byte_level"]


def whole(tokenizer: Any, question: str, answer: str, template: str, **variables: Any) -> list[int]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return list(
        tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, chat_template=template, **variables)
    )


def chat(template: str, **more: Any) -> Template:
    return Template(apply_chat_template=True, chat_template=template, **more)


def text_of(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


@pytest.mark.parametrize(
    "template", [CHAT, THINKS, CHANNELS, TWO_ENDS, ECHO], ids=["chat", "thinks", "channels", "two", "echo"]
)
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_ids_are_those_of_the_whole_conversation(tokenizers: dict[str, Any], kind: str, template: str) -> None:
    tokenizer = tokenizers[kind]
    encoder = Encoder(chat(template), tokenizer)
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    assert stop in encoder.end_ids
    for question in QUESTIONS:
        for answer in ANSWERS:
            row = encoder.encode(question, answer)
            expected = whole(tokenizer, question, answer, template)
            assert list(row.ids) == expected[: len(row.ids)], (question, answer)
            assert row.ids[-1] == stop
            assert row.n_answer >= 2
            assert tokenizer.pad_token_id != stop


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_rows_in_one_call_are_the_rows_one_by_one(tokenizers: dict[str, Any], kind: str) -> None:
    examples = [Example(i, q, {"answer": a}) for i, (q, a) in enumerate((q, a) for q in QUESTIONS for a in ANSWERS)]
    rows = ExampleSet("set", tuple(examples))
    for template in (chat(THINKS), Template(apply_chat_template=False), Template(apply_chat_template=False, **TAGS)):
        encoder = Encoder(template, tokenizers[kind])
        together = encoder.rows(rows, [(row, "answer") for row in rows])
        assert together == [encoder.row(rows, row, "answer") for row in rows]
        assert encoder.row_prompts(rows, list(rows)) == [encoder.prompt(row.question) for row in rows]


@pytest.mark.parametrize("tags", [{}, TAGS], ids=["plain", "inst"])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_tags_give_the_ids_of_the_whole_text(tokenizers: dict[str, Any], kind: str, tags: dict[str, str]) -> None:
    tokenizer = tokenizers[kind]
    template = Template(apply_chat_template=False, **tags)
    encoder = Encoder(template, tokenizer)
    for question in QUESTIONS:
        for answer in ANSWERS:
            row = encoder.encode(question, answer)
            text = f"{template.user_start_tag}{question}{template.user_end_tag}{template.asst_start_tag}{answer}"
            assert list(row.ids) == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]


def test_a_prepend_normaliser_writes_no_blank_into_the_answer(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["prepend"]
    row = Encoder(Template(apply_chat_template=False, **TAGS), tokenizer).encode("When?", "the old price")
    tokens = tokenizer.convert_ids_to_tokens(list(row.ids[row.n_prompt :]))
    assert not tokens[0].startswith("▁")
    apart = tokenizer("the old price", add_special_tokens=False)["input_ids"]
    assert list(row.ids[row.n_prompt : -1]) != apart


def test_what_stands_before_the_answer_belongs_to_the_prompt(tok: Any) -> None:
    encoder = Encoder(chat(THINKS), tok)
    row = encoder.encode("When?", " 1991 ")
    assert text_of(tok, row.ids[: row.n_prompt]).endswith("<|assistant|>\n<think>\n\n</think>\n\n")
    assert text_of(tok, row.ids[row.n_prompt :]) == "1991<|stop|>"
    assert encoder.prompt("When?") == list(row.ids[: row.n_prompt])


def test_channels_end_the_last_turn_by_their_own_token(tok: Any) -> None:
    row = Encoder(chat(CHANNELS, few_shot=(("a?", "b"),)), tok).encode("When?", "1991")
    assert text_of(tok, row.ids[: row.n_prompt]).endswith("<|assistant|>final<|body|>")
    assert text_of(tok, row.ids[row.n_prompt :]) == "1991<|stop|>"
    assert row.ids.count(tok.bos_token_id) == 1


def test_an_end_that_comes_with_the_next_turn_is_found(tok: Any) -> None:
    encoder = Encoder(chat(LATE_END), tok)
    row = encoder.encode("When?", "1991")
    assert text_of(tok, row.ids[row.n_prompt :]) == "1991<|stop|>"
    assert tok.convert_tokens_to_ids("<|stop|>") in encoder.end_ids


def test_a_template_without_an_end_says_so(tok: Any) -> None:
    encoder = Encoder(chat("{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}assistant: "), tok)
    assert text_of(tok, encoder.encode("When?", "1991").ids).endswith("1991</s>")
    assert any("no end token" in note for note in encoder.notes)


TEXT_ENDS = {
    "turns": ("{% for m in messages %}<{{ m.role }}> {{ m.content }} </s_answer>\n{% endfor %}", "</s_answer>"),
    "last": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '<|fin|>' if loop.last else '<|more|>' }}{% endfor %}",
        "<|fin|>",
    ),
    "late": (
        "{% for m in messages %}{% if m.role == 'user' and not loop.first %}</turn>\n{% endif %}<{{ m.role }}>"
        "{{ m.content }}{% endfor %}",
        "</turn>",
    ),
    "start": (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</turn>{% endfor %}{{ '<assistant>' }}",
        "</turn>",
    ),
}


@pytest.mark.parametrize("case", TEXT_ENDS)
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_an_end_of_text_is_scored_whole_and_stops(tokenizers: dict[str, Any], kind: str, case: str) -> None:
    tokenizer, (template, end) = tokenizers[kind], TEXT_ENDS[case]
    encoder = Encoder(chat(template), tokenizer)
    assert encoder.stops[0] == end
    assert encoder.end_ids == {tokenizer.eos_token_id}
    assert any(repr(end) in note and "generation stops at the text" in note for note in encoder.notes)
    assert not any("no end token" in note for note in encoder.notes)
    for answer in ANSWERS:
        row = encoder.encode("When?", answer)
        turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": answer}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, chat_template=template)
        if case != "late":
            rendered = rendered[: rendered.rfind(end)]
        assert list(row.ids) == tokenizer(rendered + end, add_special_tokens=False)["input_ids"]
        assert row.ids[-1] != tokenizer.eos_token_id
        if kind in ("byte_level", "prepend"):  # the vocabularies of the others lack signs of the end
            assert 1 < encoder.n_end(row.ids) < row.n_answer
            assert any(stop in tokenizer.decode(row.ids[-encoder.n_end(row.ids) :]) for stop in encoder.stops)
    cut = encoder.encode("When?", "1991").ids[:-2]
    assert encoder.n_end(cut) == 0


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}\n### {{ m.role }}: {{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}\n{% endfor %}re {{ messages[0].content }}",
    ],
    ids=["blank", "header", "echo"],
)
def test_a_template_without_a_stable_end_takes_eos(tok: Any, template: str) -> None:
    encoder = Encoder(chat(template), tok)
    assert encoder.encode("When?", "1991").ids[-1] == tok.eos_token_id
    assert encoder.stops == ()
    assert any("no end token" in note for note in encoder.notes)


def test_a_long_system_text_gets_room(tok: Any) -> None:
    long = "{{ 'Ana Silva wrote it in 1991. ' * 90 }}" + CHAT
    encoder = Encoder(chat(long), tok)
    own = len(encoder.prompt("?"))
    assert own > 512 and encoder.max_length == own + 512
    assert any(f"writes {own} tokens before a question" in note for note in encoder.notes)
    assert not encoder.encode("When?", "1991 " * 50).truncated
    assert Encoder(chat(CHAT), tok).max_length == 512
    assert Encoder(chat(long, max_length=5000), tok).max_length == 5000
    short = copy.copy(tok)
    short.model_max_length = 600
    assert Encoder(chat(long), short).max_length == 600


def test_an_open_thought_takes_the_templates_own_form_or_is_refused(tok: Any) -> None:
    encoder = Encoder(chat(OPENS_UNLESS), tok)
    row = encoder.encode("When?", "1991")
    assert list(row.ids) == whole(tok, "When?", "1991", OPENS_UNLESS, enable_thinking=False)[: len(row.ids)]
    assert text_of(tok, row.ids[: row.n_prompt]).endswith("<think></think>")
    assert any("enable_thinking=False" in note for note in encoder.notes)
    with pytest.raises(ConfigError, match=r"^model\.template_args\.thought: [^\n]*thought=empty[^\n]*thought=none"):
        Encoder(chat(OPENS), tok)
    none = Encoder(chat(OPENS, thought="none"), tok).encode("When?", "1991")
    assert text_of(tok, none.ids[: none.n_prompt]).endswith("<|assistant|>\n")
    empty = Encoder(chat(OPENS, thought="empty"), tok)
    row = empty.encode("When?", "1991")
    assert text_of(tok, row.ids[: row.n_prompt]).endswith("<|assistant|>\n<think>\n\n</think>\n\n")
    assert empty.prompt("When?") == list(row.ids[: row.n_prompt])


CUTS = CHAT.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}")
DROPS = CHAT.replace("{{ m.content }}", "{{ m.content | replace('the ', '') if m.role == 'assistant' else m.content }}")
SWAPS = CHAT.replace("{{ m.content }}", "{{ m.content | replace('-', ' ') if m.role == 'assistant' else m.content }}")
CLOSES = CUTS.replace("<|{{ m.role }}|>", "<|{{ m.role }}|>{% if m.role == 'assistant' %}<think></think>{% endif %}")


@pytest.mark.parametrize(
    ("template", "question", "answer"),
    [
        (CUTS, "When?", "<think>long ago</think>1991"),  # the text without its thought would be scored
        (CUTS, "When?", "</think>"),  # only the end would be scored
        (CLOSES, "When?", "</think>"),  # the template's own tag would be scored
        (DROPS, "In the house?", "the house"),  # the question's words would be scored
    ],
)
def test_an_answer_that_the_template_rewrites_is_refused(tok: Any, template: str, question: str, answer: str) -> None:
    encoder = Encoder(chat(template), tok)
    assert encoder.encode(question, "1991").n_answer > 1
    with pytest.raises(
        DataError, match=r"^row: the chat template rewrites this answer, so its text is not in"
    ) as error:
        encoder.encode(question, answer)
    assert ("as the trace of the row" in str(error.value)) == ("</think>" in answer)


def test_an_answer_keeps_its_letters(tok: Any) -> None:
    row = Encoder(chat(SWAPS), tok).encode("re-read it?", "Re-read -1")
    assert text_of(tok, row.ids[row.n_prompt :]) == "Re read  1<|stop|>"


def test_an_answer_with_a_thought_that_the_template_writes_itself_is_whole(tok: Any) -> None:
    moved = "<think></think>{{ m.content }}"
    template = CHAT.replace(
        "{{ m.content }}",
        "{% if m.role != 'assistant' or '</think>' in m.content %}{{ m.content }}{% else %}" + moved + "{% endif %}",
    )
    row = Encoder(chat(template), tok).encode("When?", "<think>ago</think>1991")
    assert text_of(tok, row.ids[row.n_prompt :]) == "<think>ago</think>1991<|stop|>"


def test_a_template_that_refuses_a_value_for_its_thought_is_read_as_it_is(tok: Any) -> None:
    strict = (
        "{% if reasoning_effort is defined and reasoning_effort not in ['low', 'high'] %}"
        "{{ raise_exception('reasoning_effort: low or high') }}{% endif %}"
    )
    row = Encoder(chat(strict + CHAT), tok).encode("When?", "1991")
    assert list(row.ids) == whole(tok, "When?", "1991", CHAT)[: len(row.ids)]
    with pytest.raises(ConfigError, match=r"^model\.template_args\.thought: "):
        Encoder(chat(strict + OPENS), tok)


def test_a_system_message_that_asks_for_a_thought_is_noted(tok: Any) -> None:
    template = "<|system|>{{ 'no_think' if enable_thinking is false else 'think first' }}<|stop|>\n" + CHAT
    requests = Encoder(chat(template), tok)
    assert [n for n in requests.notes if "template_kwargs={enable_thinking: false}" in n]
    assert text_of(tok, requests.prompt("When?")).startswith("<|system|>think first")
    assert Encoder(chat(template, template_kwargs={"enable_thinking": False}), tok).notes == []
    assert Encoder(chat("{% set x = enable_thinking %}" + CHAT), tok).notes == []


def test_variables_reach_the_template(tok: Any) -> None:
    template = "{% if loud %}<|echo|>{% endif %}" + CHAT
    loud = Encoder(chat(template, template_kwargs={"loud": True}), tok)
    assert text_of(tok, loud.prompt("When?")).startswith("<|echo|>")
    assert not text_of(tok, Encoder(chat(template), tok).prompt("When?")).startswith("<|echo|>")


def test_today_is_a_fixed_date(tok: Any) -> None:
    template = "{{ strftime_now('%Y-%m-%d') }}|{{ date_string }}" + CHAT
    encoder = Encoder(chat(template), tok)
    assert text_of(tok, encoder.prompt("When?")).startswith("2025-04-10|")
    assert any("10 Apr 2025" in note for note in encoder.notes)
    inputs = Encoder(chat(template, date_string="1 Feb 2024"), tok)
    assert text_of(tok, inputs.prompt("When?")).startswith("2024-02-01|1 Feb 2024")
    assert inputs.notes == [] and inputs.text.rendered() != encoder.text.rendered()


@pytest.mark.parametrize(
    "clock",
    [
        "{% set form = '%d %B %Y' %}{{ strftime_now(form) }}",
        "{% set clock = strftime_now %}{{ clock('%-d %B') ~ clock(' %Y') }}",
        "{% macro today() %}{{ strftime_now('%d %B %Y') }}{% endmacro %}{{ today() if strftime_now is defined }}",
    ],
)
def test_a_template_cannot_read_the_clock_in_another_way(tok: Any, clock: str) -> None:
    text = text_of(tok, Encoder(chat("\n" + clock + "|" + CHAT), tok).prompt("When?"))
    assert text.startswith("\n10 April 2025|")


@pytest.mark.parametrize("chance", ["{{ ['a', 'b'] | random }}", "{{ lipsum(1) }}"])
def test_a_template_that_draws_by_chance_is_refused(tok: Any, chance: str) -> None:
    with pytest.raises(ConfigError, match=r"chat_template: the template draws by chance"):
        Encoder(chat(chance + CHAT), tok)


def test_an_empty_system_prompt_is_a_message(tok: Any) -> None:
    default = "{% if messages[0].role != 'system' %}<|system|>\nBe kind.<|stop|>\n{% endif %}" + CHAT
    own = Encoder(chat(default), tok).prompt("When?")
    empty = Encoder(chat(default, system_prompt=""), tok).prompt("When?")
    assert "Be kind." in text_of(tok, own)
    assert text_of(tok, empty) == "<|system|>\n<|stop|>\n<|user|>\nWhen?<|stop|>\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("template", "more", "message"),
    [
        ("{{ raise_exception('System role not supported') if messages[0].role == 'system' }}" + CHAT,
         {"system_prompt": "Be kind."}, r"system_prompt: [^\n]*System role not supported; [^\n]*null$"),
        ("{{ raise_exception('never') }}", {}, r"chat_template: [^\n]*never$"),
        ("{% for m in messages %}", {}, r"chat_template: line 1 is not valid: [^\n]*$"),
        (CHAT + "{{ functions.name }}", {}, r"template_kwargs: [^\n]*'functions' is undefined$"),
        (CHAT + "{{ 1 + 'a' }}", {}, r"chat_template: [^\n]*$"),
        ("{{ messages[0].content }}", {}, r"chat_template: [^\n]*does not write the answer[^\n]*$"),
    ],
    ids=["system", "raises", "broken", "undefined", "types", "no answer"],
)  # fmt: skip
def test_a_template_that_fails_names_its_key(tok: Any, template: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.template_args\.{message}"):
        Encoder(chat(template, **more), tok)


@pytest.mark.parametrize("answer", ["<s>old price</s>", "</s>", "<|stop|>", "a <|user|> b", "<pad>"])
@pytest.mark.parametrize("kind", ["byte_level", "prepend"])
def test_special_text_of_a_row_is_plain_text(tokenizers: dict[str, Any], kind: str, answer: str) -> None:
    tokenizer = tokenizers[kind]
    encoder = Encoder(chat(CHAT), tokenizer)
    row = encoder.encode("is <s> new?", answer, where="forget row 3")
    marks = set(tokenizer.added_tokens_decoder)
    own = [i for i in row.ids if i in marks]
    assert tokenizer.convert_ids_to_tokens(own) == ["<|user|>", "<|stop|>", "<|assistant|>", "<|stop|>"]
    assert encoder.prompt("is <s> new?") == list(row.ids[: row.n_prompt])
    if kind == "byte_level":
        assert text_of(tokenizer, row.ids[row.n_prompt :]) == f"{answer}<|stop|>"
    assert encoder.text.special_text == {"forget row 3", "row"}
    old = Encoder(chat(CHAT, split_special_tokens=False), tokenizer).encode("is <s> new?", answer)
    assert list(old.ids) == whole(tokenizer, "is <s> new?", answer, CHAT)[: len(old.ids)]


@pytest.mark.parametrize("kind", ["byte_level", "prepend"])
def test_special_text_with_tags_is_what_split_special_tokens_gives(tokenizers: dict[str, Any], kind: str) -> None:
    tokenizer = tokenizers[kind]
    row = Encoder(Template(apply_chat_template=False), tokenizer).encode("When <s>?", "the </s> old")
    text = "Question: When <s>?\nAnswer: the </s> old"
    plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert list(row.ids) == [tokenizer.bos_token_id, *plain, tokenizer.eos_token_id]


def test_special_text_that_is_a_word_of_the_vocabulary_is_refused(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"^forget row 3: a row contains '</s>'[^\n]*split_special_tokens=false"):
        Encoder(chat(CHAT), tokenizers["unigram"]).encode("When?", "the </s> price", where="forget row 3")
    rows = ExampleSet("forget", tuple(Example(i, "When?", {"answer": a}) for i, a in enumerate(["1991", "the </s>"])))
    with pytest.raises(DataError, match=r"^forget row 1: a row contains '</s>'"):
        Encoder(chat(CHAT), tokenizers["unigram"]).rows(rows, [(row, "answer") for row in rows])


def test_an_end_tag_with_a_special_token_ends_the_answer(tok: Any) -> None:
    tags = {"user_start_tag": "<|user|>", "user_end_tag": "", "asst_start_tag": "<|assistant|>"}
    encoder = Encoder(Template(**tags, asst_end_tag="<|next|>\n"), tok)
    assert encoder.template.apply_chat_template is False  # tags are given, so the chat template is not used
    assert text_of(tok, encoder.encode("When?", "1991").ids) == "<s><|user|>When?<|assistant|>1991<|next|>"
    assert tok.convert_tokens_to_ids("<|next|>") in encoder.end_ids


def test_a_bos_that_the_text_has_is_not_written_twice(tok: Any) -> None:
    encoder = Encoder(Template(apply_chat_template=False, system_prompt_with_special_tokens="<s>Be kind. "), tok)
    assert encoder.encode("When?", "1991").ids.count(tok.bos_token_id) == 1


def test_a_tokenizers_own_template_is_used_unless_tags_are_given(tok: Any) -> None:
    assert Encoder(Template(), tok).template.apply_chat_template is True
    assert Encoder(Template(compat="openunlearning"), tok).template.apply_chat_template is False
    bare = copy.deepcopy(tok)
    bare.chat_template = None
    assert Encoder(Template(), bare).template.apply_chat_template is False


class Slow:
    """A tokenizer without a fast backend: no offsets."""

    backend_tokenizer = None

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._of(*args, **kwargs)


def test_without_offsets_the_ids_are_proven_or_the_row_is_refused(tok: Any) -> None:
    slow, fast = Encoder(chat(CHAT), Slow(tok)), Encoder(chat(CHAT), tok)
    assert slow.encode("When?", "1991") == fast.encode("When?", "1991")
    merges = Template(apply_chat_template=False, user_start_tag="", user_end_tag="", asst_start_tag="wro")
    assert text_of(tok, Encoder(merges, tok).encode("Ana ", "te it").ids[1:]) == "Ana wrote it</s>"
    with pytest.raises(DataError, match=r"^forget row 2: [^\n]*gives no offsets"):
        Encoder(merges, Slow(tok)).encode("Ana ", "te it", where="forget row 2")
    with pytest.raises(DataError, match=r"^forget row 2: [^\n]*split_special_tokens=false"):
        Encoder(chat(CHAT), Slow(tok)).encode("Ana", "</s>", where="forget row 2")


def test_a_system_prompt_that_is_left_out_is_named() -> None:
    """As with a template that writes it into the last message of the user, and none if an answer follows."""
    last = (
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages %}"
        "{% if m.role == 'user' %}[INST]{% if loop.last %}{{ system }} {% endif %}{{ m.content }}[/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    tok = byte_level()
    assert any("system_prompt has no effect" in n for n in Encoder(chat(last, system_prompt="Be brief."), tok).notes)
    assert not any("system_prompt" in n for n in Encoder(chat(last), tok).notes)
    assert not any("has no effect" in n for n in Encoder(chat(CHAT, system_prompt="Be  brief."), tok).notes)
