"""An output that is an input, or that cannot be written, is one line before any work."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from expunge.core.errors import ConfigError
from expunge.core.outputs import check_output, named_paths


@dataclass(frozen=True)
class Settings:
    file: str
    hub: str = "someone/model"
    paths: dict[str, str] = field(default_factory=dict)
    files: tuple[dict[str, str], ...] = ()


def test_the_files_that_settings_name(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.touch()
    settings = Settings(
        str(a), paths={"store": str(a)}, files=({"x": str(b)}, {"y": "no", "z": "n\0ul", "l": "x" * 9999})
    )
    assert named_paths(settings) == {"file": a, "files[0].x": b}


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    rows, model = tmp_path / "rows.csv", tmp_path / "model"
    rows.touch()
    model.mkdir()
    (model / "EVAL.json").touch()
    (tmp_path / "link.csv").symlink_to(rows)
    inputs = {"--forget": rows, "--model": model, "--nope": tmp_path / "nope"}
    for out, output in (
        (rows, "is an input .--forget. and would be replaced; name another file"),
        (tmp_path / "link.csv", "is an input .--forget. and would be replaced; name another file"),
        (tmp_path / "model" / ".." / "model", "is an input .--model. and would be replaced; name another folder"),
        (model / "EVAL.json", "is a file of an input .--model. and would be replaced"),
    ):
        with pytest.raises(ConfigError, match=rf"^--out: .* {output}"):
            check_output(out, "--out", inputs)
    for out in (tmp_path / "new", model / "evals", model / "new.json", tmp_path):
        check_output(out, "--out", inputs)


def test_an_output_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^--out: .*file is a file"):
        check_output(tmp_path / "file" / "x" / "y", "--out", {})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=r"^--out: .* cannot be written: no permission in "):
        check_output(tmp_path / "x", "--out", {})
    check_output(tmp_path / "x", "--out", {}, writable=False)


def test_an_output_inside_a_model_folder(tmp_path: Path) -> None:
    for name, files in {
        "model": ("config.json", "model.safetensors"),
        "shards": ("config.json", "pytorch_model.bin.index.json"),
        "adapter": ("adapter_config.json",),
        "data": ("rows.csv",),
        "project": ("config.json", "rows.csv"),
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    for name in ("model", "shards", "adapter"):
        for out in (f"{name}/out", f"{name}/a/b/c.json", f"{name}/evals_a.json"):
            with pytest.raises(ConfigError, match=rf"^--out: .* lies in the model folder .*{name} .--model. and would"):
                check_output(tmp_path / out, "--out", {"--model": tmp_path / name})
    with pytest.raises(ConfigError, match="lies in the model folder"):
        check_output(tmp_path / "link" / "out", "--out", {"--model": tmp_path / "model"})
    for measured in ("evals", "evals_forget05", "evals/records"):  # as OpenUnlearning's scripts write
        check_output(tmp_path / "model" / measured, "paths.output_dir", {"--model": tmp_path / "model"})
    for name in ("data", "project"):
        check_output(tmp_path / name / "out", "--out", {"data.root": tmp_path / name})
    check_output(tmp_path / "model2", "--out", {"--model": tmp_path / "model"})
