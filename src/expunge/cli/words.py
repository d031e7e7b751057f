"""The words of a command line: `key=value`, read by the type of the key.

A value of a text key (a file name, a split, a system prompt) is the rest of the word after the first `=`, verbatim.
`null` is no value where the key allows it. `task_name` and `paths.output_dir` of a single job may refer to other keys.
Other values follow Hydra's override grammar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expunge.cli.config_files import options
from expunge.cli.schema import GROUPS, hint_of, is_text, item_hint, members, optional
from expunge.core.errors import ConfigError, first_line, nearest_name

KEY = re.compile(r"[A-Za-z_][\w/@-]*(\.[\w/@-]+)*")
PLAIN = re.compile(r"-?\d+")
FLOAT = re.compile(r"-?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")
NAMES = ("task_name", "paths.output_dir")  # texts with references, as in `task_name=npo_${forget_split}`
REFERRED = re.compile(r"(?<!\\)\$\{([^{}]*)\}")
CONSTANTS = {"true": True, "false": False, "null": None}


class Verbatim(str):
    """Text without interpolation: `${...}` and `???` in it have no meaning."""

    __slots__ = ()


@dataclass(frozen=True)
class Word:
    """One word of a command line.

    value: the parsed value. text: the part after the first `=`. remove: the word is `~key`, which removes the key.
    """

    key: str
    text: str = ""
    value: Any = None
    remove: bool = False


def split_words(words: Sequence[str], group: str = "study") -> list[Word]:
    """Split each word at its first `=`; values stay unparsed. Raises ConfigError for a word of another form.

    group: the key that a file of settings belongs to, for the hint of the error.
    """
    out: list[Word] = []
    for i, word in enumerate(words):
        if word.startswith("~"):
            out.append(Word(word[1:].partition("=")[0], remove=True))
            continue
        key, equals, text = word.partition("=")
        bare = key.lstrip("+")
        if not equals or KEY.fullmatch(bare) is None:
            raise ConfigError(_not_a_word(word, words[i - 1] if i else "", words[i + 1 : i + 2], group))
        out.append(Word(bare, text))
    return out


def _not_a_word(word: str, before: str, after: Sequence[str], group: str) -> str:
    """Return one line for a word that is not `key=value`: mostly a value that the shell split at a blank.

    before: the word before it, or "". after: the word after it, or nothing.
    """
    if hint := script_hint(word):
        return f"{word!r}: not of the form key=value; {hint}"
    key, equals, text = before.partition("=")
    if word.endswith((".yaml", ".yml")) or word in options(group):
        return f"{word!r}: not of the form key=value; did you mean '{group}={word}'?"
    if "=" in word and word != word.strip():
        hint = f"write {word.strip()}; a backslash continues a command if it is the last character of a line"
        return f"{word!r}: not of the form key=value; {hint}"
    if after and after[0].startswith("=") and KEY.fullmatch(word.lstrip("+")):
        return f"{word!r}: not of the form key=value; write {word}={after[0][1:] or 'VALUE'}, without blanks around ="
    if equals and not text:
        return f"{word!r}: not of the form key=value; write {before}{word}, without blanks around ="
    if equals and (_open(text) or word[-1:] in "]})"):
        return f"{word!r}: not of the form key=value; the shell split the value of {key}. Write '{before} {word}'"
    if equals:
        return f"{word!r}: not of the form key=value; if it belongs to {key}, write '{before} {word}' in quotes"
    if after and KEY.fullmatch(word) and "=" not in after[0]:
        return f"{word!r}: not of the form key=value; did you mean '{word}={after[0]}'?"
    if near := nearest_name(word, options(group)):
        return f"{word!r}: not of the form key=value; did you mean '{group}={near}'?"
    return f"{word!r}: not of the form key=value"


def script_hint(word: str) -> str:
    """Return the hint for a word of a command that starts another project's script; "" for other words."""
    from expunge.cli.projects import SCRIPTS

    if answer := SCRIPTS.get(word.rpartition("/")[2]):
        return answer
    if word.endswith(".py") or word in ("python", "python3", "accelerate", "launch", "torchrun"):
        return (
            "leave out the words up to the script: `expunge unlearn` stands for `python src/train.py "
            "--config-name=unlearn.yaml`, `expunge train` for src/train.py and `expunge eval` for src/eval.py; for "
            "several processes write `accelerate launch -m expunge unlearn ...`"
        )
    return ""


LAUNCHER = ("--config_file", "--main_process_port", "--multi_gpu", "--mixed_precision", "--num_processes",
            "--nproc_per_node", "--num_machines")  # fmt: skip


def launcher_hint(words: Sequence[str]) -> str:
    """Return the hint for a command with a launcher or a script in front of its settings; "" for other words."""
    named = any(word.partition("=")[0].replace("-", "_").replace("__", "--", 1) in LAUNCHER for word in words)
    return script_hint("accelerate") if named else next(filter(None, map(script_hint, words)), "")


def _open(text: str) -> bool:
    return any(text.count(a) > text.count(b) for a, b in ("[]", "{}", "()"))


def parse_value(mode: str, key: str, text: str) -> Any:
    """Return the value of a word by the type of its key. Raises ConfigError if the text cannot be read."""
    hint = hint_of(mode, key)
    if key in GROUPS[mode] or is_text(hint):
        if text == "null" and (optional(hint) or key in GROUPS[mode]):
            return None
        return text if has_references(mode, key, text) else Verbatim(text)
    if text.endswith(",") and item_hint(hint) is None:
        raise ConfigError(f"{key}={text}: ends with a comma; write {key}={text.rstrip(',')}")
    if PLAIN.fullmatch(text) and item_hint(hint) is None:
        return int(text)
    item = item_hint(hint)
    if item is not None and text and text[0] not in "[{" and not _is_null(text, hint):
        scalar = any(member is str or getattr(member, "__origin__", None) is not tuple for member in members(hint))
        if "," in text or not scalar:
            return _listed(key, text, item)
    if hint is None or hint is Any:
        return _free(key, text)
    return _grammar(key, text)


def has_references(mode: str, key: str, text: str) -> bool:
    """Return whether a text is the name of a single job, with references to keys only: `npo_${forget_split}`."""
    names = REFERRED.findall(text) if key in NAMES and mode != "run" else []
    return bool(names) and all(hint_of(mode, name) is not None for name in names)


def _is_null(text: str, hint: Any) -> bool:
    return text == "null" and optional(hint)


def _listed(key: str, text: str, item: Any) -> Any:
    """Return a list without brackets, `seeds.unlearn=0,1,2`: no shell gives the value another meaning."""
    if any(member is str for member in members(item)) or is_text(item):
        return [Verbatim(part.strip()) for part in text.split(",")]
    return _grammar(key, f"[{text}]")


def _free(key: str, text: str) -> Any:
    """Return a value of a key without a fixed type (of a benchmark or a method): by the grammar, else as text."""
    try:
        return _grammar(key, text)
    except ConfigError:
        if text[:1] in ("[", "{"):
            raise
        return Verbatim(text)


def _grammar(key: str, text: str) -> Any:
    """Return a value in Hydra's override grammar; its parser is loaded only for composed values. Raises ConfigError."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if FLOAT.fullmatch(text):
        return float(text)
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"x={text}")
        twice = _repeated_key(text) if text.count(":") > 1 else None
    except HydraException as error:
        if _open(text):
            raise ConfigError(
                f"{key}={text}: the value has no closing bracket. If the shell split it at a blank, quote the whole "
                f"word: '{key}={text} ...'"
            ) from None
        raise ConfigError(f"{key}={text}: not a value: {first_line(error)}") from None
    if twice is not None:
        raise ConfigError(f"{key}={text}: the key {twice!r} stands twice in one mapping; write it once")
    if parsed.is_sweep_override():
        raise ConfigError(f"{key}={text}: several values; -m runs a job for each (`expunge train`, `unlearn`, `eval`)")
    return parsed.value()


def _repeated_key(text: str) -> str | None:
    """Return a key that stands twice in one mapping of a value that Hydra can read, which keeps the last one."""
    from antlr4 import CommonTokenStream, InputStream
    from hydra.grammar.gen.OverrideLexer import OverrideLexer
    from hydra.grammar.gen.OverrideParser import OverrideParser

    parser: Any = OverrideParser(CommonTokenStream(OverrideLexer(InputStream(f"x={text}"))))
    nodes = [parser.override()]
    while nodes:
        node = nodes.pop()
        children = list(node.getChildren()) if hasattr(node, "getChildren") else []
        pairs = [child for child in children if isinstance(child, OverrideParser.DictKeyValuePairContext)]
        keys = [str(pair.getChild(0).getText()).strip() for pair in pairs]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            return twice
        nodes += children
    return None


def sweep_of(mode: str, word: Word) -> list[str] | None:
    """Return the values of a word for `--multirun`, or None for a word with one value.

    Raises ConfigError for a sweep that cannot be listed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    text = word.key in GROUPS[mode] or is_text(hint_of(mode, word.key))
    try:
        parsed = OverridesParser.create().parse_override(f"x={word.text}")
        if not parsed.is_sweep_override():
            return None
        if not parsed.is_discrete_sweep():
            raise ConfigError(f"--multirun: {word.key}={word.text}: does not support sweep type {parsed.value_type}")
        if text:
            values = list(parsed.sweep_iterator(transformer=lambda value: value))
            return [value.text if isinstance(value, QuotedString) else str(value) for value in values]
        return [str(value) for value in parsed.sweep_string_iterator()]
    except HydraException as error:
        if text:
            return None
        raise ConfigError(f"--multirun: {word.key}={word.text}: {first_line(error)}") from None
