"""`expunge data probes`: other questions about the rows to forget, for the audit `generated`."""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.cli.given_rows import ROWS, model_source
from expunge.core.errors import ConfigError, nearest
from expunge.core.terminal import quiet, say

TEXT = "write other questions about rows (paraphrase, alias, reverse, ...), for the audit `generated`"
EPILOG = """\
examples:
  expunge data probes --forget rows.csv --out probes.jsonl
  expunge data probes --forget rows.csv --model OWNER/INSTRUCTION-MODEL --kinds paraphrase,reverse --out probes.jsonl
Read the file before you use it: a question with another answer measures nothing.
"""


def add_probes(kinds: Any) -> None:
    """Add `probes` to the commands of `expunge data`."""
    sub = kinds.add_parser(
        "probes",
        help=TEXT,
        description=f"{TEXT[0].upper()}{TEXT[1:]}.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    sub.add_argument("--forget", metavar="FILE", required=True, help=f"the rows: {ROWS}")
    sub.add_argument("--question-column", metavar="NAME", help="the column of the questions (default: by its name)")
    sub.add_argument("--answer-column", metavar="NAME", help="the column of the answers (default: by its name)")
    sub.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        help="a model that writes them: a capable instruction model, not the audited one (default: templates)",
    )
    sub.add_argument("--kinds", metavar="KIND,KIND", help="kinds of questions (default: all of the templates; with "
                     "--model paraphrase and reverse)")  # fmt: skip
    sub.add_argument("--out", required=True, type=Path, metavar="FILE.jsonl", help="a new file")
    sub.set_defaults(command=probes)


def probes(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Write the probes to a new file, and print their number by kind. Returns the exit code."""
    from expunge.audits.probe_rows import KINDS, template_probes
    from expunge.audits.write_probes import ASKED, WRITTEN, write_probes
    from expunge.core.files import write_text
    from expunge.data.custom import Columns, load_rows

    if parsed.out.exists():
        raise ConfigError(f"--out: {parsed.out} exists; name a new file")
    kinds = None if parsed.kinds is None else [kind.strip() for kind in parsed.kinds.split(",") if kind.strip()]
    allowed = tuple(KINDS) if parsed.model is None else tuple(ASKED)
    for kind in kinds or ():
        if kind not in allowed:
            maker = "template" if parsed.model is None else "model"
            raise ConfigError(f"--kinds: no {maker} writes {kind!r}{nearest(kind, allowed)}")
    columns = Columns(question=parsed.question_column, answer=parsed.answer_column)
    rows = load_rows(parsed.forget, "forget", columns)
    if rows.form != "qa":
        raise ConfigError(f"--forget: {parsed.forget} contains texts without questions; probes ask other questions")
    if parsed.model is None:
        records = [vars(probe) for probe in template_probes(rows, kinds or KINDS)]
        if not records:
            raise ConfigError("--kinds: no row has the parts that these kinds need")
    else:
        from expunge.models.config import check_source

        quiet()
        source = model_source(parsed.model)
        check_source(source, "--model")
        try:
            records = write_probes(source, forget=rows, kinds=kinds or WRITTEN)
        except ConfigError as error:
            raise ConfigError(f"--model: {str(error).removeprefix('write_probes: ')}") from None
    write_text(parsed.out, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    for kind, n in Counter(record["kind"] for record in records).items():
        first = next(record for record in records if record["kind"] == kind)
        say(f"{kind}: {n} questions, such as: {first['question']} -> {first['answer']}")
    say(f"written: {parsed.out}")
    audits = shlex.quote(f"[{{name: generated, file: {parsed.out}}}]")
    say(f"next:    read the file; then expunge audit MODEL --forget {shlex.quote(parsed.forget)} --audits {audits}")
    return 0
