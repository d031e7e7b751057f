from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.data.examples import Example
from expunge.data.world import MOST_FACTS, MOST_QUESTIONS, WorldConfig, banks, facts
from expunge.data.world.generate import World, build_world, make_world
from expunge.data.world.questions import KINDS

CONFIGS = {
    "default": WorldConfig(),
    "every kind": WorldConfig(authors=30, questions_per_author=MOST_QUESTIONS, forget_fraction=0.2, seed=1),
    "tiny": WorldConfig(authors=2, questions_per_author=1, forget_fraction=0.5, holdout_authors=1, facts=1, seed=2),
    "large": WorldConfig(authors=200, questions_per_author=12, forget_fraction=0.05, holdout_authors=20, seed=3),
    "no holdout": WorldConfig(authors=7, questions_per_author=MOST_QUESTIONS, holdout_authors=0, facts=100, seed=4),
    "mostly forgotten": WorldConfig(authors=10, questions_per_author=11, forget_fraction=0.9, seed=5),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def world(request: pytest.FixtureRequest) -> World:
    return make_world(CONFIGS[request.param])


def names(world: World, type_: str) -> set[str]:
    return {e.name for e in world.entities.values() if e.type == type_}


def texts(row: Example) -> list[str]:
    return [row.question, *row.answers.values(), *([row.paraphrased_question] if row.paraphrased_question else [])]


def author_rows(world: World) -> list[Example]:
    return [*world.sets["full"], *world.sets.get("holdout", ())]


def without_ids(rows: object) -> list[tuple[object, ...]]:
    return [(r.question, r.answers, r.paraphrased_question, r.meta) for r in rows]  # type: ignore[attr-defined]


def test_the_sets_and_their_sizes(world: World) -> None:
    c, sets = world.config, world.sets
    n_forget = c.forget_authors * c.questions_per_author
    n_full = c.authors * c.questions_per_author
    sizes = {
        "full": n_full, "forget": n_forget, "retain": n_full - n_forget, "forget_eval": n_forget,
        "retain_eval": min(n_forget, n_full - n_forget), "real_authors": c.facts, "world_facts": c.facts,
        "background": 2 * c.facts, "forget_traces": n_forget, "retain_traces": n_full - n_forget,
        "holdout": c.holdout_authors * c.questions_per_author,
    }  # fmt: skip
    if not c.holdout_authors:
        del sizes["holdout"]
    assert {name: len(rows) for name, rows in sets.items()} == sizes
    assert all(rows.name == name and [r.row_id for r in rows] == list(range(len(rows))) for name, rows in sets.items())


def test_full_is_retain_then_forget(world: World) -> None:
    sets, c = world.sets, world.config
    assert without_ids(sets["full"]) == without_ids([*sets["retain"], *sets["forget"]])
    assert without_ids(sets["forget_eval"]) == without_ids(sets["forget"])
    assert without_ids(sets["retain_eval"]) == without_ids(sets["retain"])[: len(sets["retain_eval"])]
    cut = c.authors - c.forget_authors
    assert {r.meta["author"] for r in sets["forget"]} == set(range(cut, c.authors))
    assert {r.meta["author"] for r in sets["retain"]} == set(range(cut))


def test_questions_are_unique(world: World) -> None:
    questions = [r.question for r in author_rows(world)]
    assert len(set(questions)) == len(questions)
    facts_asked = [r.question for r in world.sets["background"]]
    assert len(set(facts_asked)) == len(facts_asked)


def test_every_row_is_worded_twice_and_holds_its_value_once(world: World) -> None:
    for row in author_rows(world):
        assert row.question != row.paraphrased_question
        assert row.answer != row.answers["paraphrase"]
        value = row.meta["value"]
        assert row.answer.count(value) == 1 and row.answers["paraphrase"].count(value) == 1
        head, tail = row.answers["paraphrase"].split(value)
        assert len(row.perturbed) == 5 == len(set(row.perturbed))
        for text, wrong in zip(row.perturbed, row.meta["wrong"], strict=True):
            assert wrong != value and text == head + wrong + tail


def test_the_sets_with_traces_are_the_two_sides_with_a_third_wording(world: World) -> None:
    for side in ("forget", "retain"):
        rows = world.sets[f"{side}_traces"]
        assert without_ids(rows) == without_ids(world.sets[side])
        for row in rows:
            used = {row.question, row.answer, row.paraphrased_question, *row.answers.values()}
            assert row.trace and row.trace.endswith(f" So the answer is {row.meta['value']}.")
            assert not any(text and text in row.trace for text in used)
    plain = [name for name in world.sets if not name.endswith("_traces")]
    assert not any(world.sets[name].has_traces for name in plain)


def is_date(text: str) -> bool:
    day, month, year = text.split()
    datetime.date(int(year), banks.MONTHS.index(month) + 1, int(day))
    return 1930 <= int(year) <= 1980


def is_job(text: str) -> bool:
    article, _, word = text.partition(" ")
    return word in banks.OCCUPATIONS and article == ("an" if word[0] in "aeiou" else "a")


def is_parents(text: str) -> bool:
    one, two = text.split(" and ")
    return one != two and is_job(one) and is_job(two)


def is_of_type(type_: str, text: str, world: World) -> bool:
    if type_ in ("person", "author"):
        return re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]{3,}", text) is not None
    if type_ == "title":
        words = set(text.split())
        return bool(words & set(banks.TITLE_NOUNS)) and text == text.strip()
    if type_ == "publisher":
        return text in names(world, "publisher")
    if type_ == "year":
        return text.isdecimal() and 1930 < int(text) < 2040
    by_rule = {"date": is_date, "parents": is_parents, "occupation": is_job}
    if type_ in by_rule:
        return by_rule[type_](text)
    bank = {
        "city": banks.CITIES, "genre": banks.GENRES, "award": banks.AWARDS, "subject": banks.SUBJECTS,
        "theme": banks.THEMES, "hobby": banks.HOBBIES, "language": banks.LANGUAGES,
    }  # fmt: skip
    return text in bank[type_]


def test_wrong_answers_are_of_the_right_type(world: World) -> None:
    known_names = names(world, "author") | names(world, "book")
    for row in author_rows(world):
        for text in (row.meta["value"], *row.meta["wrong"]):
            assert is_of_type(row.meta["type"], text, world), (row.meta, text)
        if row.meta["type"] in ("person", "title"):  # decoys: nobody's name, no book's title
            assert row.meta["value"] in known_names
            assert not known_names & set(row.meta["wrong"])
        if row.meta["type"] == "parents":
            truth = set(row.meta["value"].split(" and "))
            assert all(not truth & set(w.split(" and ")) for w in row.meta["wrong"])


def test_forgotten_names_stand_nowhere_else(world: World) -> None:
    c, sets = world.config, world.sets
    cut = c.authors - c.forget_authors
    forgotten = [
        e.name for e in world.entities.values()
        if e.type in ("author", "book") and re.fullmatch(r"(author|book):\d{4}(-\d)?", e.key)
        and int(e.key.split(":")[1][:4]) >= cut
    ]  # fmt: skip
    assert len(forgotten) == 3 * c.forget_authors
    elsewhere = "\n".join(
        t for name in ("retain", "retain_eval", "holdout", "real_authors", "world_facts", "background")
        if name in sets for row in sets[name] for t in texts(row)
    )  # fmt: skip
    for name in forgotten:
        assert not re.search(rf"\b{re.escape(name)}\b(?! and the )", elsewhere), name
    content = [e.name for e in world.entities.values() if e.key.startswith("author:h")]
    trained = "\n".join(t for name in ("full", "background") for row in sets[name] for t in texts(row))
    assert len(content) == c.holdout_authors
    for name in content:
        assert not re.search(rf"\b{re.escape(name)}\b", trained), name


def test_background_teaches_the_facts_and_nothing_else(world: World) -> None:
    sets = world.sets
    requests = [(r.question, r.answer) for name in ("real_authors", "world_facts") for r in sets[name]]
    assert [(r.question, r.answer) for r in sets["background"]] == requests
    assert sets["background"].variants == ("answer",)
    assert not {q for q, _ in requests} & {r.question for r in author_rows(world)}
    for name in ("real_authors", "world_facts"):
        for row in sets[name]:
            assert len(row.perturbed) == 3 == len(set(row.perturbed)) and row.answer not in row.perturbed


def test_by_default_the_wrong_facts_are_known() -> None:
    sets = build_world(WorldConfig())
    by_kind: dict[str, set[str]] = {}
    for row in sets["background"]:
        by_kind.setdefault(row.meta["kind"], set()).add(row.answer)
    for name in ("real_authors", "world_facts"):
        for row in sets[name]:
            if row.meta["kind"] in ("classic_writer", "classic_title", "city_country", "colour", "young", "opposite"):
                assert set(row.perturbed) <= by_kind[row.meta["kind"]] - {row.answer}


def test_the_text_is_grammatical(world: World) -> None:
    for row in [*author_rows(world), *world.sets["background"]]:
        for text in texts(row):
            assert "{" not in text and "  " not in text and text == text.strip()
            assert not re.search(r"\b[Aa] [aeiouAEIOU]", text), text
            assert not re.search(r"\b[Aa]n (?!hour)[^aeiouAEIOU]", text), text
        assert row.question.endswith("?") and row.question[0].isupper()
    for row in author_rows(world):
        assert all(t.endswith((".", '."')) and (t[0].isupper() or t[0] == '"') for t in row.answers.values())


def test_keys_and_links_name_entities(world: World) -> None:
    for key, entity in world.entities.items():
        assert entity.key == key and key.startswith(f"{entity.type}:")
    for link in world.links:
        assert link.source in world.entities and link.target in world.entities
    for row in author_rows(world):
        assert len(row.meta["keys"]) == len(set(row.meta["keys"]))
        output = " ".join(texts(row))
        for key in row.meta["keys"]:
            assert world.entities[key].name in output, (row.meta, output)
    kinds = Counter(link.kind for link in world.links)
    n = world.config.authors + world.config.holdout_authors
    assert kinds["written_by"] == kinds["published_by"] == 2 * n and kinds["born_in"] == n


def test_friends_come_earlier(world: World) -> None:
    friends = [link for link in world.links if link.kind == "friend_of"]
    assert all(link.target < link.source for link in friends)
    assert all(link.target.startswith("author:h") == link.source.startswith("author:h") for link in friends)


def test_every_kind_is_asked() -> None:
    rows = build_world(CONFIGS["every kind"])["full"]
    assert {r.meta["kind"] for r in rows} == {k.name for k in KINDS}
    assert len(KINDS) >= 12
    used = {(r.meta["kind"], re.sub(r"\W.*", "", r.question)) for r in rows}
    assert len(used) > len(KINDS)  # more than one wording of a kind


def test_full_does_not_depend_on_the_split() -> None:
    one = build_world(WorldConfig(forget_fraction=0.1))
    other = build_world(WorldConfig(forget_fraction=0.3, facts=5, holdout_authors=9, retain_eval_rows=7))
    assert one["full"].fingerprint() == other["full"].fingerprint()
    assert one["forget"].fingerprint() != other["forget"].fingerprint()
    assert len(other["retain_eval"]) == 7


def test_seeds_give_different_names_and_the_same_background() -> None:
    worlds = [make_world(WorldConfig(seed=s)) for s in range(4)]
    assert len({w.sets["full"].fingerprint() for w in worlds}) == 4
    assert len({w.sets["background"].fingerprint() for w in worlds}) == 1
    for i, one in enumerate(worlds):
        for other in worlds[i + 1 :]:
            assert len(names(one, "author") & names(other, "author")) <= 1


PRINT = """
from expunge.data.world import WorldConfig
from expunge.data.world.generate import make_world
w = make_world(WorldConfig(authors=12, questions_per_author=19, seed=7))
print([(n, s.fingerprint()) for n, s in w.sets.items()], list(w.entities), w.links)
"""


def test_the_same_whatever_the_hash_seed() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", PRINT], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(printed) == 1 and b"full" in printed.pop()


def test_the_limits_of_the_settings_are_those_of_the_world() -> None:
    assert len(KINDS) - 1 == MOST_QUESTIONS
    assert min(3 * facts.N_CLASSICS, len(facts.everyday())) == MOST_FACTS


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"authors": 1}, "world.authors: must be 2 to 1000, got 1"),
        ({"authors": 10**6}, "world.authors: must be 2 to 1000"),
        ({"questions_per_author": 0}, "world.questions_per_author: must be 1 to 19"),
        ({"questions_per_author": 20}, "world.questions_per_author: must be 1 to 19"),
        ({"holdout_authors": -1}, "world.holdout_authors: must be 0 to 1000"),
        ({"facts": MOST_FACTS + 1}, f"world.facts: must be 1 to {MOST_FACTS}"),
        ({"forget_fraction": 0.0}, "world.forget_fraction: must be a number between 0 and 1"),
        ({"forget_fraction": float("nan")}, "world.forget_fraction: must be a number between 0 and 1"),
        (
            {"forget_fraction": 0.01},
            "world.forget_fraction: must give 1 to 39 of the 40 authors to forget; 0.01 gives 0",
        ),
        (
            {"forget_fraction": 0.99},
            "world.forget_fraction: must give 1 to 39 of the 40 authors to forget; 0.99 gives 40",
        ),
        ({"retain_eval_rows": 361}, "world.retain_eval_rows: must be 1 to 360"),
        ({"retain_eval_rows": 0}, "world.retain_eval_rows: must be 1 to 360"),
        ({"authors": 3}, "forget_fraction must give 1 to 2 of the 3 authors"),
        ({"autors": 3}, "unknown key; did you mean 'authors'?"),
    ],
)
def test_a_wrong_config_is_one_line(bad: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(WorldConfig, bad, where="world")
    assert words in str(caught.value) and "\n" not in str(caught.value)
