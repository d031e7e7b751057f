"""`expunge judge`: a judge's scores of a file of generations, with their number and interval."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError, DataError, JobError, nearest
from expunge.core.terminal import say
from expunge.core.yaml_text import read_yaml

if TYPE_CHECKING:
    from expunge.core.records import GeneratedText
    from expunge.judges.api import Judge, JudgementTable

KINDS = ("rules", "classifier", "http", "model")
COLUMNS = ("generation", "text")  # columns of the text, in order of preference


def add_judge(commands: Any) -> None:
    """Add `judge` to the commands of a parser."""
    text = "score generations: by rules, by a local classifier, or by a model behind a chat API"
    sub = commands.add_parser(
        "judge",
        help=text,
        usage="expunge judge --rules|--classifier|--http|--model FILE [calibrate] FILE",
        description=f"{text[0].upper()}{text[1:]}.",
        allow_abbrev=False,
    )
    sub.add_argument(
        "file", nargs="+", metavar="[calibrate] FILE",
        help="generations: JSON lines, CSV or parquet with a column generation or text; after the word calibrate, the "
        "judge's agreement with the labels of the file",
    )  # fmt: skip
    how = sub.add_mutually_exclusive_group(required=True)
    how.add_argument("--rules", type=Path, metavar="FILE.yaml", help="rules in the format of docs/how-to/judges.md")
    how.add_argument("--classifier", type=Path, metavar="DIR", help="a saved classifier")
    how.add_argument("--http", type=Path, metavar="FILE.yaml", help="question, model and base_url of a chat API")
    how.add_argument("--model", type=Path, metavar="FILE.yaml", help="question and model of a local judge")
    sub.add_argument("--label", metavar="COLUMN", default="label", help="calibrate: the column of labels (yes, no)")
    sub.add_argument("--by", metavar="COLUMN", help="a line for each value of a column, such as step")
    sub.add_argument("--out", type=Path, metavar="FILE.jsonl", help="write the verdict on every generation")
    sub.set_defaults(command=_judge)


def _judge(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.files import write_text
    from expunge.judges.api import judge_texts

    calibrating = parsed.file[:1] == ["calibrate"] and len(parsed.file) > 1
    if len(parsed.file) != 1 + calibrating:
        raise ConfigError(f"judge: expected one file, got {' '.join(parsed.file)}; or calibrate FILE")
    parsed.file = Path(parsed.file[-1])
    _check_out(parsed)
    judge = _judge_of(parsed)
    if calibrating:
        return _calibrate(judge, parsed.file, parsed.label)
    records = _records(parsed.file)
    groups = _groups(records, parsed.by, parsed.file)
    verdicts: dict[int, dict[str, Any]] = {}
    for value, numbers in groups.items():
        table = judge_texts(judge, [_text(records[i], i, parsed.file) for i in numbers])
        say(f"{'' if value is None else f'{parsed.by}={value} '}{summary_line(table)}")
        for line in table.lines:
            score = None if math.isnan(line.score) else line.score
            verdicts[line.sample] = {"record": line.sample, "score": score, "reason": line.reason}
    if parsed.out is not None:
        text = "".join(json.dumps(verdicts[i], ensure_ascii=False) + "\n" for i in sorted(verdicts))
        try:
            write_text(parsed.out, text)
        except OSError as error:
            raise JobError(f"--out: {parsed.out} cannot be written: {error.strerror or error}") from None
        say(f"written: {parsed.out}")
    if all(line["score"] is None for line in verdicts.values()):
        raise JobError(f"{parsed.file}: no text has a score")
    return 0


def _check_out(parsed: argparse.Namespace) -> None:
    """Raise ConfigError if the output is a folder or lies in the classifier."""
    if parsed.out is None:
        return
    if parsed.out.is_dir():
        raise ConfigError(f"--out: {parsed.out} is a folder; name a file")
    if parsed.classifier is not None and parsed.out.resolve().is_relative_to(parsed.classifier.resolve()):
        raise ConfigError(f"--out: {parsed.out} is inside --classifier {parsed.classifier}; name another file")


def summary_line(table: JudgementTable) -> str:
    """Return the scores of a set of texts as one line."""
    if math.isnan(table.mean):
        return f"{table.judge}: no number: {table.reason}"
    ends = "" if math.isnan(table.ci_low) else f" [{table.ci_low:.3f}, {table.ci_high:.3f}] ({table.interval})"
    warning = f"; {table.warning}" if table.warning else ""
    return f"{table.judge}: {table.mean:.3f}{ends}, n={table.n}{warning}"


def _judge_of(parsed: argparse.Namespace) -> Judge:
    from expunge.judges.make import judge_of

    kind = next(kind for kind in KINDS if getattr(parsed, kind) is not None)
    value = getattr(parsed, kind)
    return judge_of(kind, value if kind == "classifier" else read_yaml(value, f"--{kind}")).make()


def _calibrate(judge: Judge, path: Path, column: str) -> int:
    """Print a judge's agreement with the labels of a file."""
    from expunge.judges.api import JudgeReply
    from expunge.judges.calibration import calibrate

    records = _records(path)
    labels = [_label(record, i, path, column) for i, record in enumerate(records)]
    texts = [_text(record, i, path) for i, record in enumerate(records)]
    scores = [v.score for v in judge.judge([JudgeReply(t.generation, t.prompt, t.reference) for t in texts])]
    c = calibrate(scores, labels)
    say(f"{judge.name}: agrees with {c.accuracy:.3f} of {c.n} labels [{c.ci_low:.3f}, {c.ci_high:.3f}] (wilson)")
    say(f"false yes {c.false_positive_rate:.3f} of {c.n - c.n_positive} no")
    say(f"false no {c.false_negative_rate:.3f} of {c.n_positive} yes")
    say(f"AUC {c.auc:.3f}; Brier {c.brier:.3f}; calibration error {c.calibration_error:.3f}")
    if c.n_missing:
        say(f"without a score: {c.n_missing}")
    return 0


def _label(record: Mapping[str, Any], number: int, path: Path, column: str) -> bool:
    """Return a record's label. Raises DataError unless it is yes or no, true or false, 1 or 0."""
    if column not in record:
        raise DataError(f"{path} record {number}: no column {column!r}{nearest(column, record)}")
    words = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    word = str(record[column]).strip().lower()
    if word not in words:
        raise DataError(f"{path} record {number}: {column!r} must be yes or no, got {record[column]!r:.60}")
    return words[word]


def _records(path: Path) -> list[Any]:
    from expunge.data.source import read_file

    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file{nearest(path.name, beside)}")
    records = read_file(path)
    if not records:
        raise DataError(f"{path}: no generations in it")
    return records


def _groups(records: Sequence[Any], by: str | None, path: Path) -> dict[Any, list[int]]:
    """Return the record numbers of each value of a column, in order of first appearance."""
    if by is None:
        return {None: list(range(len(records)))}
    out: dict[Any, list[int]] = {}
    for i, record in enumerate(records):
        if by not in record:
            raise DataError(f"{path} record {i}: no column {by!r}{nearest(by, record)}")
        out.setdefault(str(record[by]), []).append(i)
    return out


def _text(record: Mapping[str, Any], number: int, path: Path) -> GeneratedText:
    """Return a record as a generation. Records with one row_id are samples of one row; without it each is one row."""
    from expunge.core.records import GeneratedText

    column = next((name for name in COLUMNS if name in record), None)
    if column is None:
        raise DataError(f"{path} record {number}: no column 'generation' or 'text'{nearest('generation', record)}")
    values = {name: record.get(name) or "" for name in (column, "prompt", "reference")}
    for name, value in values.items():
        if not isinstance(value, str):
            raise DataError(f"{path} record {number}: {name!r} must be text, got {value!r:.60}")
    row = record.get("row_id", number)
    if isinstance(row, bool) or not str(row).isdecimal():
        raise DataError(f"{path} record {number}: 'row_id' must be a whole number >= 0, got {row!r:.60}")
    return GeneratedText(int(row), number, values["prompt"], values[column], values["reference"], 0, True)
