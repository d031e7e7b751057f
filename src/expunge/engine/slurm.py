"""Run jobs on a Slurm cluster: one job array per stage, through submitit or as plain sbatch scripts.

A failed job leaves a failure record in the store and its Slurm task exits normally, so other tasks continue. A task
that is preempted, reaches its time limit or loses its node returns to the queue and restarts at its last checkpoint.
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

from expunge.core.errors import ConfigError, JobError, one_line
from expunge.core.files import write_text
from expunge.engine.job import Job, in_order
from expunge.engine.job_file import JobFile
from expunge.engine.launch import LaunchConfig, SlurmArgs, resources
from expunge.engine.run import JobEvent, RunOutcome
from expunge.engine.store import Store
from expunge.engine.worker import failure, forget_failure, run_task

POLL_S = 2.0
GONE_S = 20.0  # a task that has left the queue without a result for this time has died
RESTARTS = 5


@dataclass(frozen=True)
class SlurmStage:
    """An array: tasks that can run at the same time with the same resources.

    A task is one job or several consecutive jobs. after: the stages that it waits for.
    """

    name: str
    tasks: tuple[tuple[Job, ...], ...]
    args: SlurmArgs
    after: tuple[str, ...]


def stages(targets: Sequence[Job], store: Store, args: SlurmArgs) -> list[SlurmStage]:
    """Return the missing jobs by depth and kind, each array within `max_array`. Raises ConfigError for wrong `by_kind`.

    Short jobs share a task, because a task takes seconds to start: all records of a model, and metrics of one depth.
    """
    missing = _missing(targets, store)
    tasks, depth = _tasks(missing)
    groups: dict[tuple[int, str], list[list[Job]]] = {}
    for name, jobs in tasks.items():
        groups.setdefault((depth[name], jobs[0].kind), []).append(jobs)
    out: list[SlurmStage] = []
    name_of: dict[str, str] = {}
    for (level, kind), tasks_of_kind in sorted(groups.items(), key=lambda g: g[0]):
        for part, start in enumerate(range(0, len(tasks_of_kind), args.max_array)):
            batch = tasks_of_kind[start : start + args.max_array]
            name = f"{level}-{kind}" + (f"-{part}" if len(tasks_of_kind) > args.max_array else "")
            name_of |= {job.key: name for jobs in batch for job in jobs}
            after = {name_of[p.key] for jobs in batch for j in jobs for p in j.parents.values() if p.key in name_of}
            tuples = tuple(tuple(jobs) for jobs in batch)
            out.append(SlurmStage(name, tuples, resources(args, kind), tuple(sorted(after - {name}))))
    return out


def _missing(targets: Sequence[Job], store: Store) -> list[Job]:
    """Return the jobs to run, in order, without jobs with a damaged record and the jobs that depend on them."""
    out: list[Job] = []
    failed: set[str] = set()
    for job in in_order(targets, store.settled):
        try:
            done = store.done(job)
        except JobError:
            failed.add(job.key)
            continue
        if not done and failed.isdisjoint(parent.key for parent in job.parents.values()):
            out.append(job)
        elif not done:
            failed.add(job.key)
    return out


def _tasks(missing: Sequence[Job]) -> tuple[dict[str, list[Job]], dict[str, int]]:
    """Return the jobs of each task, in order, and its depth: one more than the depth of the tasks it waits for."""
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
    targets: Sequence[Job],
    store: Store,
    launch: LaunchConfig,
    folder: Path,
    tell: Callable[[JobEvent], None],
    plugins: Sequence[str] = (),
) -> RunOutcome:
    """Submit every job that is not done, and wait until all have ended. Job files and logs go to `folder`.

    After an interrupt the jobs stay in the queue, and the same command waits for them again. Raises ConfigError without
    submitit or Slurm.
    """
    planned = stages(targets, store, launch.slurm)
    watch = _SlurmWatch(store, in_order(targets, store.settled), tell)
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
    """A task of a stage's job file, for a node to run.

    When time runs out, submitit calls `checkpoint` and queues the task again.
    """

    path: str
    index: int

    def __call__(self) -> None:
        """Run the jobs. The store records a failure, which does not end the stage."""
        run_task(Path(self.path), self.index)

    def checkpoint(self) -> Any:
        """Return the same task again."""
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
    """Submit a stage and return the ids of its tasks."""
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
        raise ConfigError(
            "launch.kind=slurm: this machine has no srun, so it does not belong to a Slurm cluster"
        ) from None
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
        raise JobError(f"sbatch refused stage {stage.name}: {one_line(error)}") from None
    return [str(job.job_id) for job in jobs]


def _options(args: SlurmArgs, after: Sequence[str]) -> dict[str, Any]:
    """Return the optional sbatch options by their long names."""
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
    """Return shell lines for the job's variables: this machine's cache folders, then `launch.slurm.env`."""
    values = {key: os.environ[key] for key in CACHES if key in os.environ} | dict(args.env)
    return [f"export {key}={shlex.quote(str(value))}" for key, value in values.items()]


class _SlurmWatch:
    """Follows jobs by their records in the store, and by the queue for tasks that died without a record."""

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
        """Read the job's record if it is done. A damaged record, or one of another job, fails the job."""
        try:
            record = self._store.record(job)
        except JobError as error:
            self._fail(job, str(error), 0.0)
            return False
        if record is not None:
            self.records[job.key] = record
        return record is not None

    def block(self) -> None:
        """Report the jobs that were not queued because a parent has failed."""
        for job in self._jobs:
            failed_parent = next((p for p in job.parents.values() if p.key in self.failures), None)
            if failed_parent is not None and job.key not in {**self.records, **self.waiting, **self.failures}:
                self.failures[job.key] = f"waits for {failed_parent.name}, which failed"
                self._tell(JobEvent(job, "blocked", reason=self.failures[job.key]))

    def follow(self) -> None:
        """Wait until every job is done or has failed."""
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
            failed_parent = next((p for p in job.parents.values() if p.key in self.failures), None)
            no_result = f"Slurm task {self.waiting[job.key]} ended without a result; see its log"
            self._fail(job, f"waits for {failed_parent.name}, which failed" if failed_parent else no_result, wall)

    def _fail(self, job: Job, reason: str, wall: float) -> None:
        self.failures[job.key] = reason
        self.first = self.first or JobError(f"{job.name}: {reason}")
        self._end(job, JobEvent(job, "failed", reason=reason, wall_s=wall))

    def _end(self, job: Job, event: JobEvent) -> None:
        self.waiting.pop(job.key, None)
        self._tell(event)


def _queue(ids: Any) -> dict[str, str]:
    """Return the states of queued tasks, by id. Does not use sacct: many sites have no accounting."""
    arrays = ",".join(sorted({i.split("_")[0] for i in ids}))
    done = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i|%T", f"--jobs={arrays}"], capture_output=True, text=True
    )
    if done.returncode and "Invalid job id" not in done.stderr:
        raise JobError(f"squeue failed: {' '.join(done.stderr.split())}")
    return dict(line.strip().split("|") for line in done.stdout.splitlines() if "|" in line)


def export_slurm(
    targets: Sequence[Job], store: Store, launch: LaunchConfig, folder: Path, plugins: Sequence[str] = ()
) -> list[Path]:
    """Write jobs as plain sbatch scripts, one for each stage, and `queue.sh`, which submits them with dependencies.

    For sites without submitit: the nodes need only this package and the shared folders.
    """
    folder = folder.resolve()
    planned = stages(targets, store, launch.slurm)
    scripts: list[Path] = []
    queue = [
        "#!/bin/sh",
        "# Submits every stage; each waits for the stages it depends on.",
        "set -eu",
        f"cd {shlex.quote(str(folder))}",
    ]
    for stage in planned:
        _write_stage(stage, store, folder, plugins)
        scripts.append(folder / f"{stage.name}.sh")
        write_text(scripts[-1], _script(stage, folder))
        waits = ":".join(f"${_variable(name)}" for name in stage.after)
        depends = f"--dependency=afterok:{waits} --kill-on-invalid-dep=yes " if waits else ""
        queue.append(f"{_variable(stage.name)}=$(sbatch --parsable {depends}{stage.name}.sh)")
        queue.append(f'echo "{stage.name}: ${_variable(stage.name)} ({len(stage.tasks)} tasks)"')
    write_text(folder / "queue.sh", "\n".join(queue) + "\n")
    return [*scripts, folder / "queue.sh"]


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
        "chdir": os.getcwd(),  # relative paths of the study start here
        **_options(args, ()),
    }
    lines = [f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={value}" for key, value in options.items()]
    python = shlex.quote(args.python or "python")
    command = f"{python} -m expunge job {shlex.quote(str(folder / f'{stage.name}.json'))} --index $SLURM_ARRAY_TASK_ID"
    # Exit code 1 is a failed job with a failure record in the store; the other tasks continue.
    return (
        "\n".join(["#!/bin/sh", *lines, "set -eu", *_exports(args), *args.setup, f"{command} || [ $? -eq 1 ]"]) + "\n"
    )
