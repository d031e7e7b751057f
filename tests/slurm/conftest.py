"""A real Slurm on this machine: munge, a controller and one node on the loopback, in folders of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")

CONF = """\
ClusterName=expunge
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# a job that is requeued waits as long as a credential lives (120 s by default)
AuthInfo=cred_expire=10
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running cluster; SLURM_CONF points to it. Skips where it cannot be started, and says why."""
    lacking = [name for name in NEEDED if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    if lacking:
        pytest.skip(f"no Slurm on this machine: {', '.join(lacking)} not installed (Debian: slurm-wlm and munge)")
    if os.geteuid() != 0:
        pytest.skip("starting a Slurm controller and node takes root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(host=socket.gethostname().split(".")[0], folder=folder, port=free_port(), node_port=free_port(),
                    cpus=os.cpu_count())
    )  # fmt: skip
    before = dict(os.environ)
    os.environ |= {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin", "OMP_NUM_THREADS": "1"}
    running: list[subprocess.Popen[bytes]] = []
    try:
        running.append(start_munge(folder))
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", socket.gethostname().split(".")[0]]):
            running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_until_idle(folder)
        yield folder
    finally:
        subprocess.run(["scancel", "--full", "--state=PENDING,RUNNING"], check=False, capture_output=True)
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=30)
        os.environ.clear()
        os.environ.update(before)


def start_munge(folder: Path) -> subprocess.Popen[bytes]:
    """munged on its own socket would need every client to know it, so it runs on the usual one."""
    place = Path("/run/munge")
    place.mkdir(mode=0o755, exist_ok=True)
    shutil.chown(place, "munge", "munge")
    return subprocess.Popen(
        ["munged", "--foreground", "--force", f"--pid-file={folder}/munged.pid"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_until_idle(folder: Path) -> None:
    """Until the node takes jobs; the logs where it does not."""
    for _ in range(120):
        process = subprocess.run(["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True, check=False)
        if process.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(p.read_text()[-2000:] for p in folder.glob("*.log"))
    raise RuntimeError(f"the cluster did not start: {process.stdout} {process.stderr}\n{logs}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
