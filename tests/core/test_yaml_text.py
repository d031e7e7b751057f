"""YAML of a user: plain values, bounded, and one line for each fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.core.errors import ConfigError
from expunge.core.yaml_text import MOST_BYTES, MOST_DEPTH, parse_yaml, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
FAULTS = {
    "cycle in a list": ("a: &a [1, *a]", "line 1: *a stands inside &a"),
    "cycle in a mapping": ("a: &a\n  b: *a\n", "line 2: *a stands inside &a"),
    "alias bomb": (BOMB, "more than 100000 values"),
    "5,000 lists": ("a: " + "[" * 5000, f"more than {MOST_DEPTH} levels"),
    "5,000 mappings": ("{a: " * 5000, f"more than {MOST_DEPTH} levels"),
    "duplicate key": ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands twice, first in line 1; write it once"),
    "python object": ("a: !!python/object/apply:os.system [ls]", "the tag"),
    "own tag": ("a: !mine x", "line 1: the tag '!mine' is not supported"),
    "a set": ("a: !!set {x}", "is not supported"),
    "wrong int": ("a: !!int x", "not YAML"),
    "wrong bool": ("a: !!bool x", "not YAML"),
    "wrong float": ('a: !!float ""', "not YAML"),
    "a number of 5,000 digits": ("a: " + "9" * 5000, "not YAML"),
    "a list as a key": ("? [a]\n: b\n", "not YAML"),
    "no such anchor": ("a: *b", "undefined alias"),
    "open bracket": ("a: [", "line 1"),
    "tab": ("a:\n\t- b", "not YAML"),
    "NUL": ("a: \0", "not YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "not YAML"),
    "too much text": ("a: " + "x" * MOST_BYTES, "characters of YAML"),
    "a merge of text": ("<<: x\n", "not YAML"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_line(case: str) -> None:
    text, output = FAULTS[case]
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "study: mine.yaml")
    line = str(error.value)
    assert line.startswith("study: mine.yaml") and output in line and "\n" not in line and len(line) < 500


NUMBERS = {
    "1e-3": 0.001, "+1.5e+3": 1500.0, ".5": 0.5, "5.": 5.0, "-.inf": -float("inf"), "1_000": 1000, "0x1F": 31, "-0": 0,
}  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers(text: str) -> None:
    assert parse_yaml(f"a: {text}", "x") == {"a": NUMBERS[text]}


@pytest.mark.parametrize(
    "text", ["1:30", "12:30:45", "1:30.5", "1e5abc", ".5x", "12e3 apples", "2e3e4", "08", "2020-01-02"]
)
def test_texts_that_begin_as_numbers(text: str) -> None:
    assert parse_yaml(f"a: {text}", "x") == {"a": text}


def test_plain_values() -> None:
    text = "a: &x {b: 1e-3, c: 2020-01-02}\nd: *x\ne: {<<: *x, b: 2}\nf: !!str 7\n"
    assert parse_yaml(text, "x") == {
        "a": {"b": 0.001, "c": "2020-01-02"},
        "d": {"b": 0.001, "c": "2020-01-02"},
        "e": {"b": 2, "c": "2020-01-02"},
        "f": "7",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not UTF-8 text at byte 0"),
        (b"", "holds no keys"),
        (b"[1]", "holds no keys"),
        (b"a: " + b"x" * MOST_BYTES, "bytes, at most"),
    ],
)
def test_a_file_of_another_content(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "a.yaml", "study")


def test_no_file(tmp_path: Path) -> None:
    for path, output in (
        (tmp_path, "is not a file"),
        (tmp_path / "none", "cannot be read"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=output):
            read_yaml(path, "study")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@,? \n\t<0e.~\x00\ud800", max_size=40))
def test_any_text_is_a_value_or_one_error(text: str) -> None:
    try:
        parse_yaml(text, "x")
    except ConfigError as error:
        assert "\n" not in str(error)
