"""A pool that is interrupted or loses a process: no traceback, nobody left behind, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

LONG = (
    "methods=[]",
    "train.num_train_epochs=4000",
    "+train.checkpoint.steps=5",
    "launch.workers=2",
    "launch.threads=1",
)


def start(micro: list[str], folder: Path, *more: str) -> subprocess.Popen[str]:
    """A study of two trainings side by side, in a process group of its own."""
    words = [*micro, *LONG, f"paths.store={folder}/store", f"paths.output_dir={folder}/out", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "expunge", "run", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_usual_signals,
    )


def _usual_signals() -> None:
    """Undo what a child inherits: a shell ignores SIGINT for programs in the background, and `nohup` ignores SIGHUP."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait; an error if it takes too long."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "store" / ".checkpoints").glob("*/step-*"))


def group(number: int) -> list[str]:
    """The command lines of the processes of a group."""
    output = subprocess.run(["ps", "-eo", "pgid=,args="], capture_output=True, text=True).stdout.splitlines()
    return [line for line in output if line.split()[0] == str(number) and "defunct" not in line]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupted", "parent alone", "twice", "terminated", "hung up", "killed"])
def test_nobody_is_left_when_the_study_goes(how: str, micro: list[str], tmp_path: Path) -> None:
    study = start(micro, tmp_path)
    try:
        until(lambda: checkpoints(tmp_path) or study.poll() is not None)
        if how == "interrupted":
            os.killpg(study.pid, signal.SIGINT)
        elif how == "parent alone":
            study.send_signal(signal.SIGINT)
            study.wait(30)  # two seconds, and more on a busy machine; the jobs take minutes
        elif how in ("terminated", "hung up"):
            study.send_signal(signal.SIGTERM if how == "terminated" else signal.SIGHUP)
            study.wait(30)
        elif how == "twice":
            for _ in range(2):
                study.send_signal(signal.SIGINT)
                time.sleep(0.05)
            study.wait(30)
        else:
            study.kill()  # it alone: its workers are not told
        output = study.communicate(timeout=60)[0]
        until(lambda: not group(study.pid))
    finally:
        if group(study.pid):
            os.killpg(study.pid, signal.SIGKILL)
    if how != "killed":
        assert study.returncode == 130
        assert "Traceback" not in output and "interrupted; run the same command again" in output
        assert "Warning" not in output
    assert checkpoints(tmp_path)
