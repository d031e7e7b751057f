"""No command replaces its own input: every command with an output, by its own options."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from expunge.cli.main import main

COMMANDS = {
    "judge": "judge rows.csv --rules rules.yaml --out {}",
    "erase": "erase --model model --forget rows.csv --retain keep.csv --out {}",
    "semeval": "semeval --model model --forget rows.csv --retain keep.csv --out {}",
    "inspect": "inspect lens --model model benchmark=custom forget=rows.csv retain=keep.csv --out {}",
    "compare": "compare log.json model --out {}",
    "import": "import llama2c rows.csv --tokenizer model --out {}",
    "export": "export slurm study=custom forget=rows.csv retain=keep.csv --out {}",
    "eval": "eval benchmark=custom forget=rows.csv retain=keep.csv task_name=x paths.output_dir={} "
    "model.model_args.pretrained_model_name_or_path=model",
    "eval store": "eval benchmark=custom forget=rows.csv retain=keep.csv task_name=x paths.store={} "
    "model.model_args.pretrained_model_name_or_path=model",
    "run": "run study=custom forget=rows.csv retain=keep.csv paths.output_dir={} "
    "model.model_args.pretrained_model_name_or_path=model",
}
CONFIG = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 300}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.csv", "keep.csv"):
        Path(name).write_text("question,answer\n" + "".join(f"Who is {name} {i}?,Ann {i}\n" for i in range(5)))
    Path("log.json").write_text("{}")
    Path("rules.yaml").write_text("a: 1")
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(CONFIG))
    Path("model/model.safetensors").write_bytes(b"x")
    Path("model/tokenizer.json").write_text("{}")
    return tmp_path


def _contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("out", ["rows.csv", "model"])
def test_an_input_is_never_an_output(folder: Path, name: str, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name].format(out)
    if out not in command.rpartition("{}")[0] + COMMANDS[name]:
        pytest.skip("no input of this command")
    before = _contents(folder)
    code = main(command.split())
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2, line
    assert f": {out} is an input (" in line or f"{out} is a file" in line or f"{out} cannot be a folder" in line, line
    assert _contents(folder) == before


FOLDERS = {name: text for name, text in COMMANDS.items() if name not in ("judge", "export")}


@pytest.mark.parametrize("name", FOLDERS)
def test_an_output_is_never_part_of_a_model(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = _contents(folder)
    code = main(FOLDERS[name].format("model/out").split())
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2, line
    assert "model/out lies in the model folder model (" in line, line
    assert _contents(folder) == before


def test_the_rows_of_a_question_are_not_made_for_a_folder_with_other_things(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.cli.commands.erase.agreed_rows", lambda parsed, request: pytest.fail("rows are made"))
    before = _contents(folder)
    code = main(["erase", "--model", "model", "--forget", "Who is Ann 1?", "--yes", "--out", "."])
    assert code == 2
    assert "--out: . is not empty; name a new or empty folder" in capsys.readouterr().err
    assert _contents(folder) == before


@pytest.mark.parametrize("command", ["erase --forget rows.csv --out new --model", "train task_name=x benchmark=world "])
def test_a_model_is_not_pushed_to_where_it_comes_from(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "Me/forgetful"
    word = f" {model}" if "erase" in command else f"model.model_args.pretrained_model_name_or_path={model}"
    code = main([*f"{command}{word}".split(), "--push", "me/forgetful"])
    assert code == 2
    assert "--push: me/forgetful is the model that this command starts from" in capsys.readouterr().err
