"""The provenance of an artifact: facts in its record that are not part of its identity."""

from __future__ import annotations

import functools
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.core import distributed
from expunge.core.fingerprints import canonical
from expunge.engine.job import Job


@dataclass(frozen=True)
class JobStart:
    """The time and the processors' energy counters (microjoules) when a job began."""

    time: float = field(default_factory=time.time)
    energy: Sequence[int] = field(default_factory=lambda: _energy_uj())


def provenance(job: Job, facts: Mapping[str, Any], start: JobStart) -> dict[str, Any]:
    """Return the record of a job that has just ended. Only its kind, `identity` and `parents` give its key.

    energy_j: joules of the whole machine during the job by the processors' counters, other work included; null if the
    system has no such counter. peak_mb: the peak memory of the process so far in MiB, and of PyTorch on a GPU.
    """
    energy = [after - before for before, after in zip(start.energy, _energy_uj(), strict=False)]
    return {
        "key": job.key,
        "kind": job.kind,
        "label": job.label,
        "identity": canonical(job.identity),
        "parents": {role: parent.key for role, parent in job.parents.items()},
        "excluded_from_key": sorted(job.excluded_from_key & set(job.parents)),
        "facts": dict(facts),
        "seed": job.seed,
        "wall_s": round(time.time() - start.time, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": dict(_versions()),
        "code": _code(),
        "machine": {**_machine(), **_device(), **_processes()},
        "peak_mb": _peak_mb(),
        # a counter that has overflowed gives no value
        "energy_j": round(sum(energy) / 1e6, 1) if energy and min(energy) >= 0 else None,
    }


@functools.cache
def _versions() -> Mapping[str, str]:
    return {name: metadata.version(name) for name in ("expunge", "torch", "transformers", "tokenizers")}


@functools.cache
def _machine() -> Mapping[str, Any]:
    return {"python": platform.python_version(), "cpus": os.cpu_count(), "system": platform.system()}


def _processes() -> dict[str, int]:
    """Return the number of processes that ran the job together, if more than one."""
    return {} if distributed.here().alone else {"processes": distributed.here().world}


def _device() -> dict[str, str]:
    """Return the GPU in use, else the processor. A job that has not loaded torch used no GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name()}
    return {"device": _processor()}


@functools.cache
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


RAPL = Path("/sys/class/powercap")


def _energy_uj() -> list[int]:
    """Return the energy counters of the processor packages in microjoules; none if they are not readable."""
    try:
        return [int(path.read_text()) for path in sorted(RAPL.glob("intel-rapl:?/energy_uj"))]
    except (OSError, ValueError):
        return []


def _peak_mb() -> dict[str, int]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = {"process": round(peak / (2**20 if sys.platform == "darwin" else 2**10))}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        out["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return out


@functools.cache
def _code() -> dict[str, Any] | None:
    """Return the commit of the working folder and whether files differ from it; None outside a git working tree."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit.strip(), "dirty": bool(_git("status", "--porcelain").strip())}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout
