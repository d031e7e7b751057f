"""An unfinished run, written down so that it can go on: plain tensors and JSON, each with its checksum, no pickle.

A checkpoint is a folder `step-<n>` that appears whole: `state.safetensors` holds every tensor, `state.json` all else
and where the tensors belong, `checksums.json` the SHA-256 of both. The two newest are kept; a damaged one is passed
over for the one before. Of a model in shards each process keeps its own beside it, in the same form.
"""

from __future__ import annotations

import json
import logging
import math
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

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from expunge.core import distributed
from expunge.core.errors import JobError
from expunge.core.files import whole_folder, write_json
from expunge.core.fingerprints import file_sha256
from expunge.training.config import CheckpointArgs

log = logging.getLogger(__name__)
TENSORS, REST, SUMS = "state.safetensors", "state.json", "checksums.json"
KEPT = 2
FORM = 2  # raised when what a checkpoint holds changes
State = dict[str, Any]


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, its tensors put aside under numbers: nested dicts, lists and tuples of tensors and plain values.

    Raises TypeError for anything else.
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
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def unpack(made: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """What `pack` was given; tensors that lay on an accelerator go to `device`."""
    if isinstance(made, list):
        return [unpack(v, tensors, device) for v in made]
    if not isinstance(made, dict):
        return made
    if "tensor" in made:
        held = tensors[made["tensor"]]
        return held if made["device"] == "cpu" else held.to(device)
    if "tuple" in made:
        return tuple(unpack(v, tensors, device) for v in made["tuple"])
    if "float" in made:
        return float(made["float"])
    return {unpack(k, tensors, device): unpack(v, tensors, device) for k, v in made["items"]}


def of_each(state: State, device: torch.device) -> list[State]:
    """What each process keeps for itself, by rank."""
    tensors: dict[str, Tensor] = {}
    rest = pack(state, tensors)
    if distributed.here().alone:
        return [state]
    said = distributed.gather(json.dumps(rest).encode())
    held = distributed.gather(save(tensors))
    return [unpack(json.loads(r), load(t), device) for r, t in zip(said, held, strict=True)]


def trained_weights(model: Any) -> dict[str, Tensor]:
    """A copy on the CPU of every parameter that is trained; the others are those of the model the run starts from."""
    return {name: _own(p).detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def _own(p: Any) -> Tensor:
    """A parameter, or this process's shard of it."""
    own: Tensor = p.to_local() if isinstance(p, DTensor) else getattr(p, "ds_tensor", p)  # FSDP's, ZeRO-3's
    return own


def put_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Write such a copy back. Raises JobError if it is of other parameters."""
    held = {name: _own(p) for name, p in model.named_parameters() if p.requires_grad}
    if {n: p.shape for n, p in held.items()} != {n: w.shape for n, w in weights.items()}:
        raise JobError("a checkpoint holds other parameters than this run trains; remove its folder and run again")
    with torch.no_grad():
        for name, p in held.items():
            p.copy_(weights[name])


class Checkpoints:
    """The checkpoints of one run under a folder of its own."""

    def __init__(self, folder: Path, args: CheckpointArgs, *, shards: bool = False) -> None:
        """shards: each process has a part of its own, which only counts together with all the others'."""
        self._folder, self._args = folder, args
        self._own = Checkpoints(folder / f"shard-{distributed.here().number}", args) if shards else None
        self._written, self._step = time.monotonic(), 0
        self.stopping = False  # set by a signal: write one more, and stop

    def due(self, step: int) -> bool:
        """Whether the time has come, or the user has asked for an end."""
        if self.stopping:
            return True
        if step == self._step:
            return False
        if self._args.steps is not None:
            return step % self._args.steps == 0
        return time.monotonic() - self._written >= self._args.every_s

    def save(self, step: int, state: State) -> None:
        """Write a checkpoint; older ones than the two newest go. One of this step that is there already stays.

        Where it cannot be written (a full disk) a warning says so, and the run goes on.
        """
        self._written, self._step = time.monotonic(), step
        place = self._place(step)
        if place in self._found():
            return
        tensors: dict[str, Tensor] = {}
        rest = {"form": FORM, "made_by": _made_by(), "state": pack(state, tensors)}
        try:
            with whole_folder(place) as part:
                save_file(tensors, part / TENSORS)
                write_json(part / REST, rest)
                write_json(part / SUMS, {name: file_sha256(part / name) for name in (TENSORS, REST)})
        except (OSError, SafetensorError) as error:
            log.warning("no checkpoint could be written to %s: %s", place, error)
            return
        for old in self._found()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def save_shards(self, step: int, state: State, shard: State) -> None:
        """Write a checkpoint of which each process keeps its `shard`, and the first all else; all call it together.

        It is there once the first has written its part, after all others.
        """
        if self._own is None:
            raise ValueError("these checkpoints are not kept in shards")
        self._written, self._step = time.monotonic(), step
        self._own.save(step, shard)
        if min(distributed.values(float(self._own._place(step).is_dir()))) and distributed.here().first:
            self.save(step, state)
        distributed.meet()

    def load(self, fits: Mapping[str, Any], device: torch.device) -> State | None:
        """The newest state that is whole and fits this run (`state["fits"]`); None if there is none.

        One that is not is warned of and removed, so that it cannot be taken for one. Of several processes the first
        chooses. Raises JobError where another cannot read what it chose.
        """
        state = self._newest(fits, device) if distributed.here().first else None
        step = distributed.told(None if state is None else self._step)
        if step is not None and state is None:
            place = self._place(step)
            try:
                state = _read(place, device)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                raise JobError(f"{place} can be read by one process of this run, and not by another: {error}") from None
        if self._own is None:
            return state
        shard = self._own._newest(None, device, upto=-1 if step is None else step)
        if state is None:
            return None
        if min(distributed.values(float(shard is not None and self._own._step == step))) and shard is not None:
            return {**state, **shard}
        if distributed.here().first:
            log.warning("%s is refused, a process lacks its shard of it; the run goes on from an earlier one, or anew",
                        self._place(self._step))  # fmt: skip
            shutil.rmtree(self._place(self._step), ignore_errors=True)
        return self.load(fits, device)

    def _newest(self, fits: Mapping[str, Any] | None, device: torch.device, upto: int | None = None) -> State | None:
        """The newest whole state that fits (None: all do); later ones than step `upto`, of an attempt that did not
        write all of them, are removed."""
        if upto is not None:
            for late in self._found():
                if int(late.name.removeprefix("step-")) > upto:
                    shutil.rmtree(late, ignore_errors=True)
        for left in self._folder.glob(".step-*.part"):  # of an attempt that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        for place in self._found():
            try:
                state = _read(place, device)
                if fits is not None and state["fits"] != dict(fits):
                    raise ValueError("it was made on another kind of device, or by another number of processes")
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("%s is refused, %s; the run goes on from an earlier one, or anew", place, error)
                shutil.rmtree(place, ignore_errors=True)
                continue
            self._written, self._step = time.monotonic(), int(place.name.removeprefix("step-"))
            return state
        return None

    def _place(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _found(self) -> list[Path]:
        """Their folders, the newest first."""
        return sorted((p for p in self._folder.glob("step-*") if p.is_dir()), reverse=True)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within the block the first SIGINT or SIGTERM asks for an end after the present step; a second acts at once,
        unless there are several processes, which end together.

        Only the main thread can listen to signals; elsewhere nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def hear(_number: int, _frame: FrameType | None) -> None:
            self.stopping = True
            if distributed.here().alone:  # a launcher passes on what its processes were sent already
                give_back()

        def give_back() -> None:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

        for number in before:
            signal.signal(number, hear)
        try:
            yield
        finally:
            give_back()


def _read(place: Path, device: torch.device) -> State:
    """A checkpoint, checked. Raises ValueError if it is damaged or another version's."""
    sums = json.loads((place / SUMS).read_text(encoding="utf-8"))
    for name in (TENSORS, REST):
        if file_sha256(place / name) != sums[name]:
            raise ValueError(f"the checksum of {name} is wrong")
    rest = json.loads((place / REST).read_text(encoding="utf-8"))
    if (rest["form"], rest["made_by"]) != (FORM, _made_by()):
        raise ValueError("another version of expunge, torch or transformers made it")
    state: State = unpack(rest["state"], load_file(place / TENSORS), device)
    return state


def _made_by() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("expunge", "torch", "transformers")}
