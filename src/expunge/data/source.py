"""Read raw records from a local file or the Hugging Face hub, without pickles and without code of a data set."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from expunge.core.errors import ConfigError, DataError, nearest, nearest_name, one_line
from expunge.data.table_files import (
    Records,
    as_record,
    decode_text,
    parse_json,
    read_arrow,
    read_csv,
    read_json_array,
    read_json_object,
    read_json_objects,
    read_parquet,
    read_saved_dataset,
)

EXTENSIONS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow")
MOST_BYTES = 2 << 30  # rows need several times as much memory as their file has bytes
WEB_PAGE = re.compile(r"\s*<(?:!doctype\s+)?html\b", re.IGNORECASE)
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def load_raw(
    source: str, *, root: str | None = None, subset: str | None = None, split: str = "train"
) -> tuple[Records, str]:
    """Read records, and return them with a label of their source for error messages.

    Args:
        source: A file, a folder (then `subset` names the file in it) or a hub id (`owner/name`, then `subset` is the
            hub's subset). With `root`: a file name, with or without extension, or a subset in it.
        root: A folder or a hub id to read from. With `subset`, that is read from `root` instead of `source`, so `root`
            can replace a hub id.
        subset: The file or subset.
        split: The hub's split; a local file has only one.

    Raises:
        DataError: If the source is missing, unreadable or out of reach.
        ConfigError: For a split of a local file.
    """
    place, name = (source, subset) if root is None else (root, subset or source)
    if is_hub_id(place):
        return _from_hub(place, name, split)
    path = _find(Path(place).expanduser(), name)
    if split != "train":
        raise ConfigError(f"split={split}: {place} is local, and a local file has no splits; name the file itself")
    return read_file(path), str(path)


def find_local(place: str, name: str) -> Path | None:
    """Return the file of a name in a local folder; None for a hub id. Raises DataError if there is none."""
    return None if is_hub_id(place) else _find(Path(place).expanduser(), name)


def load_split(place: str, subset: str, split: str, key: str = "data.root") -> tuple[Records, str]:
    """Read one split of one subset of a data set, and return it with a label of its source.

    `place` is a hub id, or a local folder with the same layout: `subset/split-*-of-*.parquet` as on the hub, or
    `subset/split` or `subset` with one of the extensions of `read_file`. key: the setting of `place`, for errors.
    Raises DataError.
    """
    if is_hub_id(place):
        return _from_hub(place, subset, split, key)
    folder = Path(place).expanduser()
    shards = sorted((folder / subset).glob(f"{split}-*-of-*.parquet"))
    if shards:
        return [record for shard in shards for record in read_file(shard)], f"{folder / subset}/{split}"
    if not (folder / subset).is_dir() and any((folder / f"{subset}{e}").is_file() for e in EXTENSIONS):
        path = _with_extension(folder, subset)
    else:
        path = _with_extension(folder / subset, split)
    return read_file(path), str(path)


def file_bytes(path: Path) -> bytes:
    """Return the bytes of a file of rows: as many as it has now, because a file that is written may grow without end.

    Raises DataError for a device or a pipe, for a file that cannot be read, and for one that would fill the memory.
    """
    try:
        if path.exists() and not path.is_file():  # /dev/zero has no end, and a pipe can be read once or never
            raise DataError(f"{path} is a device or a pipe; name a file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(f"{path} has {size} bytes, at most {MOST_BYTES} are read; name a file of fewer rows")
        with path.open("rb") as file:
            return file.read(size)  # a file of /proc has no size, and some wait to be read
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_file(path: Path) -> Records:
    r"""Read JSON, JSON lines, csv or tsv (with a header), parquet, Arrow, or a folder of `save_to_disk`.

    The content decides the format. Lines end only at "\n", because rows may contain other line separators. Raises
    DataError with the file and line.
    """
    if path.is_dir():
        saved = read_saved_dataset(path)
        if saved:
            return saved
        raise DataError(f"{path} is a folder; name a file in it{nearest('', _names(path))}")
    data = file_bytes(path)
    if data.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: a pointer of Git LFS, not the data; fetch the data with: git lfs pull")
    if data[:4] == b"PAR1":
        records = read_parquet(data, path)
    elif path.suffix.lower() == ".arrow" or data[:6] == b"ARROW1":
        records = read_arrow(path)
    else:
        text = decode_text(data, path)
        start = text.lstrip()[:1]
        if WEB_PAGE.match(text):
            raise DataError(f"{path}: a web page, no table of rows; download the file that the page shows or links to")
        if path.suffix.lower() == ".parquet" and start not in ("[", "{"):
            raise DataError(f"{path}: its content is neither parquet nor JSON; name a table of fields NAME.csv")
        if start == "[":
            records = read_json_array(text, path)
        elif start == "{":
            whole = read_json_object(text, path)
            whole = read_json_objects(text, path) if whole is None else whole
            records = _lines(text, path) if whole is None else whole
        elif path.suffix.lower() in (".csv", ".tsv") or (path.suffix.lower() == ".md" and start == "|"):
            records = read_csv(text, path)
        else:
            records = _lines(text, path)
    if not records:
        raise DataError(f"{path}: no rows")
    return records


def is_hub_id(place: str) -> bool:
    """Return whether a name means the hub: `owner/name`, not on disk, and `owner` is no local folder either."""
    path = Path(place).expanduser()
    return (
        HUB_ID.fullmatch(place) is not None
        and not path.exists()
        and not path.parent.is_dir()
        and path.suffix.lower() not in EXTENSIONS
    )


FEW = 12  # folders that a message lists next to one that is missing


def _find(place: Path, name: str | None) -> Path:
    if name is None:
        if place.is_dir():
            raise DataError(f"{place} is a folder; name a file in it{nearest('', _names(place))}")
        if place.is_file():
            return place
        return _with_extension(place.parent, place.name)
    if place.is_file():
        raise DataError(f"{place} is a file, so '{name}' cannot be read from it; name its folder")
    return _with_extension(place, name)


def _with_extension(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        missing = next(p for p in [folder, *folder.parents] if p.parent.is_dir())
        others = _names(missing.parent, files=False)
        near = nearest_name(missing.name, others)
        few = nearest(missing.name, others) if len(others) <= FEW else f"; did you mean '{near}'?" if near else ""
        raise DataError(f"{missing} does not exist{few}")
    for extension in ("", *EXTENSIONS):
        path = folder / f"{name}{extension}"
        if path.is_file():
            return path
    path = folder / name
    raise DataError(f"{path} does not exist{nearest(path.name, _names(path.parent))}")


def _names(folder: Path, *, files: bool = True) -> list[str]:
    """Return the readable files (or else the folders) of a folder."""
    if not folder.is_dir():
        return []
    paths = [p for p in folder.iterdir() if not p.name.startswith(".")]
    return [p.name for p in paths if (p.suffix.lower() in EXTENSIONS and p.is_file() if files else p.is_dir())]


def _lines(text: str, path: Path) -> Records:
    out = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path} line {number}"
            if number == 1 and path.suffix.lower() not in EXTENSIONS and line.lstrip()[0] != "{":
                raise DataError(f"{place}: no JSON; name a table of fields with commas between them NAME.csv")
            value = parse_json(_without_comma(line), place)
            out.append({"text": value} if isinstance(value, str) else as_record(value, place))
    return out


def _without_comma(line: str) -> str:
    """Return a line without the comma after its object, as in an array whose brackets were removed."""
    plain = line.rstrip()
    return plain.removesuffix(",") if plain.endswith("},") else line


def _from_hub(hub_id: str, subset: str | None, split: str, key: str = "data.root") -> tuple[Records, str]:
    import datasets  # takes seconds to import, so only for the hub

    from expunge.core.hub import cache_if_unreachable

    where = hub_id + (f":{subset}" if subset else "") + f"[{split}]"
    advice = f"; there is no local folder '{hub_id}' either; to read a local folder, set {key}= (root= in Python)"
    try:
        with cache_if_unreachable():
            data = datasets.load_dataset(hub_id, subset, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(f"{where}: not on the Hugging Face hub: {one_line(error)}{advice}") from error
    except ValueError as error:  # an unknown subset or split
        raise DataError(f"{where}: {_choice(error, subset, split)}") from error
    except (ConnectionError, TimeoutError) as error:
        raise DataError(f"{where}: the Hugging Face hub is out of reach ({one_line(error)}){advice}") from error
    except Exception as error:  # a full disk, a bad file, or the transport's own errors, which share no base
        raise DataError(f"{where}: cannot be loaded: {one_line(error)}{advice}") from error
    records = data.to_list()
    if not records:
        raise DataError(f"{where}: no rows")
    return records, where


def _choice(error: ValueError, subset: str | None, split: str) -> str:
    """Return the hub's message about a subset or split, with the nearest right name if it lists the names."""
    message = one_line(error)
    listed = re.search(r"(?:Available|one of):? (\[.*?\])", message)
    if listed is None:
        return message
    try:
        allowed = ast.literal_eval(listed[1])
    except (ValueError, SyntaxError):
        return message
    kind, name = ("split", split) if "split" in message.lower() else ("subset", str(subset))
    return f"unknown {kind} '{name}'{nearest(name, allowed)}"
