"""Jobs on a Slurm cluster: job arrays, one stage after another, through submitit; or as plain sbatch scripts.

A job that fails says so in the store and ends its Slurm task in order, so the others go on; a task that is preempted,
runs out of time or loses its node is put back in the queue and begins again at its last checkpoint.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, JobError
from expunge.core.files import write_text
from expunge.engine.job import Job, in_order
from expunge.engine.job_file import JobFile
from expunge.engine.launch import LaunchConfig, SlurmArgs, resources
from expunge.engine.run import JobEvent, RunOutcome
from expunge.engine.store import Store
from expunge.engine.worker import failure, forget_failure, run_task

POLL_S = 2.0
GONE_S = 20.0  # a task that has left the queue and says nothing for so long has died
RESTARTS = 5


@dataclass(frozen=True)
class SlurmStage:
    """Tasks that can run at the same time with the same resources: an array. A task is one job or several that follow
    one another. `after`: the stages it waits for."""

    name: str
    tasks: tuple[tuple[Job, ...], ...]
    args: SlurmArgs
    after: tuple[str, ...]


def stages(wanted: Sequence[Job], store: Store, args: SlurmArgs) -> list[SlurmStage]:
    """The missing jobs by depth and kind, each array within `max_array`. Raises ConfigError for wrong `by_kind`.

    Jobs of seconds share a task, for a task takes seconds to begin: all records of a model, and metrics of one depth.
    """
    missing = _missing(wanted, store)
    tasks, depth = _tasks(missing)
    groups: dict[tuple[int, str], list[list[Job]]] = {}
    for name, jobs in tasks.items():
        groups.setdefault((depth[name], jobs[0].kind), []).append(jobs)
    out: list[SlurmStage] = []
    name_of: dict[str, str] = {}
    for (level, kind), found in sorted(groups.items(), key=lambda g: g[0]):
        for part, start in enumerate(range(0, len(found), args.max_array)):
            chosen = found[start : start + args.max_array]
            name = f"{level}-{kind}" + (f"-{part}" if len(found) > args.max_array else "")
            name_of |= {job.key: name for jobs in chosen for job in jobs}
            after = {name_of[p.key] for jobs in chosen for j in jobs for p in j.parents.values() if p.key in name_of}
            tuples = tuple(tuple(jobs) for jobs in chosen)
            out.append(SlurmStage(name, tuples, resources(args, kind), tuple(sorted(after - {name}))))
    return out


def _missing(wanted: Sequence[Job], store: Store) -> list[Job]:
    """The jobs to do, in order. A record that is damaged fails its job, and what waits for it is not tried."""
    out: list[Job] = []
    lost: set[str] = set()
    for job in in_order(wanted, store.there):
        try:
            done = store.done(job)
        except JobError:
            lost.add(job.key)
            continue
        if not done and lost.isdisjoint(parent.key for parent in job.parents.values()):
            out.append(job)
        elif not done:
            lost.add(job.key)
    return out


def _tasks(missing: Sequence[Job]) -> tuple[dict[str, list[Job]], dict[str, int]]:
    """The jobs of each task, in order, and the task's depth: one more than that of the tasks it waits for."""
    task_of = {job.key: job.key for job in missing}
    for job in missing:
        if job.shares_task == "parents":
            task_of |= {p.key: job.key for p in job.parents.values() if task_of.get(p.key) == p.key}
    jobs: dict[str, list[Job]] = {}
    for job in missing:
        jobs.setdefault(task_of[job.key], []).append(job)
    depth: dict[str, int] = {}

    def measure(task: str) -> int:
        if task not in depth:
            before = {task_of[p.key] for job in jobs[task] for p in job.parents.values() if p.key in task_of} - {task}
            depth[task] = 1 + max((measure(other) for other in before), default=-1)
        return depth[task]

    for task in jobs:
        measure(task)
    out: dict[str, list[Job]] = {}
    levels: dict[str, int] = {}
    for task, of in jobs.items():
        name = f"{of[0].kind}-{depth[task]}" if of[0].shares_task == "level" else task
        out.setdefault(name, []).extend(of)
        levels[name] = depth[task]
    return out, levels


def run_slurm(
    wanted: Sequence[Job],
    store: Store,
    launch: LaunchConfig,
    folder: Path,
    tell: Callable[[JobEvent], None],
    plugins: Sequence[str] = (),
) -> RunOutcome:
    """Submit every job that is not done, and follow them to their end. Job files and logs go to `folder`.

    Interrupted, the jobs go on in the queue, and the same command follows them again. Raises ConfigError without
    submitit or Slurm.
    """
    planned = stages(wanted, store, launch.slurm)
    watch = _SlurmWatch(store, in_order(wanted, store.there), tell)
    arrays: dict[str, str] = {}
    for stage in planned:
        path = _write_stage(stage, store, folder.resolve(), plugins)
        tasks = [SlurmTask(str(path), index) for index in range(len(stage.tasks))]
        ids = _submit(stage, tasks, [arrays[name] for name in stage.after], folder.resolve())
        arrays[stage.name] = ids[0].split("_")[0]
        for jobs, task_id in zip(stage.tasks, ids, strict=True):
            watch.waiting |= {job.key: task_id for job in jobs}
    watch.block()
    watch.follow()
    return RunOutcome(watch.records, watch.failures, watch.first)


@dataclass(frozen=True)
class SlurmTask:
    """One task of a stage's job file, as a node runs it.

    When time runs out, submitit calls `checkpoint` and queues the task again.
    """

    path: str
    index: int

    def __call__(self) -> None:
        """Run the jobs; a failure is kept in the store and does not end the stage."""
        run_task(Path(self.path), self.index)

    def checkpoint(self) -> Any:
        """The same task again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _write_stage(stage: SlurmStage, store: Store, folder: Path, plugins: Sequence[str]) -> Path:
    """Write the job file of a stage: its jobs and their ancestors, and which job belongs to which task."""
    jobs = [job for jobs in stage.tasks for job in jobs]
    tasks = [[job.key for job in jobs] for jobs in stage.tasks]
    path = folder / f"{stage.name}.json"
    JobFile.of(jobs, plugins=plugins, tasks=tasks, store=os.path.abspath(store.root)).write(path)
    return path


def _submit(stage: SlurmStage, tasks: Sequence[SlurmTask], after: Sequence[str], folder: Path) -> list[str]:
    """Put a stage in the queue; the ids of its tasks."""
    try:
        import submitit
    except ImportError:
        raise ConfigError("launch.kind=slurm: submitit is not installed; pip install 'expunge[slurm]'") from None
    args = stage.args
    try:
        executor = submitit.SlurmExecutor(
            folder=folder / "logs" / "%j",
            max_num_timeout=RESTARTS,
            python=shlex.quote(args.python) if args.python else None,
        )
    except RuntimeError:
        raise ConfigError("launch.kind=slurm: this machine has no srun, so it is no part of a Slurm cluster") from None
    executor.update_parameters(
        job_name=f"expunge-{stage.name}",
        array_parallelism=args.parallel,
        additional_parameters=_options(args, after),
        setup=[*_exports(args), *args.setup],
        time=args.time_min,
        nodes=args.nodes,
        ntasks_per_node=1,
        cpus_per_task=args.cpus,
    )
    try:
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
        raise JobError(f"sbatch refused stage {stage.name}: {' '.join(str(error).split())}") from None
    return [str(job.job_id) for job in jobs]


def _options(args: SlurmArgs, after: Sequence[str]) -> dict[str, Any]:
    """sbatch options by their long names, beside those that are written out anyway."""
    options: dict[str, Any] = {"requeue": True}
    for key, value in (("partition", args.partition), ("account", args.account), ("qos", args.qos)):
        if value:
            options[key] = value
    if args.mem_gb:
        options["mem"] = f"{round(args.mem_gb * 1024)}M"
    if args.gpus:
        options["gpus-per-node"] = args.gpus
    if after:
        options |= {"dependency": "afterok:" + ":".join(after), "kill-on-invalid-dep": "yes"}
    return options | dict(args.extra)


CACHES = ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")


def _exports(args: SlurmArgs) -> list[str]:
    """Shell lines for the job's variables: the cache folders as they are here, then those that are set."""
    values = {key: os.environ[key] for key in CACHES if key in os.environ} | dict(args.env)
    return [f"export {key}={shlex.quote(str(value))}" for key, value in values.items()]


class _SlurmWatch:
    """Follows jobs in the queue by what the store says, and by the queue for those that died without a word."""

    def __init__(self, store: Store, jobs: Sequence[Job], tell: Callable[[JobEvent], None]) -> None:
        self._store, self._jobs, self._tell = store, jobs, tell
        self.waiting: dict[str, str] = {}  # job key -> the id of its task
        self.records: dict[str, Mapping[str, Any]] = {}
        self.failures: dict[str, str] = {}
        self.first: JobError | None = None
        self._running: dict[str, float] = {}
        self._gone: dict[str, float] = {}
        for job in jobs:
            if self._stored(job):
                tell(JobEvent(job, "hit", wall_s=float(self.records[job.key].get("wall_s", 0.0))))
            elif job.key not in self.failures:
                forget_failure(store, job.key)

    def _stored(self, job: Job) -> bool:
        """Whether the job is done, its record then taken; one that is damaged, or another's, fails the job."""
        try:
            found = self._store.record(job)
        except JobError as error:
            self._fail(job, str(error), 0.0)
            return False
        if found is not None:
            self.records[job.key] = found
        return found is not None

    def block(self) -> None:
        """Jobs that were not queued because a parent has failed."""
        for job in self._jobs:
            lost = next((p for p in job.parents.values() if p.key in self.failures), None)
            if lost is not None and job.key not in {**self.records, **self.waiting, **self.failures}:
                self.failures[job.key] = f"waits for {lost.name}, which failed"
                self._tell(JobEvent(job, "blocked", reason=self.failures[job.key]))

    def follow(self) -> None:
        """Until every job is done or has failed."""
        while True:
            queue = _queue(self.waiting.values()) if self.waiting else {}
            for job in self._jobs:
                if job.key in self.waiting:
                    self._look(job, queue.get(self.waiting[job.key]))
            if not self.waiting:
                return
            time.sleep(POLL_S)

    def _look(self, job: Job, state: str | None) -> None:
        now = time.monotonic()
        wall = now - self._running.get(job.key, now)
        if self._stored(job):
            self._end(job, JobEvent(job, "done", wall_s=wall))
        elif job.key in self.failures:
            return
        elif (reason := failure(self._store, job.key)) is not None and state is None:
            self._fail(job, reason, wall)
        elif state == "RUNNING" and job.key not in self._running:
            self._running[job.key] = now
            self._tell(JobEvent(job, "start"))
        elif state is not None:
            self._gone.pop(job.key, None)
        elif now - self._gone.setdefault(job.key, now) > GONE_S:
            lost = next((p for p in job.parents.values() if p.key in self.failures), None)
            dead = f"Slurm task {self.waiting[job.key]} ended without a result; see its log"
            self._fail(job, f"waits for {lost.name}, which failed" if lost else dead, wall)

    def _fail(self, job: Job, reason: str, wall: float) -> None:
        self.failures[job.key] = reason
        self.first = self.first or JobError(f"{job.name}: {reason}")
        self._end(job, JobEvent(job, "failed", reason=reason, wall_s=wall))

    def _end(self, job: Job, event: JobEvent) -> None:
        self.waiting.pop(job.key, None)
        self._tell(event)


def _queue(ids: Any) -> dict[str, str]:
    """The states of tasks that are in the queue, by id. (sacct is not asked: many sites have no accounting.)"""
    arrays = ",".join(sorted({i.split("_")[0] for i in ids}))
    done = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i|%T", f"--jobs={arrays}"], capture_output=True, text=True
    )
    if done.returncode and "Invalid job id" not in done.stderr:
        raise JobError(f"squeue does not answer: {' '.join(done.stderr.split())}")
    return dict(line.strip().split("|") for line in done.stdout.splitlines() if "|" in line)


def export_slurm(
    wanted: Sequence[Job], store: Store, launch: LaunchConfig, folder: Path, plugins: Sequence[str] = ()
) -> list[Path]:
    """Jobs as plain sbatch scripts, one for each stage, and `queue.sh`, which submits them with their dependencies.

    For sites without submitit: the nodes need this package and the shared folders, no more.
    """
    folder = folder.resolve()
    planned = stages(wanted, store, launch.slurm)
    made: list[Path] = []
    queue = [
        "#!/bin/sh",
        "# Submits every stage; each waits for those it needs.",
        "set -eu",
        f"cd {shlex.quote(str(folder))}",
    ]
    for stage in planned:
        _write_stage(stage, store, folder, plugins)
        made.append(folder / f"{stage.name}.sh")
        write_text(made[-1], _script(stage, folder))
        waits = ":".join(f"${_variable(name)}" for name in stage.after)
        depends = f"--dependency=afterok:{waits} --kill-on-invalid-dep=yes " if waits else ""
        queue.append(f"{_variable(stage.name)}=$(sbatch --parsable {depends}{stage.name}.sh)")
        queue.append(f'echo "{stage.name}: ${_variable(stage.name)} ({len(stage.tasks)} tasks)"')
    write_text(folder / "queue.sh", "\n".join(queue) + "\n")
    return [*made, folder / "queue.sh"]


def _variable(stage: str) -> str:
    return "stage_" + stage.replace("-", "_")


def _script(stage: SlurmStage, folder: Path) -> str:
    args = stage.args
    options = {
        "job-name": f"expunge-{stage.name}",
        "time": args.time_min,
        "nodes": args.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": args.cpus,
        "array": f"0-{len(stage.tasks) - 1}%{args.parallel}",
        "output": f"{folder}/{stage.name}-%a.log",
        "open-mode": "append",
        "chdir": os.getcwd(),  # relative paths of the study count from here
        **_options(args, ()),
    }
    lines = [f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={value}" for key, value in options.items()]
    python = shlex.quote(args.python or "python")
    command = f"{python} -m expunge job {shlex.quote(str(folder / f'{stage.name}.json'))} --index $SLURM_ARRAY_TASK_ID"
    # Exit code 1 is a job that failed and has said so in the store; the others go on.
    return (
        "\n".join(["#!/bin/sh", *lines, "set -eu", *_exports(args), *args.setup, f"{command} || [ $? -eq 1 ]"]) + "\n"
    )
