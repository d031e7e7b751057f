"""Checkpoints of an unfinished run, so that it can resume: plain tensors and JSON with checksums, no pickle.

A checkpoint is a folder `step-<n>` that is renamed into place: `state.safetensors` contains every tensor, `state.json`
all other values and the places of the tensors, `checksums.json` the checksums of both. By these `expunge verify` and a
resumed run find a damaged one. The two newest stay; a run skips a damaged one and loads the one before. The states of
all random generators are among the values. With a model in shards each process writes its own part next to it, in the
same format.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from expunge.core import distributed
from expunge.core.errors import JobError, kind_of
from expunge.core.files import READ, check_sealed_folder, seal_folder, sweep, whole_folder, write_json
from expunge.training.config import CheckpointArgs

log = logging.getLogger(__name__)
TENSORS, REST = "state.safetensors", "state.json"
KEPT = 2
FORM = 3  # raised when the contents of a checkpoint change
State = dict[str, Any]


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON, and add its tensors to `tensors` under numbers.

    A value is a nested structure of dicts, lists and tuples of tensors and plain values. Raises TypeError for others.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name, "device": value.device.type}
    if isinstance(value, Mapping):
        return {"items": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(v, tensors) for v in value]}
    if isinstance(value, list):
        return [pack(v, tensors) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    raise TypeError(f"a checkpoint cannot contain {kind_of(value)}")


def unpack(packed: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Invert `pack`; tensors from an accelerator go to `device`."""
    if isinstance(packed, list):
        return [unpack(v, tensors, device) for v in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        tensor = tensors[packed["tensor"]]
        return tensor if packed["device"] == "cpu" else tensor.to(device)
    if "tuple" in packed:
        return tuple(unpack(v, tensors, device) for v in packed["tuple"])
    if "float" in packed:
        return float(packed["float"])
    return {unpack(k, tensors, device): unpack(v, tensors, device) for k, v in packed["items"]}


def of_each(state: State, device: torch.device) -> list[State]:
    """Return the state that each process passes, by rank."""
    tensors: dict[str, Tensor] = {}
    rest = pack(state, tensors)
    if distributed.here().alone:
        return [state]
    records = distributed.gather(json.dumps(rest).encode())
    blobs = distributed.gather(save(tensors))
    return [unpack(json.loads(r), load(t), device) for r, t in zip(records, blobs, strict=True)]


def trained_weights(model: Any) -> dict[str, Tensor]:
    """Return a copy on the CPU of every trained parameter; the initial model has the others."""
    return {name: _own(p).detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def _own(p: Any) -> Tensor:
    """Return a parameter, or this process's shard of it."""
    own: Tensor = p.to_local() if isinstance(p, DTensor) else getattr(p, "ds_tensor", p)  # FSDP's, ZeRO-3's
    return own


def put_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy weights from `trained_weights` into the model. Raises JobError if they belong to other parameters."""
    parameters = {name: _own(p) for name, p in model.named_parameters() if p.requires_grad}
    if {n: p.shape for n, p in parameters.items()} != {n: w.shape for n, w in weights.items()}:
        raise JobError("a checkpoint contains other parameters than this run trains; remove its folder and run again")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(weights[name])


class Checkpoints:
    """The checkpoints of one run under a folder of its own.

    shards: each process writes a part, and a checkpoint is complete only with all parts.
    """

    def __init__(self, folder: Path, args: CheckpointArgs, *, shards: bool = False) -> None:
        self._folder, self._args = folder, args
        self._own = Checkpoints(folder / f"shard-{distributed.here().number}", args) if shards else None
        self._written, self._step = time.monotonic(), 0
        self.stopping = False  # set by a signal: write one more checkpoint, and stop

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due, by time or steps or because the user stops the run."""
        if self.stopping:
            return True
        if step == self._step:
            return False
        if self._args.steps is not None:
            return step % self._args.steps == 0
        return time.monotonic() - self._written >= self._args.every_s

    def save(self, step: int, state: State) -> None:
        """Write a checkpoint and remove all but the two newest; keep one of this step that exists already.

        If it cannot be written (a full disk), log a warning; the run continues.
        """
        self._written, self._step = time.monotonic(), step
        place = self._place(step)
        if place in self._folders():
            return
        tensors: dict[str, Tensor] = {}
        rest = {"form": FORM, "made_by": _made_by(), "state": pack(state, tensors)}
        try:
            with whole_folder(place, READ) as part:
                save_file(tensors, part / TENSORS)
                write_json(part / REST, rest)
                seal_folder(part)
        except (OSError, SafetensorError) as error:
            log.warning("no checkpoint could be written to %s: %s", place, error)
            return
        for old in self._folders()[KEPT:]:
            _remove(old)

    def save_shards(self, step: int, state: State, shard: State) -> None:
        """Write a checkpoint in parts: each process its `shard`, the first also `state`. All processes call it.

        The first process writes `state` last, so the checkpoint exists only once all parts do.
        """
        if self._own is None:
            raise ValueError("these checkpoints are not in shards")
        self._written, self._step = time.monotonic(), step
        self._own.save(step, shard)
        if min(distributed.values(float(self._own._place(step).is_dir()))) and distributed.here().first:
            self.save(step, state)
        distributed.meet()

    def load(self, fits: Mapping[str, Any], device: torch.device) -> State | None:
        """Return the newest complete state that fits this run (`state["fits"]`); None if there is none.

        Other checkpoints are removed with a warning. Of several processes the first one chooses. Raises JobError if
        another process cannot read its choice.
        """
        state = self._newest(fits, device) if distributed.here().first else None
        step = distributed.broadcast(None if state is None else self._step)
        if step is not None and state is None:
            place = self._place(step)
            try:
                state = _read(place, device)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                raise JobError(f"{place}: one process of this run can read it, but another cannot: {error}") from None
        if self._own is None:
            return state
        shard = self._own._newest(None, device, upto=-1 if step is None else step)
        if state is None:
            return None
        if min(distributed.values(float(shard is not None and self._own._step == step))) and shard is not None:
            return {**state, **shard}
        if distributed.here().first:
            log.warning("%s is not used: a process has no shard of it; the run resumes from an earlier one, or starts "
                        "again", self._place(self._step))  # fmt: skip
            _remove(self._place(self._step))
        return self.load(fits, device)

    def _newest(self, fits: Mapping[str, Any] | None, device: torch.device, upto: int | None = None) -> State | None:
        """Return the newest complete state that fits (None: all do).

        Checkpoints after step `upto` are incomplete parts of an earlier attempt and are removed.
        """
        if upto is not None:
            for late in self._folders():
                if int(late.name.removeprefix("step-")) > upto:
                    _remove(late)
        for left in self._folder.glob(".step-*.part"):  # of an attempt that was killed while writing
            shutil.rmtree(left, ignore_errors=True)
        for place in self._folders():
            try:
                state = _read(place, device)
                if fits is not None and state["fits"] != dict(fits):
                    raise ValueError("it is from another kind of device, or from another number of processes")
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("%s is not used: %s; the run resumes from an earlier one, or starts again", place, error)
                _remove(place)
                continue
            self._written, self._step = time.monotonic(), int(place.name.removeprefix("step-"))
            return state
        return None

    def _place(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _folders(self) -> list[Path]:
        """Return the folders of the checkpoints, the newest first."""
        return sorted((p for p in self._folder.glob("step-*") if p.is_dir()), reverse=True)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Handle signals within the block: the first SIGINT or SIGTERM requests a stop after the current step.

        A second signal acts at once, except with several processes, which stop together. Only the main thread receives
        signals; in other threads nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.stopping = True
            if distributed.here().alone:  # a launcher repeats signals that its processes received already
                restore()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            restore()


def _remove(place: Path) -> None:
    """Remove a checkpoint in one step, so that a process that reads it now finds all of its files or none."""
    with contextlib.suppress(OSError):
        sweep(place)


def _read(place: Path, device: torch.device) -> State:
    """Read a checkpoint and check it. Raises ValueError if it is damaged or another version's."""
    check_sealed_folder(place)
    rest = json.loads((place / REST).read_text(encoding="utf-8"))
    if (rest["form"], rest["made_by"]) != (FORM, _made_by()):
        raise ValueError("it is from another version of expunge, torch or transformers")
    state: State = unpack(rest["state"], load_file(place / TENSORS), device)
    return state


def _made_by() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("expunge", "torch", "transformers")}


def random_state() -> dict[str, Any]:
    """Return the states as plain values and tensors."""
    legacy: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = legacy
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set all generators to a state from `random_state`."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def kept_random() -> Iterator[None]:
    """Restore all generators to their states before the block."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
