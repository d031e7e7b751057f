"""Several processes that run one job together: the number of this process, and collective communication.

Single-process runs return immediately and do not import torch. With several processes every function except `here`,
`launched` and `first_to_fail` is collective: it blocks until all other processes call it as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(days=1)  # timeout of collectives: the first process runs some jobs alone


@dataclass(frozen=True)
class Rank:
    """The rank of a process among `world` processes."""

    number: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.number == 0

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.world == 1


def here() -> Rank:
    """Return this process's rank from torch.distributed; a single one if that is not initialised."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return Rank()
    return Rank(torch.distributed.get_rank(), torch.distributed.get_world_size())


def launched() -> Rank:
    """Return this process's rank from the launcher's environment (accelerate, torchrun), before initialisation."""
    if "MASTER_ADDR" not in os.environ:  # a cluster may set the other variables for its own purposes
        return Rank()
    try:
        return Rank(int(os.environ.get("RANK", 0)), max(1, int(os.environ.get("WORLD_SIZE", 1))))
    except ValueError:
        return Rank()


def sharded() -> str:
    """Return the library that shards a model over these processes: `fsdp`, `deepspeed`, or ""."""
    return "" if here().alone else sharding()


def sharding() -> str:
    """Return the same from the launcher's environment, before initialisation."""
    return next((by for by in ("fsdp", "deepspeed") if _flag(f"ACCELERATE_USE_{by.upper()}")), "")


def on_gpus() -> bool:
    """Return whether the processes of a launch use GPUs: if there are any, unless the launcher disables them."""
    import torch

    return torch.cuda.is_available() and not _flag("ACCELERATE_USE_CPU")


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"


_store: list[Any] = []  # store for failures of this launch, independent of collectives that may hang


@contextlib.contextmanager
def joined() -> Iterator[Rank]:
    """Initialise communication between the processes of this launch. On GPUs each uses the one of its local rank.

    A rank that raises must exit. Other ranks block on collectives and detect the failure when the process dies.
    """
    import torch
    from torch import distributed
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    rank = launched()
    store, number, world = next(rendezvous("env://", rank.number, rank.world, timeout=PATIENCE))
    cuda = on_gpus()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", number)) % torch.cuda.device_count())
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=PrefixStore("expunge", store), rank=number, world_size=world, timeout=PATIENCE,
    )  # fmt: skip
    _store[:] = [PrefixStore("failed", store)]
    yield Rank(number, world)
    meet()
    _store.clear()  # after an error it stays: `first_to_fail` reads it, and the process exits
    distributed.destroy_process_group()


def trained_on(model: Any) -> torch.device:
    """Return the device that a model is trained on: its current one, unless it is still to be divided into shards."""
    if sharded():
        import torch

        return torch.device("cuda" if on_gpus() else "cpu")
    device: torch.device = next(model.parameters()).device
    return device


def first_to_fail() -> bool:
    """Return whether no other process of the launch has failed before; only the first one reports its error."""
    if not _store:
        return True
    try:
        return int(_store[0].add("n", 1)) == 1
    except RuntimeError:  # the process of the store is gone: it has failed, and reported its error
        return False


def meet() -> None:
    """Block until all processes are here."""
    broadcast(None)
    gather(b"")


def broadcast(value: Any) -> Any:
    """Return the first process's value (any JSON value) in all processes."""
    if here().alone:
        return value
    return json.loads(gather(json.dumps(value).encode() if here().first else b"")[0])


def values(value: float) -> list[float]:
    """Return every process's number, by rank."""
    if here().alone:
        return [value]
    import torch

    rows = _all_gather(torch.tensor([value], dtype=torch.float64))
    return [float(x) for x in rows]


def gather(data: bytes) -> list[bytes]:
    """Return every process's bytes, by rank."""
    if here().alone:
        return [data]
    import torch
    import torch.nn.functional as F

    mine = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
    sizes = [int(n) for n in _all_gather(torch.tensor([len(mine)]))]
    padded = _all_gather(F.pad(mine, (0, max(*sizes, 1) - len(mine))))
    return [part[:n].cpu().numpy().tobytes() for part, n in zip(padded, sizes, strict=True)]


def _all_gather(mine: Any) -> Sequence[Any]:
    """Return a tensor of the same shape from each process, by rank; on the CPU unless the backend is NCCL."""
    import torch
    from torch import distributed

    tensor = mine.cuda() if distributed.get_backend() == "nccl" else mine
    outputs = [torch.empty_like(tensor) for _ in range(here().world)]
    distributed.all_gather(outputs, tensor)
    return outputs
