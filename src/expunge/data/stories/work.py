"""Shards distributed over processes. The result of a task depends only on its arguments, never on the processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from expunge.core.errors import JobError

T = TypeVar("T")


def spread(task: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int) -> list[T]:
    """Return `task(*call)` for each call, in order, in up to `workers` processes; with one, in this process.

    Raises JobError if a process dies. Several processes need a main module that can be imported (not a console).
    """
    workers = min(workers, len(calls))
    if workers <= 1:
        return [task(*call) for call in calls]
    context = multiprocessing.get_context("spawn")  # a forked tokenizer may hang: its threads are not copied
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        futures = [pool.submit(task, *call) for call in calls]
        try:
            return [f.result() for f in futures]
        except BrokenProcessPool:
            raise JobError(
                "a worker process died (memory?); run the same again to continue, or with workers=1"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
