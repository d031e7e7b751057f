"""The example at the start of a run."""

from __future__ import annotations

from expunge.pipelines.study.template_example import MOST_SHOWN, _tokens


class _Letters:
    """A tokenizer of one letter."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "a"


def test_a_long_answer_is_shown_in_part() -> None:
    assert _tokens(_Letters(), [1, 2]) == "|a|a|  (2 tokens)"
    shown = _tokens(_Letters(), list(range(1611)))
    assert shown.count("a|") == MOST_SHOWN and shown.endswith(f"| ... {1611 - MOST_SHOWN} more  (1611 tokens)")
    assert _tokens(_Letters(), [1, 2, 3], last=1) == "... 2 more, then |a|  (3 tokens)"
