"""Words that become file names."""

from __future__ import annotations

import pytest

from expunge.core.errors import ConfigError
from expunge.core.names import LONGEST, check_name


@pytest.mark.parametrize("name", ["npo", "NPO beta=0.1", "Тест", "a.b", "x" * LONGEST, "…", "名前"])
def test_names_that_are_allowed(name: str) -> None:
    assert check_name(name, "task_name") == name


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("", "empty"), ("   ", "empty"), ("..", "leaves its folder"), (".", "leaves its folder"), ("a/b", "is a path"),
        ("/etc", "is a path"), ("~x", "is a path"), ("a\0b", "U+0000"), ("a\x1b[31m", "U+001B"), ("a\nb", "U+000A"),
        ("a\u202eb", "U+202E"), ("x" * (LONGEST + 1), "too long"), ("é" * LONGEST, "too long"), (" a", "blank"),
    ],
)  # fmt: skip
def test_names_that_are_refused(name: str, fact: str) -> None:
    with pytest.raises(ConfigError, match=r"^task_name: ") as error:
        check_name(name, "task_name")
    assert fact in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a/../b", "../x", "/a", "a/ b", "a/" + "x" * (LONGEST + 1)])
def test_nested_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name, "task_name", nested=True)
    assert check_name("a/b", "task_name", nested=True) == "a/b"
