from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from expunge.core.decode import below_key, decode, field_names, strict, value_at
from expunge.core.errors import ConfigError


@strict
@dataclass(frozen=True, kw_only=True)
class Inner:
    learning_rate: float = 1e-5
    steps: int = 1
    shuffle: bool = False
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate <= 1:
            raise ValueError("learning_rate must be in (0, 1]")


@strict
@dataclass(frozen=True, kw_only=True)
class Outer:
    train: Inner
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    seeds: tuple[int, ...] = (0,)
    other: Inner | None = None
    either: float | str = 0.5
    many: dict[str, Inner] = field(default_factory=dict)


@strict
@dataclass(frozen=True, kw_only=True)
class Range:
    low: int = 0
    high: int = 1
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.names:
            raise ValueError("names: none is named x")
        if self.low > self.high:
            raise ValueError(f"{self.low} is above {self.high}")


def complaint(data: Any, where: str = "", cls: type[Any] = Outer) -> str:
    with pytest.raises(ConfigError) as caught:
        decode(cls, data, where=where)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_whole_tree_is_decoded() -> None:
    task = decode(Outer, {"train": {"steps": 3}, "seeds": [1, 2], "other": {}, "many": {"m": {"shuffle": True}}})
    assert task == Outer(train=Inner(steps=3), seeds=(1, 2), other=Inner(), many={"m": Inner(shuffle=True)})


def test_numbers_written_as_text_are_read_because_yaml_leaves_them_so() -> None:
    task = decode(Outer, {"train": {"learning_rate": "1e-5", "steps": "3"}}).train
    assert task == Inner(learning_rate=1e-5, steps=3)
    assert type(task.learning_rate) is float


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ({"learning_rate": "fast"}, "train.learning_rate: should be a valid number, got 'fast'"),
        ({"learning_rate": [1]}, "train.learning_rate: should be a valid number, got [1]"),
        ({"learning_rate": None}, "train.learning_rate: should be a valid number, got None"),
        ({"learning_rate": True}, "train.learning_rate: should be a number, got True"),
        ({"learning_rate": float("nan")}, "train.learning_rate: must be in (0, 1], got nan"),
        ({"warmup": float("nan")}, "train.warmup: should be a finite number, got nan"),
        ({"warmup": "inf"}, "train.warmup: should be a finite number, got 'inf'"),
        ({"learning_rate": 2}, "train.learning_rate: must be in (0, 1], got 2"),
        ({"steps": 1.5}, "train.steps: should be a valid integer, got 1.5"),
        ({"steps": "1e3"}, "train.steps: should be a valid integer, got '1e3'"),
        ({"steps": False}, "train.steps: should be a number, got False"),
        ({"shuffle": "maybe"}, "train.shuffle: should be a valid boolean, got 'maybe'"),
        (3, "train: should be a group of keys, got 3"),
    ],
)
def test_wrong_values_in_a_nested_group(train: Any, line: str) -> None:
    assert complaint({"train": train}) == line


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({"name": 3}, "name: should be a valid string, got 3"),
        ({"kind": "c"}, "kind: should be 'a' or 'b', got 'c'"),
        ({"seeds": 3}, "seeds: should be a list, got 3; write [3]"),
        ({"seeds": [1, "x"]}, "seeds[1]: should be a valid integer, got 'x'"),
        ({"seeds": [1, True]}, "seeds[1]: should be a number, got True"),
        ({"other": {"steps": "x"}}, "other.steps: should be a valid integer, got 'x'"),
        ({"either": [1]}, "either: should be a valid number, got [1] (and 1 more)"),
        ({"many": {"m": {"learning_rate": -1}}}, "many.m.learning_rate: must be in (0, 1], got -1"),
    ],
)
def test_wrong_values_beside_it(extra: dict[str, Any], line: str) -> None:
    assert complaint({"train": {}} | extra) == line


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"train": {"stps": 3}}, "train.stps"),
        ({"train": {}, "other": {"stps": 3}}, "other.stps"),
        ({"train": {}, "many": {"m": {"stps": 3}}}, "many.m.stps"),
    ],
)
def test_an_unknown_key_is_named_in_full_with_the_nearest_right_one(data: dict[str, Any], key: str) -> None:
    assert complaint(data) == (
        f"{key}: unknown key; did you mean 'steps'? (allowed: learning_rate, shuffle, steps, warmup)"
    )


def test_a_misspelt_key_is_news_before_the_missing_one() -> None:
    assert complaint({"trian": {}}).startswith("trian: unknown key; did you mean 'train'?")


def test_a_missing_key() -> None:
    assert complaint({}) == "train: missing"
    assert complaint({}, where="study") == "study.train: missing"


def test_where_stands_before_each_key() -> None:
    assert complaint({"train": {"steps": "x"}}, "study").startswith("study.train.steps: ")


def test_a_group_that_is_wrong_as_a_whole_is_not_written_out() -> None:
    assert complaint({"low": 2, "high": 1, "names": []}, cls=Range) == "Range: 2 is above 1"
    assert complaint({"names": ["x"]}, "eval", cls=Range) == "eval.names: none is named x, got ['x']"


def test_not_a_mapping_and_keys_that_are_not_text() -> None:
    assert complaint([1]) == "Outer: expected a group of keys, got [1]"
    assert complaint({"train": {}, 3: 4}) == "3: a key must be text, got 3"


def test_field_names() -> None:
    assert field_names(Inner) == ["learning_rate", "steps", "shuffle", "warmup"]


def test_the_constructor_raises_the_error_of_a_group() -> None:
    """Also if a group creates another one: the file's key is named, not the inner class."""

    @strict
    @dataclass(frozen=True)
    class Share:
        share: float = 0.5

        def __post_init__(self) -> None:
            if self.share > 1:
                raise ValueError("share must be at most 1")

    @strict
    @dataclass(frozen=True)
    class Copy:
        share: float = 0.5

        def __post_init__(self) -> None:
            Share(share=self.share)

    with pytest.raises(ConfigError, match=r"^Share\.share: must be at most 1, got 2$"):
        Share(share=2)
    with pytest.raises(ConfigError, match=r"^Copy\.share: must be at most 1, got 2$"):
        Copy(share=2)
    with pytest.raises(ConfigError, match=r"^a\.share: must be at most 1, got 2$"):
        decode(Copy, {"share": 2}, where="a")


def test_a_value_is_found_by_its_dotted_key_and_written_below_one() -> None:
    tree = below_key("a.b", 1)
    assert tree == {"a": {"b": 1}} and below_key("", tree) is tree
    assert (value_at(tree, "a.b"), value_at(tree, "a"), value_at(tree, "a.c", "none")) == (1, {"b": 1}, "none")
    assert value_at(tree, "a.b.c") is None
