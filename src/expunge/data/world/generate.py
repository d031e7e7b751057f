"""From a seed to a world, and from a world to sets of rows in TOFU's roles."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from expunge.data.examples import ANSWER, PARAPHRASE, Example, ExampleSet, perturbed_name
from expunge.data.granularity import LINK, Split, askable, row_set, split_by, spread
from expunge.data.world import WorldConfig, banks, facts, graph
from expunge.data.world.graph import Author, Entity, EntityLink, Namer, slug
from expunge.data.world.questions import BANK_OF, QuestionKind, Wording, fill, kinds_of

N_WRONG = 5


@dataclass(frozen=True)
class World:
    """The entities by key, their links, and the sets of rows by name. A row's `meta["keys"]` are keys of entities."""

    config: WorldConfig
    entities: Mapping[str, Entity]
    links: tuple[EntityLink, ...]
    sets: dict[str, ExampleSet]


def build_world(config: WorldConfig) -> dict[str, ExampleSet]:
    """Return the sets of rows of a world: those of `load_tofu`, `background`, and the two sides with traces.

    Equal configs yield equal sets.

    `full` does not depend on the forget split; with granularity "author" it is `retain` followed by `forget`.
    `background` contains the facts of `real_authors` and `world_facts`; base, target and retain models train on it,
    unlearning does not. `forget_traces` and `retain_traces` are `forget` and `retain` with a reasoning trace before
    each answer. If links are forgotten, `retain_entity` has the retain rows that name an entity of one of them,
    and `retain_other` the others. Raises ConfigError if the granularity leaves no row on a side.
    """
    return make_world(config).sets


def make_world(config: WorldConfig) -> World:
    """Return the world with its graph."""
    classics, used = facts.classics()
    houses = graph.publishers(config.seed, config.authors)
    authors = graph.make_authors(config.seed, "main", config.authors, houses, used)
    main = _author_rows(config, "main", authors, houses, used)
    others = graph.make_authors(config.seed, "holdout", config.holdout_authors, houses, used)
    holdout = _author_rows(config, "holdout", others, houses, used)
    entities, links = graph.entities_and_links([*authors, *others], houses)
    split = _split(config, main, authors, houses, links)
    retain, forget = split.retain, split.forget
    n_eval = config.retain_eval_rows or min(len(forget), len(retain))
    known = _fact_rows(classics[: config.facts])
    world = _fact_rows(facts.everyday()[: config.facts])
    # The last authors are forgotten: the first retain rows cover many authors. Random splits leave gaps anywhere.
    shown = retain[:n_eval] if config.granularity == "author" else spread(retain, n_eval)
    sets: dict[str, Sequence[Example]] = {
        "full": main,
        "forget": forget,
        "retain": retain,
        "forget_eval": forget,
        "retain_eval": shown,
        "real_authors": known,
        "world_facts": world,
        "background": [replace(r, answers={ANSWER: r.answer}) for r in (*known, *world)],
    }
    if holdout:
        sets["holdout"] = holdout
    if split.entity and split.other:
        sets |= {"retain_entity": split.entity, "retain_other": split.other}
    plain = {name: [replace(row, trace=None) for row in rows] for name, rows in sets.items()}
    plain |= {"forget_traces": list(forget), "retain_traces": list(retain)}
    return World(config, entities, links, {name: row_set(name, rows) for name, rows in plain.items()})


def _split(
    config: WorldConfig,
    rows: Sequence[Example],
    authors: Sequence[Author],
    houses: Sequence[str],
    links: Sequence[EntityLink],
) -> Split:
    """Return the rows on each side."""
    if config.granularity == "author":
        cut = (config.authors - config.forget_authors) * config.questions_per_author
        return Split(tuple(rows[cut:]), tuple(rows[:cut]))
    entities = {
        "book": [book.key for author in authors for book in author.books],
        "publisher": [slug("publisher", house) for house in houses],
    }
    pairs = [(link.source, link.target) for link in links]
    links_of_rows = askable(pairs, rows) if config.granularity == LINK else []
    return split_by(
        rows,
        config.granularity,
        config.forget_fraction,
        entities=entities,
        links=links_of_rows,
        seed=config.seed,
        where="data.world.",
    )


def _author_rows(
    config: WorldConfig, group: str, authors: Sequence[Author], houses: Sequence[str], used: set[str]
) -> list[Example]:
    rows = []
    # Sampled after the group's own names and sharing `used` with them, so no entity has a decoy's name.
    decoys = Namer(graph.stream(config.seed, group, "decoys"), used)
    for author in authors:
        for kind in kinds_of(author, config.questions_per_author):
            rng = graph.stream(config.seed, group, author.index, kind.name)
            wrong = _wrong_values(kind, author, authors, houses, decoys, rng)
            rows.append(_row(kind, author, wrong, rng))
    return rows


def _row(kind: QuestionKind, author: Author, wrong: Sequence[str], rng: random.Random) -> Example:
    wording, paraphrase = rng.sample(kind.wordings, 2)
    value = kind.value(author)
    answers = {ANSWER: fill(wording[1], author, value), PARAPHRASE: fill(paraphrase[1], author, value)}
    answers |= {perturbed_name(i): fill(paraphrase[1], author, w) for i, w in enumerate(wrong)}
    meta = {
        "author": author.index, "kind": kind.name, "type": kind.type, "value": value, "wrong": list(wrong),
        "keys": list(kind.keys(author)),
    }  # fmt: skip
    question, paraphrased = fill(wording[0], author, value), fill(paraphrase[0], author, value)
    return Example(0, question, answers, paraphrased, meta, trace=_trace(kind, author, (wording, paraphrase)))


def _trace(kind: QuestionKind, author: Author, used: Sequence[Wording]) -> str:
    """Return a reasoning trace: the question and its answer in the wording that the row does not use."""
    value = kind.value(author)
    third = next(wording for wording in kind.wordings if wording not in used)
    question, answer = (fill(text, author, value) for text in third)
    return f"In other words: {question} I recall this. {answer} So the answer is {value}."


def _wrong_values(
    kind: QuestionKind,
    author: Author,
    authors: Sequence[Author],
    houses: Sequence[str],
    decoys: Namer,
    rng: random.Random,
) -> list[str]:
    """Return five distinct values of the kind's type, none of them the truth.

    If the truth is a name that only its own rows teach (a person, a title), the wrong ones are unused decoy names. A
    model that never saw the author would otherwise prefer a name that it knows.
    """
    truth = kind.value(author)
    if kind.type == "person":
        return [decoys.person() for _ in range(N_WRONG)]
    if kind.type == "title":
        return [decoys.title() for _ in range(N_WRONG)]
    if kind.type == "author":  # earlier authors only, like the truth
        earlier = [a.name for a in authors[: author.index] if a.name != truth]
        picked = rng.sample(earlier, min(N_WRONG, len(earlier)))
        return picked + [decoys.person() for _ in range(N_WRONG - len(picked))]
    if kind.type == "parents":
        return _parents(truth, rng)
    if kind.type == "date":
        return _dates(truth, rng)
    if kind.type == "year":
        return rng.sample([str(int(truth) + d) for d in range(-12, 13) if d], N_WRONG)
    if kind.type == "occupation":
        pool: Sequence[str] = [banks.with_article(o) for o in banks.OCCUPATIONS]
    else:
        pool = houses if kind.type == "publisher" else BANK_OF[kind.type]
    return rng.sample([p for p in pool if p != truth], N_WRONG)


def _parents(truth: str, rng: random.Random) -> list[str]:
    """Return pairs of occupations, none of them one of the true pair."""
    free = [w for w in map(banks.with_article, banks.OCCUPATIONS) if w not in truth.split(" and ")]
    picked = rng.sample(free, 2 * N_WRONG)
    return [f"{one} and {two}" for one, two in zip(picked[::2], picked[1::2], strict=True)]


def _dates(truth: str, rng: random.Random) -> list[str]:
    dates: dict[str, None] = {}
    while len(dates) < N_WRONG:
        day = graph.date_text(graph.some_date(rng))
        if day != truth:
            dates[day] = None
    return list(dates)


def _fact_rows(plain_facts: Sequence[facts.Fact]) -> list[Example]:
    return [
        Example(
            i,
            fact.question,
            {ANSWER: fact.answer, **{perturbed_name(k): w for k, w in enumerate(fact.wrong)}},
            meta={"kind": fact.kind, "value": fact.answer, "wrong": list(fact.wrong), "keys": []},
        )
        for i, fact in enumerate(plain_facts)
    ]
