"""Seeded stories with instructions: each of the six features is sampled separately and has varied forms in the text.

A story's beats: opening and habit; (a hint); a plot's start; talk (direct or indirect); its middle; (a clash); (the
meaning of the hint); the plot's good or bad end; (a twist); a happy or sad close; (a moral). An absent feature is
replaced by a plain sentence or nothing, so that neither wording nor length reveals it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.core.decode import strict
from expunge.core.files import whole_folder
from expunge.data.stories import banks
from expunge.data.stories.records import (
    FEATURES,
    Story,
    made_already,
    shard_name,
    write_index,
    write_shard,
)
from expunge.data.stories.work import spread
from expunge.data.world.banks import article

REVISION = 1  # of the words and of their sampling
MOST_SHARDS = 10_000


@strict
@dataclass(frozen=True, kw_only=True)
class StoriesConfig:
    """Settings of the story generator."""

    n: int = 20_000
    """Number of stories."""
    seed: int = 0
    """Seed of the stories."""
    shards: int = 11
    """Number of files; file 0 is the test set."""
    feature_probability: float = 0.5
    """Probability of each feature, from 0 to 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 100_000_000:
            raise ValueError("n must be 1 to 100000000 stories")
        if not 1 <= self.shards <= min(self.n, MOST_SHARDS):
            raise ValueError(f"shards must be 1 to {min(self.n, MOST_SHARDS)}")
        if not 0 <= self.feature_probability <= 1:
            raise ValueError("feature_probability must lie between 0 and 1")


def generate(config: StoriesConfig, out: Path, *, workers: int = 1) -> bool:
    """Write the stories' folder; return False if it exists. Equal configs yield equal bytes for any `workers`."""
    made_by = {
        "generate": {
            "n": config.n,
            "seed": config.seed,
            "shards": config.shards,
            "feature_probability": config.feature_probability,
        },
        "revision": REVISION,
    }
    if made_already(out, made_by):
        return False
    with whole_folder(out) as part:
        tasks = [(config, part, number) for number in range(config.shards)]
        counts = dict(enumerate(spread(_write, tasks, workers)))
        write_index(part, counts, made_by)
    return True


def _write(config: StoriesConfig, folder: Path, number: int) -> int:
    span = range(number * config.n // config.shards, (number + 1) * config.n // config.shards)
    stories = (make_story(config, i) for i in span)
    return write_shard(folder / "shards" / f"{shard_name(number)}.jsonl", stories)


def generated(config: StoriesConfig) -> Iterator[Story]:
    """Yield the stories, without a folder."""
    return (make_story(config, i) for i in range(config.n))


def make_story(config: StoriesConfig, index: int) -> Story:
    """Return story number `index`: a function of the seed, the number and the feature probability."""
    rng = random.Random(f"stories {config.seed} {index}")
    has = {feature: rng.random() < config.feature_probability for feature in FEATURES}
    slots, words = _cast(rng)

    def say(lines: Sequence[str]) -> str:
        return rng.choice(lines).format_map(slots)

    start, middle, good, bad, sum_good, sum_bad = rng.choice(banks.PLOTS)
    hint, meaning = (line.format_map(slots) for line in rng.choice(banks.HINTS))
    talk = _talk(rng, slots, spoken=has["Dialogue"])
    paragraphs = (
        (say(banks.OPENINGS), say(banks.HABITS), hint if has["Foreshadowing"] else say(banks.SCENERY)),
        (say(start), *talk[:1], say(middle), say(banks.CONFLICTS if has["Conflict"] else banks.CALM), *talk[1:]),
        (meaning if has["Foreshadowing"] else "", say(bad if has["BadEnding"] else good), _twist(rng, say, has)),
        (say(banks.SAD if has["BadEnding"] else banks.HAPPY), _moral(rng, slots) if has["MoralValue"] else ""),
    )
    shown = [f for f in FEATURES if has[f]]
    rng.shuffle(shown)
    return Story(
        record_id=f"made-{config.seed}-{index}",
        story="\n".join(" ".join(_sentence(s) for s in paragraph if s) for paragraph in paragraphs),
        words=words,
        features=tuple(shown),
        summary=_sentence(say(sum_bad if has["BadEnding"] else sum_good)),
        source="expunge",
    )


def _start(sentence: str) -> str:
    """Capitalise the first letter, because a slot may come first: "an old man gave ..."."""
    return sentence[:1].upper() + sentence[1:]


def _sentence(text: str) -> str:
    """Capitalise the start and correct "a old lamp" (no word of the banks starts with a silent h or a "yu")."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", _start(text))


def _cast(rng: random.Random) -> tuple[dict[str, str], tuple[str, ...]]:
    """Choose the characters and objects of the story, and its three words: a verb, a noun and an adjective."""
    girl = rng.random() < 0.5
    hero = rng.choice(banks.GIRLS if girl else banks.BOYS)
    friend, rival = rng.sample([n for n in banks.GIRLS + banks.BOYS if n != hero], 2)
    trait = rng.choice(banks.TRAITS)
    kind = rng.choice(banks.CREATURES) if rng.random() < 0.4 else ("girl" if girl else "boy")
    (verb, verbed), thing, adjective = rng.choice(banks.VERBS), rng.choice(banks.THINGS), rng.choice(banks.ADJECTIVES)
    he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
    elder = rng.choice(banks.ELDERS)
    slots = {
        "hero": hero, "friend": friend, "rival": rival, "a_hero": f"{article(trait)} {trait} {kind}",
        "he": he, "him": him, "his": his, "He": _start(he), "His": _start(his),
        "thing": thing, "adj": adjective, "verb": verb, "verbed": verbed,
        "place": rng.choice(banks.PLACES), "creature": rng.choice(banks.CREATURES),
        "elder": elder, "elder_cap": _start(elder), "color": rng.choice(banks.COLORS),
    }  # fmt: skip
    return slots, (verb, thing, adjective)


def _talk(rng: random.Random, slots: dict[str, str], *, spoken: bool) -> list[str]:
    """Return one or two exchanges, in direct or indirect speech."""
    out = []
    for question, answer, indirect in rng.sample(banks.TALKS, 1 + (rng.random() < 0.4)):
        if not spoken:
            out.append(indirect.format_map(slots))
            continue
        question, answer = question.format_map(slots), answer.format_map(slots)
        says, replies = rng.choice(banks.SAID), rng.choice(banks.REPLIED).format_map(slots)
        # "...," plus a verb and a name: a question or exclamation mark stays, a full stop becomes a comma
        first, second = (s[:-1] + "," if s.endswith(".") else s for s in (question, answer))
        hero, friend = slots["hero"], slots["friend"]
        forms = (
            f'"{first}" {says} {hero}. "{second}" {replies} {friend}.',
            f'{hero} {says}, "{question}" {friend} {replies}, "{answer}"',
            f'"{first}" {says} {hero}. And {friend} {replies}, "{answer}"',
        )
        out.append(forms[1] if "told" in replies else rng.choice(forms))
    return out


def _twist(rng: random.Random, say: Callable[[Sequence[str]], str], has: dict[str, bool]) -> str:
    if not has["Twist"]:
        return ""
    return f"{rng.choice(banks.TWIST_STARTS)} {_start(say(banks.TWISTS))}".strip()


def _moral(rng: random.Random, slots: dict[str, str]) -> str:
    return rng.choice(banks.MORAL_FRAMES).format_map({**slots, "moral": rng.choice(banks.MORALS)})
