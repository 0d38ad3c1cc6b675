"""A small study on a real SLURM: requeued, cancelled, out of time and killed in the middle;
and in the end the same numbers as on a quiet machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from slurm_here import missing, slurm

from dal_nb.bo.record import BOFolder
from dal_nb.record import RunFolder
from dal_nb.slurm.status import queue, read_jobs, report, state_of_study
from dal_nb.slurm.submit import main, resubmit
from dal_nb.slurm.worker import log_of, notebook_of
from dal_nb.studies.grid import load_study

CLOCK = ["train_seconds", "query_seconds", "peak_memory_mb"]
STUDY = """
run: {dataset: digits, model: "slow:build", width: 8, epochs: 10, warmup_epochs: 1,
      n_init: 20, acq_size: 20, budget: 100}
bo: {n_trials: 3, n_folds: 2}
grid:
  strategy: [random, badge]
  hp:
    HP 1: {lr: 0.1, weight_decay: 0.005}
    HP 3: {lr: 0.03, weight_decay: 0.05}
  seed: [1]
bo_grid: {hp: [HP 1], budget: [60]}
"""
SLOW = """
import os, time
from pathlib import Path
from dal_nb.models import MLP

class Slow(MLP):
    "A perceptron that takes its time to train while a file says so: the same numbers, and time to disturb it."
    def forward(self, x):
        if self.training and "SLOW" in os.environ: time.sleep(float(Path(os.environ["SLOW"]).read_text() or 0))
        return super().forward(x)

def build(shape, n_classes, width): return Slow(64, n_classes, width)
"""


def wait_for(what, seconds=300.0, say=lambda: ""):
    "Until `what()` is true; its value."
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, say()
        time.sleep(0.3)
    return value


def scontrol(*words):
    return subprocess.run(["scontrol", *words], capture_output=True, text=True)


def process_of(job: str) -> psutil.Process:
    "The batch script of an array task (12_3), which is our Python."
    for p in psutil.process_iter():
        try:
            here = "dal_nb.slurm.worker" in p.cmdline() and p.environ()
            if here and f"{here.get('SLURM_ARRAY_JOB_ID')}_{here.get('SLURM_ARRAY_TASK_ID')}" == job:
                return p
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # NoSuchProcess: zombies, too
    raise AssertionError(f"no process of {job}")


SEEN = {}  # requeued task → when it was first seen


def start_now():
    """A requeued job waits two minutes before it may start again; here five seconds,
    in which the node has done with its last start."""
    waiting = {
        f"{job}_{index}"
        for (job, _, index), (state, reason) in queue().items()
        if state == "PENDING" and reason == "BeginTime"
    }
    for task in [*SEEN]:
        if task not in waiting:
            del SEEN[task]
    for task in waiting:
        if time.monotonic() - SEEN.setdefault(task, time.monotonic()) > 5:
            scontrol("update", f"JobId={task}", "StartTime=now", "TimeLimit=30")


@pytest.fixture
def study(tmp_path, monkeypatch):
    "The study of this test. The folder that it is submitted in has its module, and no clone."
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "small.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return load_study(tmp_path / "small.yaml", root=tmp_path / "runs")


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_disturbed_study_ends_as_a_quiet_one(study, tmp_path, monkeypatch):
    file, root = str(tmp_path / "small.yaml"), ["--root", study.root]
    out_of_time, killed, cancelled, requeued = (
        c.run for c in study.experiments("al")
    )  # the first and the third have a search
    run_of, search = {c.run: c for c in study.experiments("al")}, {c.run: c for c in study.experiments("bo")}
    state = lambda: state_of_study(study, queue()).set_index(["array", "run"]).state
    log = lambda c: log_of(study, c).read_text() if log_of(study, c).exists() else ""
    finished = lambda run: len(RunFolder(run_of[run].folder).cycles)
    step_takes = (tmp_path / "slow.txt").write_text  # seconds, from now on
    monkeypatch.setenv("SLOW", str(tmp_path / "slow.txt"))
    step_takes("0.5")

    with slurm(tmp_path / "slurm", cpus=4):
        first = run_of[out_of_time].names
        main(
            [
                file,
                *root,
                "--stage",
                "al",
                "--only",
                f"strategy={first['strategy']}",
                "--only",
                f"hp={first['hp']}",
                "--",
                "--cpus-per-task=1",
                "--gres=gpu:1",
                "--signal=B:USR1@180",
            ]
        )
        main([file, *root, "--", "--cpus-per-task=1"])
        assert len(read_jobs(study.root)) == 6  # four runs and two searches, each once
        main([file, *root, "--", "--cpus-per-task=1"])
        assert len(read_jobs(study.root)) == 6
        job = {t.run: f"{t.job}_{t.index}" for t in read_jobs(study.root).itertuples() if t.array == "al"}

        wait_for(lambda: all(finished(run) for run in run_of), say=lambda: report(study))
        assert {state()["al", run] for run in run_of} == {"running"} and state()["bo60", out_of_time] == "waiting"
        scontrol(
            "update", f"JobId={job[out_of_time]}", "TimeLimit=3"
        )  # three minutes, and the warning comes as long before: when SLURM looks next
        assert scontrol("requeue", job[requeued]).returncode == 0
        subprocess.run(["scancel", job[cancelled]], check=True)
        process_of(job[killed]).kill()
        alone = load_study(file, root=tmp_path / "alone")  # the same study on a machine that is left in peace
        quiet = subprocess.Popen(
            [sys.executable, "-m", "dal_nb.studies", file, "--root", alone.root],
            env={**os.environ, "SLOW": os.devnull},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lost = {("al", cancelled): "failed", ("al", killed): "failed", ("bo60", cancelled): "missing"}
        wait_for(lambda: state()[list(lost)].to_dict() == lost, say=lambda: report(study))
        text = report(study)
        assert (
            "CANCELLED" in text
            and f"{log_of(study, run_of[killed]).stem}: " in text
            and str(log_of(study, run_of[killed])) in text
        ), text
        resubmit([file, *root])
        assert len(read_jobs(study.root)) == 9  # what was lost, and nothing else

        wait_for(
            lambda: "requeued" in log(run_of[out_of_time]), say=lambda: log(run_of[out_of_time])
        )  # it has heard the warning
        step_takes("0.2")
        wait_for(lambda: start_now() or len(BOFolder(search[out_of_time].folder).trials) > 1, say=lambda: report(study))
        task = next(
            f"{t.job}_{t.index}"
            for t in read_jobs(study.root).itertuples()
            if (t.array, t.run) == ("bo60", out_of_time)
        )
        subprocess.run(["scancel", "--batch", "--signal=USR1", task], check=True)  # a search is warned, too
        step_takes("0")
        wait_for(lambda: "requeued" in log(search[out_of_time]), say=lambda: log(search[out_of_time]))
        wait_for(lambda: start_now() or not queue(), say=lambda: report(study))
        assert set(state()) == {"done"}, report(study)
        resubmit([file, *root])
        assert not queue()

    assert [log(run_of[r]).count(" === ") for r in (out_of_time, requeued, cancelled, killed)] == [2, 2, 2, 2]
    assert all(notebook_of(c).exists() for c in [*run_of.values(), *search.values()])
    said, _ = quiet.communicate()
    assert quiet.returncode == 0, said
    for a, b in zip(study.experiments("al"), alone.experiments("al")):
        a, b = RunFolder(a.folder), RunFolder(b.folder)
        pd.testing.assert_frame_equal(a.selected, b.selected, check_exact=True)
        pd.testing.assert_frame_equal(a.cycles.drop(columns=CLOCK), b.cycles.drop(columns=CLOCK), check_exact=True)
    for a, b in zip(study.experiments("bo"), alone.experiments("bo")):
        a, b = BOFolder(a.folder), BOFolder(b.folder)
        pd.testing.assert_frame_equal(
            a.table().drop(columns="seconds"), b.table().drop(columns="seconds"), check_exact=True
        )
        assert (
            a.record["best"]["hps"] == b.record["best"]["hps"] and a.record["best"]["test"] == b.record["best"]["test"]
        )
