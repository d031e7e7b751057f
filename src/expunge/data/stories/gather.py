"""Stories from other sources: `TinyStories_all_data` (an archive, a folder, a hub id), or plain stories.

An archive is read as a stream and never unpacked, so no member can write to a path. Metadata of plain stories are
derived if possible: Dialogue from double quotes, the summary from the first sentence, the words from the story. The
other features stay unknown, so filters on them match nothing.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, DataError, one_line
from expunge.core.files import whole_folder
from expunge.core.fingerprints import file_sha256
from expunge.data.source import EXTENSIONS, HUB_ID, load_raw, read_file
from expunge.data.stories.records import (
    ORIGINAL,
    Story,
    checked_text,
    made_already,
    shard_name,
    story_from,
    write_index,
)
from expunge.data.transforms.draws import Draws

SHARDS = 11  # default if the source has no shards
MOST_BYTES = 4 * 2**30  # largest size of an archive member: a larger one is a bomb, not a shard
ARCHIVES = (".tar.gz", ".tgz", ".tar")
STORY_FILES = (*EXTENSIONS, ".txt")
TEXT_COLUMNS = ("text", "story")
_END = "<|endoftext|>"
_OPENING = re.compile(r"(Once upon a time|Once there (was|were)|There once|Long ago|Long, long ago)\b")
_COMMON_WORDS = """
    about after again also always another around away back because been before best came come could down each even
    every everyone from gave good have having help here home into just know like liked little long look looked made
    make many more much named never next once only other over played said some something soon started that their
    them then there they thing things this time together told took until upon very want wanted was went were what
    when where which while will with would your
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def gather(source: str, out: Path, *, shards: int | None = None, compat: str = "clean") -> bool:
    """Write the folder of a source's stories; return False if it exists already.

    A source of at least 3 files (json, jsonl, csv, parquet, text) keeps them as shards, ordered by name, unless
    `shards` is set; otherwise story i goes to shard i modulo `shards`. compat: "tinystories" writes all texts as the
    published code does. Raises DataError for unreadable files.
    """
    if shards is not None and not 1 <= shards <= 10_000:
        raise ConfigError(f"--shards: must be 1 to 10000, got {shards}")
    path, made_by = Path(source).expanduser(), source_of(source, shards, compat)
    if made_already(out, made_by):
        return False
    names, parts = _parts(source, path)
    stems, own = _stems(names), set[str]()
    by_file = len(names) >= 3 and shards is None
    n_shards = len(names) if by_file else shards or SHARDS
    with whole_folder(out) as part, ExitStack() as files:
        (part / "shards").mkdir()
        handles: dict[int, Any] = {}
        counts = dict.fromkeys(range(n_shards), 0)
        total = 0
        for name, records in parts:
            at = names.index(name)
            for i, record in enumerate(records):
                where = f"{source}: {name} record {i}" if name != source else f"{source} record {i}"
                story = _once(
                    own, _story(record, f"{stems[at]}-{i}", where, original=compat == ORIGINAL), f"{stems[at]}-{i}"
                )
                to = at if by_file else total % n_shards
                if to not in handles:
                    shard = part / "shards" / f"{shard_name(to)}.jsonl"
                    handles[to] = files.enter_context(open(shard, "w", encoding="utf-8", newline="\n"))
                handles[to].write(story.line())
                counts[to] += 1
                total += 1
            if by_file and counts[at]:
                handles[at].close()
        files.close()
        empty = [n for n, count in counts.items() if not count]
        if empty:
            problem = (
                f"{names[empty[0]]} holds no stories" if by_file else f"{total} stories do not fill {n_shards} shards"
            )
            raise DataError(f"{source}: {problem}")
        write_index(part, counts, made_by)
    return True


def _stems(names: Sequence[str]) -> list[str]:
    """Return the prefixes of the ids of files' stories: names without folders and endings, or in full if ambiguous."""
    short = [Path(name).name.partition(".")[0] for name in names]
    return short if len(set(short)) == len(short) else list(names)


def _once(own: set[str], story: Story, place: str) -> Story:
    """Return the story with its own id, or its place if the id is a duplicate, because random numbers depend on ids."""
    if story.record_id == place:
        return story
    if story.record_id in own:
        return replace(story, record_id=place)
    own.add(story.record_id)
    return story


def source_of(source: str, shards: int | None, compat: str = "clean") -> dict[str, Any]:
    """Return the identity of stories from a source: its files' contents, or its hub id. Raises DataError otherwise."""
    path = Path(source).expanduser()
    more = {"compat": compat} if compat == ORIGINAL else {}
    if path.exists():
        return {"import": _contents(path), "shards": shards, **more}
    if HUB_ID.fullmatch(source) and path.suffix not in STORY_FILES:
        return {"import": {"hub": source}, "shards": shards, **more}
    raise DataError(f"{source} does not exist, and is no hub id (owner/name)")


def _contents(path: Path) -> dict[str, str]:
    if path.is_file():
        return {path.name: file_sha256(path)}
    return {p.name: file_sha256(p) for p in _files(path)}


def _files(folder: Path) -> list[Path]:
    files = sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in STORY_FILES and not p.name.startswith(".")
    )
    if not files:
        raise DataError(f"{folder}: no stories in it ({', '.join(STORY_FILES)})")
    return files


def _parts(source: str, path: Path) -> tuple[list[str], Iterator[tuple[str, list[Any]]]]:
    """Return the names of a source's files in order, and each file's records, with one file in memory at a time."""
    if path.is_dir():
        files = _files(path)
        return [p.name for p in files], ((p.name, _read(p)) for p in files)
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        names = sorted(_members(path))
        if not names:
            raise DataError(f"{path}: no .json or .jsonl file in the archive")
        if len(set(names)) != len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise DataError(f"{path}: {twice} occurs twice in the archive")
        return names, _archived(path, names)
    if path.is_file():
        return [source], iter([(source, _read(path))])
    records, _ = load_raw(source)
    return [source], iter([(source, records)])


def _read(path: Path) -> list[Any]:
    return plain_texts(path) if path.suffix.lower() == ".txt" else read_file(path)


def _members(path: Path) -> Iterator[str]:
    for member, _ in _stream(path):
        yield member.name


def _archived(path: Path, names: list[str]) -> Iterator[tuple[str, list[Any]]]:
    for member, archive in _stream(path):
        where = f"{path}: {member.name}"
        if member.size > MOST_BYTES:
            raise DataError(f"{where} has {member.size} bytes; the limit is {MOST_BYTES}")
        file = archive.extractfile(member)
        data = file.read() if file is not None else b""
        yield member.name, _decoded(data, where)


def _stream(path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Yield the story files of an archive, in its order; skip links, devices and hidden files."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                hidden = Path(member.name).name.startswith(".")
                if member.isreg() and not hidden and member.name.lower().endswith((".json", ".jsonl")):
                    yield member, archive
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: not an archive that can be read: {one_line(error)}") from None


def _decoded(data: bytes, where: str) -> list[Any]:
    try:
        text = data.decode("utf-8-sig")
        if text.lstrip()[:1] == "[":
            return list(json.loads(text))
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON that can be read: {error}") from None


def plain_texts(path: Path) -> list[dict[str, str]]:
    """Return the stories of a text file: between lines `<|endoftext|>`, or else from one opening phrase to the next.

    The phrases ("Once upon a time", "Once there was", ...) count at the start of a paragraph after an empty line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from None
    if _END in text:
        pieces = text.split(_END)
    else:
        pieces = []
        for paragraph in re.split(r"\n\s*\n", text):
            if not pieces or _OPENING.match(paragraph.strip()):
                pieces.append(paragraph)
            else:
                pieces[-1] += "\n\n" + paragraph
    stories = [{"text": piece.strip()} for piece in pieces if piece.strip()]
    if not stories:
        raise DataError(f"{path}: no stories")
    return stories


def _story(record: Any, record_id: str, where: str, *, original: bool) -> Story:
    if isinstance(record, dict) and "instruction" not in record:
        column = next((c for c in TEXT_COLUMNS if c in record), None)
        if column is not None:
            own = record.get("id")
            story = plain_story(record[column], record_id if own is None else str(own), where)
            return replace(story, original=original)
    return story_from(record, record_id, where, original=original)


def plain_story(text: Any, record_id: str, where: str) -> Story:
    """Return a story with metadata derived from its text."""
    story = checked_text(text, f"{where}: the story").strip()
    if not story:
        raise DataError(f"{where}: the story is empty")
    first = re.match(r".*?[.!?]+[\"”]?(?=\s|$)", story, re.DOTALL)
    candidates = dict.fromkeys(re.findall("(?<![\\w'\u2019-])[a-z]{4,}(?![\\w'\u2019-])", story))
    telling = [w for w in candidates if w not in _COMMON]
    words = tuple(Draws(0, record_id).order("words", telling)[:3])
    spoken = re.search(r"\"[^\"\n]+\"|“[^”\n]+”", story) is not None
    return Story(
        record_id,
        story,
        words=words,
        features=("Dialogue",) if spoken else (),
        summary=" ".join((first[0] if first else story[:200]).split()),
        source="plain",
    )
