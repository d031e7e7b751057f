"""`expunge judge`: a judge's scores of a file of generations, with their number and interval."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError, DataError, JobError, nearest

if TYPE_CHECKING:
    from expunge.core.records import GeneratedText
    from expunge.judges.api import Judge, JudgementTable

KINDS = ("rules", "classifier", "http")
COLUMNS = ("generation", "text")  # columns of the text, in order of preference


def add_judge(commands: Any) -> None:
    """Add `judge` to the commands of a parser."""
    text = "score generations: by rules, by a local classifier, or by a model behind a chat API"
    sub = commands.add_parser("judge", help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    sub.add_argument("file", type=Path, help="generations: JSON lines, CSV or parquet with a column generation or text")
    how = sub.add_mutually_exclusive_group(required=True)
    how.add_argument("--rules", type=Path, metavar="FILE.yaml", help="rules in the format of docs/judges.md")
    how.add_argument("--classifier", type=Path, metavar="DIR", help="a saved classifier")
    how.add_argument("--http", type=Path, metavar="FILE.yaml", help="question, model and base_url of a chat API")
    sub.add_argument("--by", metavar="COLUMN", help="a line for each value of a column, such as step")
    sub.add_argument("--out", type=Path, metavar="FILE.jsonl", help="write the verdict on every generation")
    sub.set_defaults(command=_judge, plugin=[])


def _judge(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.files import write_text
    from expunge.judges.api import judge_texts

    _check_out(parsed)
    judge = _judge_of(parsed)
    records = _records(parsed.file)
    groups = _groups(records, parsed.by, parsed.file)
    verdicts: dict[int, dict[str, Any]] = {}
    for value, numbers in groups.items():
        table = judge_texts(judge, [_text(records[i], i, parsed.file) for i in numbers])
        print(f"{'' if value is None else f'{parsed.by}={value} '}{summary_line(table)}")
        for line in table.lines:
            score = None if math.isnan(line.score) else line.score
            verdicts[line.sample] = {"record": line.sample, "score": score, "reason": line.reason}
    if parsed.out is not None:
        text = "".join(json.dumps(verdicts[i], ensure_ascii=False) + "\n" for i in sorted(verdicts))
        try:
            write_text(parsed.out, text)
        except OSError as error:
            raise JobError(f"--out: {parsed.out} cannot be written: {error.strerror or error}") from None
        print(f"written: {parsed.out}")
    if all(line["score"] is None for line in verdicts.values()):
        raise JobError(f"{parsed.file}: no text has a score")
    return 0


def _check_out(parsed: argparse.Namespace) -> None:
    """Raise ConfigError if the output is a folder or one of the inputs."""
    if parsed.out is None:
        return
    if parsed.out.is_dir():
        raise ConfigError(f"--out: {parsed.out} is a folder; name a file")
    inputs = {"the generations": parsed.file, "--rules": parsed.rules, "--http": parsed.http}
    for name, path in inputs.items():
        if path is not None and path.exists() and parsed.out.exists() and path.samefile(parsed.out):
            raise ConfigError(f"--out: {parsed.out} is an input ({name}) and would be replaced; name another file")
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
    from expunge.core.decode import decode

    if parsed.classifier is not None:
        from expunge.judges.classifier import load_classifier

        return load_classifier(parsed.classifier)
    if parsed.rules is not None:
        from expunge.judges.rules import RuleJudge

        return decode(RuleJudge, _yaml(parsed.rules, "--rules"), where="rules")
    from expunge.judges.http import HttpJudge, HttpJudgeConfig

    return HttpJudge(decode(HttpJudgeConfig, _yaml(parsed.http, "--http"), where="http"))


def _yaml(path: Path, option: str) -> Mapping[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{option}: {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{option}: {path} holds no keys")
    return settings


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
