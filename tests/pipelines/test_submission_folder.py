"""The output folder starts with the files of the given model."""

from __future__ import annotations

import json
from pathlib import Path

from expunge.pipelines.submission_folder import STATUS, SubmissionFolder


def test_the_given_model_is_there_before_anything_is_loaded(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "notes.md"):
        (source / name).write_text(name)
    output = SubmissionFolder(tmp_path / "out")
    assert output.start_with(str(source))
    files = {p.name for p in output.folder.iterdir() if p.is_file()}
    assert files == {"config.json", "tokenizer.json", "model.safetensors", STATUS}
    assert json.loads((output.folder / STATUS).read_text())["steps"] == 0


def test_weights_in_other_files_are_replaced(tmp_path: Path) -> None:
    output = SubmissionFolder(tmp_path / "out")

    def make(*names: str) -> None:
        output.fill(lambda part: [(part / name).write_text(name) for name in names], {})

    make("config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json")
    make("config.json", "model.safetensors")
    assert {p.name for p in output.folder.iterdir() if p.is_file()} == {"config.json", "model.safetensors", STATUS}


def test_models_that_must_be_loaded_are_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "adapter"
    source.mkdir()
    for name in ("config.json", "adapter_config.json", "model.safetensors"):
        (source / name).write_text("{}")
    for model in (str(source), "owner/name"):
        assert not SubmissionFolder(tmp_path / "out").start_with(model)
    assert not (tmp_path / "out").exists()


def test_logs_are_not_next_to_the_model(tmp_path: Path) -> None:
    output = SubmissionFolder(tmp_path / "out")
    output.fill(lambda part: [(part / name).write_text(name) for name in ("config.json", "log.jsonl")], {})
    assert {p.name for p in output.folder.iterdir() if p.is_file()} == {"config.json", STATUS}
    assert (output.folder / "logs" / "log.jsonl").is_file()
