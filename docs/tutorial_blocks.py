"""Run the fenced blocks of a tutorial, check their outputs, and write them as a notebook.

A page has three kinds of blocks that run, in the order of the page and in one new folder:

- `python`: all blocks of a page share one namespace;
- `bash`: `expunge` is the command of this interpreter, or of the shell words in EXPUNGE_PYTHON;
- any block with `title="FILE"`: it is written to that file.

A comment `<!-- output -->` before a `text` block says that the block shows the output of the block above it.
`<!-- output: last 5 -->` or `first 5` shows some lines only. A comment `<!-- not run: REASON -->` skips a block.
`<!-- in tests: OLD => NEW -->` makes a command smaller, so that the tests take seconds.

    python docs/tutorial_blocks.py run PAGE        # run it, and compare the outputs with the page
    python docs/tutorial_blocks.py update PAGE     # run it as readers do, and put the outputs into the page
    python docs/tutorial_blocks.py notebooks       # write examples/notebooks
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
NOTEBOOKS = ROOT / "examples" / "notebooks"
FENCE = re.compile(r"^```(?P<language>\w+)?(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (?P<kind>output|not run)(?:: (?P<text>[^>]*?))? -->\n$")
SMALLER = re.compile(r"<!-- in tests: (.*?) => (.*?) -->")
RUNS = ("python", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block. comment: "output", "not run" or ""; span: the place of its code in the page."""

    language: str
    code: str
    title: str
    comment: str
    note: str
    span: tuple[int, int]

    @property
    def runs(self) -> bool:
        """Whether the block is run or written to a file."""
        return self.comment != "not run" and (bool(self.title) or self.language in RUNS)


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page in their order."""
    for fence in FENCE.finditer(text):
        comment = COMMENT.search(text[: fence.start()])
        title = re.search(r'title="([^"]+)"', fence["info"])
        yield Block(
            language=fence["language"] or "",
            code=fence["code"],
            title=title[1] if title else "",
            comment=comment["kind"] if comment else "",
            note=(comment["text"] or "") if comment else "",
            span=fence.span("code"),
        )


class PageRun:
    """Runs the blocks of one page in a folder. `small` applies the page's replacements for tests."""

    def __init__(self, folder: Path, replacements: list[tuple[str, str]]) -> None:
        self.folder = folder
        self.replacements = replacements
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> str:
        """Run a block. Returns its standard output. Raises if it fails."""
        code = block.code
        for old, new in self.replacements:
            code = code.replace(old, new)
        if block.title:
            (self.folder / block.title).write_text(code, encoding="utf-8")
            return ""
        return self._python(code) if block.language == "python" else self._bash(code)

    def _python(self, code: str) -> str:
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(compile(code, "<tutorial>", "exec"), self.namespace)  # the pages of this repository
        return printed.getvalue()

    def _bash(self, code: str) -> str:
        python = os.environ.get("EXPUNGE_PYTHON", shlex.quote(sys.executable))
        command = f'expunge() {{ {python} -m expunge "$@"; }}\n{code}'
        paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "100"},
            timeout=1800,
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}:\n{code}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
        return done.stdout


def run_page(page: Path, folder: Path, *, small: bool = True) -> list[tuple[Block, str]]:
    """Run a page. Returns each output block with the text that the block above it printed.

    Raises:
        ValueError: If an output block does not follow a block that runs.
    """
    text = page.read_text(encoding="utf-8")
    runner = PageRun(folder, SMALLER.findall(text) if small else [])
    outputs: list[tuple[Block, str]] = []
    printed: str | None = None
    for block in blocks_of(text):
        if block.runs:
            printed = runner.run(block)
        elif block.comment == "output":
            if printed is None:
                raise ValueError(f"{page.name}: an output without a block that prints it")
            outputs.append((block, shown(printed, block.note)))
            printed = None
    return outputs


def shown(printed: str, note: str) -> str:
    """Return the lines of an output that the page shows: all, or "first N" or "last N" of the non-empty lines."""
    lines = [line.rstrip() for line in printed.splitlines()]
    if note:
        end, _, number = note.partition(" ")
        lines = [line for line in lines if line]
        lines = lines[: int(number)] if end == "first" else lines[-int(number) :]
    return "\n".join(lines).strip("\n") + "\n"


def first_words(text: str) -> list[str]:
    """Return the first word of each line; numbers and signs are no words."""
    return [match[0] for line in text.splitlines() if (match := re.search(r"[A-Za-z_]{2,}", line))]


def differences(block: Block, printed: str) -> list[str]:
    """Return the first words of a page's output that the real output does not have. Numbers may differ."""
    present = set(first_words(printed))
    return [word for word in first_words(block.code) if word not in present]


def update(page: Path) -> None:
    """Run a page as a reader does, and write the outputs into it."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        outputs = run_page(page, Path(folder), small=False)
        for block, printed in reversed(outputs):
            printed = printed.replace(f"{folder}/", "")
            text = text[: block.span[0]] + printed + text[block.span[1] :]
    page.write_text(text, encoding="utf-8")


def notebook(page: Path) -> dict[str, Any]:
    """Return a tutorial as a notebook (nbformat 4.5), without outputs."""
    text = page.read_text(encoding="utf-8")
    cells: list[dict[str, Any]] = []
    cursor = 0
    for block in blocks_of(text):
        fence = text.rindex("```", 0, block.span[0])
        if block.runs:
            cells.append(_cell("markdown", text[cursor:fence]))
            magic = f"%%writefile {block.title}\n" if block.title else "%%bash\n" if block.language == "bash" else ""
            cells.append(_cell("code", magic + block.code))
        elif block.comment == "output":
            cells.append(_cell("markdown", text[cursor:fence]))
        else:
            continue
        cursor = block.span[1] + len("```\n")
    cells.append(_cell("markdown", text[cursor:]))
    setup = _cell("code", "%pip install --quiet expunge")
    setup["metadata"] = {"tags": ["setup"]}
    filled = [cell for cell in cells if cell["source"]]
    filled.insert(1, setup)
    for number, cell in enumerate(filled):
        cell["id"] = f"cell-{number}"
    return {
        "cells": filled,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(kind: str, text: str) -> dict[str, Any]:
    text = re.sub(r"<!-- .*? -->\n", "", text).strip("\n")
    if kind == "markdown":  # links lead to the pages of the documentation, which a notebook does not have next to it
        text = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)
    cell: dict[str, Any] = {"cell_type": kind, "id": "", "metadata": {}, "source": text}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell


def notebooks() -> dict[Path, str]:
    """Return the text of each notebook by its file."""
    return {
        NOTEBOOKS / f"{page.stem}.ipynb": json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"
        for page in sorted(TUTORIALS.glob("[0-9]*.md"))
    }


def main(words: list[str]) -> int:
    """Run the command line of this file."""
    match words:
        case ["notebooks"]:
            NOTEBOOKS.mkdir(parents=True, exist_ok=True)
            for file, text in notebooks().items():
                file.write_text(text, encoding="utf-8")
        case ["update", *pages]:
            for page in pages:
                update(Path(page))
        case ["run", *pages]:
            wrong = 0
            for page in pages:
                with tempfile.TemporaryDirectory() as folder:
                    for block, printed in run_page(Path(page), Path(folder)):
                        if missing := differences(block, printed):
                            wrong += 1
                            print(f"{page}: the output has no line that begins with {missing}:\n{printed}")
            return int(wrong > 0)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
