"""Lists and pages for a terminal: wrapped once, at its width, and a word that must be typed is never cut."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator

MOST_WIDE = 100  # columns; longer lines are hard to read
QUOTED_SPACE = "\N{WORD JOINER}"  # stands for a space at which no line ends
NAME_WIDTH = 26  # columns of a name; a longer one has its own line


def width() -> int:
    """Return the columns to use."""
    return max(40, min(shutil.get_terminal_size().columns, MOST_WIDE))


def wrapped(text: str, first: str, later: str) -> list[str]:
    """Return the lines of a text, with the indents of the first line and of the later ones."""
    return textwrap.wrap(
        text, width(), initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def entry_lines(name: str, about: str) -> Iterator[str]:
    """Yield a name and its description in two columns; a long name has its own line."""
    indent = " " * (NAME_WIDTH + 2)
    fits = len(name) <= NAME_WIDTH - 2
    if not fits:
        yield f"  {name}"
    yield from wrapped(about or "-", f"  {name:{NAME_WIDTH - 2}}  " if fits else indent, indent)


def command_lines(command: str, indent: str) -> Iterator[str]:
    """Yield a command to paste. A long one is broken between words, with a backslash for the shell.

    A space in quotes separates no words.
    """
    room = width() - len(indent) - len("   \\")
    whole = re.sub(r"\"[^\"]*\"|'[^']*'", lambda quoted: quoted[0].replace(" ", QUOTED_SPACE), command)
    lines = textwrap.wrap(whole, room, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    lines = [line.replace(QUOTED_SPACE, " ") for line in lines]
    for line in lines[:-1]:
        yield f"{indent}{line} \\"
    yield f"{indent}{lines[-1]}"


def help_lines(text: str) -> Iterator[str]:
    """Yield the lines of an epilog of help: each line is a command to paste, or a paragraph to wrap."""
    for line in text.splitlines():
        if line.lstrip().startswith("expunge "):
            yield from command_lines(line.strip(), "  ")
        else:
            yield from wrapped(line, "", "") or [""]


def rewrapped(page: str) -> str:
    """Return a docstring with wrapped paragraphs; indented lines, lists and commands to paste stay as they are."""
    out = []
    for paragraph in re.split(r"\n\s*\n", page):
        lines = paragraph.splitlines()
        if paragraph.startswith("Try: "):
            out.append(_example(lines))
            continue
        literal = any(line.startswith((" ", "- ", "* ")) or line.endswith("\\") for line in lines)
        out.append(paragraph if literal else "\n".join(wrapped(" ".join(lines), "", "")))
    return "\n\n".join(out)


def _example(lines: list[str]) -> str:
    """Return the lines of "Try: COMMAND". A long command stands below the word, as `command_lines` breaks it."""
    text = " ".join(line.rstrip("\\").strip() for line in lines)
    if len(text) <= width():
        return text
    return "\n".join(("Try:", *command_lines(text.removeprefix("Try: "), "  ")))
