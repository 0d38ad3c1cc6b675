"""A real SLURM on this machine, for as long as a test lasts: one node, one partition, and a pretended GPU. It needs root and Debian's slurm-wlm and munge.

The node says that it has 64 GB, so that the defaults of the batch scripts are not refused (`--mem=8G`); memory is neither shared out nor enforced.

As a command it starts one to play with, and stops it: `python tests/slurm_here.py start|stop FOLDER` (start prints the line that points SLURM's commands to it).
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={port_d}
AuthType=auth/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={d}/ctld
SlurmdSpoolDir={d}/slurmd
SlurmctldPidFile={d}/run/slurmctld.pid
SlurmdPidFile={d}/run/slurmd.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmdLogFile={d}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    "Why there can be no SLURM here, or an empty text."
    programs = [
        p
        for p in ("munged", "slurmctld", "slurmd", "sbatch")
        if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    ]
    if programs:
        return f"no {', '.join(programs)}: apt-get install --no-install-recommends slurm-wlm munge"
    return "" if os.geteuid() == 0 else "starting SLURM's daemons needs root"


def start(folder: Path, cpus: int = 2) -> Path:  # of slurm.conf
    "Start munged, slurmctld and slurmd; return when the node is idle."
    host = socket.gethostname().split(".")[0]
    for name in ("ctld", "slurmd", "log", "run"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    conf = folder / "slurm.conf"
    with socket.socket() as a, socket.socket() as b:
        for free in (a, b):
            free.bind(("127.0.0.1", 0))
        conf.write_text(CONF.format(d=folder, host=host, cpus=cpus, port=a.getsockname()[1], port_d=b.getsockname()[1]))
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/null\n")
    env = {**os.environ, "SLURM_CONF": str(conf), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    if not _alive("/run/munge/munged.pid"):
        subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", "755", "/run/munge"], check=True)
        subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged"], check=True)
        shutil.copy("/run/munge/munged.pid", folder / "run/munged.pid")  # ours, to be stopped
    subprocess.run(["slurmctld", "-c"], env=env, check=True)
    subprocess.run(["slurmd"], env=env, check=True)
    for _ in range(300):
        if (
            subprocess.run(["sinfo", "-h", "-o", "%t"], env=env, capture_output=True, text=True).stdout.strip()
            == "idle"
        ):
            return conf
        time.sleep(0.1)
    raise RuntimeError(f"SLURM does not come up; see {folder}/log.")


def stop(folder: Path):
    "End the daemons that `start` started, and wait for them."
    for name in ("slurmd", "slurmctld", "munged"):
        process = _alive(folder / f"run/{name}.pid")
        if process:
            process.terminate()
            try:
                process.wait(20)
            except psutil.TimeoutExpired:
                process.kill()


def _alive(pid_file):
    "The process of a pid file, or None."
    try:
        return psutil.Process(int(Path(pid_file).read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


@contextmanager
def slurm(folder: Path, **kwargs):
    "SLURM for the block; its commands find it through the environment."
    before = os.environ.get("SLURM_CONF")
    try:
        os.environ["SLURM_CONF"] = str(start(folder, **kwargs))
        yield
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        for _ in range(200):  # the last step of a job would report to the next SLURM on this machine
            if not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout.strip():
                break
            time.sleep(0.1)
        stop(folder)
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        sys.exit(__doc__)
    if missing():
        sys.exit(missing())
    if sys.argv[1] == "start":
        print(f"export SLURM_CONF={start(Path(sys.argv[2]).resolve())}")
    else:
        stop(Path(sys.argv[2]).resolve())
