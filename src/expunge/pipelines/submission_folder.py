"""The output folder of a run with a time limit: it contains a complete model at every moment. Imports no torch."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from expunge.core.errors import ConfigError
from expunge.core.files import write_json
from expunge.engine.record import LOGS
from expunge.models.folder_files import whole_model

STATUS = "semeval.json"
LOGS_FOLDER = "logs"
ENDINGS = (".safetensors", ".json", ".model", ".txt", ".jinja", ".py")  # of the files of a model folder


def check_folder(out: Path) -> None:
    """Raise ConfigError unless the output folder is new or empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out} is not empty; name a new or empty folder")


def write_status(out: Path, status: dict[str, object]) -> None:
    """Write the final status next to the model of an output folder, if there is one."""
    if (out / STATUS).is_file():
        write_json(out / STATUS, status)


def nothing_learned(out: Path, *, in_training: bool = False) -> str:
    """Return the error of a run whose time limit came before the model of a step was saved."""
    model = "the initial model" if (out / STATUS).is_file() else "no model"
    line = f"nothing was unlearned within the time limit; {out} contains {model}. "
    if not in_training:
        return line + "The limit ended while programs, model and rows were loaded. Give a longer --time-limit"
    return line + (
        "Give a longer --time-limit, or shorter steps: trainer.args.per_device_train_batch_size=1 "
        "trainer.args.gradient_accumulation_steps=1"
    )


class SubmissionFolder:
    """A folder with a complete model at every moment after the first save, and the logs of the run in `logs/`.

    With a model, the exact losses of its logs can confirm a guess of a row, so they are not next to it. New files are
    written to a subfolder and then replace the old ones one by one, the weights (one file up to 50 GB) last.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.aside = folder / ".work"
        self.moving = threading.Lock()  # held while files are renamed

    def fill(self, make: Callable[[Path], object], status: dict[str, object]) -> None:
        """Move the files that `make` writes into the folder."""
        part = self.aside / uuid.uuid4().hex[:8]
        part.mkdir(parents=True)
        make(part)
        write_json(part / STATUS, status)
        self.take(part)

    def take(self, part: Path) -> None:
        """Move the files of a finished model folder into this one."""
        files = sorted(whole_model(part), key=lambda p: p.suffix == ".safetensors")
        for file in files:
            with open(file, "rb") as f:
                os.fsync(f.fileno())
        with self.moving:
            for file in files:
                logs = LOGS_FOLDER if file.suffix == LOGS else ""
                place = self.folder / logs / file.relative_to(part)
                place.parent.mkdir(exist_ok=True)
                os.replace(file, place)
            self._remove_stale({file.name for file in files if file.parent == part})
        shutil.rmtree(part, ignore_errors=True)

    def _remove_stale(self, names: set[str]) -> None:
        """Remove weights of the model before, if it was divided into other files."""
        if any(name.endswith(".safetensors") for name in names):
            for file in self.folder.glob("*.safetensors*"):
                if file.name not in names:
                    file.unlink()

    def start_with(self, model: str) -> bool:
        """Copy the files of a given model; return False for a model that has to be loaded (hub id, adapter, pickle)."""
        source = Path(model).expanduser()
        files = [p for p in whole_model(source) if p.suffix in ENDINGS] if source.is_dir() else []
        names = {p.name for p in files if p.parent == source}
        if "config.json" not in names or "adapter_config.json" in names:
            return False
        if not any(name.endswith(".safetensors") for name in names):
            return False

        def copy(part: Path) -> None:
            for file in files:
                place = part / file.relative_to(source)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)

        self.fill(copy, {"stopped": "running", "steps": 0, "planned": 0, "note": "", "wall_s": 0.0})
        return True
