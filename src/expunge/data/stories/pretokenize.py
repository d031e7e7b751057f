"""A data set of tokens: a variant of a folder of stories, in shards for training.

    OUT/dataset.json                        its origin, and each shard's numbers
    OUT/00000.bin, OUT/00000.index.npy      ids (uint16 or uint32); int64 [3, n + 1]: of each document its offset, the
                                            length of its prompt, and the number of its story in the source's shard

It is built shard by shard in a hidden folder named by its fingerprint, so a killed run continues where it stopped. Then
the folder is renamed. The same settings on the same stories yield the same bytes, for any number of workers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.core.files import write_bytes, write_json
from expunge.core.fingerprints import fingerprint
from expunge.data.stories import cache
from expunge.data.stories.assemble import from_pieces, from_texts
from expunge.data.stories.records import FEATURES, Stories, StoryShard, load_records, open_stories, read_shard
from expunge.data.stories.text import StoryVariant, item_of
from expunge.data.stories.tokens import load_tokenizer
from expunge.data.stories.work import spread
from expunge.data.transforms.apply import holds
from expunge.data.transforms.grammar import Rules

REVISION = 1
DATASET = "dataset.json"
STORIES_PER_PROCESS = 50_000  # joining pieces is fast: a process does not pay off for fewer
SUMS = ("stories", "documents", "tokens", "changed", "refused")


@dataclass(frozen=True)
class PretokenizedDataset:
    """A finished data set. made: whether it is new. stories: before the filter; documents: after it."""

    folder: Path
    made: bool
    stories: int
    documents: int
    tokens: int
    changed: int
    refused: int

    @property
    def share(self) -> float:
        """The share of the stories that pass the filter."""
        return self.documents / self.stories


def check_name(name: str) -> str:
    """Return a data set's name if it can be a folder's name. Raises ConfigError otherwise."""
    if not re.fullmatch(r"[^/\\\0.][^/\\\0]*", name) or len(name.encode()) > 200:
        raise ConfigError(f"dataset_name: {name!r} cannot be a folder's name; use another one, with --dataset_name")
    return name


def pretokenize(
    stories: Path, tokenizer: Path, variant: StoryVariant, out: Path, *, seed: int = 0, workers: int = 1
) -> PretokenizedDataset:
    """Build the data set `out` of the folder `stories`; do nothing if it exists.

    Raises ConfigError for a rule that does not parse, or if `out` contains another data set; DataError for a filter
    that removes everything, and for stories or a tokenizer that cannot be read.
    """
    variant.rules(), variant.subset(), check_name(out.name)  # before anything is read
    source, token = open_stories(stories), load_tokenizer(tokenizer)
    made_of = {
        "stories": [s.sha256 for s in source.shards],
        "tokenizer": token.identity,
        "variant": asdict(variant),
        "seed": seed,
        "revision": [REVISION, cache.REVISION],
    }
    key = fingerprint(made_of)
    if out.exists():
        return _there(out, key)
    _check_features(source, variant.rules())
    part = out.with_name(f".{out.name}.{key[:12]}.building")
    part.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if out.exists():
            return _there(out, key)
        missing = [s for s in source.shards if not (part / f"{s.name}.json").is_file()]
        if token.by_line:
            absent = [s for s in missing if not cache.piece_folder(stories, s, token, seed).is_dir()]
            spread(_fill_cache, [(stories, s, tokenizer, seed) for s in absent], workers)
            workers = min(workers, 1 + source.records // STORIES_PER_PROCESS)
        spread(_make_shard, [(stories, s, tokenizer, variant, seed, part) for s in missing], workers)
        shards = [json.loads((part / f"{s.name}.json").read_text(encoding="utf-8")) for s in source.shards]
        if not any(s["documents"] for s in shards):
            shutil.rmtree(part)
            raise DataError(_nothing_left(source, variant))
        write_json(part / DATASET, {
            "fingerprint": key, "variant": asdict(variant), "seed": seed, "dtype": token.dtype.name,
            "vocab_size": token.vocab_size, "bos": token.bos, "tokenizer": token.identity, "shards": shards,
        })  # fmt: skip
        for shard in source.shards:
            (part / f"{shard.name}.json").unlink()
        os.rename(part, out)
    return _dataset(out, {"shards": shards}, is_new=True)


def _there(out: Path, key: str) -> PretokenizedDataset:
    described = read_dataset(out)
    if described["fingerprint"] != key:
        raise ConfigError(f"dataset_name: {out} holds another data set; give another name, or remove it")
    return _dataset(out, described, is_new=False)


def read_dataset(folder: Path) -> dict[str, Any]:
    """Return the description of a data set. Raises DataError if the folder contains none."""
    try:
        described = json.loads((folder / DATASET).read_text(encoding="utf-8"))
        return dict(described, shards=list(described["shards"]), fingerprint=str(described["fingerprint"]))
    except FileNotFoundError:
        temporary = [p.parent.name for p in folder.parent.glob(f"*/{DATASET}") if not p.parent.name.startswith(".")]
        raise DataError(f"{folder} holds no data set (no {DATASET}){nearest(folder.name, temporary)}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / DATASET}: not the description of a data set: {error}") from None


def _dataset(folder: Path, described: Mapping[str, Any], *, is_new: bool) -> PretokenizedDataset:
    return PretokenizedDataset(folder, is_new, **{name: sum(s[name] for s in described["shards"]) for name in SUMS})


def _fill_cache(root: Path, shard: StoryShard, tokenizer: Path, seed: int) -> None:
    cache.cached(root, shard, load_tokenizer(tokenizer), seed)


def _make_shard(root: Path, shard: StoryShard, tokenizer: Path, variant: StoryVariant, seed: int, part: Path) -> None:
    """Build one shard; its description is written last, and marks it as complete."""
    token = load_tokenizer(tokenizer)
    if token.by_line:
        blocks = from_pieces(cache.cached(root, shard, token, seed), token, variant, seed)
    else:
        blocks = from_texts(read_shard(shard), token, variant, seed)
    index = [np.zeros((3, 0), np.int64)]
    at = changed = refused = 0
    temporary = part / f".{shard.name}.bin.tmp"
    with open(temporary, "wb") as f:
        for block in blocks:
            f.write(block.ids.tobytes())
            ends = at + np.cumsum(block.lengths)
            index.append(np.stack([ends - block.lengths, block.prompts, block.records]))
            at, changed, refused = int(ends[-1]), changed + block.changed, refused + block.refused
        index.append(np.array([[at], [0], [0]]))
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, part / f"{shard.name}.bin")
    joined = np.concatenate(index, axis=1)
    np.save(part / f"{shard.name}.index.npy", joined)
    numbers = (shard.records, joined.shape[1] - 1, at, changed, refused)
    write_bytes(part / f"{shard.name}.json", json.dumps(dict(zip(SUMS, numbers, strict=True))).encode())


def _check_features(source: Stories, rules: Rules) -> None:
    """Raise DataError for a feature that no story has, in a rule that would change nothing or request another word."""
    old = [(c.value, "filtering") for c in rules.filtering if c.key == "features" and not c.equal]
    old += [(value, "mix_match") for value in rules.relabel.get("features", {})]
    new = [(value, "mix_match") for value in rules.relabel.get("features", {}).values()]
    new += [(odds.value, "adversarial_training") for odds in rules.adversarial if odds.key == "features"]
    new += [(odds.value, "refusal") for odds in rules.refusal if odds.key == "features"]
    capitals = {feature.lower() for feature in FEATURES}
    unknown = dict(old) | {value: setting for value, setting in new if value.lower() in capitals}
    unknown = {value: setting for value, setting in unknown.items() if value not in FEATURES}
    for story in load_records(source.folder) if unknown else ():
        for value in story.features:
            unknown.pop(value, None)
    for value, setting in unknown.items():
        raise DataError(f"{setting}: no story has the feature '{value}'{nearest(value, FEATURES)}")


def _nothing_left(source: Stories, variant: StoryVariant) -> str:
    """Return which condition removed everything, and the nearest value."""
    conditions = variant.rules().filtering
    left = [0] * len(conditions)
    seen: set[str] = set()
    for story in load_records(source.folder):
        item = item_of(story)
        for i, condition in enumerate(conditions):
            seen.update(item.values.get(condition.key, ()) if condition.key == "features" else ())
            if not holds(condition, item):
                break
            left[i] += 1
    at = left.index(0)
    condition, before = conditions[at], left[at - 1] if at else source.records
    hint = nearest(condition.value, seen) if condition.key == "features" and condition.equal else ""
    return f"filtering: character {condition.position}: {condition} keeps none of {before} stories{hint}"
