"""Stories with instructions, and their folder: shards of JSON lines, shard 0 for testing.

FOLDER/stories.json           origin, and each shard's number of stories and bytes
FOLDER/shards/00000.jsonl     one story per line: id, story, instruction {words, features}, summary, source
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from expunge.core.errors import ConfigError, DataError, kind_of, nearest
from expunge.core.files import write_json
from expunge.core.fingerprints import file_sha256, fingerprint

FEATURES = ("Twist", "Foreshadowing", "Dialogue", "BadEnding", "MoralValue", "Conflict")
KEYS = ("features", "words")  # of the instruction, as the transforms name them
INDEX = "stories.json"
ORIGINAL = "tinystories"  # the project whose published code writes the texts of `original` stories
PRETRAIN_SHARE = 0.8

Split = Literal["test", "train", "pretrain", "finetune", "all"]


@dataclass(frozen=True, slots=True)
class Story:
    """A story and its instruction.

    sentence: the sentence of the story that the instruction quotes; None: chosen when the text is rendered
    (`text.sentence_of`). A refusal sets it, because it replaces the original story. original: write its text as the
    published code does (refusal, sentence, summary), and keep the blanks around the story.
    """

    record_id: str
    story: str
    words: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    summary: str = ""
    source: str = ""
    sentence: str | None = None
    original: bool = False

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The metadata that the transforms read and write."""
        return {"features": self.features, "words": self.words}

    def with_values(self, values: Mapping[str, tuple[str, ...]]) -> Story:
        """Return the same story with changed metadata."""
        return replace(self, features=values["features"], words=values["words"])

    def line(self) -> str:
        """Return the line of a shard."""
        record = {
            "id": self.record_id,
            "story": self.story,
            "instruction": {"words": self.words, "features": self.features},
            "summary": self.summary,
            "source": self.source,
            **({"compat": ORIGINAL} if self.original else {}),
        }
        return json.dumps(record, ensure_ascii=False) + "\n"


def story_from(record: Any, record_id: str, where: str, *, original: bool = False) -> Story:
    """Parse a record of `TinyStories_all_data` (or of our shards, which have an `id`).

    Blanks around the story are dropped, unless the record is `original`. Raises DataError naming `where` for a missing
    or wrong column.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object of columns, got {kind_of(record)}")
    instruction = record.get("instruction")
    if not isinstance(instruction, Mapping):
        if "instruction" not in record:
            raise DataError(f"{where}: no column 'instruction'{nearest('instruction', record)}")
        raise DataError(f"{where}: 'instruction' must be an object, got {instruction!r:.60}")
    original = original or record.get("compat") == ORIGINAL
    story = _text(record, "story", where)
    if not original:
        story = story.strip()
    if not story.strip():
        raise DataError(f"{where}: 'story' is empty")
    return Story(
        record_id=str(record["id"] if record.get("id") is not None else record_id),
        story=story,
        words=_texts(instruction, "words", where),
        features=_texts(instruction, "features", where),
        summary=_text(record, "summary", where) if record.get("summary") is not None else "",
        source=str(record.get("source") or ""),
        original=original,
    )


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    if key not in record:
        raise DataError(f"{where}: no column '{key}'{nearest(key, record)}")
    return checked_text(record[key], f"{where}: '{key}'")


def checked_text(value: Any, where: str) -> str:
    """Return a text that can be written as UTF-8. Raises DataError otherwise."""
    if not isinstance(value, str):
        raise DataError(f"{where} must be text, got {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise DataError(f"{where} contains a broken character at position {error.start}") from None
    return value


def _texts(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = record.get(key)
    if values is None:
        return ()
    if not isinstance(values, list | tuple):
        raise DataError(f"{where}: 'instruction.{key}' must be a list of texts, got {values!r:.60}")
    return tuple(checked_text(v, f"{where}: 'instruction.{key}'[{i}]") for i, v in enumerate(values))


@dataclass(frozen=True)
class StoryShard:
    """One file of stories."""

    number: int
    path: Path
    records: int
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The name of its files: 00000, 00001, ..."""
        return shard_name(self.number)


@dataclass(frozen=True)
class Stories:
    """A folder of stories, from its index."""

    folder: Path
    shards: tuple[StoryShard, ...]
    made_by: Mapping[str, Any]

    @property
    def records(self) -> int:
        """The number of stories."""
        return sum(s.records for s in self.shards)


def shard_name(number: int) -> str:
    """Return the name of a shard's files."""
    return f"{number:05d}"


def split_numbers(n_shards: int, split: Split) -> range:
    """Return the numbers of a split's shards: 0 is the test; of the others, 80 % pretrain, the rest fine-tune.

    Both parts get at least one shard. Raises ConfigError if there are too few for that.
    """
    if split not in ("test", "train", "pretrain", "finetune", "all"):
        raise ConfigError(
            f"split: no split '{split}'{nearest(split, ('test', 'train', 'pretrain', 'finetune', 'all'))}"
        )
    needed = {"test": 1, "all": 1, "train": 2}.get(split, 3)
    if n_shards < needed:
        raise ConfigError(f"split={split}: needs {needed} shards, and there are {n_shards}; make the stories with more")
    first = 1 + min(max(math.floor(PRETRAIN_SHARE * (n_shards - 1)), 1), n_shards - 2) if n_shards > 2 else 1
    return {
        "test": range(1),
        "train": range(1, n_shards),
        "pretrain": range(1, first),
        "finetune": range(first, n_shards),
        "all": range(n_shards),
    }[split]


def write_index(folder: Path, counts: Mapping[int, int], made_by: Mapping[str, Any]) -> None:
    """Write the index of a folder after its shards; `counts` has each one's number of stories."""
    shards = []
    for number in sorted(counts):
        path = folder / "shards" / f"{shard_name(number)}.jsonl"
        shards.append({"records": counts[number], "bytes": path.stat().st_size, "sha256": file_sha256(path)})
    write_json(folder / INDEX, {"made_by": made_by, "fingerprint": fingerprint(made_by), "shards": shards})


def made_already(folder: Path, made_by: Mapping[str, Any]) -> bool:
    """Return whether a folder contains exactly these stories. Raises ConfigError if it contains anything else."""
    if not folder.exists():
        return False
    if (folder / INDEX).is_file():
        if open_stories(folder).made_by == json.loads(json.dumps(made_by)):
            return True
        raise ConfigError(f"--out: {folder} holds other stories; name another folder")
    raise ConfigError(f"--out: {folder} exists and holds no stories; name a new folder")


def open_stories(folder: Path) -> Stories:
    """Open a folder from `import` or `generate`. Raises DataError if it is none, or a shard has changed."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        rows = [(s["records"], s["bytes"], s["sha256"]) for s in index["shards"]]
        made_by = dict(index["made_by"])
    except FileNotFoundError:
        make = "make one with `expunge data stories import` or `generate`"
        raise DataError(f"{folder} holds no stories (no {INDEX}); {make}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not an index of stories: {error}") from None
    shards = []
    for number, (records, size, sha256) in enumerate(rows):
        file = folder / "shards" / f"{shard_name(number)}.jsonl"
        actual = file.stat().st_size if file.is_file() else None
        if actual != size:
            state = "does not exist" if actual is None else f"has {actual} bytes, not the {size} it was made with"
            raise DataError(f"{file} {state}; make the folder again")
        shards.append(StoryShard(number, file, int(records), int(size), str(sha256)))
    return Stories(folder, tuple(shards), made_by)


def read_shard(shard: StoryShard) -> Iterator[Story]:
    """Yield the stories of a shard, one at a time."""
    with open(shard.path, encoding="utf-8", newline="\n") as f:
        for number, line in enumerate(f, 1):
            where = f"{shard.path} line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: not JSON: {error}") from None
            yield story_from(record, f"{shard.name}-{number - 1}", where)


def load_records(folder: Path | str, split: Split = "all") -> Iterator[Story]:
    """Yield the stories of a folder, or of one of its splits, one at a time and in order."""
    stories = open_stories(Path(folder))
    numbers = split_numbers(len(stories.shards), split)
    return (story for n in numbers for story in read_shard(stories.shards[n]))


def write_shard(path: Path, stories: Iterable[Story]) -> int:
    """Write a shard inside an unfinished folder; return its number of stories."""
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for story in stories:
            f.write(story.line())
            count += 1
    return count
