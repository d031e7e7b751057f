"""Several processes that do one job together: which one this is, and what they say to one another.

A process alone says nothing, and torch is not loaded for it. Among several every function but `here`, `launched` and
`first_to_fail` waits for the others, which must call it as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=1)  # how long one waits for another: some jobs are done by the first alone


@dataclass(frozen=True)
class Rank:
    """A process's number among `world` of them."""

    number: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.number == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.world == 1


def here() -> Rank:
    """This process, as torch.distributed knows it; alone where that was not begun."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return Rank()
    return Rank(torch.distributed.get_rank(), torch.distributed.get_world_size())


def launched() -> Rank:
    """This process, as a launcher (accelerate, torchrun) has told it by its environment, before they have met."""
    if "MASTER_ADDR" not in os.environ:  # a cluster may set the others for purposes of its own
        return Rank()
    try:
        return Rank(int(os.environ.get("RANK", 0)), max(1, int(os.environ.get("WORLD_SIZE", 1))))
    except ValueError:
        return Rank()


def sharded() -> str:
    """Who cuts a model in shards over these processes: `fsdp`, `deepspeed`, or nobody ("")."""
    return "" if here().alone else sharding()


def sharding() -> str:
    """The same, as the launcher asks for it before they have met."""
    return next((by for by in ("fsdp", "deepspeed") if _said(f"ACCELERATE_USE_{by.upper()}")), "")


def on_gpus() -> bool:
    """Whether the processes of a launch compute on GPUs: where there are some, unless the launcher says otherwise."""
    import torch

    return torch.cuda.is_available() and not _said("ACCELERATE_USE_CPU")


def _said(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"


_store: list[Any] = []  # what this launch's processes write their failures to, outside of all that may hang


@contextlib.contextmanager
def joined() -> Iterator[Rank]:
    """While open, the processes of this launch can talk. On GPUs each takes the one of its local number.

    What ends one of them by an error must end its process: the others wait for it, and are told by its going.
    """
    import torch
    from torch import distributed

    asked = launched()
    store, number, world = next(distributed.rendezvous("env://", asked.number, asked.world, timeout=PATIENCE))
    cuda = on_gpus()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", number)) % torch.cuda.device_count())
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=distributed.PrefixStore("expunge", store), rank=number, world_size=world, timeout=PATIENCE,
    )  # fmt: skip
    _store[:] = [distributed.PrefixStore("failed", store)]
    yield Rank(number, world)
    meet()
    _store.clear()  # after an error it stays: `first_to_fail` reads it, and the process ends
    distributed.destroy_process_group()


def first_to_fail() -> bool:
    """Whether no other process of the launch has failed before; the first one says why, and the others keep silent."""
    if not _store:
        return True
    try:
        return int(_store[0].add("n", 1)) == 1
    except RuntimeError:  # the process that kept the list is gone: it has failed, and said so
        return False


def meet() -> None:
    """Wait until all are here."""
    told(None)
    gather(b"")


def told(value: Any) -> Any:
    """The first process's value (anything JSON can hold), in all of them."""
    if here().alone:
        return value
    return json.loads(gather(json.dumps(value).encode() if here().first else b"")[0])


def values(value: float) -> list[float]:
    """Every process's number, by rank."""
    if here().alone:
        return [value]
    import torch

    rows = _all_gather(torch.tensor([value], dtype=torch.float64))
    return [float(x) for x in rows]


def gather(data: bytes) -> list[bytes]:
    """Every process's bytes, by rank."""
    if here().alone:
        return [data]
    import torch
    import torch.nn.functional as F

    mine = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
    sizes = [int(n) for n in _all_gather(torch.tensor([len(mine)]))]
    sent = _all_gather(F.pad(mine, (0, max(*sizes, 1) - len(mine))))
    return [part[:n].cpu().numpy().tobytes() for part, n in zip(sent, sizes, strict=True)]


def _all_gather(mine: Any) -> Sequence[Any]:
    """A tensor of the same shape from each, by rank; on the CPU unless only GPUs can talk."""
    import torch
    from torch import distributed

    held = mine.cuda() if distributed.get_backend() == "nccl" else mine
    room = [torch.empty_like(held) for _ in range(here().world)]
    distributed.all_gather(room, held)
    return room
