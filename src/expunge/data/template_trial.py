"""Choose a tokenizer's chat template, fix its date, and refuse one that does not end or that fills the memory.

A template is tried in a limited process before the process itself renders it.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, nearest
from expunge.core.limited import LimitError, ProcessLimits, run_limited

CPU_S = 2  # a published template needs milliseconds
WALL_S = 60.0  # on a busy machine
MEMORY = 1 << 30
MOST_CHARACTERS = 1_000_000
_DATES = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d", "%B %d, %Y")
PROGRAM = Path(__file__).with_name("template_child.py")


def template_text(tokenizer: Any, choice: str | None, tools: Any, key: str) -> str:
    """Return the Jinja text of a chat template: the tokenizer's own, one of its templates by name, or the given text.

    tools: the variable of this name; a tokenizer may have another template for it.

    Raises:
        ConfigError: The tokenizer has several templates and no default, or the text is no template and no name of one.
    """
    own = getattr(tokenizer, "chat_template", None)
    named: Mapping[str, str] = own if isinstance(own, Mapping) else {}
    usable = {"default"} if tools is None else {"default", "tool_use"}
    if choice is None and named and not usable & set(named):
        raise ConfigError(f"{key}: the tokenizer has no default chat template; name one{nearest('', named)}")
    text = str(tokenizer.get_chat_template(choice, tools=tools))
    if "{{" not in text and "{%" not in text:
        hint = nearest(text, named) if named else "; give the Jinja text of one"
        raise ConfigError(f"{key}: {text[:60]!r} is not a chat template{hint}")
    return text


def fixed_clock(template: str, shown: str) -> str:
    """Return a Jinja macro in place of `strftime_now`, for the codes in a template and the day in `shown`.

    It writes `shown` itself if that is no date.
    """
    day = next((d for form in _DATES if (d := _parsed(shown, form))), None)
    if day is None:
        value = repr(shown)
    else:
        codes = sorted(set(re.findall(r"%-?[A-Za-z]", template)))
        value = "form" + "".join(f" | replace({code!r}, {day.strftime(code)!r})" for code in codes)
    # the empty text keeps a newline at the beginning of the template
    return f"{{% macro strftime_now(form) %}}{{{{ {value} }}}}{{% endmacro %}}{{{{ '' }}}}"


def _parsed(text: str, form: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(text, form)
    except ValueError:
        return None


def check_template(text: str, variables: Mapping[str, object], key: str) -> None:
    """Render a template in a limited process, once for each text. Raises ConfigError if it exceeds the limits."""
    plain = {name: value for name, value in variables.items() if isinstance(value, str | int | float | bool)}
    fault = _fault(text, json.dumps(plain, sort_keys=True))
    if fault is not None:
        raise ConfigError(f"{key}: the chat template {fault} on a short conversation; correct it, or use another one")


@functools.lru_cache(maxsize=64)
def _fault(text: str, variables: str) -> str | None:
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text)} characters, more than {MOST_CHARACTERS}, and cannot be tried"
    try:
        run_limited(
            PROGRAM, {"template": text, "variables": json.loads(variables)}, ProcessLimits(CPU_S, WALL_S, MEMORY)
        )
    except LimitError as error:
        return str(error)
    return None
