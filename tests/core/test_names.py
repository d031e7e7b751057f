"""Words that become file names, and settings that name parts of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from expunge.core.errors import ConfigError
from expunge.core.names import (
    LONGEST,
    AdaptedName,
    LayerCount,
    ModuleName,
    PartName,
    check_name,
    find_name,
    names_in,
)


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


@dataclass(frozen=True)
class Inner:
    targets: Literal["all"] | tuple[AdaptedName, ...] = "all"


@dataclass(frozen=True)
class Settings:
    layer: ModuleName = ""
    other: str = "model.layers.1"
    layers: tuple[ModuleName, ...] | None = None
    last: LayerCount = 0
    inner: Inner | None = None


def test_names_of_parts_are_found_by_the_types_of_the_fields() -> None:
    assert list(names_in(Settings(), "a")) == []
    assert list(names_in(Settings(inner=Inner()), "a")) == []
    full = Settings("x", layers=("y:input", "z"), last=3, inner=Inner(("q",)))
    assert list(names_in(full, "a")) == [
        PartName("a.layer", "module", "x"),
        PartName("a.layers[0]", "module", "y:input"),
        PartName("a.layers[1]", "module", "z"),
        PartName("a.last", "layers", 3),
        PartName("a.inner.targets[0]", "adapted", "q"),
    ]


def test_a_module_is_named_whole_or_by_its_end() -> None:
    names = ["", "m", "m.layers.1", "m.layers.11", "m.layers.1.mlp", "m.layers.11.mlp"]
    assert find_name(names, "m.layers.1", "k") == "m.layers.1"
    assert find_name(names, "layers.11", "k") == "m.layers.11"
    with pytest.raises(ConfigError, match=r"^k: 'mlp' is the end of 2 modules' names; give one of them: m.layers.1.ml"):
        find_name(names, "mlp", "k")
    with pytest.raises(ConfigError, match=r"^k: the model has no module 'm.layer.1'; did you mean 'm.layers.1'\?"):
        find_name(names, "m.layer.1", "k")
