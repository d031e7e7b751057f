"""Run several jobs at the same time on this machine, in processes that live as long as the run."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from types import FrameType
from typing import Any

from expunge.core.errors import JobError
from expunge.core.garbage import collect_rarely, keep_until_exit
from expunge.core.terminal import keep_interrupts, quiet, warn_once
from expunge.engine.job import Job, in_order
from expunge.engine.job_file import JobFile
from expunge.engine.launch import LaunchConfig
from expunge.engine.lease import claimed
from expunge.engine.run import JobEvent, RunOutcome
from expunge.engine.store import Store
from expunge.engine.worker import do_job, forget_failure

TICK_S = 0.2  # seconds between progress reports
GRACE_S = 1.0  # seconds that workers have for their checkpoints after Ctrl-C
ENDS = (signal.SIGTERM, signal.SIGHUP)  # signals that end a process, besides Ctrl-C
TRIES = 2  # attempts at a job that was running when a worker died


def n_workers(launch: LaunchConfig) -> int:
    """Processes to start: the stated number, or one (or `per_device`) for each device."""
    if launch.workers:
        return launch.workers
    import torch

    return max(1, torch.cuda.device_count()) * launch.per_device


def device_of(slot: int, per_device: int, n_devices: int) -> int:
    """Return the GPU of a worker: `per_device` workers share one GPU; after the last GPU follows the first."""
    return slot // per_device % n_devices


def run_pool(
    targets: Sequence[Job],
    store: Store,
    launch: LaunchConfig,
    tell: Callable[[JobEvent], None],
    plugins: Sequence[str] = (),
) -> RunOutcome:
    """Run every job that is not done, parents first, on all workers.

    Each worker receives the jobs as a `JobFile`, and loads the plugins first. An error ends only that job and the jobs
    that depend on it. When a worker dies, the jobs that were running get a second attempt, from their checkpoints.
    After Ctrl-C the workers write checkpoints. So do workers whose parent process is gone; then they exit.
    SIGTERM and SIGHUP (a closed terminal) act as Ctrl-C.
    """
    with _ends_as_interrupts(), claimed(store.root, (job.key for job in in_order(targets))):
        return _run_pool(targets, store, launch, tell, plugins)


def _run_pool(
    targets: Sequence[Job],
    store: Store,
    launch: LaunchConfig,
    tell: Callable[[JobEvent], None],
    plugins: Sequence[str],
) -> RunOutcome:
    n = n_workers(launch)
    context = multiprocessing.get_context("spawn")
    text = JobFile.of(targets, plugins=plugins).text
    state = _State(store, tell, in_order(targets, store.settled))
    others = {process.pid for process in multiprocessing.active_children()}
    while not state.finished:
        slots, reports = context.SimpleQueue(), context.Queue()  # a broken pool starts again
        for slot in range(n):
            slots.put(slot)
        with ProcessPoolExecutor(
            n,
            mp_context=context,
            initializer=_begin,
            initargs=(text, launch, n, str(store.root), slots, reports),
        ) as pool:
            try:
                _until_done(pool, state, reports, n)
            except KeyboardInterrupt:
                _end_workers(pool, others)
                raise
    return RunOutcome(state.records, state.failures, state.first)


def _end_workers(pool: ProcessPoolExecutor, others: Collection[int | None]) -> None:
    """Interrupt the workers. Kill a worker that lives after GRACE_S, or at once after another Ctrl-C.

    A worker writes a checkpoint if its step ends in time. Files appear whole, so a killed worker damages none.
    """
    workers = [process for process in multiprocessing.active_children() if process.pid not in others]
    deadline = time.monotonic() + GRACE_S
    try:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid or 0, signal.SIGINT)
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()


def _until_done(pool: ProcessPoolExecutor, state: _State, reports: Any, n: int) -> None:
    running: dict[Future[str | None], Job] = {}
    while True:
        with _without_interrupts():  # workers start here
            for job in state.ready(n - len(running)):
                running[pool.submit(_work, job.key)] = job
        if not running:
            return
        done, _ = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
        state.pass_on(reports)
        for future in done:
            job = running.pop(future)
            try:
                state.end(job, future.result())
            except BrokenProcessPool:
                state.lose((job, *running.values()))
                return


@dataclass
class _State:
    """The finished, running and failed jobs."""

    store: Store
    tell: Callable[[JobEvent], None]
    jobs: list[Job]
    records: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    first: JobError | None = None
    started: dict[str, float] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for job in self.jobs:
            try:
                record = self.store.record(job)
            except JobError as error:
                self.end(job, str(error))
                continue
            if record is not None:
                self.records[job.key] = record
                self.tell(JobEvent(job, "hit", wall_s=float(record.get("wall_s", 0.0))))
            else:
                forget_failure(self.store, job.key)

    @property
    def finished(self) -> bool:
        return all(j.key in self.records or j.key in self.failures for j in self.jobs)

    def ready(self, n: int) -> list[Job]:
        """Return at most n jobs that can start now. Reports jobs with a failed parent as blocked."""
        out: list[Job] = []
        for job in self.jobs:
            if job.key in self.records or job.key in self.failures or job.key in self.started:
                continue
            failed_parent = next((p for p in job.parents.values() if p.key in self.failures), None)
            if failed_parent is not None:
                self.failures[job.key] = f"waits for {failed_parent.name}, which failed"
                self.tell(JobEvent(job, "blocked", reason=self.failures[job.key]))
            elif len(out) < n and all(p.key in self.records for p in job.parents.values()):
                self.started[job.key] = time.monotonic()
                self.tell(JobEvent(job, "start"))
                out.append(job)
        return out

    def pass_on(self, reports: Any) -> None:
        """Report the latest progress of each job."""
        latest: dict[str, tuple[int, int]] = {}
        try:
            while True:
                key, done, total = reports.get_nowait()
                latest[key] = (done, total)
        except queue.Empty:
            pass
        for job in self.jobs:
            if job.key in latest and job.key not in self.records:
                wall = time.monotonic() - self.started.get(job.key, time.monotonic())
                self.tell(JobEvent(job, "progress", *latest[job.key], wall))

    def lose(self, jobs: Sequence[Job]) -> None:
        """Handle the jobs that ran when a worker died; the job of that worker is not known."""
        for job in jobs:
            self.lost[job.key] = self.lost.get(job.key, 0) + 1
            if self.store.there(job):
                self.end(job, None)
            elif self.lost[job.key] < TRIES:
                del self.started[job.key]
            else:
                self.end(job, f"its process died {TRIES} times; the system may have run out of memory")

    def end(self, job: Job, reason: str | None) -> None:
        wall = time.monotonic() - self.started.get(job.key, time.monotonic())
        if reason is None:
            self.records[job.key] = self.store.record(job) or {}
            self.tell(JobEvent(job, "done", wall_s=wall))
            return
        self.failures[job.key] = reason
        self.first = self.first or JobError(f"{job.name}: {reason}")
        self.tell(JobEvent(job, "failed", reason=reason, wall_s=wall))


class _Worker:
    """The state of a worker process between jobs."""

    jobs: JobFile
    store: Store
    reports: Any
    busy = False
    ends = False  # SIGINT has arrived


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until the block ends. Processes that start in the block inherit the mask until they unblock it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _ends_as_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt within the block for SIGTERM and SIGHUP, unless the caller handles or ignores them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = [number for number in ENDS if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT in a worker: interrupt the job, which writes its checkpoint; an idle worker waits for the pool."""
    _Worker.ends = True
    if _Worker.busy:
        raise KeyboardInterrupt
    _end_alone()


def _end_alone() -> None:
    """Exit at once if the parent process is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def _follow_parent() -> None:
    """Interrupt the worker when the parent process is gone. A killed parent cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)


def _begin(jobs: str, launch: LaunchConfig, n: int, root: str, slots: Any, reports: Any) -> None:
    collect_rarely()
    import torch

    slot = slots.get()
    reports.cancel_join_thread()  # an exit does not wait until progress is read
    n_devices = torch.cuda.device_count()
    if n_devices:
        torch.cuda.set_device(device_of(slot, launch.per_device, n_devices))
    torch.set_num_threads(launch.threads or max(1, (os.cpu_count() or 1) // n))
    quiet()
    keep_interrupts()
    warn_once()
    atexit.register(keep_until_exit)
    _Worker.jobs, _Worker.reports = JobFile.of_text(jobs), reports
    _Worker.jobs.prepare()
    _Worker.store = Store(Path(root))
    threading.Thread(target=_follow_parent, daemon=True).start()
    signal.signal(signal.SIGINT, _interrupted)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *ENDS})


def _work(key: str) -> str | None:
    last = [0.0]

    def progress(done: int, total: int) -> None:
        if done >= total or time.monotonic() - last[0] > TICK_S:
            last[0] = time.monotonic()
            _Worker.reports.put((key, done, total))

    try:
        _Worker.busy = True
        if _Worker.ends:
            raise KeyboardInterrupt
        return do_job(_Worker.jobs.job(key), _Worker.store, progress)
    except KeyboardInterrupt:  # training has its own signal handler
        _Worker.ends = True  # the next job may be in the queue already
        raise
    finally:
        _Worker.busy = False
        _end_alone()
