"""The package's items on general ability, and its lists of names."""

from __future__ import annotations

from expunge.data.general import AREAS, anchors, general_sets, others_like


def test_there_are_two_hundred_items_with_one_right_option_each() -> None:
    sets = general_sets()
    choices = [row for area in AREAS for row in sets[f"general_{area}"]]
    assert len(choices) >= 200 and all(len(sets[f"general_{area}"]) >= 60 for area in AREAS)
    assert len({row.question for row in choices}) == len(choices)
    for row in choices:
        options = [row.answer, *row.perturbed]
        assert len(options) == 4 and len({option.casefold() for option in options}) == 4, row.question


def test_the_prompts_of_fluency_have_no_options() -> None:
    assert all(not row.perturbed for row in general_sets()["general_fluency"])


def test_anchors_are_neither_items_nor_prompts() -> None:
    questions = {row.question for rows in general_sets().values() for row in rows}
    assert len(anchors()) == len(set(anchors())) >= 60 and not questions & set(anchors())


def test_names_like_another_are_of_its_list_without_it() -> None:
    others = others_like("france")
    assert "Germany" in others and "France" not in others
    assert others_like("Zanzibaria") == []
