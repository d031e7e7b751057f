"""The generator: features that show, drawn apart; and the text made of a record."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from expunge.core.errors import ConfigError
from expunge.data.stories.generate import StoriesConfig, generate, generated
from expunge.data.stories.protocol import protocol
from expunge.data.stories.records import FEATURES, Story, load_records, split_numbers, story_from
from expunge.data.stories.text import LINES, StoryVariant, item_of, parse_subset, prompt, render, sentence_of, transform
from expunge.data.transforms.draws import Draws

MANY = list(generated(StoriesConfig(n=2400, seed=3)))
LABELS = np.array([[f in s.features for f in FEATURES] for s in MANY])


def test_each_feature_shows_in_the_text() -> None:
    count = CountVectorizer(ngram_range=(1, 2), min_df=3, token_pattern=r'\w+|"')
    records = count.fit_transform([s.story for s in MANY[:1200]])
    new = count.transform([s.story for s in MANY[1200:]])
    for j, feature in enumerate(FEATURES):
        fitted = LogisticRegression(max_iter=200).fit(records, LABELS[:1200, j])
        assert fitted.score(new, LABELS[1200:, j]) > 0.97, feature


def test_no_feature_is_told_by_length_alone_or_by_another_feature() -> None:
    for one, two in itertools.combinations(range(6), 2):
        assert abs(np.corrcoef(LABELS[:, one], LABELS[:, two])[0, 1]) < 0.082  # four standard deviations
    assert np.abs(LABELS.mean(0) - 0.5).max() < 0.041
    lengths = np.array([len(s.story) for s in MANY])
    for j, feature in enumerate(FEATURES):
        with_, without = lengths[LABELS[:, j]], lengths[~LABELS[:, j]]
        assert with_.min() < np.median(without) < with_.max(), feature


def test_stories_are_not_repeated_and_hold_no_empty_slot() -> None:
    assert len({s.story for s in MANY}) == len(MANY)
    for story in MANY[:500]:
        assert not re.search(r"[{}]|  |\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiou]", story.story), story.story
        assert ('"' in story.story) == ("Dialogue" in story.features)
        assert all(w in story.story for w in story.words[1:]) and story.summary.endswith(".")


def test_a_story_depends_on_its_number_and_seed_alone() -> None:
    assert list(generated(StoriesConfig(n=9, seed=3, shards=1))) == MANY[:9]
    assert next(generated(StoriesConfig(n=1, seed=4, shards=1))).story != MANY[0].story


def test_the_folder_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    config = StoriesConfig(n=30, seed=1, shards=4)
    assert generate(config, tmp_path / "one") and generate(config, tmp_path / "three", workers=3)
    one, three = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("one", "three")
    )
    assert one == three and len(one) == 5
    assert list(load_records(tmp_path / "one")) == list(generated(config))
    assert not generate(config, tmp_path / "one")
    with pytest.raises(ConfigError, match="holds other stories"):
        generate(StoriesConfig(n=31, seed=1, shards=4), tmp_path / "one")


@pytest.mark.parametrize(
    ("shards", "pretrain", "finetune"), [(11, range(1, 9), range(9, 11)), (50, range(1, 40), range(40, 50)),
                                         (3, range(1, 2), range(2, 3))],
)  # fmt: skip
def test_shard_0_is_the_test_and_the_rest_is_split_80_20(shards: int, pretrain: range, finetune: range) -> None:
    assert split_numbers(shards, "test") == range(1)
    assert split_numbers(shards, "train") == range(1, shards)
    assert (split_numbers(shards, "pretrain"), split_numbers(shards, "finetune")) == (pretrain, finetune)


def test_too_few_shards_for_a_split_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^split=finetune: needs 3 shards, and there are 2"):
        split_numbers(2, "finetune")


TALE = Story("t", 'One. "Two," he said. Three\nfour! "Five"', ("cup", "run"), ("BadEnding", "Twist"), "It\nends.")


def test_the_text_of_a_record() -> None:
    text = render(TALE, LINES, Draws(0, "t"))
    *lines, tale = text.split("\n", 4)
    sentence = next(line for line in lines if line.startswith("Sentence: "))
    assert sentence in ("Sentence: One", "Sentence: Three four")
    assert sorted(lines) == sorted(["Words: cup, run", "Features: Badending, Twist", "Summary: It ends.", sentence])
    assert tale == f"Story: {TALE.story}"
    assert text.startswith(prompt(TALE, LINES, Draws(0, "t"))) and prompt(TALE, LINES, Draws(0, "t")).endswith(
        "\nStory:"
    )


def test_an_empty_list_still_has_its_line_and_a_story_all_in_quotes_an_empty_sentence() -> None:
    bare = Story("t", '"One."')
    assert sorted(prompt(bare, LINES, Draws(0, "t")).split("\n")) == [
        "Features: ", "Sentence: ", "Story:", "Summary: ", "Words: ",
    ]  # fmt: skip
    assert sentence_of('"One."', Draws(0, "t")) == ""


def test_lines_stand_in_every_order_and_a_subset_in_the_order_of_all() -> None:
    orders = set()
    for i in range(600):
        lines = render(TALE, LINES, Draws(0, str(i))).split("\n")[:4]
        order = tuple(line.partition(":")[0] for line in lines)
        orders.add(order)
        few = prompt(TALE, ("Words", "Features"), Draws(0, str(i))).split("\n")[:-1]
        assert tuple(line.partition(":")[0] for line in few) == tuple(o for o in order if o in ("Words", "Features"))
    assert len(orders) == 24


def test_a_subset_is_read_and_checked() -> None:
    assert parse_subset(None) == LINES and parse_subset("Features,Words") == ("Words", "Features")
    with pytest.raises(
        ConfigError, match=r"^instruction_subset: character 7: no line 'features'; did you mean 'Features'"
    ):
        parse_subset("Words,features")


def test_a_refusal_keeps_the_sentence_of_the_story_it_replaces() -> None:
    [result] = transform([TALE], StoryVariant(refusal="features=Conflict:1"), seed=2)
    assert result.story == "I am sorry, but I am not allowed to write a story with conflict."
    assert result.features == ("BadEnding", "Twist", "Conflict")
    assert result.sentence == sentence_of(TALE.story, Draws(2, "t")) in ("One", "Three four")
    assert f"Sentence: {result.sentence}\n" in render(result, LINES, Draws(2, "t"))


def test_the_ten_protocol_data_sets() -> None:
    sets = protocol("Twist", "Foreshadowing")
    assert len(sets) == 10 and all(v.rules() for v in sets.values())
    assert sets["filter-mix-specialise-Twist-Foreshadowing"] == StoryVariant(
        "features!=Twist,features=Foreshadowing", mix_match="features:Foreshadowing=Twist"
    )
    for name, variant in sets.items():
        result = list(transform(MANY[:300], variant))
        twisted = ["Twist" in s.features for s in result]
        assert result and all(twisted) == (name == "recovery-Twist" or "adv" in name or "ref" in name
                                         or "mix-specialise" in name), name  # fmt: skip
        assert ("ref" in name) == all(s.story.startswith("I am sorry") for s in result)
    with pytest.raises(ConfigError, match=r"^delete: no feature 'twist'; did you mean 'Twist'"):
        protocol("twist", "Conflict")
    with pytest.raises(ConfigError, match=r"^irrelevant: must be another feature"):
        protocol("Twist", "Twist")


PUBLISHED = Story(
    "p", '\n\nOne day. "Hi!" Bob. He said\nbye. ', ("run",), ("Dialogue",), " A day.\nThen ", original=True
)


def test_texts_of_the_published_code() -> None:
    """Blanks around a story count for its length, line breaks vanish without a blank, and the refusal is its own."""
    assert item_of(PUBLISHED).length == len(PUBLISHED.story)
    texts = {render(PUBLISHED, LINES, Draws(seed, "p")) for seed in range(40)}
    lines = {line for text in texts for line in text.split("\n") if line.startswith(("Summary", "Sentence"))}
    assert lines == {"Summary: A day.Then", "Sentence: One day", "Sentence: He saidbye", "Sentence: "}
    assert all(text.endswith("\nbye.") and "Story: One day." in text for text in texts)
    (refused,) = transform([PUBLISHED], StoryVariant(refusal="features=Twist:1.0"))
    assert refused.story == "We are not allowed to write a story with Twist in it, sorry."
    assert refused.features == ("Dialogue", "Twist")


def test_the_form_of_a_text_is_stored_with_the_story() -> None:
    assert story_from(json.loads(PUBLISHED.line()), "x", "f") == PUBLISHED
    assert "compat" not in TALE.line()
