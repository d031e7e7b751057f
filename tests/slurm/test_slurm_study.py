"""A study through a real Slurm: arrays with dependencies, a job that is killed and queued again, and exported scripts.

Its results are those of a run on this machine, byte for byte.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import expunge as package

pytestmark = pytest.mark.slurm

STUDY = """
benchmark: world
model: llama-64k
data: {world: {authors: 6, questions_per_author: 4, facts: 6, holdout_authors: 2}}
train: {learning_rate: 3e-3, num_train_epochs: 4, per_device_train_batch_size: 16, gradient_accumulation_steps: 1}
unlearn: {learning_rate: 3e-4, num_train_epochs: 2, gradient_accumulation_steps: 1}
methods: [{trainer: GradAscent}, {trainer: NPO}]
eval: {generation: {max_new_tokens: 4}}
grid: {split: {small: {data.world.forget_fraction: 0.17}, large: {data.world.forget_fraction: 0.34}}}
launch: {slurm: {mem_gb: 1.5, cpus: 1, time_min: 20}}
"""
SLURM = "launch.kind=slurm"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    """1 full, 2 retain and 4 forget models: two splits by two methods."""
    file = tmp_path_factory.mktemp("study") / "seven.yaml"
    file.write_text(STUDY)
    return f"study={file}"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, study: str) -> Path:
    """The folder of the study as this machine makes it."""
    folder = tmp_path_factory.mktemp("local")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        package.load_study([study, *places(folder)]).run()
    finally:
        torch.set_num_threads(threads)
    return folder


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
        output = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i|%T|%j"], capture_output=True, text=True, check=False
        ).stdout
        for line in output.splitlines():
            task, state, name = line.strip().split("|")
            if state == "RUNNING" and "train" in name:
                if subprocess.run(["scontrol", "requeue", task], capture_output=True, check=False).returncode == 0:
                    killed.append(task)
                return


def test_a_study_goes_through_slurm_with_a_job_killed_on_the_way(
    cluster: Path, study: str, local: Path, tmp_path: Path
) -> None:
    done, killed = threading.Event(), []
    watcher = threading.Thread(target=requeue_one, args=(done, killed))
    watcher.start()
    try:
        result = package.load_study([study, SLURM, *places(tmp_path)]).run()
    finally:
        done.set()
        watcher.join()
    assert not result.failures
    assert killed
    product = files(tmp_path)
    kinds = Counter(name.partition("/")[0] for name in product if name.endswith(".safetensors"))
    assert kinds == {"base": 1, "train": 1 + 2, "reference": 2, "unlearn": 4}
    assert product == files(local)
    assert list((tmp_path / "out" / "slurm" / "logs").rglob("*.out"))


def test_a_job_that_fails_leaves_the_others(cluster: Path, study: str, local: Path, tmp_path: Path) -> None:
    shutil.copytree(local / "store", tmp_path / "store")
    methods = "methods=[{trainer: GradAscent, args: {max_loss: 1e-6}}, {trainer: NPO}]"
    result = package.load_study([study, methods, SLURM, *places(tmp_path)]).run()
    output = dict(result.failures)
    for cell in ("small", "large"):
        assert "the loss passed the limit" in output[f"unlearn {cell}/GradAscent"]
        assert output[f"metrics {cell}/GradAscent"].startswith("waits for")
    assert [row["run"] for row in result.table() if row["model_utility"] == row["model_utility"]].count("NPO") == 2


def test_exported_scripts_make_the_same_files(cluster: Path, study: str, local: Path, tmp_path: Path) -> None:
    shutil.copytree(local / "store" / "base", tmp_path / "store" / "base")
    words = [study, "methods=[]", SLURM, f"launch.slurm.python={sys.executable}", *places(tmp_path)]
    *_, queue = package.load_study(words).export_slurm(tmp_path / "scripts")
    output = subprocess.run(["sh", str(queue)], check=True, capture_output=True, text=True).stdout
    assert "-train: " in output and "(3 tasks)" in output
    for _ in range(600):
        left = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout
        if not left.strip():
            break
        time.sleep(0.5)
    result, targets = files(tmp_path), files(local)
    assert len(result) > 10
    assert result == {name: data for name, data in targets.items() if name in result}, "\n".join(
        p.read_text()[-500:] for p in (tmp_path / "scripts").glob("*.log")
    )
