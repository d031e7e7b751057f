"""Read YAML that a user gives: bounded in size, depth and expansion, plain values only, one line for each fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from expunge.core.errors import ConfigError, one_line

MOST_BYTES = 1_000_000  # a study of thousands of settings has less than a tenth
MOST_DEPTH = 50
MOST_NODES = 100_000  # after aliases are expanded
PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))


class _RepeatedKeyError(yaml.YAMLError):
    """A mapping has a key twice: valid YAML, of which one value would be lost."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with `1e-3` as a number, dates and `1:30` as text. Duplicate keys, cycles and alias bombs are errors."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        self._open: set[str] = set()
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML has no types
        line, anchor = event.start_mark.line + 1, event.anchor
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                raise yaml.YAMLError(f"line {line}: *{anchor} stands inside &{anchor}, so the value contains itself")
            self._nodes += self._sizes.get(anchor, 0)
        elif event.tag is not None and event.tag not in (*PLAIN_TAGS, "!"):
            raise yaml.YAMLError(f"line {line}: the tag {event.tag!r} is not supported; write a plain value")
        self._nodes += 1
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise yaml.YAMLError(f"line {line}: more than {MOST_DEPTH} levels of lists and keys")
        if self._nodes > MOST_NODES:
            raise yaml.YAMLError(f"line {line}: more than {MOST_NODES} values, counting each alias in full")
        before, named = self._nodes, anchor is not None and not isinstance(event, yaml.AliasEvent)
        if named:
            self._open.add(anchor)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
            raise yaml.YAMLError(f"line {line}: a text contains NUL")
        if named:
            self._open.discard(anchor)
            self._sizes[anchor] = self._nodes - before + 1
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise _RepeatedKeyError(f"line {line}: the key {key.value!r} stands twice, first in line "
                                            f"{lines[key.value]}; write it once")  # fmt: skip
                lines[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("timestamp", "int", "float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# numbers of YAML 1.1 without those of base 60, which are times or ratios such as 1:30
_NUMBERS = {
    "int": r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)",
    "float": r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|Inf|INF))"
    r"|\.(nan|NaN|NAN)",
}
for _name, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), list("-+0123456789."))

# PyYAML converts scalars without a check: `!!int x`, `!!float ""` and a number of 5,000 digits raise these.
_FAULTS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text. Raises ConfigError with one line that begins with `where`."""
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{where} has {len(text)} characters of YAML, at most {MOST_BYTES} are read")
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except _RepeatedKeyError as error:
        raise ConfigError(f"{where}: {error}") from None
    except _FAULTS as error:
        raise ConfigError(f"{where} is not YAML: {one_line(error)[:300]}") from None


def read_yaml(path: Path, key: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds. Raises ConfigError naming the key and the file."""
    where = f"{key}: {path}" if key else str(path)
    try:
        if not path.is_file() and path.exists():
            raise ConfigError(f"{where} is not a file")
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{where} has {path.stat().st_size} bytes, at most {MOST_BYTES} of YAML are read")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    loaded = parse_yaml(text, where)
    if not isinstance(loaded, dict):
        raise ConfigError(f"{where} holds no keys")
    return loaded
