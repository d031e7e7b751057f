"""Prove from its source that a chat template only copies the contents of messages, and render such a template fast.

If contents only reach concatenations and outputs, the text of a conversation is that of its roles with the contents in
their places. One rendering with placeholders then serves every conversation of the same roles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jinja2
from jinja2 import nodes

PLACE = "\U000f8200{}\U000f8201"  # the placeholder of a message's content
_PLACES = re.compile("\U000f8200(\\d+)\U000f8201")
_FIELDS = {"role", "content"}
_LOOP = {"first", "last", "index", "index0", "revindex", "revindex0", "length"}
_PLAIN = (nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not)

Kind = Literal["plain", "content", "message", "messages"]


class _Unproven(Exception):
    """The template may use the content of a message for more than copying it."""


def copies_contents(template: str) -> bool:
    """Return whether a chat template's text provably copies every content unchanged. False: not proven."""
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
        _statements(tree.body, {"messages": "messages"})
    except (jinja2.TemplateSyntaxError, _Unproven):
        return False
    return True


def _statements(body: Sequence[nodes.Node], names: Mapping[str, Kind]) -> None:
    """Follow the kinds of values through statements. Raises _Unproven for all others."""
    for node in body:
        if isinstance(node, nodes.Output):
            if any(_kind(part, names) not in ("plain", "content") for part in node.nodes):
                raise _Unproven
        elif isinstance(node, nodes.If):
            _plain(node.test, names)
            for part in (node.body, node.elif_, node.else_):
                _statements(part, names)
        elif isinstance(node, nodes.For) and isinstance(node.target, nodes.Name) and node.test is None:
            of = _kind(node.iter, names)
            if of not in ("plain", "messages"):
                raise _Unproven
            own: Kind = "message" if of == "messages" else "plain"
            _statements(node.body, {**names, "loop": "plain", node.target.name: own})
            _statements(node.else_, names)
        elif not isinstance(node, nodes.Break | nodes.Continue):
            raise _Unproven


def _kind(node: nodes.Node, names: Mapping[str, Kind]) -> Kind:
    """Return the kind of an expression's value."""
    if isinstance(node, nodes.Name):
        return names.get(node.name, "plain")
    if isinstance(node, nodes.Const | nodes.TemplateData):
        return "plain"
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        return _part(node, names)
    if isinstance(node, nodes.Add | nodes.Concat):
        parts = node.nodes if isinstance(node, nodes.Concat) else [node.left, node.right]
        kinds = {_kind(part, names) for part in parts}
        if not kinds <= {"plain", "content"}:
            raise _Unproven
        return "content" if "content" in kinds else "plain"
    if isinstance(node, _PLAIN):
        for child in node.iter_child_nodes():
            _plain(child, names)
        return "plain"
    raise _Unproven


def _part(node: nodes.Getattr | nodes.Getitem, names: Mapping[str, Kind]) -> Kind:
    """Return the kind of `a.b` or `a[b]`."""
    of, key = _kind(node.node, names), node.attr if isinstance(node, nodes.Getattr) else node.arg
    if isinstance(key, nodes.Neg) and isinstance(key.node, nodes.Const):  # messages[-1]
        key = key.node
    value = key.value if isinstance(key, nodes.Const) else key
    if of == "messages" and isinstance(value, int):
        return "message"
    if of == "message" and isinstance(value, str):
        return "content" if value == "content" else "plain"
    in_loop = isinstance(node.node, nodes.Name) and node.node.name == "loop"
    if of == "plain" and isinstance(value, str | int) and (not in_loop or value in _LOOP):
        return "plain"
    raise _Unproven


def _plain(node: nodes.Node, names: Mapping[str, Kind]) -> None:
    if _kind(node, names) != "plain":
        raise _Unproven


@dataclass(frozen=True)
class Skeleton:
    """The text of a conversation between the contents of its messages, and the number of the message at each place."""

    texts: tuple[str, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, rendered: str) -> Skeleton:
        """Return the skeleton of a conversation that was rendered with placeholders."""
        parts = _PLACES.split(rendered)
        return cls(tuple(parts[::2]), tuple(map(int, parts[1::2])))

    def fill(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text with the contents of messages."""
        out = [self.texts[0]]
        for place, text in zip(self.places, self.texts[1:], strict=True):
            out += (messages[place]["content"], text)
        return "".join(out)


def has_plain_fields(messages: Sequence[Mapping[str, str]]) -> bool:
    """Return whether messages have a role and a content alone."""
    return all(message.keys() == _FIELDS for message in messages)
