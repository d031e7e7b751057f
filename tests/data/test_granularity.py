"""What is forgotten by the size of the concept: counts, and which rows go."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pyarrow as pa
import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import Example
from expunge.data.granularity import (
    TofuChoice,
    askable,
    n_forgotten,
    split_by,
    spread,
    tofu_forgotten,
    with_wrong_answers,
)
from expunge.data.loaders.gen_tofu import load_graph, load_graph_rows
from expunge.data.world import WorldConfig
from expunge.data.world.generate import build_world


@pytest.mark.parametrize(
    ("n", "counts"),
    [
        (10349, {0.05: 517, 0.10: 1034, 0.15: 1552, 0.20: 2069, 0.25: 2587}),  # questions
        (800, {0.055: 44, 0.114: 91, 0.174: 139, 0.236: 188, 0.298: 238}),  # books
        (200, {0.075: 15, 0.15: 30, 0.225: 45, 0.305: 61, 0.385: 77}),  # authors
        (40, {0.2: 8, 0.4: 16, 0.595: 23, 0.795: 31, 0.995: 39}),  # publishers
        (2640, {0.005: 13, 0.01: 26, 0.02: 52, 0.03: 79, 0.04: 105, 0.05: 132}),  # links
        (100, {0.29: 29}),  # 0.29 * 100 is 28.999999999999996
    ],
)
def test_counts_of_arcsf(n: int, counts: dict[float, int]) -> None:
    assert {fraction: n_forgotten(n, fraction) for fraction in counts} == counts


def graph_rows() -> list[Example]:
    """Two authors with two books each; publisher p prints b1 and b3, q the others."""
    keys = [
        ["a1"],
        ["a1", "b1"],
        ["b1", "p"],
        ["a1", "b2"],
        ["b2", "q"],
        ["a2", "b3"],
        ["b3", "p"],
        ["a2", "b4"],
        ["q"],
    ]
    return [Example(i, f"Q{i}?", {"answer": f"A{i}"}, meta={"keys": k}) for i, k in enumerate(keys)]


ENTITIES = {"author": ["a1", "a2"], "book": ["b1", "b2", "b3", "b4"], "publisher": ["p", "q"]}
LINKS = [("b1", "a1"), ("b2", "a1"), ("b1", "p"), ("p", "q"), ("b4", "q")]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("granularity", ["author", "book", "publisher"])
def test_every_row_that_names_a_drawn_entity_goes(granularity: str, seed: int) -> None:
    n = {"author": 1, "book": 2, "publisher": 1}[granularity]
    split = split_by(graph_rows(), granularity, 0.5, entities=ENTITIES, links=[], seed=seed, where="")
    left = {key for row in split.retain for key in row.meta["keys"]}
    removals = [e for e in ENTITIES[granularity] if e not in left and any(e in r.meta["keys"] for r in split.forget)]
    assert len(removals) == n
    assert all(set(row.meta["keys"]) & set(removals) for row in split.forget)
    assert sorted(r.row_id for r in (*split.forget, *split.retain)) == list(range(9))
    assert split.entity is None


def test_questions_are_drawn_one_by_one_and_the_seed_decides() -> None:
    draws = [split_by(graph_rows(), "question", 0.35, entities={}, links=[], seed=s, where="") for s in (0, 0, 1, 2)]
    assert all(len(d.forget) == 3 and len(d.retain) == 6 for d in draws)
    assert draws[0] == draws[1]
    assert len({tuple(r.row_id for r in d.forget) for d in draws}) > 1


def test_a_forgotten_link_leaves_its_ends_on_the_retain_side() -> None:
    rows = graph_rows()
    links = askable(LINKS, rows)
    assert links == [("b1", "a1"), ("b2", "a1"), ("b1", "p")]
    split = split_by(rows, "relationship", 0.4, entities={}, links=links, seed=0, where="")
    assert len(split.forget) == 1
    ends = set(split.forget[0].meta["keys"])
    assert split.entity and split.other
    assert all(ends & set(row.meta["keys"]) for row in split.entity)
    assert not any(ends & set(row.meta["keys"]) for row in split.other)
    assert sorted(r.row_id for r in (*split.entity, *split.other)) == [r.row_id for r in split.retain]


def test_what_leaves_nothing_is_refused() -> None:
    def split(granularity: str, fraction: float, *links: tuple[str, str]) -> None:
        split_by(graph_rows(), granularity, fraction, entities=ENTITIES, links=links, seed=0, where="data.args.")

    with pytest.raises(ConfigError, match=r"^data\.args\.forget_fraction=0\.2: gives 0 of 2 publishers to forget"):
        split("publisher", 0.2)
    with pytest.raises(ConfigError, match=r"1 of 1 relationships leave none of the 9 rows to forget"):
        split("relationship", 1.0, ("p", "q"))
    with pytest.raises(ConfigError, match=r"9 of 9 questions leave none of the 9 rows to retain"):
        split("question", 1.0)
    with pytest.raises(ConfigError, match=r"granularity=autor: no such level; did you mean 'author'"):
        split("autor", 0.5)


def choice(**changed: object) -> TofuChoice:
    base = {
        "granularity": "question", "stratified": True, "forget_random": True, "author_fraction": 0.2,
        "fact_fraction": 0.2, "seed": 42,
    }  # fmt: skip
    return TofuChoice(**{**base, **changed})  # type: ignore[arg-type]


def test_the_four_ways_of_tofu() -> None:
    sample = tofu_forgotten(choice())  # tofu_20_20: 40 authors, 4 questions each
    assert len(sample) == 160
    places = {i % 20 for i in sample}
    assert len(places) == 4 and len({i // 20 for i in sample}) == 40  # the same places for every author
    first = tofu_forgotten(choice(forget_random=False))
    assert {i % 20 for i in first} == {0, 1, 2, 3} and {i // 20 for i in first} == {i // 20 for i in sample}
    anywhere = tofu_forgotten(choice(stratified=False))
    assert len(anywhere) == 800 and len({i // 20 for i in anywhere}) > 150
    authors = tofu_forgotten(choice(granularity="author", author_fraction=0.1, stratified=False))
    assert len(authors) == 400 and len({i // 20 for i in authors}) == 20
    assert tofu_forgotten(choice(seed=1)) != sample
    with pytest.raises(ConfigError, match=r"need data\.args\.stratified=true"):
        tofu_forgotten(choice(stratified=False, forget_random=False))
    with pytest.raises(ConfigError, match=r"forgotten_author_fraction=0\.001: gives 0 of 200"):
        tofu_forgotten(choice(author_fraction=0.001))


def test_wrong_answers_are_of_the_same_author_and_of_this_side_if_it_has_three() -> None:
    def row(i: int, author: int) -> Example:
        return Example(i, f"Q{i}?", {"answer": f"A{i}"}, meta={"author": author, "question_index": i})

    here = [*(row(i, 0) for i in range(4)), row(10, 1), row(11, 1)]
    there = [*(row(i, 0) for i in range(4, 8)), *(row(i, 1) for i in range(12, 16))]
    result = with_wrong_answers(here, there, 0)
    assert set(result[0].perturbed) == {"A1", "A2", "A3"}
    assert result[4].perturbed[0] == "A11" and set(result[4].perturbed[1:]) < {f"A{i}" for i in range(12, 16)}
    assert all(len(set(r.perturbed)) == 3 and r.answer not in r.perturbed for r in result)


def test_spread() -> None:
    rows = graph_rows()
    assert [r.row_id for r in spread(rows, 3)] == [0, 3, 6]
    assert spread(rows, 20) is rows


@pytest.mark.parametrize("granularity", ["question", "book", "publisher", "relationship"])
def test_the_world_at_each_level(granularity: str) -> None:
    config = WorldConfig(authors=12, questions_per_author=12, forget_fraction=0.25, granularity=granularity)  # type: ignore[arg-type]
    plain, sets = build_world(WorldConfig(authors=12, questions_per_author=12)), build_world(config)
    assert sets["full"].fingerprint() == plain["full"].fingerprint()
    assert len(sets["forget"]) + len(sets["retain"]) == len(sets["full"])
    assert len(sets["retain_eval"]) == len(sets["forget_eval"]) == len(sets["forget"])
    assert ("retain_entity" in sets) == (granularity == "relationship")
    if granularity == "question":
        assert len(sets["forget"]) == 36
    else:
        kinds = {key.split(":")[0] for row in sets["forget"] for key in row.meta["keys"]}
        assert granularity in kinds or granularity == "relationship"


def test_a_world_too_small_for_the_share() -> None:
    with pytest.raises(ConfigError, match=r"^data\.world\.forget_fraction=0\.1: gives 0 of 8 publishers to forget"):
        build_world(WorldConfig(granularity="publisher"))


ITEMS = {k: {"type": t, "data": {"key": k}} for k, t in (("a1", "author"), ("b1", "book"), ("p", "publisher"))}


def graph_folder(folder: Path, questions: list[dict] | None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "all_items.json").write_text(json.dumps(ITEMS, indent=1))
    (folder / "all_connections.csv").write_text("b1,a1\r\nb1,p\r\n")
    if questions is not None:
        (folder / "questions.json").write_text(json.dumps(questions))
    return folder


def question(*keys: str, n: int = 0) -> dict:
    return {
        "keys": list(keys), "question": f"Q{n}?", "answer": f"A{n}", "perturbed_answers": ["x", "y", "z"],
        "paraphrased_question": f"PQ{n}?", "paraphrased_answer": f"PA{n}",
        "paraphrased_perturbed_answers": ["px", "py", "pz"], "question_index": n,
    }  # fmt: skip


def test_graph_files_and_their_rows(tmp_path: Path) -> None:
    folder = graph_folder(tmp_path, [question("a1"), question("b1", "a1", n=1)])
    graph = load_graph(folder)
    assert graph.links == (("b1", "a1"), ("b1", "p"))
    assert graph.of_type("book") == ["b1"]
    trained, jobs = load_graph_rows(folder, graph, training_words=False)
    assert (trained[1].question, trained[1].answers) == ("Q1?", {"answer": "A1"})
    assert (jobs[1].question, jobs[1].answer, jobs[1].perturbed) == ("PQ1?", "PA1", ["px", "py", "pz"])
    assert jobs[1].meta == {"keys": ["b1", "a1"]}
    _, same = load_graph_rows(folder, graph, training_words=True)
    assert (same[0].question, same[0].perturbed) == ("Q0?", ["x", "y", "z"])


def test_graph_files_are_read_once_until_they_change(tmp_path: Path) -> None:
    folder = graph_folder(tmp_path, [question("a1"), question("b1", "a1", n=1)])
    graph = load_graph(folder)
    first, _ = load_graph_rows(folder, graph, training_words=False)
    again, _ = load_graph_rows(folder, load_graph(folder), training_words=False)
    assert load_graph(folder) is graph
    assert again is not first and again[0] is first[0]  # a list of its own, of the same rows
    graph_folder(folder, [question("a1")])
    assert len(load_graph_rows(folder, load_graph(folder), training_words=False)[0]) == 1


def test_rows_as_arcsf_saves_them(tmp_path: Path) -> None:
    rows = [question("a1"), question("b1", "a1", n=1)]
    listed, saved, table = (graph_folder(tmp_path / n, None) for n in ("json", "saved", "csv"))
    (listed / "questions.json").write_text(json.dumps(rows, indent=2))
    (saved / "dataset").mkdir()
    content = pa.Table.from_pylist(rows)
    with pa.OSFile(str(saved / "dataset" / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as out:
        out.write_table(content)
    (saved / "dataset" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    with open(table / "questions.csv", "w", newline="") as f:
        out = csv.DictWriter(f, rows[0])
        out.writeheader()
        out.writerows(rows)
    read = [load_graph_rows(f, load_graph(f), training_words=False) for f in (listed, saved, table)]
    assert read[0] == read[1] == read[2]


def test_a_pointer_in_place_of_rows(tmp_path: Path) -> None:
    folder = graph_folder(tmp_path, None)
    (folder / "questions.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with pytest.raises(DataError, match="git lfs pull"):
        load_graph_rows(folder, load_graph(folder), training_words=False)


@pytest.mark.parametrize("seed", [40, 41])
def test_arcsfs_draws(seed: int) -> None:
    """The rows of arcsf's two loaders, written anew: one sample from the generator seeded with the number."""
    rows = graph_rows()

    def forgotten(level: str, fraction: float) -> list[int]:
        split = split_by(rows, level, fraction, entities=ENTITIES, links=LINKS, seed=seed, where="", compat="arcsf")
        return [row.row_id for row in split.forget]

    generator = random.Random(seed).sample(range(9), 3)
    assert forgotten("question", 0.4) == sorted(generator)
    books = set(random.Random(seed).sample(ENTITIES["book"], 2))
    assert forgotten("book", 0.5) == [r.row_id for r in rows if books & set(r.meta["keys"])]
    links = [LINKS[i] for i in random.Random(seed).sample(range(5), 3)]
    both = [r.row_id for r in rows if any(set(link) <= set(r.meta["keys"]) for link in links)]
    assert forgotten("relationship", 0.6) == both


def test_arcsf_rounds_a_share_of_authors_up() -> None:
    clean, theirs = (TofuChoice("author", True, True, 0.013, 0.2, 42, compat) for compat in ("clean", "arcsf"))
    assert (len(tofu_forgotten(clean)), len(tofu_forgotten(theirs))) == (40, 60)


def test_arcsf_cuts_a_product_that_is_just_below_a_whole_number() -> None:
    """4000 * 0.25025 is 1000.9999999999999."""
    choices = (TofuChoice("question", False, True, 0.1, 0.25025, 42, compat) for compat in ("clean", "arcsf"))
    assert [len(tofu_forgotten(choice)) for choice in choices] == [1001, 1000]


def test_graph_files_that_are_wrong(tmp_path: Path) -> None:
    folder = graph_folder(tmp_path, None)
    with pytest.raises(DataError, match="no question rows"):
        load_graph_rows(folder, load_graph(folder), training_words=False)
    graph_folder(folder, [question("a9")])
    with pytest.raises(DataError, match=r"questions\.json row 0: 'keys' must be .* got 'a9'"):
        load_graph_rows(folder, load_graph(folder), training_words=False)
    (folder / "all_connections.csv").write_text("b1,a1\nb1\n")
    with pytest.raises(DataError, match=r"all_connections\.csv line 2: expected two keys"):
        load_graph(folder)
    (folder / "all_items.json").write_text('{"a1": {"type": "auth')
    with pytest.raises(DataError, match="is the file whole"):
        load_graph(folder)
