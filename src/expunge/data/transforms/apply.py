"""The rules applied to one record: filter, then mix and match, then adversarial, then refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from expunge.data.transforms.draws import Draws
from expunge.data.transforms.grammar import LENGTH, Condition, Rules

Values = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class TransformItem:
    """A record as the rules see it: the values of each key, and the length of its text in characters."""

    record_id: str
    values: Values
    length: int


@dataclass(frozen=True, slots=True)
class TransformedStories:
    """A kept record: its values after the rules, and what its text is to refuse (empty: the text stays)."""

    values: Values
    refused: tuple[str, ...] = ()


def holds(condition: Condition, item: TransformItem) -> bool:
    """Whether a record satisfies a condition."""
    if condition.key == LENGTH:
        return (item.length > int(condition.value)) == condition.equal
    return (condition.value in item.values[condition.key]) == condition.equal


def transform_item(item: TransformItem, rules: Rules, draws: Draws) -> TransformedStories | None:
    """The record after the rules, or None if the filter leaves it out.

    mix_match replaces values (all pairs at once, so A=B:B=A swaps them) and leaves the text as it is. adversarial and
    refusal append a value with its probability, drawn for the record alone; refusal also has the text refuse it.
    A value is never listed twice.
    """
    for condition in rules.filtering:
        if not holds(condition, item):
            return None
    if not (rules.relabel or rules.adversarial or rules.refusal):
        return TransformedStories(item.values)
    values = dict(item.values)
    for key, pairs in rules.relabel.items():
        values[key] = tuple(dict.fromkeys(pairs.get(v, v) for v in values[key]))
    for odds in rules.adversarial:
        if draws.uniform(f"adversarial {odds.purpose}") < odds.probability and odds.value not in values[odds.key]:
            values[odds.key] += (odds.value,)
    refused = []
    for odds in rules.refusal:
        if draws.uniform(f"refusal {odds.purpose}") < odds.probability:
            refused.append(odds.value)
            if odds.value not in values[odds.key]:
                values[odds.key] += (odds.value,)
    return TransformedStories(values, tuple(refused))
