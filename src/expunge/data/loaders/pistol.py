"""PISTOL (Qiu et al. 2024, arXiv:2406.16810): contracts as a graph, whose edges share companies and people."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.examples import Example, ExampleSet, qa_rows
from expunge.data.granularity import row_set
from expunge.data.source import is_hub_id, load_raw

HUB_ID = "xinchiqiu/PISTOL"
PARTS = {"1": "sample_data_1", "2": "sample_data_2"}
HUB_SUBSETS = {"1": "pistol_data_1", "2": "pistol_data_2"}
CONNECTED, INDEPENDENT = "retain_connected", "retain_independent"


def load_pistol(root: str, part: str, edges: Sequence[str]) -> dict[str, ExampleSet]:
    """Return the contracts to forget and to keep as `forget` and `retain`, and the kinds of kept ones.

    `retain_connected`: contracts with a party of a forgotten contract; `retain_independent`: the others. A kind
    without rows is left out. `forget_eval` and `retain_eval` are the same rows as `forget` and `retain`.

    Args:
        root: The hub id, or a folder with sample_data_1.json and sample_data_2.json (or its parent, whose `data` has
            them), with the columns question, answer and edge.
        part: 1 or 2.
        edges: The contracts to forget, such as A_C.

    Raises:
        ConfigError: For an edge that the file lacks.
        DataError: For a missing file or column.
    """
    if is_hub_id(root):
        raw, where = load_raw(root, subset=HUB_SUBSETS[part])
    else:
        folder = Path(root).expanduser()
        inner = folder / "data"
        at_data = not (folder / f"{PARTS[part]}.json").exists() and inner.is_dir()
        raw, where = load_raw(PARTS[part], root=str(inner if at_data else folder))
    for i, record in enumerate(raw):
        if not isinstance(record.get("edge"), str) or not record["edge"].strip():
            raise DataError(f"{where} row {i}: 'edge' must be the name of a contract, got {record.get('edge')!r}")
    rows = [
        replace(row, meta={"edge": record["edge"]})
        for row, record in zip(qa_rows(raw, name="full", where=where), raw, strict=True)
    ]
    known = list(dict.fromkeys(str(row.meta["edge"]) for row in rows))
    for edge in edges:
        if edge not in known:
            raise ConfigError(f"forget_split={edge}: {where} has no such contract{nearest(edge, known)}")
    if set(edges) == set(known):
        raise ConfigError(f"forget_split={','.join(edges)}: no contract is left to retain")
    return _sets(rows, edges)


def _sets(rows: Sequence[Example], edges: Collection[str]) -> dict[str, ExampleSet]:
    parties = {party for edge in edges for party in edge.split("_")}
    kinds: dict[str, list[Example]] = {"forget": [], CONNECTED: [], INDEPENDENT: []}
    for row in rows:
        edge = str(row.meta["edge"])
        if edge in edges:
            kinds["forget"].append(row)
        else:
            kinds[CONNECTED if parties & set(edge.split("_")) else INDEPENDENT].append(row)
    others = [row for row in rows if row.meta["edge"] not in edges]
    named = {"forget": kinds["forget"], "retain": others, "forget_eval": kinds["forget"], "retain_eval": others}
    named |= {kind: kinds[kind] for kind in (CONNECTED, INDEPENDENT) if kinds[kind]}
    return {name: row_set(name, some) for name, some in named.items()}
