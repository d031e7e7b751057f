"""A vocabulary of SentencePiece gives the ids of its own rules, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.models.sentencepiece_file import model_file
from transformers import AutoTokenizer

from expunge.core.errors import ConfigError, DataError
from expunge.models.load import check_tokenizer
from expunge.models.sentencepiece import convert, merges_of, read_model, to_tokenizer

MERGED = ("\u2581a", "bc", "\u2581abc", "cb")
FIRST = 259  # after <unk>, <s>, </s> and the bytes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tok.model"
    path.write_bytes(model_file(MERGED, "\u2581abc"))
    return path


def test_merges_have_the_order_of_the_scores(file: Path) -> None:
    assert merges_of(read_model(file)) == [
        ("\u2581", "a"), ("b", "c"), ("\u2581a", "bc"), ("c", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("abc", ["\u2581abc"]),
        ("a bcb", ["\u2581a", "\u2581", "bc", "b"]),
        ("  a   a ", ["\u2581a", "\u2581a"]),  # spaces at the ends and repeated ones are dropped
        ("a\na", ["\u2581a", "<0x0A>", "a"]),  # a line break is a byte
        ("é", ["\u2581", "<0xC3>", "<0xA9>"]),
        ("", []),
    ],
)
def test_ids(file: Path, text: str, pieces: list[str]) -> None:
    tokenizer = to_tokenizer(read_model(file), max_length=64)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *pieces]
    assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(text.split(" ")).strip().replace("   ", " ")


def test_a_folder_is_written_once(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    assert convert(file, out) == convert(file, out) == FIRST + 8
    loaded = AutoTokenizer.from_pretrained(out)
    assert (loaded.bos_token_id, loaded.eos_token_id, len(loaded)) == (1, 2, FIRST + 8)
    file.write_bytes(model_file(MERGED[:2], "\u2581abc"))
    with pytest.raises(ConfigError, match="contains another tokenizer"):
        convert(file, out)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no pieces"),
        (b"version https://git-lfs.github.com/spec/v1", "not a vocabulary of SentencePiece"),
        (model_file(MERGED, "abc", kind=1), "another kind than BPE"),
        (model_file(MERGED, "abc", rules=b"x"), "normalisation rules"),
        (model_file(MERGED, "abc")[:-3], "not a vocabulary of SentencePiece"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "odd.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_model(path)


def test_a_folder_that_needs_the_package_says_so(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    file.rename(folder / "tokenizer.model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"SentencePiece, whose package is missing; pip install sentencepiece prot"):
        check_tokenizer(str(folder))
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\n")  # a vocabulary of tiktoken
    check_tokenizer(str(folder))
    (folder / "tokenizer.model").write_bytes(model_file(MERGED, "abc"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    check_tokenizer(str(folder))
