"""Formulas over named numbers, such as `0.5 * (forget_quality + model_utility)`: parsed, never executed as code.

Allowed are numbers, names, + - * / **, parentheses, and the functions min, max, abs and hmean (the harmonic mean). A
name that is no word is written in quotes: `"mmlu/acc"`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MOST_CHARACTERS = 300  # which also bounds the depth of nested parts


def _hmean(*values: float) -> float:
    """Return the harmonic mean; 0 if a value is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / v for v in values)


_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: math.pow,
}  # fmt: skip
_UNARY: Mapping[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
FUNCTIONS: Mapping[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs, "hmean": _hmean}
_MEANING = "allowed are numbers, metric names, + - * / **, parentheses, min, max, abs and hmean"


@dataclass(frozen=True)
class Arithmetic:
    """A parsed formula. names: the names that it reads, in order, each once."""

    text: str
    names: tuple[str, ...]
    tree: ast.expr

    def value(self, numbers: Mapping[str, float]) -> float:
        """Return the formula's value; NaN if a name has no number, or for a division by 0 and the like."""
        try:
            value = _value(self.tree, numbers)
        except (ArithmeticError, ValueError):
            return math.nan
        return value if isinstance(value, float | int) else math.nan


def parse_arithmetic(text: str) -> Arithmetic:
    """Parse a formula. Raises ValueError with the part that is not allowed, and the allowed parts."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"must be at most {MOST_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"must be a formula; {_MEANING}") from error
    names: dict[str, None] = {}
    _check(tree, names)
    if not names:
        raise ValueError("must read at least one metric")
    return Arithmetic(text, tuple(names), tree)


def _check(node: ast.expr, names: dict[str, None]) -> None:
    """Add the names of a part to `names`. Raises ValueError for a part that is not allowed."""
    parts: Sequence[ast.expr] = ()
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return
        case ast.Constant(value=str() as name) | ast.Name(id=name):
            names[name] = None
            return
        case ast.BinOp(op=op) if type(op) in _BINARY:
            parts = (node.left, node.right)
        case ast.UnaryOp(op=op) if type(op) in _UNARY:
            parts = (node.operand,)
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in FUNCTIONS and node.args:
            parts = node.args
            if name == "abs" and len(parts) != 1:
                raise ValueError("must give abs one value")
        case _:
            raise ValueError(f"must be a formula, and {ast.unparse(node)!r} is no part of one; {_MEANING}")
    for part in parts:
        _check(part, names)


def _value(node: ast.expr, numbers: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Constant(value=str() as name) | ast.Name(id=name):
            return numbers.get(name, math.nan)
        case ast.BinOp():
            return _BINARY[type(node.op)](_value(node.left, numbers), _value(node.right, numbers))
        case ast.UnaryOp():
            return _UNARY[type(node.op)](_value(node.operand, numbers))
        case ast.Call(func=ast.Name(id=name)):
            values = [_value(part, numbers) for part in node.args]
            if any(math.isnan(v) for v in values):
                return math.nan
            return float(FUNCTIONS[name](*values) if len(values) > 1 or name in ("abs", "hmean") else values[0])
    raise ValueError(f"not a part of a formula: {ast.dump(node)}")
