"""A chat template that never ends, or that fills the memory, is refused in a process of its own."""

from __future__ import annotations

import pytest

from expunge.core.errors import ConfigError
from expunge.data import template_trial
from expunge.data.template_trial import check_template

GOOD = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{{ m | tojson }}\n{% endfor %}"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GENERATION = "{% generation %}{{ messages[-1].content }}{% endgeneration %}"
DOUBLES = "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}"


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_trial, "CPU_S", 1)
    monkeypatch.setattr(template_trial, "MEMORY", 1 << 28)


@pytest.mark.parametrize(
    "text", [GOOD, GENERATION, "{% if", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ nope.nope }}"]
)
def test_a_template_that_ends_is_left_to_its_reader(text: str) -> None:
    check_template(text, {"bos_token": "<s>", "object": object()}, "KEY")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LOOP, "does not end within 1 s"),
        (GENERATION + LOOP, "does not end within 1 s"),
        ("{{ 'x' * 10**10 }}", "needs more than 256 MB"),
        (DOUBLES, "needs more than 256 MB"),
        ("x" * 1_000_001, "has 1000001 characters"),
    ],
)
def test_a_template_without_an_end_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^KEY: the chat template {message}"):
        check_template(text, {}, "KEY")
