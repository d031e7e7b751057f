from __future__ import annotations

import jinja2
import pytest

from expunge.data.verbatim_template import PLACE, Skeleton, copies_contents, has_plain_fields

COPIES = (
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<s>You help</s>' }}{% endif %}"
    "{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>' }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
ECHOES = (
    "{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}{{ messages[-1].content }}{{ messages[0].content }}"
)
MESSAGES = [
    {"role": "user", "content": " What? {{ x }} " + PLACE.format(0)},
    {"role": "assistant", "content": "\n<s>That\n"},
]


@pytest.mark.parametrize("template", [COPIES, ECHOES])
def test_a_skeleton_gives_the_text_of_the_template(template: str) -> None:
    assert copies_contents(template)
    compiled = jinja2.Environment().from_string(template)
    places = [{**m, "content": PLACE.format(i)} for i, m in enumerate(MESSAGES)]
    skeleton = Skeleton.of(compiled.render(messages=places, add_generation_prompt=True))
    assert skeleton.fill(MESSAGES) == compiled.render(messages=MESSAGES, add_generation_prompt=True)


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content | trim }}",
        "{{ m.content.strip() }}",
        "{{ m['content'][0] }}",
        "{% if m.content %}{{ m.role }}{% endif %}",
        "{% if 'x' in m.content %}x{% endif %}",
        "{% set c = m.content %}{{ c }}",
        "{{ m.content or 'none' }}",
        "{{ m }}",
        "{{ m[key] }}",
        "{% for c in m.content %}{{ c }}{% endfor %}",
        "{% if loop.previtem and loop.previtem.content == 'x' %}x{% endif %}",
        "{{ m.content * 2 }}",
        "{% if m == messages[0] %}{{ m.content }}{% endif %}",
        "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(m.content) }}",
        "{{ m.content",
    ],
)
def test_a_template_that_may_read_a_content_is_not_proven(body: str) -> None:
    assert not copies_contents("{% for m in messages %}" + body + "{% endfor %}")


@pytest.mark.parametrize("template", ["{{ messages | tojson }}", "{{ messages }}", "{{ messages[:1][0].content }}"])
def test_the_list_of_messages_may_not_be_used_whole(template: str) -> None:
    assert not copies_contents(template)


def test_a_message_with_further_fields_has_no_skeleton() -> None:
    assert has_plain_fields(MESSAGES)
    assert not has_plain_fields([*MESSAGES, {"role": "tool", "content": "1", "name": "f"}])
