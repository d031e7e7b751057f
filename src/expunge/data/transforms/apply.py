"""Application of the rules to one record: filter, then mix and match, then adversarial, then refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from expunge.data.transforms.draws import Draws
from expunge.data.transforms.grammar import LENGTH, Condition, Rules

Values = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class TransformItem:
    """Input of the rules: the values of each key of a record, and the length of its text in characters."""

    record_id: str
    values: Values
    length: int


@dataclass(frozen=True, slots=True)
class TransformedStories:
    """A record after the filter: its values after the rules, and the values to refuse (empty: the text stays)."""

    values: Values
    refused: tuple[str, ...] = ()


def holds(condition: Condition, item: TransformItem) -> bool:
    """Return whether a record satisfies a condition."""
    if condition.key == LENGTH:
        return (item.length > int(condition.value)) == condition.equal
    return (condition.value in item.values[condition.key]) == condition.equal


def transform_item(item: TransformItem, rules: Rules, draws: Draws) -> TransformedStories | None:
    """Return the record after the rules, or None if the filter removes it.

    `mix_match` replaces values (all pairs at once, so A=B:B=A swaps them) and does not change the text. `adversarial`
    and `refusal` append a value with its probability, sampled for the record alone; refusal also makes the text refuse
    it. A value is never listed twice.
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
