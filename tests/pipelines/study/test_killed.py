"""A study that is killed by SIGKILL at random moments and run again ends with the very numbers of an unbroken run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.warm import Warm

# It computes nothing itself, so that it may fork; each attempt is a fork of it.
DRIVER = """
import json, os, random, shutil, signal, sys, time
from expunge.cli.main import main

words, seed, kills = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
killed = 0
longest = None
for attempt in range(kills * 6 + 1):
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os._exit(main(["run", *words]))
    deadline = started + rng.uniform(0.2, 2.5) if killed < kills else None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if deadline and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = None
            killed += 1
            break
        time.sleep(0.01)
    if status is not None:
        if status != 0:
            sys.exit(f"the run failed: {status}")
        if killed >= kills:
            break
        # it ended before its moment came: take the last job away, so that there is something left to kill
        store = next(w for w in words if w.startswith("paths.store=")).partition("=")[2]
        kind = rng.choice(sorted(k for k in os.listdir(store) if k[0] != "."))
        name = rng.choice(sorted(n for n in os.listdir(f"{store}/{kind}") if n[0] != "."))
        shutil.rmtree(f"{store}/{kind}/{name}")
print(killed)
"""


def run(warm: Warm, folder: Path, words: list[str], *, kills: int, seed: int = 0) -> int:
    """Run the study under `folder` to its end, killing it `kills` times on the way; returns how often it was killed."""
    mine = [*words, f"paths.store={folder}/store", f"paths.output_dir={folder}/out"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = ["-c", DRIVER, json.dumps(mine), str(seed), str(kills)]
    done = warm.run(words, Path.cwd(), environment=env, timeout_s=540)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return int(done.stdout.split()[-1])


def results(folder: Path) -> dict[str, bytes]:
    """Every results file and every weight file of a store, by its place."""
    store = folder / "store"
    return {
        str(p.relative_to(store)): p.read_bytes()
        for pattern in ("metrics/*/TOFU_EVAL.json", "*/*/model.safetensors", "score/*/*.parquet")
        for p in sorted(store.glob(pattern))
    }


@pytest.mark.slow
def test_killed_ten_times_gives_the_same_bytes(tmp_path: Path, micro: list[str], warm: Warm) -> None:
    assert run(warm, tmp_path / "whole", micro, kills=0) == 0
    assert run(warm, tmp_path / "broken", micro, kills=10, seed=20) == 10
    whole, broken = results(tmp_path / "whole"), results(tmp_path / "broken")
    assert len([n for n in whole if n.endswith("EVAL.json")]) == 6
    assert broken == whole
    left = [p for p in (tmp_path / "broken" / "store").rglob("*.part")]
    assert left == []
