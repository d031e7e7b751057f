"""Four transforms of records with metadata (filter, mix and match, adversarial, refusal), for any set of rows."""

from expunge.data.transforms.apply import TransformedStories, TransformItem, transform_item
from expunge.data.transforms.draws import Draws
from expunge.data.transforms.grammar import Condition, Odds, Rules, parse_rules, variant_name
from expunge.data.transforms.rows import transform_rows

__all__ = [
    "TransformedStories",
    "Condition",
    "Draws",
    "TransformItem",
    "Odds",
    "Rules",
    "parse_rules",
    "transform_item",
    "transform_rows",
    "variant_name",
]
