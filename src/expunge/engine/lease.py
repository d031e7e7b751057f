"""The lease of a job: the right of one process to compute it. Another process waits, and reports for which process.

A lease is a lock of the operating system, which a dead process loses at once. A stopped process (SIGSTOP, Ctrl-Z) holds
its lock. After `STOPPED_S` seconds in which it used no processor time, a waiting process of the same machine replaces
the lock file and has the job. The stopped process finds that out before it publishes a result, when it continues.

A job lists the results that it reads next to its lock. A command that runs jobs claims all results of its jobs, from
before its first job to the end of its last one. So `expunge gc` does not remove them. Both lists count while
their lock is held, so those of a dead process do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from expunge.core.errors import JobError
from expunge.core.files import READ_WRITE, read_sealed, write_sealed
from expunge.core.terminal import complain

LOCKS = ".locks"  # the folder of leases and claims in a store
_READS, _CLAIM, _LOCK = ".reads", ".claim", ".lock"
_KEYS = "keys"  # of the results in a list
_RUN = "run-"  # the names of claims and their locks
FIRST_S, EVERY_S = 2.0, 10.0  # seconds until the first message, and between messages
STOPPED_S = 300.0  # seconds after which the job of a stopped process is taken over
CHECK_S = 1.0  # seconds between two checks by the process that has the lease
LONGEST_S = 24 * 3600.0
_STATE, _USER, _SYSTEM, _STARTED = 0, 11, 12, 19  # fields of /proc/PID/stat after the program's name


class LeaseLostError(JobError):
    """Another process has taken over the job while this process was stopped."""


class _Holder(NamedTuple):
    """The process that a note names."""

    pid: int
    host: str
    since: str


class _Pause(NamedTuple):
    """A stopped process: its identifier, its start and its processor time, in ticks."""

    pid: int
    started: int
    ticks: int


class Lease:
    """The lease of one job: a lock file `path`, and a note next to it that names the process which holds it.

    action: words for the work of the process that holds the lease, in the message of a process that waits.
    """

    def __init__(
        self, path: Path, name: str, say: Callable[[str], None] = complain, *, action: str = "runs the same job"
    ) -> None:
        self.path = path
        self.note = path.with_suffix(".holder")
        self._name, self._say, self._action = name, say, action
        self._lock = FileLock(path)
        self._place: tuple[int, int] | None = None  # device and inode of the lock file
        self._checked = 0.0
        self._pause: tuple[_Pause, float] | None = None  # the first observation, and its time

    def acquire(self) -> None:
        """Wait until this process has the lease, and report the process that has it. Raises Timeout after a day."""
        began, wait_s = time.monotonic(), FIRST_S
        while True:
            try:
                self._lock.acquire(timeout=wait_s)
            except Timeout:
                if time.monotonic() - began > LONGEST_S:
                    raise
                wait_s = EVERY_S
                if self._waited():
                    return
                continue
            if self._own():
                return
            self._lock.release()  # the file was replaced between its opening and its lock

    def acquire_now(self) -> bool:
        """Take the lease without waiting. Returns False if another process has it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        if self._own():
            return True
        self._lock.release()
        return False

    def release(self) -> None:
        """End the lease. The note of a process that has taken it over stays."""
        if self._lock.is_locked and not self.is_lost:
            with contextlib.suppress(OSError):  # a store that has become read-only
                self.note.unlink(missing_ok=True)
        self._lock.release()
        self._place = None

    @property
    def is_lost(self) -> bool:
        """Whether another process has replaced the lock file."""
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return self._place != (stat.st_dev, stat.st_ino)

    def check(self, *, now: bool = True) -> None:
        """Raise LeaseLostError if another process has the job. now=False: at most one check per second."""
        if now or time.monotonic() - self._checked > CHECK_S:
            self._checked = time.monotonic()
            if self.is_lost:
                other = _words(_read(self.note))
                raise LeaseLostError(f"{self._name}: this process was stopped, and {other} has taken the job over")

    def _own(self) -> bool:
        """Remember the locked file and write the note. Returns False if the file is no longer at its path."""
        stat = os.fstat(int(self._lock._context.lock_file_fd or 0))
        self._place = (stat.st_dev, stat.st_ino)
        if self.is_lost:
            return False
        contents = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with contextlib.suppress(OSError):  # a full disk; the lock itself is held
            self.note.write_text(json.dumps(contents), encoding="utf-8")
        return True

    def _waited(self) -> bool:
        """Report the process that has the lease. Returns True if this process has taken it over."""
        holder = _read(self.note)
        pause = _pause(holder)
        if holder is None or pause is None:
            self._pause = None
            self._say(f"{self._name}: waits for {_words(holder)}, which {self._action}")
            return False
        if self._pause is None or self._pause[0] != pause:
            self._pause = pause, time.monotonic()
        idle_s = time.monotonic() - self._pause[1]
        if idle_s >= STOPPED_S and self._take_over(holder, pause):
            self._say(f"{self._name}: takes over from {_words(holder)}, which is stopped for {idle_s:.0f} s")
            return True
        self._say(
            f"{self._name}: waits for {_words(holder)}, which is stopped for {idle_s:.0f} s or more: continue it with "
            f"`kill -CONT {holder.pid}`, or end it; its job is taken over after {STOPPED_S:.0f} s"
        )
        return False

    def _take_over(self, holder: _Holder, pause: _Pause) -> bool:
        """Replace the lock file of a stopped process. Returns False if something has changed in the meantime."""
        with FileLock(self.path.with_suffix(".takeover")):  # of several waiting processes one acts
            if _read(self.note) != holder or _pause(holder) != pause:
                return False
            try:
                self.path.unlink(missing_ok=True)
                return self.acquire_now()
            except OSError:
                return False


def _read(note: Path) -> _Holder | None:
    """Return the process that a note names; None without a note, or for a damaged one."""
    try:
        contents: Any = json.loads(note.read_text(encoding="utf-8"))
        return _Holder(int(contents["pid"]), str(contents["host"]), str(contents["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _words(holder: _Holder | None) -> str:
    """Return a process in words."""
    if holder is None:
        return "another process"
    where = "" if holder.host == socket.gethostname() else f" on {holder.host}"
    return f"process {holder.pid}{where} (since {holder.since})"


def _pause(holder: _Holder | None) -> _Pause | None:
    """Return the state of a stopped process of this machine; None for others, or if there is no /proc."""
    if holder is None or holder.host != socket.gethostname():
        return None
    try:
        fields = _process_fields(holder.pid)
        if fields[_STATE] != "T":
            return None
        return _Pause(holder.pid, int(fields[_STARTED]), int(fields[_USER]) + int(fields[_SYSTEM]))
    except (OSError, IndexError, ValueError):
        return None


def _process_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the program's name. Raises OSError if there is no such process."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def process_start(pid: int) -> str:
    """Return the start of a running process, in ticks after boot.

    Two processes with the same number have other starts. Returns "" if there is no such process; "?" where the system
    does not report the start.
    """
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # a process of another user
    except OSError:
        return ""
    try:
        fields = _process_fields(pid)
        return "" if fields[_STATE] == "Z" else fields[_STARTED]
    except (OSError, IndexError):
        return "?"


def gc_lease(root: Path, name: str) -> Lease:
    """Return the lease of the process that removes results of a store or brings them back."""
    return Lease(root / LOCKS / "gc.lock", name, action="removes or restores results")


@contextlib.contextmanager
def claimed(root: Path, keys: Iterable[str]) -> Iterator[None]:
    """Claim results for the block. Waits until a running `expunge gc` has ended, because that one reads no new claim.

    A store that cannot be written has no claims.
    """
    note = root / LOCKS / f"{_RUN}{uuid.uuid4().hex[:16]}{_CLAIM}"
    lock = FileLock(note.with_suffix(_LOCK))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            gc = gc_lease(root, "run")
            gc.acquire()
            stack.callback(gc.release)
            with contextlib.suppress(JobError):  # `expunge gc` names a damaged list of another process
                claimed_now(root)  # removes the claims of dead processes
            lock.acquire(timeout=0)
            write_keys(note, keys)
        stack.close()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)
                if lock.is_locked:
                    Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def write_keys(note: Path, keys: Iterable[str]) -> None:
    """Write the list of the results that a running process uses."""
    write_sealed(note, {_KEYS: sorted(keys)}, READ_WRITE)


def read_now(root: Path) -> set[str]:
    """Return the keys of the results that running jobs read: the parents of the jobs whose locks are held."""
    return set().union(*(_listed(note, note.with_suffix(_LOCK)) for note in (root / LOCKS).glob(f"*{_READS}")))


def claimed_now(root: Path) -> set[str]:
    """Return the keys of the results that running commands claim. Removes the claims of dead processes."""
    locks = (root / LOCKS).glob(f"{_RUN}*{_LOCK}")
    return set().union(*(_listed(path.with_suffix(_CLAIM), path, only=True) for path in locks))


def _listed(note: Path, path: Path, *, only: bool = False) -> set[str]:
    """Return the keys in a list. If its process is dead, removes the list, and its lock if that has no other use.

    Raises JobError for a damaged list of a running process, because nobody knows which results it uses.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            return set(read_sealed(note)[_KEYS])
        except FileNotFoundError:  # its process ends just now
            return set()
        except (OSError, ValueError) as error:
            raise JobError(
                f"{note}: the list of the results that a running process uses cannot be read ({error}); try again when "
                "that process has ended"
            ) from None
    note.unlink(missing_ok=True)
    if only:
        path.unlink(missing_ok=True)
    lock.release()
    return set()
