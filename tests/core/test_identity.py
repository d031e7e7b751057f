from __future__ import annotations

import dataclasses
import enum
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from expunge.core.fingerprints import canonical, file_sha256, fingerprint, folder_sha256


class Kind(enum.Enum):
    ONE = "one"


@dataclass(frozen=True)
class Setting:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)
    kind: Kind = Kind.ONE


def test_a_known_value_keeps_its_fingerprint() -> None:
    # sha256 of the text {"a":[1,null,true],"b":"\u00e9"}; a change here orphans every stored artifact
    expected = "8fe5149205aa9a0cac85780e565ce3b64d9daf3bc6915870d52c2be3626a8c02"
    assert fingerprint({"b": "é", "a": [1, None, True]}) == expected


def test_the_order_of_keys_does_not_count_that_of_lists_does() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_whole_floats_are_the_integers_they_equal() -> None:
    assert fingerprint({"alpha": 1.0}) == fingerprint({"alpha": 1})
    assert fingerprint(0.1) != fingerprint(0.1 + 2e-17 * 10)
    assert fingerprint(-0.0) == fingerprint(0)


def test_kinds_that_look_alike_differ() -> None:
    prints = [fingerprint(v) for v in (1, "1", True, None, [1], {"1": 1})]
    assert len(set(prints)) == len(prints)


def test_dataclasses_and_enums_count_by_their_values() -> None:
    assert canonical(Setting()) == {"rate": 0.1, "sizes": [1, 2], "kind": "one"}
    # the order in which a class lists its fields does not count
    assert fingerprint(Setting()) == fingerprint({"sizes": [1, 2], "kind": "one", "rate": 0.1})
    assert fingerprint(Setting()) != fingerprint(dataclasses.replace(Setting(), rate=0.2))


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, Path("x"), {1, 2}, b"x", object(), {1: 2}, [math.nan], {"k": Path("x")}, Setting]
)
def test_what_has_no_stable_form_raises(value: Any) -> None:
    with pytest.raises(TypeError, match="a fingerprint"):
        fingerprint(value)


def test_another_process_gives_the_same_fingerprint() -> None:
    code = "from expunge.core.fingerprints import fingerprint; print(fingerprint({'z': [1.5, 'x'], 'a': {'k': None}}))"
    for seed in ("1", "2"):  # of the hashes of text, which order sets and used to order mappings
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert out.stdout.strip() == fingerprint({"a": {"k": None}, "z": [1.5, "x"]})


def test_files_count_by_name_and_content_not_by_place(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a").write_bytes(b"abc")
        (tmp_path / place / "b").write_bytes(b"")
    assert file_sha256(tmp_path / "here/a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    first = folder_sha256(tmp_path / "here", ["a", "b"])
    assert first == folder_sha256(tmp_path / "there", ["b", "a"])
    (tmp_path / "there/b").write_bytes(b"x")
    assert first != folder_sha256(tmp_path / "there", ["a", "b"])
