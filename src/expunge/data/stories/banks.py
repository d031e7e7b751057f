"""The words and turns of phrase of the story generator.

Slots: {hero} {friend} {rival} are names; {a_hero} a description ("a little girl"); {he} {him} {his} the hero's
pronouns; {He} {His} at the start of a sentence; {thing} the noun; {adj} the adjective; {verb} {verbed} the verb;
{place} a place ("the park"); {creature} an animal; {elder} a grown-up; {color} a colour.

The lists are data: `banks.json` next to this file.
"""

from __future__ import annotations

from pathlib import Path

from expunge.data.world.banks import Words, read_banks

_BANKS = read_banks(Path(__file__).with_name("banks.json"))

GIRLS: Words = _BANKS["GIRLS"]
BOYS: Words = _BANKS["BOYS"]
CREATURES: Words = _BANKS["CREATURES"]
TRAITS: Words = _BANKS["TRAITS"]
ELDERS: Words = _BANKS["ELDERS"]
PLACES: Words = _BANKS["PLACES"]
THINGS: Words = _BANKS["THINGS"]
ADJECTIVES: Words = _BANKS["ADJECTIVES"]
COLORS: Words = _BANKS["COLORS"]
VERBS: tuple[tuple[str, str], ...] = _BANKS["VERBS"]
OPENINGS: Words = _BANKS["OPENINGS"]
HABITS: Words = _BANKS["HABITS"]
SCENERY: Words = _BANKS["SCENERY"]
# starts, middles, good ends, bad ends, summaries of good ends, summaries of bad ends
PLOTS: tuple[tuple[Words, ...], ...] = _BANKS["PLOTS"]
TALKS: tuple[tuple[str, str, str], ...] = _BANKS["TALKS"]  # question, answer, the same in indirect speech
SAID: Words = _BANKS["SAID"]
REPLIED: Words = _BANKS["REPLIED"]
HINTS: tuple[tuple[str, str], ...] = _BANKS["HINTS"]  # early hint, its meaning
CONFLICTS: Words = _BANKS["CONFLICTS"]
CALM: Words = _BANKS["CALM"]
TWIST_STARTS: Words = _BANKS["TWIST_STARTS"]
TWISTS: Words = _BANKS["TWISTS"]
HAPPY: Words = _BANKS["HAPPY"]
SAD: Words = _BANKS["SAD"]
MORALS: Words = _BANKS["MORALS"]
MORAL_FRAMES: Words = _BANKS["MORAL_FRAMES"]
