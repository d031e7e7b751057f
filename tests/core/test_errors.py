from __future__ import annotations

from pathlib import Path

import pytest

from expunge.core.errors import (
    ConfigError,
    DataError,
    ExpungeError,
    JobError,
    UserError,
    as_path,
    first_line,
    keys_named,
    kind_of,
    nearest,
    one_line,
)


def test_a_key_is_renamed_at_the_start_of_an_error() -> None:
    for message, shown in (
        ("a.b: wrong", "x: wrong"),
        ("a.b.c: wrong; see a.b", "x.c: wrong; see a.b"),
        ("a.bc: wrong", "a.bc: wrong"),
    ):
        with pytest.raises(ConfigError) as error, keys_named({"a.b": "x"}):
            raise ConfigError(message)
        assert str(error.value) == shown


def test_a_type_has_its_article() -> None:
    assert [kind_of(value) for value in (None, 1, {}, type("NPOConfig", (), {})())] == [
        "None", "an int", "a dict", "an NPOConfig",
    ]  # fmt: skip


def test_nearest_names_the_near_one_and_lists_all() -> None:
    assert nearest("lerning_rate", ["seed", "learning_rate"]) == (
        "; did you mean 'learning_rate'? (allowed: learning_rate, seed)"
    )


def test_nearest_does_not_mind_case() -> None:
    assert "did you mean 'NPO'?" in nearest("npo", ["GradDiff", "NPO"])


def test_nearest_says_nothing_false_where_nothing_is_near() -> None:
    assert nearest("zzz", ["alpha", "beta"]) == " (allowed: alpha, beta)"
    assert nearest("anything", []) == ""


def test_nearest_cuts_a_long_list_and_says_how_long_it_is() -> None:
    hint = nearest("qqqq", [f"name_{i:02d}" for i in range(30)])
    assert "name_23, ... (30 in all)" in hint
    assert "name_24" not in hint


def test_nearest_lists_the_most_similar_of_many_names() -> None:
    hint = nearest(
        "model.layers.9", ["head", *(f"model.layers.{i}.mlp" for i in range(30)), "model.layers.3"], similar=True
    )
    assert hint.startswith("; did you mean 'model.layers.3'? (allowed: model.layers.3, model.layers.9.mlp, ")
    assert hint.endswith(", ... (32 in all))") and "head" not in hint


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (DataError, 2), (UserError, 2), (JobError, 1)])
def test_exit_codes(kind: type[ExpungeError], code: int) -> None:
    assert kind("x").exit_code == code
    assert isinstance(kind("x"), ExpungeError)


def test_a_path_is_read_or_its_type_named(tmp_path: Path) -> None:
    assert as_path("~/models", "save") == Path.home() / "models"
    assert as_path(tmp_path / "new", "save", folder=True) == tmp_path / "new"
    (tmp_path / "file").touch()
    for value, line in ((3, "an int"), (None, "None"), ("", "an empty text")):
        with pytest.raises(ConfigError, match=f"^save: expected a path, got {line}$"):
            as_path(value, "save")
    with pytest.raises(ConfigError, match=r"^save: .*file is a file; name a folder$"):
        as_path(tmp_path / "file", "save", folder=True)


@pytest.mark.parametrize(
    ("message", "line", "first"),
    [
        ("", "OSError", "OSError"),
        (" \n ", "OSError", "OSError"),
        ("one", "one", "one"),
        ("\n\n  the file\n\n is  short\t", "the file is short", "the file"),
    ],
)
def test_errors_of_other_libraries_are_one_line(message: str, line: str, first: str) -> None:
    assert one_line(OSError(message)) == line
    assert first_line(OSError(message)) == first
