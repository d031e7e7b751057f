"""The live view of a run: each job, its state, its time and the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.cells import cell_len
from rich.live import Live
from rich.table import Table
from rich.text import Text

from expunge.core.console import Console
from expunge.engine.run import JobEvent, PlannedJob

GAP = 2  # spaces between two columns
LEAST_NAME = 8  # characters of a job's name in a narrow terminal
PART = "score"  # jobs of this kind appear as one line with the records that they form
_SHOWN = {"hit": "[dim]hit[/]", "missing": "[yellow]missing[/]", "blocked": "[magenta]blocked[/]"}


def plan_table(planned: Sequence[PlannedJob]) -> Table:
    """Return the graph as a table: state, parents, estimated work and time."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, side in (
        ("state", "left"),
        ("job", "left"),
        ("waits for", "left"),
        ("tokens", "right"),
        ("time", "right"),
    ):
        table.add_column(column, justify=side, overflow="fold")  # type: ignore[arg-type]
    by_key = {p.job.key: p for p in planned}
    for p in planned:
        if p.job.kind == PART:
            continue
        parts = [by_key[j.key] for j in p.job.parents.values() if j.kind == PART]
        done = sum(q.state == "hit" for q in parts)
        tokens = p.job.estimate.tokens + sum(q.job.estimate.tokens for q in parts)
        known = [q.seconds for q in (p, *parts) if q.state == p.state or q.state != "hit"]
        waits = [j for q in (p, *parts) for j in q.job.parents.values() if j.kind != PART]
        table.add_row(
            _SHOWN[p.state],
            p.job.name + (f" ({done} of {len(parts)} parts done)" if 0 < done < len(parts) else ""),
            ", ".join(dict.fromkeys(job.name for job in waits)),
            count(tokens) if tokens else "",
            ("" if p.state == "hit" else "~")
            + duration(None if None in known else sum(s for s in known if s is not None)),
        )
    return table


LISTED = 600  # a plan of more jobs is shown by kind alone


def plan_kinds(planned: Sequence[PlannedJob]) -> Table:
    """Return a table by kind of job: how many, how many are done, and the tokens, time and model bytes left."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kind")
    for column in ("jobs", "done", "tokens to do", "time to do", "disk to fill"):
        table.add_column(column, justify="right")
    for kind in dict.fromkeys(p.job.kind for p in planned):
        of = [p for p in planned if p.job.kind == kind]
        left = [p for p in of if p.state != "hit"]
        tokens, size = sum(p.job.estimate.tokens for p in left), sum(p.job.estimate.bytes for p in left)
        known = [p.seconds for p in left if p.seconds is not None]
        table.add_row(
            kind,
            str(len(of)),
            str(len(of) - len(left)),
            count(tokens) if tokens else "",
            ("~" + duration(sum(known)) if len(known) == len(left) else "?") if left else "",
            f"~{size_text(size)}" if size else "",
        )
    return table


def plan_summary(planned: Sequence[PlannedJob]) -> str:
    """Return one line: the number of jobs of each state, without parts, and the work left."""
    shown = [p for p in planned if p.job.kind != PART]
    counts = {s: sum(p.state == s for p in shown) for s in _SHOWN}
    left = [p for p in planned if p.state != "hit"]
    known = [p.seconds for p in left if p.seconds is not None]
    text = f"{len(shown)} {'job' if len(shown) == 1 else 'jobs'}: " + ", ".join(f"{n} {s}" for s, n in counts.items())
    if left:
        text += f"; to do: {count(sum(p.job.estimate.tokens for p in left))} tokens, about {duration(sum(known))}"
        text += "" if len(known) == len(left) else " and jobs of unknown size"
        size = sum(p.job.estimate.bytes for p in left)
        text += f"; models of about {size_text(size)} to store" if size else ""
    return text


TRAINED = ("train", "unlearn", "relearn", "pretrain", "delete", "recover")
MEASURED = ("score", "measure")


def plan_memory(planned: Sequence[PlannedJob]) -> str:
    """Return one line: the largest memory estimates of the jobs left, in training and in evaluation; "" if unknown."""
    left = [p.job for p in planned if p.state != "hit"]
    sizes = []
    for phase, kinds in (("training", TRAINED), ("evaluation", MEASURED)):
        of = [job for job in left if job.kind in kinds]
        largest = max(of, key=lambda job: job.estimate.memory, default=None)
        why = {job.estimate.shapeless: job for job in of if job.estimate.shapeless}
        if largest is not None and largest.estimate.memory:
            sizes.append(f"{phase} up to {size_text(largest.estimate.memory)} ({largest.name})")
        if why:
            sizes.append(f"{phase} unknown ({next(iter(why)).removeprefix('memory: ')})")
    if not sizes:
        return ""
    return f"estimated memory on one GPU (leave a fifth free; a CPU needs less): {', '.join(sizes)}"


def size_text(n: float) -> str:
    """Format a number of bytes: 32715571 -> 31.2 MiB."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= 0.1 * size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f} B"


def count(n: int) -> str:
    """Format a number: 1234567 -> 1.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.1f}{unit}"
    return str(n)


def duration(seconds: float | None) -> str:
    """Format seconds as 12s, 3m 05s or 2h 10m; "?" if unknown."""
    if seconds is None:
        return "?"
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m {s % 60:02d}s" if s < 3600 else f"{s // 3600}h {s % 3600 // 60:02d}m"


QUIET_S = 30.0  # maximum time between lines of a run without a terminal


@dataclass
class _Line:
    planned: PlannedJob
    what: str
    done: int = 0
    total: int = 0
    wall_s: float = 0.0
    started: float = 0.0
    reason: str = ""
    resumed: tuple[int, float] | None = None  # units done at the first progress, and its time

    def seconds_per_unit(self, now: float) -> float:
        """Return the time of a unit since the first progress; until there is a second one, since the start."""
        done, since = self.resumed or (0, self.started)
        if self.done <= done:
            done, since = 0, self.started
        return (now - since) / (self.done - done)


@dataclass(frozen=True)
class DisplayState:
    """The numbers of a display. running: name, units done, all units and seconds so far, of each running job."""

    done: int
    total: int
    left_s: float
    running: tuple[tuple[str, int, int, float], ...]


class Display:
    """Shows events at once: a live table on a terminal, a line per finished job elsewhere."""

    def __init__(self, planned: Sequence[PlannedJob], console: Console) -> None:
        self._lines = {p.job.key: _Line(p, p.state) for p in planned}
        self._console = console
        self._live = Live(self, console=console, refresh_per_second=4) if console.is_terminal else None
        self._n = 0
        self._total = sum(p.job.kind != PART for p in planned)
        self._spoke = time.monotonic()

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def tell(self, event: JobEvent) -> None:
        """Show one event of the runner."""
        line = self._lines[event.job.key]
        line.what, line.wall_s, line.reason = event.what, event.wall_s, event.reason
        if event.what == "start":
            line.started, line.resumed = time.monotonic(), None
        if event.what == "progress":
            line.done, line.total = event.done, event.total
            line.resumed = line.resumed or (event.done, time.monotonic())
            if self._live is None and time.monotonic() - self._spoke > QUIET_S:
                rate = self._rate(line)
                left = f"about {duration(self._eta(line))} left"
                self._print(f"{event.job.name}: {line.done}/{line.total}, {left}{', ' + rate if rate else ''}")
        elif event.what in ("done", "failed", "blocked", "hit"):
            part = event.job.kind == PART
            self._n += not part
            if self._live is None and (not part or event.what == "failed"):
                took = "" if event.what == "hit" else f" in {duration(event.wall_s)}"
                left = f", about {duration(self._left())} left" if event.what == "done" and self._left() else ""
                reason = f": {event.reason}" if event.reason else ""
                self._print(f"[{self._n}/{self._total}] {event.job.name}: {event.what}{took}{left}{reason}")

    def state(self) -> DisplayState:
        """Return the present numbers of the display."""
        now = time.monotonic()
        running = [line for line in self._lines.values() if line.what in ("start", "progress")]
        jobs = tuple((x.planned.job.name, x.done, x.total, round(now - x.started, 1)) for x in running)
        return DisplayState(self._n, self._total, self._left(), jobs)

    def _print(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(text, markup=False, highlight=False)

    def _left(self) -> float:
        """Return the seconds left: of running jobs by their speed, of the others by their estimates."""
        total = 0.0
        for line in self._lines.values():
            if line.what in ("missing", "blocked") and line.planned.state != "hit":
                total += line.planned.seconds or 0.0
            elif line.what in ("start", "progress"):
                total += self._eta(line)
        return total

    def _eta(self, line: _Line) -> float:
        now = time.monotonic()
        if line.done:
            return line.seconds_per_unit(now) * (line.total - line.done)
        return max(0.0, (line.planned.seconds or 0.0) - (now - line.started))

    def _rate(self, line: _Line) -> str:
        """Return the tokens per second of a model in training, from the estimate of its tokens."""
        tokens = line.planned.job.estimate.tokens
        if line.planned.job.kind not in ("train", "unlearn") or not (line.done and tokens):
            return ""
        seconds = line.seconds_per_unit(time.monotonic())
        return f"~{count(int(tokens / line.total / seconds))} tokens/s" if seconds > 0 else ""

    def __rich__(self) -> Table:
        """Return the totals, the running and the failed jobs, then as many others as the terminal has lines for."""
        narrow = self._console.width < 70
        rows: list[tuple[str, ...]] = [
            ("[bold]all jobs[/]", f"{self._n}/{self._total}", "", "", f"~{duration(self._left())}")
        ]
        lines = [
            line
            for line in self._lines.values()
            if line.planned.job.kind != PART or line.what in ("start", "progress", "failed")
        ]
        order = {"start": 0, "progress": 0, "failed": 1}
        first = [line for line in lines if line.what in order]
        first.sort(key=lambda line: order[line.what])
        waiting = [line for line in lines if line.what in ("missing", "blocked")]
        done = [line for line in reversed(lines) if line not in first and line not in waiting]
        room = max(len(first), self._console.height - 4)
        shown = [*first, *waiting, *done][:room]
        for line in shown:
            state, bar, *rest = self._cells(line)
            rows.append((line.planned.job.name, state, "" if narrow else bar, *rest))
        if len(lines) > len(shown):
            rows.append((f"[dim]{len(lines) - len(shown)} more jobs[/]", "", "", "", ""))
        return self._table(rows)

    def _table(self, rows: Sequence[tuple[str, ...]]) -> Table:
        """Return the lines as a table in which only the names of jobs are cut if the terminal is narrow."""
        heads = ("job", "state", "", "time", "left")
        name, *others = (
            max(cell_len(Text.from_markup(text).plain) for text in texts) for texts in zip(heads, *rows, strict=True)
        )
        room = self._console.width - sum(others) - GAP * len(others)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("job", no_wrap=True, overflow="ellipsis", width=min(name, max(room, LEAST_NAME)))
        for head in heads[1:]:
            table.add_column(head, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        return table

    def _cells(self, line: _Line) -> tuple[str, str, str, str]:
        if line.what == "hit":
            return "[dim]hit[/]", "", "", ""
        if line.what == "done":
            return "[green]done[/]", "", duration(line.wall_s), ""
        if line.what == "failed":
            return "[red]failed[/]", "", duration(line.wall_s), ""
        if line.what in ("start", "progress"):
            share = line.done / line.total if line.total else 0.0
            bar = "━" * round(20 * share) + "[dim]" + "━" * (20 - round(20 * share)) + "[/]"
            ran = time.monotonic() - line.started
            rate = self._rate(line)
            return "[cyan]running[/]", f"{bar} {rate}" if rate else bar, duration(ran), f"~{duration(self._eta(line))}"
        return "[dim]waiting[/]", "", "", f"[dim]~{duration(line.planned.seconds)}[/]"
