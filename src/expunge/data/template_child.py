"""Render a chat template under limits of time and memory. A program of its own, which imports jinja2 alone.

It reads {template, variables, cpu_s, bytes} as JSON from standard input. It exits with 0 if every conversation ended,
in a text or in an error of the template.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

MEMORY_CODE = 77


def main() -> int:
    """Render the conversations of the request. Returns the exit code."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    request = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (request["cpu_s"], request["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_AS, (request["bytes"], request["bytes"]))

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
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
                return MEMORY_CODE
            except Exception:  # the caller renders again, and explains it
                continue
    return 0


if __name__ == "__main__":
    sys.exit(main())
