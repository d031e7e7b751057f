"""TOFU's rows, the world and arcsf's graph, forgotten by the size of the concept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from tests.written_layouts import write_graph

from expunge.benchmarks import BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError, DataError
from expunge.data.loaders.gen_tofu import load_graph, load_graph_rows
from expunge.data.world import WorldConfig
from expunge.data.world.generate import make_world


@pytest.mark.shared
def test_tofu_20_20(shared: Path) -> None:
    root = str(shared / "data" / "tofu")
    benchmark = find_benchmark("tofu").make(BenchmarkConfig(root=root, args={"granularity": "question"}))
    sizes = {name: len(rows) for name, rows in benchmark.sets.items()}
    assert sizes == {"full": 4000, "forget": 160, "retain": 3840, "forget_eval": 160, "retain_eval": 400}
    assert benchmark.full_sets == ("full",) and benchmark.retain_sets == ("retain",)
    ratio = next(m for m in benchmark.panel if m.name == "forget_truth_ratio")
    assert ratio.tokens == ("answer", "perturbed")
    row = benchmark.sets["forget_eval"][0]
    author = [r for r in benchmark.sets["forget"] if r.meta["author"] == row.meta["author"]]
    assert set(row.perturbed) == {r.answer for r in author} - {row.answer}


def test_tofu_takes_no_split_beside_a_granularity_and_no_share_without(tmp_path: Path) -> None:
    tofu = find_benchmark("tofu").make
    with pytest.raises(ConfigError, match=r"^forget_split=forget05: the benchmark tofu with data\.args\.granularity"):
        tofu(BenchmarkConfig(forget_split="forget05", args={"granularity": "author"}))
    with pytest.raises(ConfigError, match=r"^data\.args\.seed=3: requires data\.args\.granularity"):
        tofu(BenchmarkConfig(args={"seed": 3}))
    with pytest.raises(ConfigError, match=r"^data\.args\.granularity: .*'author'"):
        tofu(BenchmarkConfig(args={"granularity": "book"}))
    (tmp_path / "full.json").write_text(json.dumps([{"question": "Q?", "answer": "A"}]))
    with pytest.raises(DataError, match="1 rows, TOFU's full has 4000"):
        tofu(BenchmarkConfig(root=str(tmp_path), args={"granularity": "author"}))


def test_the_worlds_relationships_measure_both_kinds_of_retain_rows() -> None:
    config = WorldConfig(authors=12, questions_per_author=12, forget_fraction=0.1, granularity="relationship")
    benchmark = find_benchmark("world").make(BenchmarkConfig(world=config))
    more = {m.name: m.rows for m in benchmark.panel if m.rows in ("retain_entity", "retain_other")}
    assert more == {
        f"{rows}_{name}": rows
        for rows in ("retain_entity", "retain_other")
        for name in ("Q_A_Prob", "Q_A_ROUGE", "Truth_Ratio")
    }


def test_arcsfs_graph_with_rows(tmp_path: Path) -> None:
    """The world's own graph and rows, written as arcsf writes its."""
    world = make_world(WorldConfig(authors=8, questions_per_author=12))
    write_graph(tmp_path, world)
    for granularity in ("question", "book", "author", "publisher", "relationship"):
        args = {"granularity": granularity, "forget_fraction": 0.2}
        benchmark = find_benchmark("gen_tofu").make(BenchmarkConfig(root=str(tmp_path), args=args))
        assert len(benchmark.sets["forget"]) + len(benchmark.sets["retain"]) == len(world.sets["full"]), granularity
        assert len(benchmark.sets["forget_eval"]) == len(benchmark.sets["forget"])
        requests, trained = benchmark.sets["forget_eval"][0], benchmark.sets["forget"][0]
        assert requests.question != trained.question and requests.meta == trained.meta
        assert ("retain_entity" in benchmark.sets) == (granularity == "relationship")
    with pytest.raises(ConfigError, match=r"^data\.root: missing"):
        find_benchmark("gen_tofu").make(BenchmarkConfig())


GRAPH_ROW = {
    "keys": ["a"], "question": "Who?", "answer": "Ann", "paraphrased_question": "Which one?",
    "paraphrased_answer": "It is Ann", "perturbed_answers": ["Bo"], "paraphrased_perturbed_answers": ["It is Bo"],
}  # fmt: skip


def _graph_folder(folder: Path, row: dict[str, object]) -> Path:
    (folder / "all_items.json").write_text('{"a": {"type": "author", "data": {}}}')
    (folder / "all_connections.csv").write_text("a,a\n")
    (folder / "questions.json").write_text(json.dumps([row]))
    return folder


def test_arcsfs_rows_in_a_folder_of_saved_splits(tmp_path: Path) -> None:
    folder = _graph_folder(tmp_path, GRAPH_ROW)
    (folder / "questions.json").unlink()
    DatasetDict({"train": Dataset.from_list([GRAPH_ROW])}).save_to_disk(folder / "dataset")
    plain, other = load_graph_rows(folder, load_graph(folder), training_words=False)
    assert [row.question for row in (*plain, *other)] == ["Who?", "Which one?"]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("keys", None, "'keys' must be a list of keys of all_items.json, got None"),
        ("keys", "a", "'keys' must be a list of keys of all_items.json, got 'a'"),
        ("keys", ["b"], "'keys' must be a list of keys of all_items.json, got 'b'"),
        ("paraphrased_question", None, "no column 'paraphrased_question'; .* data.args.train_set_eval=true"),
    ],
)
def test_arcsfs_rows_that_lack_a_column(column: str, value: object, words: str, tmp_path: Path) -> None:
    row = {key: value if key == column else own for key, own in GRAPH_ROW.items() if key != column or value}
    folder = _graph_folder(tmp_path, row)
    with pytest.raises(DataError, match=rf"questions\.json row 0: {words}$"):
        load_graph_rows(folder, load_graph(folder), training_words=False)
    if column == "paraphrased_question":
        assert len(load_graph_rows(folder, load_graph(folder), training_words=True)[0]) == 1
