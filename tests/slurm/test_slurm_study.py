"""A study through a real Slurm: arrays with dependencies, a job that is killed and queued again, and exported scripts.

Its results are those of a run on this machine, byte for byte.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

import expunge as package

pytestmark = pytest.mark.slurm

WORDS = [
    "study=quickstart",
    "model=llama-64k",
    "data.world.authors=6",
    "data.world.questions_per_author=4",
    "data.world.forget_fraction=0.34",
    "data.world.facts=6",
    "data.world.holdout_authors=2",
    "train.num_train_epochs=4",
    "unlearn.num_train_epochs=2",
    "eval.generation.max_new_tokens=4",
    "methods=[{trainer: GradAscent}, {trainer: NPO}]",
]
SLURM = ["launch.kind=slurm", "launch.slurm.mem_gb=1.5", "launch.slurm.cpus=1", "launch.slurm.time_min=20"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the study as this machine makes them."""
    folder = tmp_path_factory.mktemp("local")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        package.load_study([*WORDS, *places(folder)]).run()
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
    return files(folder)


def places(folder: Path) -> list[str]:
    return [f"paths.store={folder}/store", f"paths.output_dir={folder}/out"]


def files(folder: Path) -> dict[str, bytes]:
    store = folder / "store"
    return {
        str(p.relative_to(store)): p.read_bytes()
        for pattern in ("*/*/*.safetensors", "score/*/*.parquet", "metrics/*/TOFU_EVAL.json")
        for p in sorted(store.glob(pattern))
    }


def requeue_one(done: threading.Event, killed: list[str]) -> None:
    """Put the first task that trains back in the queue while it runs."""
    while not done.wait(0.2):
        said = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i|%T|%j"], capture_output=True, text=True, check=False
        ).stdout
        for line in said.splitlines():
            task, state, name = line.strip().split("|")
            if state == "RUNNING" and "train" in name:
                if subprocess.run(["scontrol", "requeue", task], capture_output=True, check=False).returncode == 0:
                    killed.append(task)
                return


def test_a_study_goes_through_slurm_with_a_job_killed_on_the_way(
    cluster: Path, local: dict[str, bytes], tmp_path: Path
) -> None:
    done, killed = threading.Event(), []
    watcher = threading.Thread(target=requeue_one, args=(done, killed))
    watcher.start()
    try:
        result = package.load_study([*WORDS, *SLURM, *places(tmp_path)]).run()
    finally:
        done.set()
        watcher.join()
    assert not result.failures
    assert killed
    assert files(tmp_path) == local
    assert len(local) > 20
    assert list((tmp_path / "out" / "slurm" / "logs").rglob("*.out"))


def test_a_job_that_fails_leaves_the_others(cluster: Path, tmp_path: Path) -> None:
    words = [*WORDS[:-1], "methods=[{trainer: GradAscent, args: {loss_limit: 1e-6}}, {trainer: NPO}]"]
    result = package.load_study([*words, *SLURM, *places(tmp_path)]).run()
    said = {name: reason for name, reason in result.failures.items()}
    assert "the loss passed the limit" in said["unlearn GradAscent"]
    assert said["metrics GradAscent"].startswith("waits for")
    assert [row["run"] for row in result.table() if row["model_utility"] == row["model_utility"]][-1] == "NPO"


def test_exported_scripts_make_the_same_files(cluster: Path, local: dict[str, bytes], tmp_path: Path) -> None:
    few = [*WORDS[:-1], "methods=[]"]
    handle = package.load_study([*few, *SLURM, f"launch.slurm.python={package_python()}", *places(tmp_path)])
    *_, queue = handle.export_slurm(tmp_path / "scripts")
    said = subprocess.run(["sh", str(queue)], check=True, capture_output=True, text=True).stdout
    assert "-train: " in said
    assert "-score: " in said and "(2 tasks)" in said
    for _ in range(600):
        left = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout
        if not left.strip():
            break
        time.sleep(0.5)
    made = files(tmp_path)
    assert len(made) > 10
    assert made == {name: data for name, data in local.items() if name in made}, "\n".join(
        p.read_text()[-500:] for p in (tmp_path / "scripts").glob("*.log")
    )


def package_python() -> str:
    import sys

    return sys.executable
