"""The log in TensorBoard and wandb, by stubs: what is asked of them, and what is said where they are missing."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.training.in_memory import reporters as room
from expunge.training.in_memory.reporters import check_reporters, reporters

LINE = {"step": 4, "set": "test", "prompt": "Story:", "generation": "<b>once</b>", "target": "upon"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every call that the stubs get."""
    calls: list[Any] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            calls.append(("open", Path(folder).name))

        def add_scalar(self, *what: Any) -> None:
            calls.append(("scalar", *what))

        def add_text(self, *what: Any) -> None:
            calls.append(("text", *what))

        def close(self) -> None:
            calls.append("close")

    class Wandb(types.ModuleType):
        @staticmethod
        def init(**how: Any) -> Any:
            calls.append(("init", how["mode"], how["name"]))
            return types.SimpleNamespace(log=lambda x: calls.append(("log", x)), finish=lambda: calls.append("finish"))

        @staticmethod
        def Table(columns: list[str], data: list[list[Any]]) -> Any:
            return (tuple(columns), data)

    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", Wandb("wandb"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


def test_tensorboard(calls: list[Any], tmp_path: Path) -> None:
    with reporters(["tensorboard"], tmp_path, "mine") as report:
        report.numbers(4, {"loss": 0.5, "mfu": None, "grad_norm": float("nan")})
        report.texts(4, [LINE])
    assert calls == [
        ("open", "mine"),
        ("scalar", "loss", 0.5, 4),
        ("text", "generations/test/0", "    Story:\n    ---\n    <b>once</b>", 4),
        "close",
    ]


def test_wandb_is_offline(calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reporters(["wandb"], tmp_path, "mine") as report:
        report.numbers(4, {"loss": 0.5})
        report.texts(4, [LINE])
    table = (("prompt", "generation", "target", "step"), [["Story:", "<b>once</b>", "upon", 4]])
    assert calls == [
        ("init", "offline", "mine"),
        ("log", {"loss": 0.5, "step": 4}),
        ("log", {"generations/test": table, "step": 4}),
        "finish",
    ]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with reporters(["wandb"], tmp_path, "mine"):
        assert calls[-1] == ("init", "disabled", "mine")


def test_they_are_closed_when_a_run_fails(calls: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run"), reporters(["tensorboard", "wandb"], tmp_path, "mine"):
        raise ValueError("run")
    assert calls[-2:] == ["finish", "close"]


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda name: None)
    check_reporters([])
    with pytest.raises(ConfigError) as error:
        check_reporters(["tensorboard"])
    assert str(error.value) == (
        "trainer.args.report_to: tensorboard is not installed: pip install 'expunge[tensorboard]', or leave it out"
    )
