"""Rows in the page: packed, cut, thinned evenly."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import math
from typing import Any

from expunge.report.examples import ASKED, SAID, pack, pack_rows
from expunge.report.model import Explorer, ReportEntry, RowScore

SCORES = (RowScore("probability"), RowScore("truth ratio", "low"))


def explorer(rows: int, message: str = "yes", value: float = 0.5) -> Explorer:
    entries = (
        ReportEntry("forget", k, f"{k}?", "a", (message, None), ((value, 1e6), (0.25, math.inf))) for k in range(rows)
    )
    return Explorer(("full", "npo"), SCORES, tuple(entries))


def unpacked(data: str) -> dict[str, Any]:
    return dict(json.loads(gzip.decompress(base64.b64decode(data))))


def test_everything_fits() -> None:
    packed = pack_rows(explorer(7), 10_000)
    result = unpacked(packed.data)
    assert (packed.shown, packed.total, packed.cut) == (7, 7, False)
    assert result["models"] == ["full", "npo"] and result["said"] == [["yes"] * 7, [None] * 7]
    assert result["values"] == [[[0.5] * 7, [1_000_000] * 7], [[0.25] * 7, [None] * 7]]
    assert result["scores"][1] == {"name": "truth ratio", "known": "low"}
    assert result["sets"] == ["forget"] and result["set"] == [0] * 7


def test_thinned_evenly_to_fit() -> None:
    packed = pack_rows(explorer(3000), 6000)
    ids = unpacked(packed.data)["id"]
    assert len(packed.data) <= 6000 and packed.shown == len(ids) > 300
    gaps = {b - a for a, b in itertools.pairwise(ids)}
    assert ids[0] == 0 and max(gaps) - min(gaps) <= 1


def test_nothing_fits() -> None:
    assert pack_rows(explorer(50), 10).shown == 0
    assert pack_rows(Explorer(), 1000).total == 0


def test_long_texts_are_cut_and_it_is_said() -> None:
    packed = pack_rows(explorer(1, message="x" * 1000), 10_000)
    (output,) = unpacked(packed.data)["said"][0]
    assert packed.cut and len(output) == SAID < ASKED and output.endswith("x\u2026")


def test_not_a_number_is_none() -> None:
    assert unpacked(pack_rows(explorer(1, value=math.nan), 10_000).data)["values"][0][0] == [None]


def test_the_same_text_packs_the_same() -> None:
    assert pack("a" * 100) == pack("a" * 100)
