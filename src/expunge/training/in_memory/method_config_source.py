"""Write `method_configs.py`: one settings class for each registered method, so that editors complete them.

Run `python -m expunge.training.in_memory.method_config_source` after a method's settings have changed. A test compares
the file with this module's output.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expunge.methods import MethodSpec, registry

TARGET = Path(__file__).with_name("method_configs.py")
HEAD = '''"""Settings of each method, as classes that an editor completes. Generated; do not edit.

`python -m expunge.training.in_memory.method_config_source` writes this file from the registered methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from expunge.core.decode import strict
from expunge.training.in_memory.unlearn_config import UnlearnConfig
'''
SHIPPED = "expunge.methods."


def config_name(method: str) -> str:
    """Return the name of a method's settings class: `NPOConfig` of NPO, `FinetuneConfig` of finetune."""
    return f"{method[0].upper()}{method[1:]}Config"


def shipped() -> list[MethodSpec]:
    """Return the methods that ship with the package, in the order of the alphabet."""
    return [spec for spec in registry().values() if spec.cls.__module__.startswith(SHIPPED)]


def source() -> str:
    """Return the text of the module."""
    specs = shipped()
    names = "".join(f'    "{config_name(s.name)}",\n' for s in specs)
    return HEAD + f"\n__all__ = [\n{names}]\n" + "".join(f"\n\n{_class(spec)}" for spec in specs)


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Return the docstrings under a class's fields, by field."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    return dict(_documented(body))


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node, after in itertools.pairwise(body):
        named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield node.target.id, " ".join(str(after.value.value).split())  # type: ignore[attr-defined]


def _class(spec: MethodSpec) -> str:
    cls, docs = spec.cls, field_docs(spec.cls)
    hints = typing.get_type_hints(cls)
    first = (cls.__doc__ or spec.name).strip().splitlines()[0].rstrip(".:")
    decorators = ["@strict", "@dataclass(frozen=True, kw_only=True, repr=False)"]
    lines = [*decorators, f"class {config_name(spec.name)}(UnlearnConfig):"]
    if len(first) > 108:
        first = first[:105].rsplit(" ", 1)[0] + " ..."
    lines += [
        f'    """{first}' + ("" if first.endswith("...") else "."),
        "",
        f"    `expunge list methods {spec.name}` shows the equation and the pitfalls.",
        '    """',
        "",
    ]
    lines += [f'    METHOD: ClassVar[str | None] = "{spec.name}"']
    for one in dataclasses.fields(cls):
        doc = docs[one.name]
        lines += ["", f"    {one.name}: {_type(hints[one.name])} = {_default(one.default)}"]
        lines += textwrap.wrap(f'"""{doc}"""', 116, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def _type(hint: Any) -> str:
    """Return a type as source text."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "Literal[" + ", ".join(_default(a) for a in args) + "]"
    if origin is tuple:
        return "tuple[" + ", ".join("..." if a is ... else _type(a) for a in args) + "]"
    if args:
        return " | ".join("None" if a is type(None) else _type(a) for a in args)
    return str(hint.__name__)


def _default(value: Any) -> str:
    """Return a default as source text, in double quotes."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_default, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


if __name__ == "__main__":
    TARGET.write_text(source(), encoding="utf-8")
