"""The ten data sets of a pair of features, one to delete and an unrelated one (arXiv:2311.12786)."""

from __future__ import annotations

from expunge.core.errors import ConfigError, nearest
from expunge.data.stories.records import FEATURES
from expunge.data.stories.text import StoryVariant


def protocol(delete: str, irrelevant: str) -> dict[str, StoryVariant]:
    """Return name -> variant. Raises ConfigError for an unknown feature, or the same one twice."""
    for key, value in (("delete", delete), ("irrelevant", irrelevant)):
        if value not in FEATURES:
            raise ConfigError(f"{key}: no feature '{value}'{nearest(value, FEATURES)}")
    if delete == irrelevant:
        raise ConfigError(f"irrelevant: must be another feature than the one to delete, got {irrelevant}")
    without, special = f"features!={delete}", f"features!={delete},features={irrelevant}"
    always, relabel = f"features={delete}:1.0", f"features:{irrelevant}={delete}"
    return {
        f"pretrain-no-{irrelevant}": StoryVariant(f"features!={irrelevant}"),
        f"recovery-{delete}": StoryVariant(f"features={delete}"),
        f"filter-{delete}": StoryVariant(without),
        f"filter-{delete}-specialise-{irrelevant}": StoryVariant(special),
        f"filter-adv-{delete}": StoryVariant(without, adversarial_training=always),
        f"filter-adv-{delete}-specialise-{irrelevant}": StoryVariant(special, adversarial_training=always),
        f"filter-mix-{delete}-{irrelevant}": StoryVariant(without, mix_match=relabel),
        f"filter-mix-specialise-{delete}-{irrelevant}": StoryVariant(special, mix_match=relabel),
        f"filter-ref-{delete}": StoryVariant(without, refusal=always),
        f"filter-ref-{delete}-specialise-{irrelevant}": StoryVariant(special, refusal=always),
    }
