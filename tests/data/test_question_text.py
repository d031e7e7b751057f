from __future__ import annotations

from expunge.data.question_text import question_template, question_templates


def test_a_name_ends_before_its_possessive_and_its_full_stop() -> None:
    one = question_template("What is Hsiao Yun-Hwa's job?")
    assert one is not None and (one.name, one.about("Bo")) == ("Hsiao Yun-Hwa", "What is Bo's job?")
    names = [t.name for t in question_templates("Where did Ada Lee of the Royal Academy meet Bo.")]
    assert names == ["Ada Lee of the Royal Academy", "Bo"]
    assert question_template("what is it?") is None
