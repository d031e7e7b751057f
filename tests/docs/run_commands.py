"""Run the commands of the pages, one page after the other, in a folder of small models and data sets.

    PYTHONPATH=src:docs:examples:. python tests/docs/run_commands.py FOLDER [BEGINNING_OF_A_PAGE ... | tries | extras]

`tries` are the commands that docstrings propose. `extras` are the commands of pages and docstrings that need an extra.

Prints a JSON line for each command: page, command, form, CPU seconds, fault, and the reason why it does not run. The
form is run, serve, plan, config, help, not run, or name: a command without its words, in a sentence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from command_rules import RULES, TRIES, Rule, prepared, rule_of
from page_commands import PAGES, ROOT, commands, tries

TUTORIALS = ("docs/index.md", "docs/how-to/audit.md", "docs/how-to/extend.md", "docs/tutorials/")
"""Pages whose blocks test_tutorials.py runs as they are written."""

INCOMPLETE = ("arguments are required", "expected one argument", "not of the form key=value", "missing; give")
"""Faults of a command in a sentence, which may be a part of one."""

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")
SHOWN = ("train", "unlearn", "eval", "study", "inspect", "compare")
"""Folders of results that each page begins without. The store stays, so no job is computed twice."""


@dataclass(frozen=True)
class Outcome:
    """A command of a page, and the form in which it was run. reason: why it was not run itself."""

    page: str
    command: str
    form: str
    cpu_s: float = 0.0
    fault: str = ""
    reason: str = ""


def call(words: list[str], *, serves: bool = False) -> tuple[int, str]:
    """Run a command in this process. Returns the exit code and the end of its messages.

    serves: the command is a server. Its first page is read, and then it gets the signal of Ctrl-C.
    """
    from expunge.cli.main import main

    output, pages, ended = io.StringIO(), list[str](), threading.Event()
    visitor = threading.Thread(target=visit, args=(output, pages, ended), daemon=True)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        if serves:
            visitor.start()
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            ended.set()
    lines = [line for line in output.getvalue().splitlines() if not line.startswith("note: ")]
    if serves and not code and not any("</html>" in page for page in pages):
        code, lines = 1, [*lines, "the server returned no page"]
    return code, "\n".join(lines)[-1500:]


def visit(output: io.StringIO, pages: list[str], ended: threading.Event) -> None:
    """Wait for the address that a server prints, read the page there, and end the server as Ctrl-C does."""
    while not ended.wait(0.1):
        if address := ADDRESS.search(output.getvalue()):
            try:
                with urlopen(address[0], timeout=60) as reply:
                    pages.append(reply.read().decode())
            finally:
                os.kill(os.getpid(), signal.SIGINT)
            return


class PageRunner:
    """Runs the commands of one page. A command of an earlier page is not run again."""

    def __init__(
        self, page: str, earlier: set[str], rules: Mapping[str, Rule] = RULES, *, extras: bool = False
    ) -> None:
        self.page = page
        self.earlier = earlier
        self.rules = rules
        self.extras = extras  # only the commands that need one
        self.here: set[str] = set()

    def run(self, words: list[str], *, whole: bool) -> Outcome:
        """Run a command of the page in the form of its rule."""
        command = shlex.join(words)
        rule = rule_of(words, self.rules)
        if self.extras and not rule.needs:
            return Outcome(self.page, command, "name")
        if len(words) == 1 and rule.form != "serve":
            return Outcome(self.page, command, "name")
        if rule.form == "not run":
            return Outcome(self.page, command, rule.form, reason=rule.reason)
        began = cpu_s()
        for line in rule.before:
            done = self.earlier if " --out " in line else self.here  # files of --out stay from page to page
            if line not in done:
                done.add(line)
                code, text = call(shlex.split(line))
                if code not in rule.codes:
                    return Outcome(self.page, command, "run", fault=f"exit code {code} of {line}: {text}")
        new = prepared(words, rule)
        form = rule.form or "run"
        self.here.add(shlex.join(new))
        if shlex.join(new) in self.earlier:
            return Outcome(self.page, command, form, reason=rule.reason)
        code, text = call(new, serves=form == "serve")
        if code and not whole and any(hint in text for hint in INCOMPLETE):
            return Outcome(self.page, command, "name")
        fault = f"exit code {code} of {shlex.join(new)}: {text}" if code not in rule.codes else ""
        self.earlier.add(shlex.join(new))
        return Outcome(self.page, command, form, round(cpu_s() - began, 2), fault, rule.reason)


def clear_shown() -> None:
    """Remove the folders of results; the store stays."""
    for name in SHOWN:
        shutil.rmtree(Path("saves") / name, ignore_errors=True)


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its ended children."""
    return sum(os.times()[:4])


def outcomes(names: Sequence[str], earlier: set[str], *, extras: bool) -> Iterator[Outcome]:
    """Run the commands of all pages, or of the named ones, in the current folder, but for those of `earlier`."""
    texts = {page.relative_to(ROOT).as_posix(): commands(page.read_text(encoding="utf-8")) for page in PAGES}
    texts = {name: lines for name, lines in texts.items() if not name.startswith(TUTORIALS)}
    for page, lines in texts.items():
        if names and not page.startswith(tuple(names)):
            continue
        clear_shown()
        runner = PageRunner(page, earlier, extras=extras)
        for words, whole in lines:
            yield runner.run(words, whole=whole)


def proposed(earlier: set[str], *, extras: bool) -> Iterator[Outcome]:
    """Run the commands that the docstrings of methods, audits and benchmarks propose."""
    runner, file = PageRunner("", earlier, RULES | TRIES, extras=extras), ""
    for page, words in tries(ROOT / "src" / "expunge"):
        if page != file:  # many have the same task_name
            clear_shown()
        file = page
        yield dataclasses.replace(runner.run(words, whole=True), page=page)


def accept_uploads() -> None:
    """Replace the hub by one that accepts each upload and keeps nothing."""
    import huggingface_hub

    class Hub(huggingface_hub.HfApi):
        def create_repo(self, name: str, **settings: Any) -> Any:
            return f"https://hub.example/{name}"

        def create_commit(self, name: str, operations: Any, **settings: Any) -> Any:
            assert list(operations)

    huggingface_hub.HfApi = Hub


def run_apart(folder: Path, *names: str, timeout_s: float) -> tuple[list[dict[str, Any]], int, str]:
    """Run this file in a process of its own. Returns the outcomes, the exit code and the end of its messages."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", "docs", "examples", ""))
    done = subprocess.run(
        [sys.executable, __file__, str(folder), *names],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=timeout_s,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr[-3000:]


def main(folder: str, *names: str) -> int:
    """Prepare a folder, and run the commands of all pages, or of those with a prefix. Returns 1 if one fails."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from reader_folder import write_folder

    from expunge.core.garbage import collect_rarely, skip_imports
    from expunge.models import trial, trial_child

    def without_process(program: str, request: Any, limits: Any, **how: Any) -> Any:
        return trial_child.main(request)

    trial.run_limited = without_process
    accept_uploads()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores Ctrl-C
    Path(folder).mkdir(parents=True)
    write_folder(Path(folder).resolve())
    collect_rarely()
    skip_imports()  # else each training searches them (.3 s)
    os.chdir(folder)
    faults, earlier = 0, set[str]()
    extras = names == ("extras",)
    pages = names if not extras else ()
    docstrings = proposed(earlier, extras=extras) if not pages or "tries" in pages else ()
    for outcome in itertools.chain(outcomes(pages, earlier, extras=extras), docstrings):
        faults += bool(outcome.fault)
        print(json.dumps(asdict(outcome)), flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
