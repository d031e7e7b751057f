"""Jobs side by side in worker processes: the same bytes as one after another, and failures that stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import expunge as package
from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.plugins import load_plugins
from expunge.engine.launch import LaunchConfig
from expunge.engine.pool import device_of, n_workers

MORTAL = """
times: int = 1  # its process is killed

def forget_loss(self, view: LossInputs) -> Tensor:
    left = Path(__file__).with_name(f"deaths-of-{self.times}")
    n = len(left.read_text()) if left.exists() else 0
    if n < self.times:
        left.write_text("x" * (n + 1))
        os._exit(9)
    return require(view.forget, "forget").nll
"""
BAD = "methods=[{trainer: GradAscent, args: {max_loss: 1e-6}}, {trainer: NPO}, {trainer: noise, from: [GradAscent]}]"


def study(words: list[str], folder: Path, *more: str) -> package.StudyHandle:
    return package.load_study([*words, BAD, f"paths.store={folder}/store", f"paths.output_dir={folder}/out", *more])


def weights(folder: Path) -> dict[str, bytes]:
    store = folder / "store"
    return {
        str(p.relative_to(store)): p.read_bytes()
        for pattern in ("*/*/*.safetensors", "score/*/*.parquet", "metrics/*/TOFU_SUMMARY.json")
        for p in sorted(store.glob(pattern))
    }


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one_and_a_failure_stops_its_children_only(
    micro: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = study(micro, tmp_path / "one").run()
    result = study(micro, tmp_path / "two", "launch.workers=2", "launch.threads=1").run()
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert len(weights(tmp_path / "two")) > 20
    assert set(result.failures) == set(alone.failures)
    content = {name: reason for name, reason in result.failures.items() if name.startswith(("unlearn", "edit"))}
    assert "the loss passed the limit" in content["unlearn GradAscent"]
    assert content["edit noise"] == "waits for unlearn GradAscent, which failed"


@pytest.mark.slow
def test_what_ran_when_a_worker_died_is_tried_once_more(
    micro: list[str], tmp_path: Path, method_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plugins = [str(method_file(tmp_path, "Mortal", MORTAL))]
    words = [*micro, f"paths.store={tmp_path}/store", f"paths.output_dir={tmp_path}/out"]
    words += ["launch.workers=2", "launch.threads=1"]
    load_plugins(plugins)
    once = package.load_study([*words, "methods=[{trainer: Mortal}, {trainer: NPO}]"], plugins).run()
    often = package.load_study([*words, "methods=[{trainer: Mortal, method_args: {times: 9}}]"], plugins).run()
    assert not once.failures
    assert (tmp_path / "deaths-of-1").read_text() == "x"
    assert (tmp_path / "deaths-of-9").read_text() == "xx"
    content = {name: reason for name, reason in often.failures.items() if name.startswith("unlearn")}
    assert len(content) == 1 and "its process died 2 times" in next(iter(content.values()))


def test_what_runs_where_is_no_part_of_a_job(micro: list[str], tmp_path: Path) -> None:
    one, two = (study(micro, tmp_path, *more).plan() for more in ((), ("launch.workers=3", "launch.kind=slurm")))
    assert [p.job.key for p in one] == [p.job.key for p in two]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"workers": -1}, "launch.workers: must be at least 0"),
        ({"kind": "cloud"}, "launch.kind"),
        ({"slurm": {"gpus": -1}}, "launch.slurm.gpus: must be at least 0"),
        ({"slurm": {"time_mins": 1}}, "launch.slurm.time_mins: unknown key"),
    ],
)
def test_wrong_settings_are_one_line(source: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        decode(LaunchConfig, source, where="launch")
    assert str(error.value).startswith(message)


def test_jobs_are_packed_on_devices_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert [device_of(slot, 2, 3) for slot in range(7)] == [0, 0, 1, 1, 2, 2, 0]
    assert [device_of(slot, 1, 2) for slot in range(4)] == [0, 1, 0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert n_workers(LaunchConfig(workers=0, per_device=2)) == 6
    assert n_workers(LaunchConfig(workers=4, per_device=2)) == 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert n_workers(LaunchConfig(workers=0, per_device=2)) == 2
