"""The parser of the command line: errors of one line with suggestions, and the screen of a command without words."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from expunge.core.errors import UserError, nearest
from expunge.core.terminal import say

START = """\
Expunge makes a language model forget chosen data, and measures whether it did.

Four ways to start:

  Try it: a tiny model, about two minutes on a laptop
      expunge run study=quickstart

  Compare methods on a benchmark: see the plan first
      expunge list studies
      expunge plan study=tofu_tiny

  Erase rows from a model of yours: check the input first
      expunge erase --model DIR --forget rows.csv --out erased --dry-run

  Audit a model, look at it, measure it, or see all results in a browser
      expunge audit MODEL --forget rows.csv
      expunge inspect lens --model DIR benchmark=world --out pages
      expunge eval experiment=eval/tofu/default task_name=mine
      expunge ui

`expunge --help` lists all commands, `expunge help KEY` explains a setting.
From Python: import expunge; help(expunge)
"""


class HelpPage(argparse.HelpFormatter):
    """Help that fits the terminal: paragraphs are wrapped, and commands to paste are broken with a backslash."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        from expunge.cli.lists import help_lines  # only a page of help needs it

        return "\n".join(help_lines(text))


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest right name."""

    words: Sequence[str] = ()  # the words that are parsed

    def __init__(self, *names: Any, **settings: Any) -> None:
        settings.setdefault("formatter_class", HelpPage)
        super().__init__(*names, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise UserError with the message, a suggestion, and where to read more."""
        choice = re.fullmatch(r"(argument .*: invalid choice: )(.+?) \(choose from (.*)\)", message, re.DOTALL)
        unknown = re.fullmatch(r"(unrecognized arguments: (\S+).*)", message, re.DOTALL)
        if choice:
            allowed = [word.strip().strip("'") for word in choice[3].split(",")]
            from expunge.cli.words import script_hint

            wrong = choice[2].strip("'")
            script = script_hint(wrong)
            hint = f"; {script}" if script else self._before_a_setting(wrong, allowed[0])
            message = f"{choice[1]}{choice[2]}{hint or nearest(wrong, allowed, most=len(allowed))}"
        elif message.startswith("the following arguments are required: "):
            lists = {a.metavar or a.dest: ", ".join(map(str, a.choices)) for a in self._actions if a.choices}
            head, names = message.split(": ", 1)
            missing = [name for name in names.split(", ") if name not in self._optional_words()]
            items = [f"{name} (allowed: {lists[name]})" if name in lists else name for name in missing]
            message = f"{head}: {', '.join(items)}{self._mistyped()}"
        elif message.endswith(" is required"):
            message += self._mistyped()
        elif unknown and unknown[2].startswith("--"):
            from expunge.cli.words import launcher_hint

            answered = "; for " in unknown[1]
            launcher = launcher_hint(unknown[1].split()[2:])
            hint = (
                ""
                if answered
                else (launcher and f"; {launcher}")
                or self._setting(unknown[2])
                or nearest(unknown[2].partition("=")[0], self._all_options())
            )
            message = unknown[1] + hint
        raise UserError(f"{' '.join(message.split())}; see `{self.prog} --help`")

    def _before_a_setting(self, setting: str, word: str) -> str:
        """Return a hint if a setting stands in place of a word, such as one of the allowed ones."""
        is_setting = "=" in setting and any(action.metavar == "key=value" for action in self._actions)
        return f"; did you mean '{self.prog} {word} {setting}'?" if is_setting else ""

    def _setting(self, option: str) -> str:
        """Return a hint if an unknown option is the key of a setting, and the command takes settings."""
        if not any(action.metavar == "key=value" for action in self._actions):
            return ""
        from expunge.cli.schema import GROUPS  # only this error needs the list of all keys
        from expunge.cli.setting_keys import all_keys

        keys = (*all_keys(), *GROUPS["run"], *GROUPS["train"])
        key = option.removeprefix("--").partition("=")[0]
        named = [name for name in (key, key.replace("-", "_")) if name in keys]
        return f"; a setting has no dashes: {named[0]}=..." if named else ""

    def _mistyped(self) -> str:
        """Return a hint for the first unknown option: its right name may be the one that is missing."""
        names = list(self._all_options())
        for word in self.words:
            option = word.partition("=")[0]
            if option.startswith("--") and not any(name.startswith(option) for name in names):
                return f"; {option} is no option{nearest(option, names)}"
        return ""

    def _optional_words(self) -> set[str]:
        """Return the names of the words that may be left out; argparse reports them among the missing ones."""
        return {str(action.metavar or action.dest) for action in self._actions if action.nargs == "*"}

    def _all_options(self) -> Iterable[str]:
        """Return the long options of this parser."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # as argparse declares it
        """Parse the known words; `parser` of the result is the parser of the command."""
        self.words = args or ()
        parsed, rest = super().parse_known_args(args, namespace)
        parsed.parser = getattr(parsed, "parser", self)
        return parsed, rest


class ShowVersion(argparse.Action):
    """`--version`: print the version and end. argparse's own action formats the line as a page of help."""

    def __init__(self, option_strings: Sequence[str], dest: str, version: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help="show the version and exit")
        self.version = version

    def __call__(self, parser: argparse.ArgumentParser, *parsed: Any) -> NoReturn:
        """Print the version and end the program."""
        say(self.version)
        parser.exit()


def add_push(sub: argparse.ArgumentParser, result: str) -> None:
    """Add `--push` and `--public` to the options of a command."""
    text = f"upload {result} to the Hugging Face Hub, with a card; a new repository is private"
    sub.add_argument("--push", metavar="OWNER/NAME", help=text)
    sub.add_argument("--public", action="store_true", help="with --push: a new repository is public")


def command_line(name: str, words: Sequence[str], parsed: argparse.Namespace) -> str:
    """Return the command NAME with some words and the flags of another command that they need, for a shell."""
    files = [word for file in getattr(parsed, "plugin", None) or () for word in ("--plugin", str(file))]
    allowed = ["--allow-env"] if getattr(parsed, "allow_env", False) else []
    return shlex.join(["expunge", name, *words, *files, *allowed])


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, by name."""
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: sub for action in actions for name, sub in action.choices.items()}
