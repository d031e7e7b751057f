"""Send the log of a run to TensorBoard or Weights & Biases, in addition to the files that are always written.

Both are optional dependencies, and nothing leaves the machine: wandb is offline unless WANDB_MODE is set.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError


def check_reporters(names: Sequence[str], where: str = "trainer.args.report_to") -> None:
    """Raise ConfigError for a reporter whose package is not installed. Imports nothing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{where}: {name} is not installed: pip install 'expunge[{name}]', or leave it out")


class Reporters:
    """The open reporters of a run; they receive numbers and texts by step."""

    def __init__(self, opened: Sequence[Any]) -> None:
        self._opened = opened

    def numbers(self, step: int, values: Mapping[str, float | None]) -> None:
        """Send the finite numbers, by name."""
        known = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        for one in self._opened:
            one.numbers(step, known)

    def line(self, line: Mapping[str, float | None]) -> None:
        """Send the finite numbers of a line of the log."""
        self.numbers(int(line["step"] or 0), line)

    def texts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Send a table of generations."""
        for one in self._opened:
            one.texts(step, lines)


@contextmanager
def reporters(names: Sequence[str], folder: Path, label: str) -> Iterator[Reporters]:
    """Open the reporters of these names in `folder/label`, and close them after the block."""
    with ExitStack() as stack:
        opened: list[Any] = []
        for name in names:
            opened.append(_KINDS[name](folder, label))
            stack.callback(opened[-1].close)
        yield Reporters(opened)


class _TensorBoard:
    def __init__(self, folder: Path, label: str) -> None:
        tensorboard = importlib.import_module("torch.utils.tensorboard")
        self._writer = tensorboard.SummaryWriter(str(folder / label))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def texts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        for i, line in enumerate(lines):
            # TensorBoard shows Markdown; an indented text stays unchanged
            block = "\n".join(f"    {part}" for part in f"{line['prompt']}\n---\n{line['generation']}".splitlines())
            self._writer.add_text(f"generations/{line['set']}/{i}", block, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, label: str) -> None:
        self._wandb = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = self._wandb.init(project="expunge", name=label, dir=str(folder), mode=mode)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def texts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        for name in dict.fromkeys(line["set"] for line in lines):
            columns = ["prompt", "generation", "target", "step"]
            rows = [[line[c] for c in columns] for line in lines if line["set"] == name]
            self._run.log({f"generations/{name}": self._wandb.Table(columns=columns, data=rows), "step": step})

    def close(self) -> None:
        self._run.finish()


_KINDS: Mapping[str, type[Any]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
