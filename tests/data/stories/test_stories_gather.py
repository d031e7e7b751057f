"""Stories from elsewhere: archives, folders, plain stories; and what is wrong with them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import DataError
from expunge.data.stories.gather import gather, plain_story, plain_texts
from expunge.data.stories.records import load_records, open_stories


def record(text: str, *features: str) -> dict[str, Any]:
    requests = {"prompt:": "Write a story", "words": ["hang", "foot"], "features": list(features)}
    return {"story": f"\n\n{text}", "instruction": requests, "summary": "S.", "source": "GPT-4"}


def archive(path: Path, members: dict[str, bytes | str]) -> Path:
    """A tar.gz; a text is the target of a link."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def shard(*texts: str) -> bytes:
    return json.dumps([record(t, "Twist") for t in texts]).encode()


def test_an_archive_keeps_its_shards_in_the_order_of_their_names(tmp_path: Path) -> None:
    source = archive(
        tmp_path / "all.tar.gz",
        {"data02.json": shard("c"), "data00.json": shard("a", "b"), "data01.json": shard("x"), "._data00.json": b"\0"},
    )
    assert gather(str(source), tmp_path / "out")
    result = open_stories(tmp_path / "out")
    assert [s.records for s in result.shards] == [2, 1, 1]
    stories = list(load_records(tmp_path / "out"))
    assert [s.story for s in stories] == ["a", "b", "x", "c"] and stories[1].record_id == "data00-1"
    assert stories[0].features == ("Twist",) and stories[0].words == ("hang", "foot") and stories[0].summary == "S."
    assert not gather(str(source), tmp_path / "out")  # a second time there is nothing to do


def test_no_two_stories_share_an_id_and_so_their_draws(tmp_path: Path) -> None:
    dotted = {f"data.{k:02d}.json": shard("a", "b") for k in range(3)}
    folders = {f"{name}/data.json": shard("a", "b") for name in "xyz"}
    numbered = {f"f{k}.json": json.dumps([{"id": i, "text": "A tale."} for i in (0, 1, 1)]).encode() for k in range(3)}
    for n, members in enumerate((dotted, folders, numbered)):
        gather(str(archive(tmp_path / f"{n}.tar.gz", members)), tmp_path / str(n))
        ids = [s.record_id for s in load_records(tmp_path / str(n))]
        assert len(set(ids)) == len(ids), ids
    assert ids[:4] == ["0", "1", "f0-2", "f1-0"]  # the first to have an id keeps it


def test_nothing_in_an_archive_reaches_a_path_of_its_own(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    source = archive(
        inside / "bad.tar.gz",
        {"../evil.json": shard("a"), "/abs/evil.json": shard("b"), "link.json": "/etc/passwd", "ok.json": shard("c")},
    )
    gather(str(source), inside / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert sorted(p.name for p in inside.iterdir()) == ["bad.tar.gz", "out"]
    assert sorted(s.story for s in load_records(inside / "out")) == ["a", "b", "c"]


def test_few_files_are_dealt_out_to_shards(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(shard(*"abcdefg"))
    gather(str(tmp_path / "one.json"), tmp_path / "out", shards=3)
    assert [s.records for s in open_stories(tmp_path / "out").shards] == [3, 2, 2]
    assert [s.story for s in load_records(tmp_path / "out")] == list("adgbecf")


def test_plain_stories_get_what_their_text_says() -> None:
    story = plain_story('A cat sat on a wooden fence. "Hello!" it said. Then it jumped.', "p", "here")
    assert story.features == ("Dialogue",) and story.summary == "A cat sat on a wooden fence."
    assert len(story.words) == 3 and set(story.words) <= {"wooden", "fence", "jumped"}
    assert plain_story("It was late. It rained.", "p", "here").features == ()
    assert plain_story("Sie sagte \u201cNein\u201d. Ende.", "p", "here").features == ("Dialogue",)


def test_a_text_file_is_cut_into_stories(tmp_path: Path) -> None:
    marked, opened = tmp_path / "marked.txt", tmp_path / "opened.txt"
    marked.write_text("One.\n\nOnce upon a time.\n<|endoftext|>\nTwo.\n<|endoftext|>\n")
    assert [r["text"] for r in plain_texts(marked)] == ["One.\n\nOnce upon a time.", "Two."]
    opened.write_text("Rest of a story.\n\nOnce upon a time, a.\n\nMore.\n\nOnce there was b.\nOnce upon a time!\n")
    assert [r["text"] for r in plain_texts(opened)] == [
        "Rest of a story.", "Once upon a time, a.\n\nMore.", "Once there was b.\nOnce upon a time!",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"tale": "x"}], "record 0: no column 'instruction'"),
        ([{"story": "x", "instruction": 3}], "'instruction' must be an object"),
        ([{"story": "x", "instruction": None}], "'instruction' must be an object, got None"),
        ([record("x"), {"instruction": {}, "stori": "x"}], "record 1: no column 'story'; did you mean 'stori'"),
        ([record("")], "record 0: 'story' is empty"),
        ([{"text": " "}], "record 0: the story is empty"),
        ([{"story": "x", "instruction": {"features": "Twist"}}], "'instruction.features' must be a list of texts"),
        ([{"story": "x", "instruction": {"words": [1]}}], "'instruction.words'[0] must be text, got 1"),
        ([{"text": "\ud800"}], "contains a broken character at position 0"),
        ([record("x")], "1 stories do not fill 11 shards"),
    ],
)  # fmt: skip
def test_wrong_records_are_refused_with_their_place(tmp_path: Path, content: Any, message: str) -> None:
    source = tmp_path / "source.json"
    source.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        gather(str(source), tmp_path / "out")
    assert message in str(error.value) and str(source) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1


def test_broken_sources_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = archive(tmp_path / "a.tar.gz", {"a.json": shard(*map(str, range(2000)))}).read_bytes()
    for name, data, message in [
        ("cut.tar.gz", whole[: len(whole) // 2], "not an archive that can be read"),
        ("noise.tar.gz", b"no archive", "not an archive that can be read"),
        ("b.tar.gz", archive(tmp_path / "x.tar.gz", {"a.json": b"[1,"}).read_bytes(), "a.json: not JSON"),
        ("c.tar.gz", archive(tmp_path / "x.tar.gz", {"a.txt": b"text"}).read_bytes(), "no .json or .jsonl file"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            gather(str(tmp_path / name), out)
    with pytest.raises(DataError, match="does not exist, and is no hub id"):
        gather(str(tmp_path / "absent" / "x" / "y"), out)
    assert not out.exists()


def test_a_changed_shard_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(shard(*"abc"))
    gather(str(tmp_path / "one.json"), tmp_path / "out", shards=1)
    with open(tmp_path / "out" / "shards" / "00000.jsonl", "a") as f:
        f.write("\n")
    with pytest.raises(DataError, match=r"00000.jsonl has \d+ bytes, not the \d+ it was made with"):
        open_stories(tmp_path / "out")
    with pytest.raises(DataError, match="holds no stories"):
        open_stories(tmp_path)


@pytest.mark.shared
def test_real_plain_stories(shared: Path, tmp_path: Path) -> None:
    gather(str(shared / "data" / "tinystories"), tmp_path / "out")
    stories = list(load_records(tmp_path / "out"))
    assert len(stories) > 4000 and 0.4 < sum("Dialogue" in s.features for s in stories) / len(stories) < 0.9
    assert sum(len(s.words) == 3 for s in stories) > 0.98 * len(stories)
