from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, DataError
from expunge.data.encoder import Encoded, Encoder, n_truncated
from expunge.data.examples import Example, ExampleSet, Form
from expunge.data.loaders.tofu import load_tofu
from expunge.data.template import Template
from expunge.models.build import train_tokenizer
from expunge.models.config import TokenizerArgs
from expunge.models.load import load_tokenizer

QA = [
    ("Who wrote the red book?", "Ana Silva wrote it."),
    ("When?", "1991"),
    ("¿Dónde vive Ana? 你好", "In São Paulo  (two blanks), 东京\nand Oslo."),
    ("Trailing blank? ", " leading blank "),
]

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)  # like Qwen's and Zephyr's: a line break after the EOS of each turn


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    texts = [text for pair in QA for text in pair] * 5 + ["Question: Answer: <|user|> <|assistant|> <|system|>"] * 5
    return train_tokenizer(texts, 420, max_length=256)


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    clone = copy.deepcopy(tokenizer)
    clone.chat_template = CHAT
    return clone


def decoded(tokenizer: Any, ids: Any) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False)


@pytest.mark.parametrize(("question", "answer"), QA)
def test_plain_boundary_is_clean(tokenizer: Any, question: str, answer: str) -> None:
    encoder = Encoder(Template(), tokenizer)
    row = encoder.encode(question, answer)
    assert encoder.prompt(question) == list(row.ids[: row.n_prompt])
    assert decoded(tokenizer, row.ids) == f"<bos>Question: {question}\nAnswer: {answer}<eos>"
    assert decoded(tokenizer, row.ids[row.n_prompt :]) == f" {answer}<eos>"
    assert row.ids.count(tokenizer.bos_token_id) == 1
    assert row.ids.count(tokenizer.eos_token_id) == 1
    assert row.truncated == 0
    assert row.n_answer == len(row.ids) - row.n_prompt >= 2


def test_trailing_blanks_of_the_prompt_belong_to_the_answer(tokenizer: Any) -> None:
    encoder = Encoder(Template(asst_start_tag="Answer:   "), tokenizer)
    row = encoder.encode("When?", "1991")
    assert decoded(tokenizer, encoder.prompt("When?")).endswith("Answer:")
    assert decoded(tokenizer, row.ids[row.n_prompt :]) == "   1991<eos>"


def test_prompt_without_trailing_blank(tokenizer: Any) -> None:
    row = Encoder(Template(asst_start_tag="A:"), tokenizer).encode("When?", "1991")
    assert decoded(tokenizer, row.ids[row.n_prompt :]) == "1991<eos>"


def test_answers_share_one_prompt(tokenizer: Any) -> None:
    encoder = Encoder(Template(), tokenizer)
    rows = [encoder.encode("When?", a) for a in ("1991", "a", "ß", "Ana", " ", "...")]
    assert {r.ids[: r.n_prompt] for r in rows} == {tuple(encoder.prompt("When?"))}


def test_no_bos_where_the_tokenizer_adds_none(tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = None
    assert bare("a")["input_ids"] == bare("a", add_special_tokens=False)["input_ids"]
    row = Encoder(Template(), bare).encode("When?", "1991")
    assert bare.bos_token_id not in row.ids


def test_few_shot_and_system_prompt_stand_before_the_question(tokenizer: Any) -> None:
    template = Template(system_prompt="Be kind.\n", few_shot=(("a?", "b"), ("c?", "d")))
    row = Encoder(template, tokenizer).encode("When?", "1991")
    assert decoded(tokenizer, row.ids) == (
        "<bos>Be kind.\nQuestion: a?\nAnswer: b\n\nQuestion: c?\nAnswer: d\n\nQuestion: When?\nAnswer: 1991<eos>"
    )
    assert decoded(tokenizer, row.ids[row.n_prompt :]) == " 1991<eos>"


@pytest.mark.parametrize("compat", ["clean", "openunlearning"])
@pytest.mark.parametrize("tag", ["\n\n", " END", ""])
def test_plain_text_of_the_end_tag_stands_between_shots_and_eos_ends_the_answer(
    tokenizer: Any, tag: str, compat: str
) -> None:
    """OpenUnlearning's src/data/utils.py: the tag follows solved examples, and EOS follows the last answer."""
    template = decode(Template, {"asst_end_tag": tag, "few_shot": [["When?", "1991"]], "compat": compat}, where="t")
    row = Encoder(template, tokenizer).encode("Who?", "Ana")
    targets = f"<bos>Question: When?\nAnswer: 1991{tag}Question: Who?\nAnswer: Ana<eos>"
    assert decoded(tokenizer, row.ids) == targets
    assert Encoder(template, tokenizer).end_ids == {tokenizer.eos_token_id}


def test_truncation_is_reported(tokenizer: Any) -> None:
    whole = Encoder(Template(), tokenizer).encode(*QA[2])
    limit = whole.n_prompt + 3
    cut = Encoder(Template(max_length=limit), tokenizer).encode(*QA[2])
    assert cut.ids == whole.ids[:limit]
    assert cut.truncated == len(whole.ids) - limit
    assert cut.n_answer == 3


def test_prompt_that_fills_max_length_is_refused(tokenizer: Any) -> None:
    n = len(Encoder(Template(), tokenizer).prompt(QA[0][0]))
    with pytest.raises(DataError, match=rf"^forget row 7: the prompt alone has {n} tokens, max_length is {n}: [^\n]*$"):
        Encoder(Template(max_length=n), tokenizer).encode(*QA[0], where="forget row 7")
    assert Encoder(Template(max_length=n + 1), tokenizer).encode(*QA[0]).n_answer == 1


def test_labels_all_scores_the_prompt_too(tokenizer: Any) -> None:
    answer = Encoder(Template(), tokenizer).encode(*QA[0])
    every = Encoder(Template(labels="all"), tokenizer).encode(*QA[0])
    assert every.ids == answer.ids
    assert (every.n_prompt, every.n_answer) == (0, len(every.ids))
    peer = Encoder(Template(labels="all", compat="openunlearning"), tokenizer).encode(*QA[0])
    assert peer.n_prompt == 0


def test_pad_that_is_eos_keeps_the_end_scored(tokenizer: Any) -> None:
    same = copy.deepcopy(tokenizer)
    same.pad_token = same.eos_token
    row = Encoder(Template(), same).encode(*QA[0])
    assert row.ids[-1] == same.eos_token_id == same.pad_token_id
    assert len(row.ids) - 1 >= row.n_prompt


@pytest.mark.parametrize("shots", [(), (("a?", "b"),)])
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_chat_template(chat: Any, shots: tuple[tuple[str, str], ...], system: str | None) -> None:
    encoder = Encoder(Template(apply_chat_template=True, system_prompt=system, few_shot=shots), chat)
    row = encoder.encode("When?", "1991")
    assert encoder.prompt("When?") == list(row.ids[: row.n_prompt])
    head = ("<|system|>\nBe kind.<eos>\n" if system else "") + "".join(
        f"<|user|>\n{q}<eos>\n<|assistant|>\n{a}<eos>\n" for q, a in shots
    )
    assert decoded(chat, row.ids[: row.n_prompt]) == f"<bos>{head}<|user|>\nWhen?<eos>\n<|assistant|>\n"
    assert decoded(chat, row.ids[row.n_prompt :]) == "1991<eos>"  # one EOS, no line break after it
    assert row.ids.count(chat.bos_token_id) == 1


@pytest.mark.parametrize("answer", ["1991", " Ana Silva ", "a", "user", "<|assistant|>", "x < y & 'z' \"q\" \\"])
def test_chat_answer_is_scored_whole(chat: Any, answer: str) -> None:
    row = Encoder(Template(apply_chat_template=True), chat).encode("When?", answer)
    assert decoded(chat, row.ids[row.n_prompt :]) == f"{answer.strip()}<eos>"


def test_chat_template_that_changes_the_answer_still_ends_once(chat: Any) -> None:
    template = Template(apply_chat_template=True, chat_template=CHAT.replace("| trim", "| upper"))
    row = Encoder(template, chat).encode("When?", "in may")
    assert decoded(chat, row.ids[row.n_prompt :]) == "IN MAY<eos>"


def test_chat_template_without_an_end_gets_one(chat: Any) -> None:
    template = Template(apply_chat_template=True, chat_template=CHAT.replace("<eos>\n", "\n\n"))
    row = Encoder(template, chat).encode("When?", "1991")
    assert decoded(chat, row.ids[row.n_prompt :]) == "1991<eos>"


def test_chat_template_whose_rows_do_not_begin_with_the_prompt(chat: Any) -> None:
    template = Template(apply_chat_template=True, chat_template=CHAT.replace("<|assistant|>\n{% endif", "A: {% endif"))
    encoder = Encoder(template, chat)
    row = encoder.encode("When?", "1991")
    assert encoder.prompt("When?") == list(row.ids[: row.n_prompt])
    assert decoded(chat, row.ids[row.n_prompt :]) == "1991<eos>"


def test_date_string_reaches_the_chat_template(chat: Any) -> None:
    template = Template(apply_chat_template=True, chat_template="{{ date_string }}|" + CHAT, date_string="10 Apr 2025")
    assert decoded(chat, Encoder(template, chat).prompt("When?")).startswith("10 Apr 2025|<bos>")


def test_wrong_settings_end_in_one_line(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"^model\.template_args\.apply_chat_template: [^\n]*no chat template[^\n]*$"):
        Encoder(Template(apply_chat_template=True), tokenizer)
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ConfigError, match=r"no EOS token[^\n]*$"):
        Encoder(Template(), endless)
    with pytest.raises(ConfigError, match=r"^t\.max_length: must be at least 2 tokens, got 1$"):
        decode(Template, {"max_length": 1}, where="t")
    with pytest.raises(ConfigError, match=r"^t\.max_lenght: unknown key; did you mean 'max_length'\?"):
        decode(Template, {"max_lenght": 9}, where="t")


# `compat=openunlearning` against numbers of OpenUnlearning itself.


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "visible"


@pytest.fixture(scope="module")
def encoder(golden: Path) -> Encoder:
    text = json.loads((golden / "tofu_eval" / "settings.json").read_text())["template"]
    tags = {k: text[k] for k in ("user_start_tag", "user_end_tag", "asst_start_tag", "asst_end_tag")}
    tokenizer = load_tokenizer(str(golden / "tiny_llama" / "full"), TokenizerArgs())
    return Encoder(decode(Template, tags | {"compat": "openunlearning"}), tokenizer)


@pytest.fixture(scope="module")
def sets(shared: Path) -> Any:
    return load_tofu(str(shared / "data" / "tofu"), forget_split="forget10", retain_split="retain90", holdout=True)


@pytest.mark.shared
def test_ids_of_every_forget_row(golden: Path, encoder: Encoder, sets: Any) -> None:
    lines = [json.loads(x) for x in (golden / "tofu_eval" / "forget10_tokens.jsonl").read_text().splitlines()]
    assert [x["index"] for x in lines] == [r.row_id for r in sets["forget_eval"]]
    for line, row in zip(lines, sets["forget_eval"], strict=True):
        encoded_row = encoder.encode(row.question, row.answer)
        assert (list(encoded_row.ids), encoded_row.n_prompt) == (line["input_ids"], line["n_unlabelled"]), row.row_id


@pytest.mark.slow
@pytest.mark.shared
def test_token_counts_of_every_set(golden: Path, encoder: Encoder, sets: Any) -> None:
    with gzip.open(golden / "tofu_eval" / "token_counts.json.gz", "rt") as f:
        counts = json.load(f)["by_dataset"]
    places = {"forget": "forget_eval", "retain": "retain_eval", "ra": "real_authors", "wf": "world_facts"}
    records = 0
    for name, expected in counts.items():
        rows, variants = _place(name, sets, places)
        for index, count in expected.items():
            row = rows[int(index)]
            encoded_row = [encoder.encode(row.question, a) for a in variants(row)]
            pairs = [[len(e.ids), e.n_answer] for e in encoded_row]
            assert (pairs if isinstance(count[0], list) else pairs[0]) == count, (name, index)
            records += len(pairs)
    assert records >= 6868


@pytest.mark.shared
def test_clean_boundary_scores_one_token_more(encoder: Encoder, sets: Any) -> None:
    clean = Encoder(Template(), encoder.tokenizer)
    for row in sets["forget_eval"].rows[:50]:
        ours, theirs = clean.encode(row.question, row.answer), encoder.encode(row.question, row.answer)
        assert ours.ids == theirs.ids  # the same row, only the boundary differs
        assert ours.n_prompt == theirs.n_prompt - 1


def _place(name: str, sets: Any, places: dict[str, str]) -> Any:
    """The rows and answers that a data set of the golden token counts stands for."""
    short, _, rest = name.partition("_Q_A")
    rows = sets[places.get(short, "holdout" if "holdout" in name else "forget_eval")]
    if "PARA" in rest:
        return rows, lambda row: [row.answers["paraphrase"]]
    if "PERT" in rest:
        return rows, lambda row: row.perturbed
    return rows, lambda row: [row.answer]


def one_row(form: Form, question: str, answer: str, shots: tuple[tuple[str, str], ...] = ()) -> ExampleSet:
    return ExampleSet("set", (Example(0, question, {"answer": answer}),), form, shots)


@pytest.mark.parametrize(
    ("form", "question", "answer", "limit"),
    [
        ("completion", "Ana wrote", "the red book.", None),
        ("completion", "Ana wrote", "the red book.", 2),
        ("text", "", "The red book.", None),
        ("text", "", "The red book.", 2),
    ],
)
def test_texts_as_openunlearning_reads_them(
    tokenizer: Any, form: Form, question: str, answer: str, limit: int | None
) -> None:
    """The prefix's tokens, at most `max_length` more, no end token, and no loss on the prefix."""
    rows = ExampleSet("set", (Example(0, question, {"answer": answer}),), form, max_length=limit)
    encoder = Encoder(Template(compat="openunlearning"), tokenizer)
    prefix = tokenizer(question)["input_ids"]
    whole = tokenizer(f"{question} {answer}" if question else answer)["input_ids"]
    ids = whole if limit is None else whole[: len(prefix) + limit]
    for encoded in (encoder.row(rows, rows[0], "answer"), *encoder.rows(rows, [(rows[0], "answer")])):
        assert (list(encoded.ids), encoded.n_prompt, encoded.truncated) == (ids, len(prefix), len(whole) - len(ids))
    assert encoder.row_prompts(rows, rows.rows) == [encoder.row_prompt(rows, rows[0])] == [prefix]


def test_openunlearning_cuts_a_long_prompt_of_tags(tokenizer: Any) -> None:
    rows = ExampleSet("set", (Example(0, "When was it? " * 9, {"answer": "1991"}),), "qa", max_length=12)
    encoder = Encoder(Template(compat="openunlearning"), tokenizer)
    assert len(encoder.row_prompt(rows, rows[0])) == len(encoder.row_prompts(rows, rows.rows)[0]) == 12


@pytest.mark.parametrize(
    ("form", "question", "answer", "prompt", "tail"),
    [
        ("qa", "When?", "1991", "<bos>Question: When?\nAnswer:", " 1991<eos>"),
        ("completion", "Ana wrote", "the red book.", "<bos>Ana wrote", " the red book.<eos>"),
        ("completion", "Ana wrote ", "the red book.", "<bos>Ana wrote", " the red book.<eos>"),
        ("completion", "Answer:\n", "red", "<bos>Answer:\n", "red<eos>"),
        ("text", "Ana wrote", "the red book.", "<bos>Ana wrote", " the red book."),
        ("text", "", "The red book.", "<bos>", "The red book."),
    ],
)
def test_a_set_of_rows_says_how_they_become_text(
    tokenizer: Any, form: Form, question: str, answer: str, prompt: str, tail: str
) -> None:
    rows = one_row(form, question, answer)
    encoded = Encoder(Template(), tokenizer).row(rows, rows[0], "answer")
    assert decoded(tokenizer, encoded.ids[: encoded.n_prompt]) == prompt
    assert decoded(tokenizer, encoded.ids[encoded.n_prompt :]) == tail
    assert Encoder(Template(), tokenizer).row_prompt(rows, rows[0]) == list(encoded.ids[: encoded.n_prompt])


@pytest.mark.parametrize("form", ["qa", "completion"])
def test_shots_stand_before_each_question(tokenizer: Any, form: Form) -> None:
    rows = one_row(form, "When?", "1991", (("Who?", "Ana"),))
    encoder = Encoder(Template(), tokenizer)
    display = {
        "qa": "<bos>Question: Who?\nAnswer: Ana\n\nQuestion: When?\nAnswer:",
        "completion": "<bos>Who? Ana\n\nWhen?",
    }
    assert decoded(tokenizer, encoder.row_prompt(rows, rows[0])) == display[form]
    assert rows.fingerprint() != one_row(form, "When?", "1991").fingerprint()


def test_many_rows_have_the_ids_of_each_row(tokenizer: Any) -> None:
    """Also where the tokenizer says other than its library, or its library is left set to cut or to pad."""
    rows = ExampleSet(
        "r", tuple(Example(i, f"Who wrote book {i}?", {"answer": "Ana did. " * (i + 1)}) for i in range(5))
    )
    targets = [(row, "answer") for row in rows]

    def check(of: Any) -> list[Encoded]:
        encoder = Encoder(Template(), of)
        result = encoder.rows(rows, targets)
        assert result == [encoder.row(rows, row, "answer") for row in rows]
        return result

    plain = check(tokenizer)

    class Louder:
        """Says other than its library."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: Any, **kwargs: Any) -> Any:
            return tokenizer(texts.upper() if isinstance(texts, str) else [t.upper() for t in texts], **kwargs)

    assert check(Louder()) != plain
    encoder = Encoder(Template(), tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    try:
        assert encoder.rows(rows, targets) == plain
    finally:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


@pytest.mark.parametrize("form", ["qa", "completion", "text"])
@pytest.mark.parametrize("template", [Template(max_length=40), Template(max_length=40, apply_chat_template=False)])
def test_the_number_of_cut_answers_is_that_of_the_encoded_rows(chat: Any, template: Template, form: Form) -> None:
    pairs = [*QA, ("A long one?", "Ana Silva wrote it. " * 9), ("A special token?", "<eos>" * 5), ("Blanks?", " " * 90)]
    rows = ExampleSet("forget", tuple(Example(i, q, {"answer": a}) for i, (q, a) in enumerate(pairs)), form)
    answers = [(row, "answer") for row in rows]
    encoder = Encoder(template, chat)
    assert encoder.n_cut(rows, answers) == n_truncated(encoder.rows(rows, answers)) > 0


def test_an_answer_that_is_short_for_certain_is_not_tokenised(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ExampleSet("forget", tuple(Example(i, f"Who is {i}?", {"answer": "Ana"}) for i in range(5)))
    encoder = Encoder(Template(), tokenizer)
    inputs: list[int] = []
    monkeypatch.setattr(encoder.tokens, "ids", lambda texts: inputs.append(len(texts)) or [])
    assert encoder.n_cut(rows, [(row, "answer") for row in rows]) == 0
    assert sum(inputs) == 0


def test_a_prompt_that_leaves_no_answer_token_is_refused_in_the_count(tokenizer: Any) -> None:
    rows = ExampleSet("forget", (Example(0, "Who? " * 50, {"answer": "Ana"}),))
    with pytest.raises(DataError, match=r"^forget row 0: the prompt alone has .* raise model.template_args.max_length"):
        Encoder(Template(max_length=40), tokenizer).n_cut(rows, [(rows[0], "answer")])
    limited = ExampleSet("forget", rows.rows, max_length=40)  # the benchmark's limit, so the template's cannot help
    with pytest.raises(DataError, match=r"max_length is 40: .* raise the benchmark's limit of these rows"):
        Encoder(Template(max_length=4000), tokenizer).n_cut(limited, [(limited[0], "answer")])
