from __future__ import annotations

import pytest

from expunge.report.markup import cell_text, markdown_table, markdown_text, plain_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("forget_quality of <b>A|B</b>", r"forget_quality of &lt;b&gt;A\|B&lt;/b&gt;"),
        ("_all_ of *it*\nand [this](x) `c`", r"\_all\_ of \*it\* and \[this\](x) \`c\`"),
        (r"a\b", r"a\\b"),
    ],
)
def test_a_text_stays_text_in_markdown(text: str, expected: str) -> None:
    assert markdown_text(text) == expected
    assert plain_text(expected) == " ".join(text.split())


def test_a_table_in_markdown() -> None:
    rows = [("NPO", "1"), ("RMU", "2")]
    assert markdown_table(("method", "n"), "lr", rows) == ["| method | n |", "|:--|--:|", "| NPO | 1 |", "| RMU | 2 |"]


@pytest.mark.parametrize(("text", "expected"), [("=1+1", "'=1+1"), (" @x", "' @x"), ("\tx", "'\tx"), ("a=1", "a=1")])
def test_a_cell_is_no_formula(text: str, expected: str) -> None:
    assert cell_text(text) == expected
