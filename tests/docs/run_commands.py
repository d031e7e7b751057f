"""Run the commands of the pages, one page after the other, in a folder of small models and data sets.

    PYTHONPATH=src:docs:examples:. python tests/docs/run_commands.py FOLDER [PAGE ... | tries]

Prints a JSON line for each command: page, command, form (run, plan, config, not run, name), seconds and fault. A name
is a command without its words, in a sentence.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from command_rules import prepared, rule_of
from page_commands import PAGES, ROOT, commands, tries

TUTORIALS = ("docs/index.md", "docs/how-to/audit.md", "docs/how-to/extend.md", "docs/tutorials/")
"""Pages whose blocks test_tutorials.py runs as they are written."""

INCOMPLETE = ("arguments are required", "expected one argument", "not of the form key=value", "missing; give")
"""Faults of a command in a sentence, which may be a part of one."""

SETTLED = ("run", "train", "unlearn", "eval")
SHOWN = ("train", "unlearn", "eval", "study", "inspect", "compare")
"""Folders of results that each page begins without. The store stays, so no job is computed twice."""


@dataclass(frozen=True)
class Outcome:
    """A command of a page, and the form in which it was run."""

    page: str
    command: str
    form: str
    seconds: float = 0.0
    fault: str = ""


def call(words: list[str]) -> tuple[int, str]:
    """Run a command in this process. Returns the exit code and the end of its messages."""
    from expunge.cli.main import main

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    lines = [line for line in output.getvalue().splitlines() if not line.startswith("note: ")]
    return code, "\n".join(lines)[-1500:]


class PageRunner:
    """Runs the commands of one page. A command of an earlier page is not run again."""

    def __init__(self, page: str, earlier: set[str]) -> None:
        self.page = page
        self.earlier = earlier
        self.here: set[str] = set()

    def run(self, words: list[str], *, whole: bool) -> Outcome:
        """Run a command of the page in the form of its rule."""
        command = shlex.join(words)
        rule = rule_of(words)
        if len(words) == 1 and not rule.reason:
            return Outcome(self.page, command, "name")
        if rule.reason:
            return Outcome(self.page, command, "not run")
        began = time.monotonic()
        for line in rule.before:
            if line not in self.here:
                self.here.add(line)
                code, text = call(shlex.split(line))
                if code:
                    return Outcome(self.page, command, "run", fault=f"exit code {code} of {line}: {text}")
        new = prepared(words, rule)
        form = rule.form or "run"
        self.here.add(shlex.join(new))
        if shlex.join(new) in self.earlier:
            return Outcome(self.page, command, form)
        code, text = call(new)
        if code and not whole and any(hint in text for hint in INCOMPLETE):
            return Outcome(self.page, command, "name")
        fault = f"exit code {code} of {shlex.join(new)}: {text}" if code else ""
        self.earlier.add(shlex.join(new))
        return Outcome(self.page, command, form, round(time.monotonic() - began, 2), fault)


def outcomes(pages: list[Path]) -> Iterator[Outcome]:
    """Run the commands of pages in the current folder."""
    earlier: set[str] = set()
    for page in pages:
        for name in SHOWN:
            shutil.rmtree(Path("saves") / name, ignore_errors=True)
        runner = PageRunner(page.relative_to(ROOT).as_posix(), earlier)
        for words, whole in commands(page.read_text(encoding="utf-8")):
            yield runner.run(words, whole=whole)


def composed_tries() -> Iterator[Outcome]:
    """Compose the settings of the commands that the docstrings of methods, audits and benchmarks propose."""
    for file, words in tries(ROOT / "src" / "expunge"):
        new = ["config", *words] if words[0] in SETTLED else words
        new = ["config", "run", *words[1:]] if words[0] == "plan" else new
        began = time.monotonic()
        code, text = call(new)
        fault = f"exit code {code} of {shlex.join(new)}: {text}" if code else ""
        yield Outcome(file, shlex.join(words), "config", round(time.monotonic() - began, 2), fault)


def main(folder: str, *names: str) -> int:
    """Prepare a folder, and run the commands of all pages or of the named ones. Returns 1 if one fails."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from reader_folder import write_folder

    from expunge.models import trial, trial_child

    def without_process(program: str, request: Any, limits: Any, **how: Any) -> Any:
        return trial_child.main(request)

    trial.run_limited = without_process
    Path(folder).mkdir(parents=True)
    write_folder(Path(folder).resolve())
    os.chdir(folder)
    pages = [ROOT / name for name in names if name != "tries"] if names else PAGES
    faults = 0
    selected = [page for page in pages if not page.relative_to(ROOT).as_posix().startswith(TUTORIALS)]
    for outcome in itertools.chain(outcomes(selected), composed_tries() if not names or "tries" in names else ()):
        faults += bool(outcome.fault)
        print(json.dumps(asdict(outcome)), flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
