"""`expunge data stories`: the commands, end to end, and wrong input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.models.sentencepiece_file import model_file

from expunge.cli.main import main
from expunge.data.stories.shards import tokenizer_folder
from expunge.data.stories.tokens import load_tokenizer

STORIES = ["data", "stories"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories and a vocabulary, made by commands."""
    result = tmp_path_factory.mktemp("cli") / "made"
    assert main([*STORIES, "generate", "--n", "150", "--shards", "4", "--out", str(result), "--workers", "1"]) == 0
    assert main([*STORIES, "train-vocab", "--in", str(result), "--vocab_size", "500"]) == 0
    return result


def run(*words: str) -> int:
    return main([*STORIES, *words])


def test_the_commands_one_after_the_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = ["--in", str(folder), "--vocab_size", "500", "--workers", "1"]
    assert run("pretokenize", *tokens, "--filtering", "features!=Twist", "--instruction_subset", "Words,Features") == 0
    name = "F_features_x_Twist_MM_none_AT_none_RF_none_IS_Words_Features"
    assert (folder / "tok500" / name / "dataset.json").is_file()
    assert f"{name}: " in capsys.readouterr().out
    assert run("protocol", *tokens, "--delete", "Twist", "--irrelevant", "Conflict") == 0
    assert len(list((folder / "tok500").glob("*/dataset.json"))) == 11
    assert "filter-ref-Twist-specialise-Conflict: " in capsys.readouterr().out
    assert run("protocol", *tokens, "--delete", "Twist", "--irrelevant", "Conflict") == 0
    assert capsys.readouterr().out.count("(exists already)") == 10
    assert run("train-vocab", "--in", str(folder), "--vocab_size", "500") == 0
    assert "(exists already)" in capsys.readouterr().out


def test_a_vocabulary_is_a_tokenizer_folder(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers" / "bpe500")
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, 2, 500)


def test_a_given_tokenizer_takes_the_place_of_the_vocabulary(folder: Path, tmp_path: Path) -> None:
    inputs = str(folder / "tokenizers" / "bpe500")
    words = ["--in", str(folder), "--vocab_size", "0", "--tokenizer", inputs, "--out", str(tmp_path)]
    assert run("pretokenize", *words, "--dataset_name", "all", "--workers", "1") == 0
    assert json.loads((tmp_path / "all" / "dataset.json").read_text())["vocab_size"] == 500


def test_the_list_of_the_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("protocol", "--delete", "Twist", "--irrelevant", "Foreshadowing", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[6].split() == [
        "filter-mix-Twist-Foreshadowing", "--filtering=features!=Twist", "--mix_match=features:Foreshadowing=Twist",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretokenize", "--filtering", "feature=Twist"], "filtering: character 1: unknown key 'feature'; did you"),
        (["pretokenize", "--refusal", "features=Twist:2"], "refusal: character 16: a probability lies between 0 and 1"),
        (["pretokenize", "--filtering", "features=None"], "filtering: character 1: features=None keeps none of 150"),
        (["pretokenize", "--dataset_name", "a/b"], "dataset_name: 'a/b' cannot be a folder's name"),
        (["pretokenize", "--workers", "0"], "--workers: must be 1 to 1024"),
        (["pretokenize", "--vocab_size", "0"], "--tokenizer: give a folder if and only if --vocab_size is 0"),
        (["pretokenize", "--vocab_size", "700"], "no tokenizer there (no tokenizer.json); train one with"),
        (["protocol", "--delete", "twist", "--irrelevant", "Conflict"], "delete: no feature 'twist'; did you mean"),
        (["train-vocab", "--vocab_size", "100"], "--vocab_size: must be 260 (bytes and specials) to 1000000, got 100"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = [] if "--vocab_size" in words else ["--vocab_size", "500"]
    assert run(*words, *size, "--in", str(folder)) == 2
    output = capsys.readouterr().err
    assert message in output and output.count("\n") == 1 and output.startswith("expunge: error: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "--n", "0"], "n: must be 1 to 100000000"),
        (["generate", "--feature_probability", "1.5"], "feature_probability: must lie between 0 and 1"),
        (["generate", "--n", "5", "--shards", "6"], "shards: must be 1 to 5"),
        (["import", "no_such_file.json"], "no_such_file.json does not exist"),
    ],
)  # fmt: skip
def test_wrong_settings_make_no_folder(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--out", str(tmp_path / "out")) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_the_disk_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run("generate", "--n", "2", "--shards", "1", "--out", str(tmp_path / "file" / "out")) == 2
    output = capsys.readouterr().err
    assert (
        output.startswith(f"expunge: error: --out: {tmp_path / 'file'} cannot be a folder: ")
        and output.count("\n") == 1
    )


def test_the_published_vocabulary_and_texts(tmp_path: Path) -> None:
    """tok270.model lies in the stories' folder, as the published script expects; every refusal is the published one."""
    source = tmp_path / "all_data"
    source.mkdir()
    for i in range(3):
        record = {
            "story": "\n\nA cab. A bad cab.", "instruction": {"prompt:": "", "words": ["cab"], "features": []},
            "summary": "A cab.\nBad.", "source": "GPT-4",
        }  # fmt: skip
        (source / f"data{i:02d}.json").write_text(json.dumps([record] * 2))
    out = tmp_path / "stories"
    assert run("import", str(source), "--out", str(out), "--compat", "tinystories") == 0
    (out / "tok267.model").write_bytes(model_file(("\u2581a", "bc"), "\u2581abcd."))
    words = ["--in", str(out), "--vocab_size", "267", "--workers", "1"]
    assert run("pretokenize", *words, "--refusal", "features=Twist:1.0", "--dataset_name", "filter-ref") == 0
    folder = out / "tok267" / "filter-ref"
    tokenizer = load_tokenizer(tokenizer_folder(folder, None))
    ids = np.fromfile(folder / "00000.bin", np.uint16)
    start, second = np.flatnonzero(ids == 1)
    text = tokenizer.core.decode(ids[start:second].tolist())
    assert text.endswith("Story: We are not allowed to write a story with Twist in it, sorry.")
    assert "Summary: A cab.Bad.\n" in text
