"""A study as stages of a cluster: what shares a task, what waits for what, and the scripts that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

import expunge as package
from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.engine.job_file import JobFile
from expunge.engine.launch import SlurmArgs
from expunge.engine.slurm import _missing, _SlurmWatch, stages
from expunge.engine.store import Store
from expunge.pipelines.study.handle import load_study

METHODS = "methods=[{trainer: GradAscent}, {trainer: NPO}]"


def test_jobs_of_seconds_share_tasks_and_every_stage_waits_for_what_it_reads(micro: list[str], tmp_path: Path) -> None:
    handle = package.load_study([*micro, METHODS, f"paths.store={tmp_path}"])
    result = stages(handle.graph.jobs, Store(tmp_path), SlurmArgs())
    at = {job.key: stage for stage in result for jobs in stage.tasks for job in jobs}
    order = [stage.name for stage in result]
    for stage in result:
        for jobs in stage.tasks:
            for k, job in enumerate(jobs):
                for parent in job.parents.values():
                    before = at[parent.key]
                    assert parent in jobs[:k] or (
                        before.name in stage.after and order.index(before.name) < order.index(stage.name)
                    )
    sizes = {stage.name: [len(jobs) for jobs in stage.tasks] for stage in result}
    assert sizes["0-base"] == [1] and sizes["1-train"] == [1, 1]
    assert all(n > 5 for name, of in sizes.items() if name.endswith("-score") for n in of)  # all records of a model
    assert [n for name, of in sizes.items() if name.endswith("-metrics") for n in of] == [1, 2, 1]
    assert sum(sum(of) for of in sizes.values()) == len(at)


def test_arrays_keep_within_their_limit(micro: list[str], tmp_path: Path) -> None:
    handle = package.load_study([*micro, METHODS, f"paths.store={tmp_path}"])
    result = stages(handle.graph.jobs, Store(tmp_path), SlurmArgs(max_array=1))
    assert all(len(stage.tasks) == 1 for stage in result)
    assert {"1-train-0", "1-train-1"} <= {stage.name for stage in result}


def test_wrong_resources_of_a_kind_are_named(micro: list[str], tmp_path: Path) -> None:
    handle = package.load_study([*micro, METHODS, f"paths.store={tmp_path}"])
    with pytest.raises(ConfigError, match=r"^launch\.slurm\.by_kind\.scores: no kind of job; did you mean 'score'\?"):
        load_study(["study=quickstart", "launch.slurm.by_kind={scores:{time_min:30}}"])
    with pytest.raises(ConfigError, match=r"^launch\.slurm\.by_kind\.score\.time_mn: unknown key.*'time_min'"):
        stages(handle.graph.jobs, Store(tmp_path), SlurmArgs(by_kind={"score": {"time_mn": 1}}))


def test_scripts_say_resources_dependencies_and_variables(
    micro: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/data/hf home")
    words = [*micro, METHODS, f"paths.store={tmp_path}/store", "launch.slurm.gpus=1", "launch.slurm.partition=gpu"]
    *scripts, queue = package.load_study(words).export_slurm(tmp_path / "out")
    train = next(s for s in scripts if s.name == "1-train.sh").read_text()
    for line in ("#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --array=0-1%256", "#SBATCH --requeue",
                 "export HF_HOME='/data/hf home'"):  # fmt: skip
        assert line in train.splitlines()
    assert "stage_1_train=$(sbatch --parsable --dependency=afterok:$stage_0_base " in queue.read_text()
    assert [len(task) for task in JobFile.read(tmp_path / "out" / "1-train.json").tasks] == [1, 1]


def test_a_damaged_record_fails_its_job_and_what_waits_and_no_others(micro: list[str], tmp_path: Path) -> None:
    handle = package.load_study([*micro, f"paths.store={tmp_path}"])
    jobs = in_order(handle.graph.jobs)
    full = next(job for job in jobs if job.name == "train full")
    place = handle.store.path(full)
    place.mkdir(parents=True)
    (place / "job.json").write_text("{")
    lines: list[tuple[str, str]] = []
    watch = _SlurmWatch(handle.store, jobs, lambda event: lines.append((event.job.name, event.what)))
    watch.waiting = {job.key: "1_0" for job in _missing(handle.graph.jobs, handle.store)}
    watch.block()
    assert lines[0] == ("train full", "failed")
    assert "is damaged" in watch.failures[full.key]
    names = {job.key: job.name for job in jobs}
    assert "train retain" in {names[key] for key in watch.waiting}
    assert {names[key] for key in watch.failures} >= {"unlearn NPO", "metrics NPO", "metrics full"}
    assert {*watch.failures, *watch.waiting} == set(names)  # no job is forgotten

    retain = next(job for job in jobs if job.name == "train retain")
    place = handle.store.path(retain)
    place.mkdir(parents=True)
    (place / "job.json").write_text("[]")  # while it is followed
    watch._look(retain, "RUNNING")
    assert retain.key not in watch.waiting and "is damaged" in watch.failures[retain.key]
