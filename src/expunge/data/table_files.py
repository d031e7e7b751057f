"""Read table files: delimited text, JSON in its usual shapes, Arrow and folders of `save_to_disk`.

Each reader returns a list of records (column -> value) or raises DataError with the file, the line and a remedy.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError, kind_of, nearest, one_line

Records = list[dict[str, Any]]

PAIR = ("item 0", "item 1")  # columns of a row that is an array of two texts
CHATS = ("messages", "conversations", "prompt", "completion")  # one row, whose lists are turns
QUESTIONS = ("question", "instruction", "query", "input")  # one row, if the value is a text
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
HEADER = re.compile(r'(?:[^"\n]+|"[^"]*")*')  # the first line; a quoted name may contain line breaks
BLANK_LINES = re.compile(r"(?:[ \t]*(?:\r\n|\n|\r))*")
LINE_MARKS = re.compile(r"(?<=[\r\n])\ufeff")  # marks of the byte order inside a file: it was joined from several
RULE = re.compile(r"\s*(:?-+:?)?\s*")  # a field of the line below the header of a Markdown table
SEPARATOR = re.compile(r"sep=(.)\r?(?:\n|\Z)", re.IGNORECASE)  # Excel's first line, which names the delimiter
OTHER_FILES = (  # the first bytes, the name and a remedy for kinds of files that are no tables
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "save the sheet as 'CSV UTF-8', or unpack the archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as 'CSV UTF-8'"),
    (b"\x1f\x8b", "a gzip file", "unpack it with: gunzip -k"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it with: zstd -d"),
    (b"BZh", "a bzip2 file", "unpack it with: bunzip2 -k"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it with: unxz -k"),
    (b"\x93NUMPY", "an array of NumPy", "save its rows as CSV or JSON"),
    *((bytes((128, n)), "a pickle of Python", "save its rows as CSV, JSON or parquet") for n in range(2, 6)),
    (b"%PDF", "a PDF", "save its rows as CSV or text"),
    (b"SQLite format 3\0", "an SQLite database", "export the table as CSV"),
)
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class WrittenFloat(float):
    """A number of a JSON file. Its `repr` is the spelling in the file, so that 1.10 does not become 1.1."""

    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        """Parse the spelling of a number."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError if a key occurs twice, because only one value could be read."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} occurs twice in an object")
    return record


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_float=WrittenFloat)


def decode_text(data: bytes, path: Path) -> str:
    """Return a file's text: UTF-8, or UTF-16 and UTF-32 by their marks.

    Raises DataError with the command to convert it, or with a remedy for a file of another kind.
    """
    for start, kind, remedy in OTHER_FILES:
        if data.startswith(start):
            raise DataError(f"{path}: {kind}, no table of rows; {remedy}")
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None) or _unmarked(data)
    try:
        return data.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        out = path.with_name(f"{path.stem}-utf8{path.suffix}")
        raise DataError(
            f"{path} line {line}: not UTF-8 text (byte 0x{data[error.start]:02x}). If it was saved as Windows-1252 "
            f"(ANSI), convert it: iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(out))}"
        ) from None


def _unmarked(data: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of plain text is zero."""
    start = data[:200]
    if len(start) < 4 or b"\0" not in start:
        return None
    even, odd = start[0::2].count(0), start[1::2].count(0)
    if odd > len(start) // 4 and not even:
        return "utf-16-le"
    return "utf-16-be" if even > len(start) // 4 and not odd else None


def read_csv(text: str, path: Path) -> Records:
    """Read delimited text with a header.

    The delimiter gives every row the header's number of fields. Of several such delimiters it is the one with the most
    columns. Columns without a name and without values, as spreadsheets append, are left out.

    Raises DataError for a row with another number of fields than the header.
    """
    text = LINE_MARKS.sub("", text)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a field may be a whole book
    blank = BLANK_LINES.match(text)[0]  # type: ignore[index]
    text, first_line = text[len(blank) :], 1 + len(blank.splitlines())
    if path.suffix.lower() == ".tsv":
        return _delimited(text, path, "\t", first_line)
    if (named := SEPARATOR.match(text)) and named[1] in DELIMITERS:
        return _delimited(text[named.end() :], path, named[1], first_line + 1)
    header = HEADER.match(text)[0]  # type: ignore[index]
    used = [d for d in DELIMITERS if d in header] or [","]
    tables = []
    for delimiter in used:
        try:
            tables.append(_delimited(text, path, delimiter, first_line))
        except DataError:
            continue
    if tables:
        return max(tables, key=lambda records: len(records[0]) if records else 0)
    return _delimited(text, path, max(used, key=header.count), first_line)  # raises the error of this delimiter


def _delimited(text: str, path: Path, delimiter: str, first_line: int) -> Records:
    names = HEADER.match(text)[0].split(delimiter)  # type: ignore[index]
    blanks = len(names) > 1 and all(name.startswith(" ") for name in names[1:])  # they belong to the delimiter
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=blanks)
    rows: list[list[str]] = []
    whole = 0  # lines of whole rows
    try:
        header = [" ".join(name.split()) if name.splitlines() != [name] else name for name in next(reader, [])]
        whole = reader.line_num
        for fields in reader:
            whole = reader.line_num
            if fields == header and len(fields) > 1:
                raise DataError(
                    f"{path} line {reader.line_num + first_line - 1}: repeats the header, as in joined files; delete it"
                )
            if not fields or (len(header) > 1 and not any(field.strip() for field in fields)):
                continue  # delimiters alone are the empty line of a spreadsheet
            if len(fields) != len(header):
                raise DataError(
                    f"{path} line {reader.line_num + first_line - 1}: {len(fields)} fields, the header has "
                    f"{len(header)} (separated by {DELIMITERS[delimiter]}; put a field that contains one into double "
                    "quotes)"
                )
            rows.append(fields)
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise DataError(
                f"{path} line {whole + first_line}: a field begins with a double quote and does not end; close it, or "
                'double a quote that belongs to the text ("")'
            ) from None
        raise DataError(f"{path} line {reader.line_num + first_line - 1}: not csv: {error}") from None
    if delimiter == "|" and rows and all(RULE.fullmatch(field) for field in rows[0]):
        header, *rows = [[field.strip() for field in fields] for fields in (header, *rows[1:])]
    read = [k for k, name in enumerate(header) if name.strip() or any(fields[k].strip() for fields in rows)]
    names = [header[k] for k in read]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        problem = f"the column '{twice}' is twice" if twice.strip() else "two columns with values have no name"
        raise DataError(f"{path} line {first_line}: {problem} in the header; rename one")
    return [dict(zip(names, (fields[k] for k in read), strict=True)) for fields in rows]


def parse_json(text: str, place: str) -> Any:
    """Return one JSON value. Raises DataError at a place (a file and line)."""
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError as error:
        at = f" of line {error.lineno}" if error.lineno > 1 else ""
        raise DataError(f"{place}: not JSON: {error.msg} at column {error.colno}{at}") from None
    except (ValueError, RecursionError) as error:  # an integer of too many digits; too deep
        raise DataError(f"{place}: not JSON that can be read: {error}") from None


def read_json_array(text: str, path: Path) -> Records:
    """Read a JSON array of objects, of texts, or of pairs of a question and an answer; also one pair a line.

    A text becomes a record with the column `text`, a pair one with the columns of `PAIR`. Raises DataError naming the
    line or the item.
    """
    try:
        value = _JSON.decode(text)
    except json.JSONDecodeError as error:
        if (lines := _pair_lines(text)) is not None:
            return lines
        raise DataError(f"{path} line {error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read: {error}") from None
    if value and all(isinstance(item, str) for item in value):
        return [{"text": item} for item in value]
    if value and all(_is_pair(item) for item in value):
        return [dict(zip(PAIR, item, strict=True)) for item in value]
    return [as_record(item, f"{path} item {i}") for i, item in enumerate(value)]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == len(PAIR) and all(isinstance(part, str) for part in value)


def _pair_lines(text: str) -> Records | None:
    """Return the rows of a file with one JSON array of two texts in each line; None for any other file."""
    out: Records = []
    for line in filter(str.strip, text.splitlines()):
        try:
            value = _JSON.decode(line)
        except (ValueError, RecursionError):
            return None
        if not _is_pair(value):
            return None
        out.append(dict(zip(PAIR, value, strict=True)))
    return out


def read_json_object(text: str, path: Path) -> Records | None:
    """Read a file that is one JSON object: {"data": [rows]}, {"column": [values]}, or one row.

    Returns None if the text is no single object, as with JSON lines. Raises DataError if the file
    has several lists of rows.
    """
    try:
        value = _JSON.decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    from expunge.data.record_shapes import is_turn, rows_by_name

    if any(key in value for key in CHATS) or any(isinstance(value.get(key), str) for key in QUESTIONS):
        return [value]
    lists = {k: v for k, v in value.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)}
    if any(is_turn(rows[0]) for rows in lists.values()):
        return [value]
    if len(lists) == 1:
        (name, rows) = next(iter(lists.items()))
        return [as_record(item, f"{path} {name} item {i}") for i, item in enumerate(rows)]
    if len(lists) > 1:
        raise DataError(f"{path}: holds several lists of rows ({', '.join(lists)}); write the one to read to a file")
    counts = {k: len(v) for k, v in value.items() if isinstance(v, list)}
    if len(set(counts.values())) > 1 and any(counts.get(key, 0) > 1 for key in QUESTIONS):
        listed = ", ".join(f"{key} {n}" for key, n in counts.items())
        raise DataError(
            f"{path}: its columns have different numbers of values ({listed}); give one of each in every row"
        )
    columns = rows_by_name(value) or _columns_of(value)
    return columns if columns is not None else [value]


def read_json_objects(text: str, path: Path) -> Records | None:
    """Read objects over several lines each, one after another, with or without a comma between them.

    Returns None if the first line is a whole value, as with JSON lines, or the text has one line. Raises DataError
    with the line.
    """
    first, _, more = text.strip().partition("\n")
    if not more or first.strip() == "":
        return None
    try:
        _JSON.decode(first.strip().rstrip(","))
        return None
    except (ValueError, RecursionError):
        pass
    out: Records = []
    at, end = 0, len(text)
    while True:
        while at < end and (text[at].isspace() or (out and text[at] == ",")):
            at += 1
        if at == end:
            return out
        try:
            value, at = _JSON.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON that can be read: {error}") from None
        out.append(as_record(value, f"{path} object {len(out)}"))


def _columns_of(columns: Mapping[str, Any]) -> Records | None:
    """Return the rows of {"question": [...], "answer": [...]} or of pandas' {"question": {"0": ...}, ...}."""
    if all(isinstance(v, dict) for v in columns.values()):
        keys = list(next(iter(columns.values()), {}))
        if any(v.keys() != set(keys) for v in columns.values()):
            return None
        values: list[Any] = [[v[key] for key in keys] for v in columns.values()]
    elif _is_split(columns):
        return [dict(zip(columns["columns"], row, strict=True)) for row in columns["data"]]
    else:
        values = list(columns.values())
    if len(values) < 2 or not all(isinstance(v, list) and v and not isinstance(v[0], dict) for v in values):
        return None
    if len({len(v) for v in values}) != 1 or "messages" in columns or "conversations" in columns:
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _is_split(value: Mapping[str, Any]) -> bool:
    """Return whether an object is pandas' {"columns": ["question", ...], "index": [...], "data": [[...], ...]}."""
    names, rows = value.get("columns"), value.get("data")
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        return False
    return isinstance(rows, list) and all(isinstance(row, list) and len(row) == len(names) for row in rows)


def as_record(value: Any, place: str) -> dict[str, Any]:
    """Return a record. Raises DataError for anything but an object of columns."""
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected an object of columns, got {kind_of(value)}")
    return value


def read_parquet(data: bytes, path: Path) -> Records:
    """Read a parquet file. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(pa.BufferReader(data)).to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not parquet: {one_line(error)}") from None


def read_arrow(path: Path) -> Records:
    """Read an Arrow file, in the stream or the file format. Raises DataError."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path)) as source:
            start = source.read(24)
            if start.startswith(b"version https://git-lfs"):
                raise DataError(f"{path}: a pointer of Git LFS, not the data; fetch the data with: git lfs pull")
            opened = pa.ipc.open_file if start[:6] == b"ARROW1" else pa.ipc.open_stream
            source.seek(0)
            return opened(source).read_all().to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not an Arrow file: {one_line(error)}") from None


def read_saved_dataset(folder: Path) -> Records | None:
    """Read a folder of `datasets.Dataset.save_to_disk`; None for any other folder.

    Raises DataError for a folder of several splits, with the line that names one.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in folder.iterdir() if (p / "state.json").is_file())
        if len(splits) == 1:
            return read_saved_dataset(folder / splits[0])
        hint = nearest("", [str(folder / name) for name in splits])
        raise DataError(
            f"{folder}: contains several splits; name one, such as {folder / (splits or ['train'])[0]}{hint}"
        )
    if not (folder / "state.json").is_file():
        return None
    state = as_record(parse_json((folder / "state.json").read_text(encoding="utf-8"), str(folder / "state.json")), "")
    files = [str(f.get("filename")) for f in state.get("_data_files", ()) if isinstance(f, dict)]
    if state.get("_indices_data_files"):
        raise DataError(f"{folder}: its rows are a selection by indices; save it again after .flatten_indices()")
    if not files or any(not (folder / name).is_file() for name in files):
        raise DataError(f"{folder}: state.json names Arrow files that are not there")
    return [record for name in files for record in read_arrow(folder / name)]
