from __future__ import annotations

from typing import Any

import pytest

from expunge.cli.references import environment_readable, resolve
from expunge.cli.words import Verbatim
from expunge.core.errors import ConfigError


def test_a_reference_has_the_value_and_the_type_of_its_key() -> None:
    tree = {"n": 3, "group": {"list": ["${n}", "x${n}"], "whole": "${group.list}"}}
    assert resolve(tree) == {"n": 3, "group": {"list": [3, "x3"], "whole": [3, "x3"]}}


def test_an_escaped_reference_and_a_typed_word_stay_text() -> None:
    assert resolve({"a": 1, "b": r"\${a} ${a}", "c": Verbatim("${a}")}) == {"a": 1, "b": "${a} 1", "c": "${a}"}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "${nam}"}, r"^name: \$\{nam\} refers to no key; did you mean 'name'"),
        ({"a": "${b}", "b": "${a}"}, "refers to itself"),
        ({"a": "${b}", "b": "???"}, r"^b: missing; give b=\.\.\."),
        ({"a": ["x" * 1000] * 40, "b": ["${a}"] * 40}, "^b.*its references multiply to more than 1000000 characters"),
    ],
)
def test_a_wrong_reference_names_its_key(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(tree)


def test_the_environment_is_read_only_if_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_FOLDER", "${a}")
    with pytest.raises(ConfigError, match=r"^a: .*--allow-env"):
        resolve({"a": "${oc.env:SOME_FOLDER}"})
    with environment_readable(True):
        assert resolve({"a": "${oc.env:SOME_FOLDER}"}) == {"a": "${a}"}
