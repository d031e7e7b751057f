"""Reading shards of tokens as rows of the training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.encoder import Encoded
from expunge.data.stories.documents import TokenDocuments
from expunge.data.stories.pretokenize import PretokenizedDataset, pretokenize
from expunge.data.stories.records import load_records
from expunge.data.stories.text import StoryVariant, render, transform
from expunge.data.transforms.draws import Draws

TWIST = StoryVariant("features=Twist")


@pytest.fixture(scope="module")
def dataset(stories: Path, by_line: Any, tmp_path_factory: pytest.TempPathFactory) -> PretokenizedDataset:
    return pretokenize(stories, by_line[1], TWIST, tmp_path_factory.mktemp("sets") / "twist")


def raw(dataset: PretokenizedDataset, number: int) -> tuple[list[int], list[int]]:
    """The ids of a shard, and where its documents begin, with the end."""
    ids = np.fromfile(dataset.folder / f"{number:05d}.bin", np.uint16).tolist()
    return ids, np.load(dataset.folder / f"{number:05d}.index.npy")[0].tolist()


def test_documents_are_the_texts_of_the_split(dataset: PretokenizedDataset, stories: Path, by_line: Any) -> None:
    rows = TokenDocuments(dataset.folder, "finetune", max_seq_len=2000)
    targets = list(transform(load_records(stories, "finetune"), TWIST))
    texts = [render(s, TWIST.subset(), Draws(0, s.record_id)) for s in targets]
    assert [list(r.ids) for r in rows] == by_line[0](texts)["input_ids"]
    assert all(type(r) is Encoded and r.n_prompt == 0 and r.truncated == 0 for r in rows)
    assert rows.lengths.tolist() == [len(r.ids) for r in rows]
    assert rows[-1] == rows[len(rows) - 1] and list(rows[1:3]) == [rows[1], rows[2]]
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_a_document_knows_the_story_it_came_from(dataset: PretokenizedDataset, stories: Path) -> None:
    rows = TokenDocuments(dataset.folder, "train", max_seq_len=50)
    targets = [s.record_id for s in transform(load_records(stories, "train"), TWIST)]
    by_place = [f"made-5-{40 * shard + number}" for shard, number in rows.records.tolist()]
    assert by_place == targets  # 240 stories in 6 shards


def test_a_long_document_is_cut_and_says_so(dataset: PretokenizedDataset) -> None:
    whole, cut = (TokenDocuments(dataset.folder, "test", max_seq_len=n) for n in (2000, 60))
    assert [r.ids[:60] for r in whole] == [r.ids for r in cut]
    assert [r.truncated for r in cut] == [len(r.ids) - 60 for r in whole]
    assert set(cut.lengths.tolist()) == {60}


def test_scoring_the_story_alone_leaves_the_instructions_out(dataset: PretokenizedDataset, by_line: Any) -> None:
    for row in TokenDocuments(dataset.folder, "test", max_seq_len=2000, scored="story"):
        assert by_line[0].decode(row.ids[: row.n_prompt]).endswith("\nStory:")
    short = TokenDocuments(dataset.folder, "test", max_seq_len=5, scored="story")
    assert all(r.n_answer == 1 for r in short)


def test_chunks_are_the_shards_cut_up(dataset: PretokenizedDataset) -> None:
    rows = TokenDocuments(dataset.folder, "train", max_seq_len=64, rows="chunks")
    targets = []
    for number in range(1, 6):
        ids, _ = raw(dataset, number)
        targets += [tuple(ids[i : i + 64]) for i in range(0, len(ids) - 63, 64)]
    assert [r.ids for r in rows] == targets and len(rows.lengths) == len(targets)


def test_bos_chunks_begin_with_documents_and_do_not_overlap(dataset: PretokenizedDataset) -> None:
    rows = TokenDocuments(dataset.folder, "test", max_seq_len=300, rows="bos_chunks")
    ids, starts = raw(dataset, 0)
    targets, at = [], 0
    for start in starts[:-1]:  # by hand: the first document that begins where the last chunk has ended
        if start >= at and start + 300 <= starts[-1]:
            targets.append(tuple(ids[start : start + 300]))
            at = start + 300
    assert [r.ids for r in rows] == targets and len(targets) > 5
    assert all(r.ids[0] == 1 for r in rows)


def test_what_cannot_be_read_is_refused(dataset: PretokenizedDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split test has no chunks of 1000000 tokens"):
        TokenDocuments(dataset.folder, "test", max_seq_len=1_000_000, rows="chunks")
    with pytest.raises(DataError, match=r"twits holds no data set .*did you mean 'twist'"):
        TokenDocuments(dataset.folder.with_name("twits"), max_seq_len=10)
    for wrong, message in [
        ({"max_seq_len": 1}, "max_seq_len: must be at least 2"),
        ({"max_seq_len": 9, "rows": "chunk"}, "rows: no such rows 'chunk'; did you mean 'chunks'"),
        ({"max_seq_len": 9, "rows": "chunks", "scored": "story"}, "scored=story: should be 'all'"),
        ({"max_seq_len": 9, "split": "tests"}, "split: no split 'tests'; did you mean 'test'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            TokenDocuments(dataset.folder, **wrong)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in dataset.folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "00002.bin").write_bytes(b"12")
    with pytest.raises(DataError, match=r"00002.bin has 2 bytes, not \d+; make the data set again"):
        TokenDocuments(copy, max_seq_len=10)
