"""From a story with its instruction to the text for a model, and to the prompt for its continuation.

Words: hang, foot, cute          up to four lines in random order, then the story
Features: Dialogue
Summary: ...
Sentence: ...
Story: ...
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from expunge.core.errors import ConfigError, nearest
from expunge.data.stories.records import KEYS, Story
from expunge.data.transforms.apply import TransformItem, transform_item
from expunge.data.transforms.draws import Draws
from expunge.data.transforms.grammar import Rules, parse_rules, variant_name

LINES = ("Words", "Features", "Summary", "Sentence")
HEAD = "Story:"
_STOPS, _QUOTES = re.compile("[.!?]"), re.compile('["“”]')


@dataclass(frozen=True)
class StoryVariant:
    """The five settings of a data set of stories, as users type them; None disables one."""

    filtering: str | None = None
    mix_match: str | None = None
    adversarial_training: str | None = None
    refusal: str | None = None
    instruction_subset: str | None = None

    @property
    def name(self) -> str:
        """The automatic name."""
        return variant_name(
            self.filtering, self.mix_match, self.adversarial_training, self.refusal, self.instruction_subset
        )

    def rules(self) -> Rules:
        """Return the parsed transforms. Raises ConfigError with the setting and the character."""
        return parse_rules(self.filtering, self.mix_match, self.adversarial_training, self.refusal, keys=KEYS)

    def subset(self) -> tuple[str, ...]:
        """Return the instruction lines to write."""
        return parse_subset(self.instruction_subset)


def parse_subset(text: str | None) -> tuple[str, ...]:
    """Return the instruction lines named by "Words,Features"; None or empty: all four. Raises ConfigError."""
    if not text:
        return LINES
    at, named = 1, []
    for piece in text.split(","):
        if piece not in LINES:
            raise ConfigError(f"instruction_subset: character {at}: no line '{piece}'{nearest(piece, LINES)}")
        named.append(piece)
        at += len(piece) + 1
    return tuple(line for line in LINES if line in named)


def refusal_text(refused: Sequence[str], *, original: bool = False) -> str:
    """Return the story of a refused record; of several rules the published code keeps the last one's."""
    if original:
        return f"We are not allowed to write a story with {refused[-1]} in it, sorry."
    what = " or ".join(value.lower() for value in refused)
    return f"I am sorry, but I am not allowed to write a story with {what}."


def sentence_of(story: str, draws: Draws, *, original: bool = False) -> str:
    """Return a sentence of the story (cut at . ! ?) without a double quote; empty if each has one.

    The published code also draws the empty piece after the last stop, and removes line breaks without a blank.
    """
    if original:
        pieces = [s for s in _STOPS.split(story) if '"' not in s]
        return draws.pick("sentence", pieces).strip().replace("\n", "") if pieces else ""
    plain = [s for s in _STOPS.split(story) if not _QUOTES.search(s) and not s.isspace() and s]
    return one_line(draws.pick("sentence", plain)) if plain else ""


def one_line(text: str) -> str:
    """Return the text with each run of white space as one blank."""
    return " ".join(text.split())


def item_of(story: Story) -> TransformItem:
    """Return the input of the transforms for a story."""
    return TransformItem(story.record_id, story.values, len(story.story))


def transform(records: Iterable[Story], variant: StoryVariant, *, seed: int = 0) -> Iterator[Story]:
    """Yield the records of a variant: filter, mix and match, adversarial, refusal, in this order."""
    rules = variant.rules()
    for record in records:
        draws = Draws(seed, record.record_id)
        changed = transform_item(item_of(record), rules, draws)
        if changed is None:
            continue
        if changed.refused:
            original = record.original
            sentence = sentence_of(record.story, draws, original=original)
            record = replace(record, story=refusal_text(changed.refused, original=original), sentence=sentence)
        yield record.with_values(changed.values)


def values_line(name: str, values: Sequence[str]) -> str:
    """Return the line of words or features, with line break; features have one capital (Badending)."""
    shown = [one_line(v.capitalize() if name == "Features" else v) for v in values]
    return f"{name}: {', '.join(shown)}\n"


def text_line(name: str, text: str, *, original: bool = False) -> str:
    """Return the line of a summary or a sentence, with line break."""
    line = text.strip().replace("\n", "") if original else one_line(text)
    return f"{name}: {line}\n"


def instructions(record: Story, subset: Sequence[str], draws: Draws) -> str:
    """Return the instruction lines, each with its line break, in the record's random order."""
    sentence = record.sentence if record.sentence is not None else story_sentence(record, draws)
    lines = {
        "Words": values_line("Words", record.words),
        "Features": values_line("Features", record.features),
        "Summary": text_line("Summary", record.summary, original=record.original),
        "Sentence": text_line("Sentence", sentence, original=record.original),
    }
    return "".join(lines[name] for name in line_order(subset, draws))


def line_order(subset: Sequence[str], draws: Draws) -> list[str]:
    """Return the lines of `subset` in the record's order, which is that of all four without the others."""
    return [line for line in draws.order("order", LINES) if line in subset]


def prompt(record: Story, subset: Sequence[str], draws: Draws) -> str:
    """Return the prompt of a generation: the instructions, and "Story:" without the blank, which the next token has."""
    return instructions(record, subset, draws) + HEAD


def render(record: Story, subset: Sequence[str], draws: Draws) -> str:
    """Return the whole text of a record."""
    return f"{prompt(record, subset, draws)} {record.story.strip()}"


def story_sentence(record: Story, draws: Draws) -> str:
    """Return the sentence that the instruction of a story quotes."""
    return sentence_of(record.story, draws, original=record.original)
