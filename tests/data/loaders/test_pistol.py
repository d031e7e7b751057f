"""PISTOL's contracts: which share a party with a forgotten one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.loaders.pistol import CONNECTED, INDEPENDENT, load_pistol

EDGES = ("A_B", "A_C", "B_D", "E1_F1")


def write_pistol(folder: Path, edges: tuple[str, ...] = EDGES, part: str = "1") -> Path:
    """Two questions for each contract, in the published columns."""
    rows = [{"question": f"{edge} {i}?", "answer": f"{i}.", "edge": edge} for edge in edges for i in range(2)]
    (folder / f"sample_data_{part}.json").write_text(json.dumps(rows))
    return folder


def edges_of(rows: object) -> list[str]:
    return [row.meta["edge"] for row in rows][::2]  # type: ignore[attr-defined]


def test_contracts_that_share_a_party_are_connected(tmp_path: Path) -> None:
    sets = load_pistol(str(write_pistol(tmp_path)), "1", ["A_C"])
    assert edges_of(sets["forget"]) == ["A_C"] and edges_of(sets["retain"]) == ["A_B", "B_D", "E1_F1"]
    assert edges_of(sets[CONNECTED]) == ["A_B"]  # A; C itself stands nowhere else
    assert edges_of(sets[INDEPENDENT]) == ["B_D", "E1_F1"]
    assert [row.row_id for row in sets["retain"]] == list(range(6))


def test_a_party_is_a_whole_name(tmp_path: Path) -> None:
    sets = load_pistol(str(write_pistol(tmp_path, ("E1_F1", "E11_F2"))), "1", ["E1_F1"])
    assert CONNECTED not in sets and edges_of(sets[INDEPENDENT]) == ["E11_F2"]


def test_the_folder_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_pistol(tmp_path / "data", part="2")
    assert len(load_pistol(str(tmp_path), "2", ["A_B", "A_C"])["forget"]) == 4


@pytest.mark.parametrize(
    ("edges", "message"),
    [(["A_c"], "forget_split=A_c: .*no such contract; did you mean 'A_C'"), (list(EDGES), "no contract is left")],
)
def test_wrong_contracts(tmp_path: Path, edges: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_pistol(str(write_pistol(tmp_path)), "1", edges)


def test_a_row_without_a_contract(tmp_path: Path) -> None:
    (tmp_path / "sample_data_1.json").write_text('[{"question": "a", "answer": "b"}]')
    with pytest.raises(DataError, match="row 0: 'edge' must be the name of a contract, got None"):
        load_pistol(str(tmp_path), "1", ["A_C"])
