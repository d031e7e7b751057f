"""Small models on a processor: several batches at once, each in a thread that has one core.

What a small model computes at a time is too short to be shared out over cores, and most of what is won is lost again in
waiting; whole batches are long enough. Each thread has a copy of the model that shares its weights, since a forward
puts hooks on the modules it reads. A batch gives the same bytes whatever the number of threads.
"""

from __future__ import annotations

import copy
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

SMALL = 2**25  # weights of a model that is read in threads
AT_ONCE = 8  # threads at most: they take turns at the interpreter

T = TypeVar("T")
R = TypeVar("R")


def small(model: Any) -> bool:
    """Whether batches of the model are read in threads where there are cores: a plain model of few weights."""
    if not isinstance(model, PreTrainedModel) or torch.is_autocast_enabled("cpu"):
        return False
    weights = list(model.parameters())
    plain = all(type(p) is nn.Parameter and p.device.type == "cpu" for p in weights)
    return plain and sum(p.numel() for p in weights) <= SMALL and not any("forward" in vars(m) for m in model.modules())


def in_threads(model: Any, work: Sequence[T], call: Callable[[Any, T], R]) -> Iterator[R]:
    """call(model, one) for each of the work, in its order; for a small model on several cores, several at a time.

    `call` must set its own gradient mode, for that is a thread's own.
    """
    if not small(model):
        yield from (call(model, one) for one in work)
        return
    cores = torch.get_num_threads()
    n = min(cores, AT_ONCE, len(work))
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for k in range(n):
        idle.put(model if k == 0 else _copy(model))

    def with_a_copy(one: T) -> R:
        mine = idle.get()
        try:
            return call(mine, one)
        finally:
            idle.put(mine)

    torch.set_num_threads(1)
    try:
        if n < 2:
            yield from (call(model, one) for one in work)
        else:
            with ThreadPoolExecutor(n) as pool:
                try:
                    yield from pool.map(with_a_copy, work)
                finally:
                    pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(cores)


def _copy(model: Any) -> Any:
    """The model's modules once more, with the same numbers in their weights."""
    weights = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, {**weights, **{id(b): b for b in model.buffers()}})
