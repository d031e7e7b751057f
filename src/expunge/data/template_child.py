"""Render a chat template on short conversations: a program for `core.limited`, which imports jinja2 alone."""

from __future__ import annotations

import json
from typing import Any


def main(request: dict[str, Any]) -> None:
    """Render the conversations of {template, variables}. An error of the template is no result: its reader explains it.

    Raises MemoryError if the memory is spent.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """The tag of transformers around the text of an assistant; it writes this text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: form}
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    question = {"role": "user", "content": "Name the capital of France."}
    answer = {"role": "assistant", "content": "Paris."}
    system = {"role": "system", "content": "Be brief."}
    for messages in ([question], [question, answer], [system, question, answer], [question, answer, question]):
        for start in (False, True):
            variables: dict[str, Any] = {**request["variables"], "messages": messages, "add_generation_prompt": start}
            try:
                environment.from_string(request["template"]).render(**variables)
            except MemoryError:
                raise
            except Exception:  # the caller renders again, and explains it
                continue
