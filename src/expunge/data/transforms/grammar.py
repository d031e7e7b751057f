"""The grammar of the four transforms (arXiv:2311.12786, its code's command line), parsed once into rules.

    FILTER  := COND {"," COND}    COND := KEY ("=" | "!=") VALUE     KEY also `length`: more characters than VALUE
    MIX     := RULE {"," RULE}    RULE := KEY ":" V1 "=" V2 {(":" | "=") V3 (":" | "=") V4}
    ADV/REF := ITEM {"," ITEM}    ITEM := KEY "=" VALUE ":" PROB

Values are case-sensitive and contain none of , = : . A parse error raises ConfigError with the setting and the
character, counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from expunge.core.errors import ConfigError, nearest

LENGTH = "length"


@dataclass(frozen=True)
class Condition:
    """Condition of the filter: `value` is among (or, if not `equal`, not among) the values of `key`."""

    key: str
    equal: bool
    value: str
    position: int

    def __str__(self) -> str:
        return f"{self.key}{'=' if self.equal else '!='}{self.value}"


@dataclass(frozen=True)
class Odds:
    """Append `value` to the values of `key` with a probability."""

    key: str
    value: str
    probability: float

    @property
    def purpose(self) -> str:
        """The name of its draw."""
        return f"{self.key}={self.value}"


@dataclass(frozen=True)
class Rules:
    """Parsed transforms, in the order of their application. relabel: for each key, old values -> new values."""

    filtering: tuple[Condition, ...] = ()
    relabel: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    adversarial: tuple[Odds, ...] = ()
    refusal: tuple[Odds, ...] = ()

    @property
    def written(self) -> tuple[str, ...]:
        """The keys whose values may change, in the order of their first occurrence."""
        return tuple(dict.fromkeys([*self.relabel, *(o.key for o in (*self.adversarial, *self.refusal))]))


def parse_rules(
    filtering: str | None = None,
    mix_match: str | None = None,
    adversarial_training: str | None = None,
    refusal: str | None = None,
    *,
    keys: Sequence[str],
) -> Rules:
    """Parse the four settings; `keys` are the records' keys. None or empty: no such transform."""
    return Rules(
        _conditions(filtering, keys) if filtering else (),
        _relabel(mix_match, keys) if mix_match else {},
        _odds("adversarial_training", adversarial_training, keys) if adversarial_training else (),
        _odds("refusal", refusal, keys) if refusal else (),
    )


def variant_name(
    filtering: str | None = None,
    mix_match: str | None = None,
    adversarial_training: str | None = None,
    refusal: str | None = None,
    instruction_subset: str | None = None,
) -> str:
    """Return the name of such a data set: F_features_x_Twist_MM_none_AT_features_Twist_1.0_RF_none_IS_none."""
    parts = zip(
        ("F", "MM", "AT", "RF", "IS"),
        (filtering, mix_match, adversarial_training, refusal, instruction_subset),
        strict=True,
    )
    return "_".join(f"{tag}_{re.sub('[=,:]', '_', (text or 'none').replace('!=', '_x_'))}" for tag, text in parts)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield the parts between commas, each with the position of its first character."""
    at = 1
    for piece in text.split(","):
        yield at, piece
        at += len(piece) + 1


def _wrong(setting: str, position: int, what: str) -> ConfigError:
    return ConfigError(f"{setting}: character {position}: {what}")


def _key(setting: str, position: int, key: str, keys: Sequence[str]) -> str:
    if key not in keys:
        raise _wrong(setting, position, f"unknown key '{key}'{nearest(key, keys)}")
    return key


def _conditions(text: str, keys: Sequence[str]) -> tuple[Condition, ...]:
    out = []
    for at, piece in _pieces(text):
        match = re.fullmatch(r"([^=!:]*)(!=|=)([^=:]+)", piece)
        if match is None:
            raise _wrong("filtering", at, f"expected KEY=VALUE or KEY!=VALUE, got '{piece}'")
        key, sign, value = match.groups()
        _key("filtering", at, key, [*keys, LENGTH])
        if key == LENGTH and not re.fullmatch(r"[0-9]{1,9}", value):
            raise _wrong("filtering", at + match.start(3), f"length takes a whole number of characters, got '{value}'")
        out.append(Condition(key, sign == "=", value, at))
    return tuple(out)


def _relabel(text: str, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for at, piece in _pieces(text):
        key, *values = re.split("[:=]", piece)
        if len(values) < 2 or len(values) % 2 or not all(values):
            raise _wrong("mix_match", at, f"expected KEY:OLD=NEW, or more pairs KEY:OLD=NEW:OLD=NEW, got '{piece}'")
        pairs = out.setdefault(_key("mix_match", at, key, keys), {})
        for old, new in zip(values[::2], values[1::2], strict=True):
            if pairs.setdefault(old, new) != new:
                raise _wrong("mix_match", at, f"'{old}' would become both '{pairs[old]}' and '{new}'")
    return out


def _odds(setting: str, text: str, keys: Sequence[str]) -> tuple[Odds, ...]:
    out: list[Odds] = []
    for at, piece in _pieces(text):
        match = re.fullmatch(r"([^=:]*)=([^=:]+):([^=:]+)", piece)
        if match is None:
            raise _wrong(setting, at, f"expected KEY=VALUE:PROBABILITY, got '{piece}'")
        key, value, chance = match.groups()
        _key(setting, at, key, keys)
        try:
            probability = float(chance)
        except ValueError:
            probability = -1.0
        if not 0 <= probability <= 1:  # nan is neither
            raise _wrong(setting, at + match.start(3), f"a probability lies between 0 and 1, got '{chance}'")
        if any((o.key, o.value) == (key, value) for o in out):
            raise _wrong(setting, at, f"{key}={value} occurs twice")
        out.append(Odds(key, value, probability))
    return tuple(out)
