"""Data sets of tokens: equal to tokenising every text anew, whoever makes them and however often they stop."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.core.errors import ConfigError, DataError
from expunge.data.stories.gather import gather
from expunge.data.stories.pretokenize import pretokenize
from expunge.data.stories.protocol import protocol
from expunge.data.stories.records import load_records
from expunge.data.stories.text import StoryVariant, prompt, render, transform
from expunge.data.stories.tokens import load_tokenizer, splits_lines
from expunge.data.transforms.draws import Draws

MODULE = importlib.import_module("expunge.data.stories.pretokenize")  # the package's name is the function's
VARIANTS = {
    **protocol("Twist", "Foreshadowing"),
    "subset": StoryVariant("words!=run", "words:dance=fly:kite=plane", instruction_subset="Words,Sentence"),
    "some": StoryVariant(
        None, None, "features=Twist:0.5,words=dragon:0.4", "features=Conflict:0.3,features=Dialogue:0.3"
    ),
}


def shards_of(folder: Path) -> list[tuple[list[int], np.ndarray]]:
    described = json.loads((folder / "dataset.json").read_text())
    dtype = np.dtype(described["dtype"])
    return [
        (np.fromfile(folder / f"{i:05d}.bin", dtype).tolist(), np.load(folder / f"{i:05d}.index.npy"))
        for i in range(len(described["shards"]))
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def check_against_anew(folder: Path, stories: Path, tokenizer: Any, variant: StoryVariant, seed: int) -> int:
    """Every document's ids are those of its whole text, tokenised in one call; returns how many there are."""
    subset = variant.subset()
    result = [
        ids[start:end]
        for ids, index in shards_of(folder)
        for start, end in zip(index[0, :-1], index[0, 1:], strict=True)
    ]
    prompts = np.concatenate([index[1, :-1] for _, index in shards_of(folder)]).tolist()
    targets = list(transform(load_records(stories), variant, seed=seed))
    texts = [render(s, subset, Draws(seed, s.record_id)) for s in targets]
    requests = [prompt(s, subset, Draws(seed, s.record_id)) for s in targets]
    assert result == tokenizer(texts)["input_ids"]  # which begins each with BOS
    assert prompts == [len(ids) for ids in tokenizer(requests)["input_ids"]]
    return len(result)


@pytest.mark.parametrize("name", VARIANTS)
def test_pieces_joined_are_the_tokens_of_the_whole_text(name: str, stories: Path, by_line: Any, tmp_path: Path) -> None:
    tokenizer, folder = by_line
    result = pretokenize(stories, folder, VARIANTS[name], tmp_path / name, seed=3)
    assert result.made and check_against_anew(result.folder, stories, tokenizer, VARIANTS[name], 3) == result.documents
    assert result.tokens == sum(len(ids) for ids, _ in shards_of(result.folder))


def test_a_tokenizer_that_joins_lines_is_asked_for_the_whole_text(stories: Path, across: Any, tmp_path: Path) -> None:
    tokenizer, folder = across
    assert not load_tokenizer(folder).by_line
    result = pretokenize(stories, folder, VARIANTS["some"], tmp_path / "x")
    check_against_anew(result.folder, stories, tokenizer, VARIANTS["some"], 0)


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_the_ids_of_a_text_are_those_of_its_lines_joined(by_line: Any, lines: list[str]) -> None:
    token = load_tokenizer(by_line[1])
    pieces = [line + "\n" for line in lines[:-1]] + lines[-1:]
    assert token.by_line
    whole = token.core.encode("".join(pieces), add_special_tokens=False).ids
    assert token.encode(pieces)[0].tolist() == whole


def test_special_tokens_spelled_in_a_story_are_text(by_line: Any) -> None:
    token = load_tokenizer(by_line[1])
    assert token.bos not in token.encode(["<bos> and <eos>"])[0]


def test_what_could_join_lines_is_seen(by_line: Any) -> None:
    good = json.loads((by_line[1] / "tokenizer.json").read_text())
    assert splits_lines(good)
    for change in (
        {"normalizer": {"type": "NFC"}},
        {"added_tokens": [*good["added_tokens"], {"content": "a", "special": False}]},
        {"pre_tokenizer": good["pre_tokenizer"]["pretokenizers"][-1]},
        {"pre_tokenizer": None},
    ):
        assert not splits_lines(good | change)


def test_digits_and_line_breaks_stand_alone(by_line: Any) -> None:
    tokenizer, _ = by_line
    assert tokenizer.tokenize("a 2023\n\nb") == ["a", "Ġ", "2", "0", "2", "3", "Ċ", "Ċ", "b"]
    assert tokenizer.decode(tokenizer("été 北")["input_ids"], skip_special_tokens=True) == "été 北"


def test_the_bytes_do_not_depend_on_workers(
    stories: Path, by_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "STORIES_PER_PROCESS", 1)  # so that every step is shared
    copy = tmp_path / "copy"  # without the cache of the other tests
    shutil.copytree(stories, copy, ignore=shutil.ignore_patterns("tokens"))
    one = pretokenize(stories, by_line[1], VARIANTS["some"], tmp_path / "one", workers=1)
    three = pretokenize(copy, by_line[1], VARIANTS["some"], tmp_path / "three", workers=3)
    assert contents(one.folder) == contents(three.folder)
    assert {p.name: contents(p) for p in (copy / "tokens").glob("0*")} == {
        p.name: contents(p) for p in (stories / "tokens").glob("0*") if (copy / "tokens" / p.name).exists()
    }


def test_a_record_draws_the_same_in_another_folder(stories: Path, by_line: Any, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for path in (stories / "shards").iterdir():
        (tmp_path / "source" / path.name).write_bytes(path.read_bytes())
    gather(str(tmp_path / "source"), tmp_path / "other", shards=3)
    variant = VARIANTS["some"]
    first = {s.record_id: s for s in transform(load_records(stories), variant)}
    assert first == {s.record_id: s for s in transform(load_records(tmp_path / "other"), variant)}


def test_a_second_run_does_nothing_and_another_variant_is_refused(stories: Path, by_line: Any, tmp_path: Path) -> None:
    out = tmp_path / "set"
    pretokenize(stories, by_line[1], StoryVariant("features=Twist"), out)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = pretokenize(stories, by_line[1], StoryVariant("features=Twist"), out)
    assert not again.made and {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    for other in (
        {"variant": StoryVariant("features=Conflict")},
        {"variant": StoryVariant("features=Twist"), "seed": 1},
    ):
        with pytest.raises(ConfigError, match=r"^dataset_name: .* holds another data set"):
            pretokenize(stories, by_line[1], out=out, **other)


def test_a_killed_run_goes_on_shard_by_shard(
    stories: Path, by_line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = MODULE._make_shard, []

    def dies_at_3(root: Path, shard: Any, *rest: Any) -> None:
        if shard.number == 3 and not again:
            raise KeyboardInterrupt
        done.append(shard.number)
        real(root, shard, *rest)

    again = False
    monkeypatch.setattr(MODULE, "_make_shard", dies_at_3)
    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        pretokenize(stories, by_line[1], VARIANTS["some"], out)
    assert not out.exists() and done == [0, 1, 2]
    again = True
    pretokenize(stories, by_line[1], VARIANTS["some"], out)
    assert done == [0, 1, 2, 3, 4, 5]
    monkeypatch.undo()
    other = pretokenize(stories, by_line[1], VARIANTS["some"], tmp_path / "other")
    assert contents(out) == contents(other.folder)
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".building", ".part")]


@pytest.mark.parametrize(
    ("filtering", "message"),
    [
        ("features=twist", "filtering: character 1: features=twist keeps none of 240 stories; did you mean 'Twist'?"),
        ("features=Twist,features!=Twist", "filtering: character 16: features!=Twist keeps none of "),
        ("length=90000", "filtering: character 1: length=90000 keeps none of 240 stories"),
    ],
)
def test_a_filter_that_keeps_nothing_is_refused(
    filtering: str, message: str, stories: Path, by_line: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        pretokenize(stories, by_line[1], StoryVariant(filtering), tmp_path / "set")
    assert str(error.value).startswith(message)
    assert [p.name for p in tmp_path.iterdir()] == [".set.lock"]


@pytest.mark.parametrize(
    "variant",
    [
        StoryVariant("features!=twist"),
        StoryVariant(mix_match="features:twist=Conflict"),
        StoryVariant(mix_match="features:Conflict=twist"),
        StoryVariant(adversarial_training="features=twist:1.0"),
        StoryVariant(refusal="features=twist:1.0"),
    ],
)
def test_a_rule_for_a_feature_of_no_story_is_refused(
    variant: StoryVariant, stories: Path, by_line: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no story has the feature 'twist'; did you mean 'Twist'\?"):
        pretokenize(stories, by_line[1], variant, tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_wrong_folders_are_refused(stories: Path, by_line: Any, tmp_path: Path) -> None:
    for args, error, message in [
        ((tmp_path, by_line[1], StoryVariant(), tmp_path / "x"), DataError, "holds no stories"),
        ((stories, tmp_path, StoryVariant(), tmp_path / "x"), DataError, "no tokenizer there"),
        (
            (stories, by_line[1], StoryVariant(), tmp_path / ".x"),
            ConfigError,
            "dataset_name: '.x' cannot be a folder's name",
        ),
        ((stories, by_line[1], StoryVariant(), stories), DataError, "holds no data set"),
    ]:
        with pytest.raises(error, match=message):
            pretokenize(*args)


@pytest.mark.slow
@pytest.mark.shared
def test_real_stories_are_the_same_from_pieces(shared: Path, by_line: Any, tmp_path: Path) -> None:
    gather(str(shared / "data" / "tinystories"), tmp_path / "real", shards=9)
    variant = StoryVariant("features=Dialogue,length!=900", None, "words=dragon:0.5")
    result = pretokenize(tmp_path / "real", by_line[1], variant, tmp_path / "set")
    assert check_against_anew(result.folder, tmp_path / "real", by_line[0], variant, 0) > 500


def with_id(source: Path, folder: Path, token: str, number: int) -> Path:
    """A tokenizer that gives a token another id."""
    shutil.copytree(source, folder)
    parts = json.loads((folder / "tokenizer.json").read_text())
    parts["model"]["vocab"][token] = number
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    return folder


def test_the_highest_id_decides_between_16_and_32_bits(
    stories: Path, by_line: tuple[Any, Path], tmp_path: Path
) -> None:
    token = "Ġthe"
    plain = pretokenize(stories, by_line[1], StoryVariant(), tmp_path / "plain").folder
    old = load_tokenizer(by_line[1]).core.token_to_id(token)
    for number, dtype in ((2**16 - 1, "uint16"), (2**16, "uint32")):
        moved = with_id(by_line[1], tmp_path / str(number), token, number)
        result = pretokenize(stories, moved, StoryVariant(), tmp_path / f"set-{number}").folder
        described = json.loads((result / "dataset.json").read_text())
        assert (described["dtype"], described["vocab_size"]) == (dtype, number + 1)
        for (ids, _), (before, _) in zip(shards_of(result), shards_of(plain), strict=True):
            assert number in ids and ids == [number if i == old else i for i in before]
