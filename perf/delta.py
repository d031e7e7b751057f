"""What lossless differences save: size and time for models that were fine-tuned or unlearned from one another.

    python perf/delta.py [--store saves/store] [--rounds 3]

Every model of a store is packed as its difference from the one it was made of, and unpacked again; the bytes must be
the same. Beside it stands what zstd makes of the weights alone, at the same level. Times are those of the best
round, on one thread, with the files in the page cache; both include a SHA-256 of the files. Without such a store, run
`expunge run study=quickstart` first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from expunge.study.delta import LEVEL, pack, unpack

MODEL = "model.safetensors"


def pairs(store: Path) -> list[tuple[str, Path, Path]]:
    """Name, weights and parent's weights of each model that another was made of."""
    records = [(path.parent, json.loads(path.read_text())) for path in sorted(store.glob("*/*/job.json"))]
    by_key = {record["key"]: folder for folder, record in records}
    out = []
    for folder, record in records:
        parent = by_key.get(record["parents"].get("model", record["parents"].get("base", "")))
        made = record["kind"] in ("train", "unlearn", "edit") and (folder / MODEL).is_file()
        if made and parent is not None and (parent / MODEL).is_file():
            out.append((f"{record['kind']} {record['label']}", folder / MODEL, parent / MODEL))
    return out


def best(rounds: int, do: Callable[[], object]) -> float:
    """Seconds of the quickest round."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        do()
        taken.append(time.perf_counter() - started)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("saves/store"))
    parser.add_argument("--rounds", type=int, default=3)
    parsed = parser.parse_args()
    found = pairs(parsed.store)
    if not found:
        raise SystemExit(f"{parsed.store} holds no model beside the one it was made of")
    print("| model | MB | delta | zstd alone | pack s | unpack s |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        delta, back = Path(folder) / "delta", Path(folder) / "back"
        for name, weights, parent in found:
            size = weights.stat().st_size
            packing = best(parsed.rounds, lambda w=weights, p=parent: pack(w, p, delta))
            unpacking = best(parsed.rounds, lambda p=parent: unpack(delta, p, back))
            if back.read_bytes() != weights.read_bytes():
                raise SystemExit(f"{name}: other bytes came back")
            alone = len(pa.Codec("zstd", compression_level=LEVEL).compress(weights.read_bytes(), asbytes=True))
            print(
                f"| {name} | {size / 1e6:.1f} | {delta.stat().st_size / size:.1%} | {alone / size:.1%} "
                f"| {packing:.3f} | {unpacking:.3f} |"
            )


if __name__ == "__main__":
    main()
