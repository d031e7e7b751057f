"""The commands and the YAML of the pages, as a reader would type them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "dev"]
START = re.compile(r"^\s*(?:\$ )?(expunge [a-z].*)$")
INLINE = re.compile(r"`(expunge [a-z][^`]*)`")
TRY = re.compile(r"Try: (expunge (?:[^\n]*\\\n)*[^\n]*)")
HEREDOC = re.compile(r"^cat >>? \S+\.yaml <<'(\w+)'\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
FENCED_YAML = re.compile(r"^```yaml[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the words after `expunge` of each command of a page, and whether they are a whole command.

    Commands in blocks are whole, unless they contain "...". Commands in sentences may be a part of one.
    """
    fenced, command = False, ""
    for line in text.splitlines():
        fenced = fenced != line.startswith("```")
        start = START.match(line) if fenced or line.startswith("    ") else None
        if not command and start is None:
            continue
        command += line.strip() if command else str(start and start[1])
        if command.endswith("\\"):
            command = command[:-1]
            continue
        try:
            words = _shell_words(command)
        except ValueError:  # a quoted word continues on the next line
            command += " "
            continue
        end = next((i for i, word in enumerate(words) if re.fullmatch(r"[|&;<>]+|2", word)), len(words))
        yield words[1:end], "..." not in words
        command = ""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for match in INLINE.finditer(prose):
        yield _shell_words(match[1].replace("\n", " "))[1:], False


def tries(package: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the file and the words after `expunge` of each command that a docstring proposes ("Try: expunge ...")."""
    for file in sorted(package.rglob("*.py")):
        for match in TRY.finditer(file.read_text(encoding="utf-8")):
            command = re.sub(r"\\+\n", " ", match[1])
            yield file.relative_to(package).as_posix(), _shell_words(command)[1:]


def _shell_words(command: str) -> list[str]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    return list(lexer)


def yaml_texts(text: str) -> Iterator[str]:
    """Yield the YAML of a page: its fenced blocks, and the files that its commands write."""
    yield from (match[1] for match in FENCED_YAML.finditer(text))
    yield from (match[2] for match in HEREDOC.finditer(text))
