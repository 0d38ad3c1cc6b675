"""Everything that breaks on a cluster, tried: no wrong number, no finished cycle lost, an error that says what to do.
slurm/README.md has the table.

The two tests with twenty kills take minutes and run only with DAL_NB_SLOW=1.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from dal_nb.bo.record import BOConfig, BOFolder, prepare_bo
from dal_nb.bo.search import run_bo
from dal_nb.config import RunConfig, run_path
from dal_nb.data import load_dataset
from dal_nb.loop import run_al
from dal_nb.record import RunFolder
from dal_nb.seeds import generator
from dal_nb.slurm.worker import last_start, log_of, run_task
from dal_nb.studies.grid import Study

CLOCK = ["train_seconds", "query_seconds", "peak_memory_mb"]
SMALL = RunConfig(
    model="mlp",
    width=4,
    epochs=3,
    warmup_epochs=1,
    n_init=20,
    acq_size=10,
    budget=60,
    subset_size=200,
    cold_start=False,
)  # warm start needs the checkpoint, too
slow = pytest.mark.skipif("DAL_NB_SLOW" not in os.environ, reason="takes minutes: set DAL_NB_SLOW=1")
root_only = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, to mount and to rename the host"
)


def assert_same(a: RunFolder, b: RunFolder):
    pd.testing.assert_frame_equal(a.selected, b.selected, check_exact=True)
    pd.testing.assert_frame_equal(a.cycles.drop(columns=CLOCK), b.cycles.drop(columns=CLOCK), check_exact=True)


class Interrupted(Exception):
    "Raised by the test itself."


def run_part(config, cycles: int, then=None) -> RunFolder:
    "A run that ends after so many cycles, as if it had been killed; `then` is called in the process first."
    commit = RunFolder.commit

    def commit_and_stop(self, row, *rest):
        commit(self, row, *rest)
        if row["cycle"] == cycles - 1:
            if then:
                return then()
            raise Interrupted

    RunFolder.commit = commit_and_stop
    try:
        run_al(config, progress=False)
    except Interrupted:
        pass
    finally:
        RunFolder.commit = commit
    return RunFolder(run_path(config))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> RunFolder:
    return run_al(replace(SMALL, out_dir=str(tmp_path_factory.mktemp("alone"))), progress=False)


def python(code: str, **kwargs) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **kwargs
    )


# ---- killed ----


def kill_twenty_times(code: str, folder, seed: int, check) -> list:  # starts that each completed one took
    "Start, kill with SIGKILL after a random time, start again; afresh when it is complete and `check` has seen it."
    rng, kills, starts = random.Random(seed), 0, []

    def completed():
        check()
        starts.append(len(folder.record["starts"]))
        if kills < 20:
            shutil.rmtree(folder.path)

    begin = time.monotonic()
    python(code).wait(timeout=300)
    whole = time.monotonic() - begin
    completed()
    while kills < 20:
        process = python(code)
        try:
            process.wait(rng.uniform(0, 1.1 * whole))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        errors = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL), errors
        if folder.is_complete and kills < 20:
            completed()
    assert python(code).wait(timeout=300) == 0
    completed()
    assert max(starts) > 2  # some were killed in the middle
    return starts


@slow
def test_twenty_kills_of_a_run(tmp_path):
    config = replace(SMALL, model="resnet18", epochs=10, budget=120)
    alone, killed = (replace(config, out_dir=str(tmp_path / name)) for name in ("alone", "killed"))
    run_al(alone, progress=False)
    folder = RunFolder(run_path(killed))
    imports = "from dal_nb.config import RunConfig; from dal_nb.loop import run_al"
    code = f"{imports}; run_al(RunConfig(**{asdict(killed)!r}), progress=False)"

    def check():
        assert_same(RunFolder(run_path(alone)), folder)
        assert not list(folder.path.glob(".*")), "something was left lying about"

    print("20 kills; starts of each completed run:", kill_twenty_times(code, folder, 1, check))


@slow
def test_twenty_kills_of_a_search(tmp_path):
    run = run_al(replace(SMALL, cold_start=True, epochs=100, out_dir=str(tmp_path)), progress=False)
    bo = BOConfig(run_dir=str(run.path), n_trials=5, n_folds=3, out_dir=str(tmp_path / "killed"))
    imports = "from dal_nb.bo.search import run_bo; from dal_nb.bo.record import BOConfig"
    code = imports + "; run_bo(BOConfig(**{!r}), progress=False)"
    folder = BOFolder(bo.out_dir)
    alone = replace(bo, out_dir=str(tmp_path / "alone"))
    assert python(code.format(asdict(alone))).wait(timeout=300) == 0
    a, b = BOFolder(alone.out_dir), folder

    def check():
        pd.testing.assert_frame_equal(
            a.table().drop(columns="seconds"), b.table().drop(columns="seconds"), check_exact=True
        )
        assert (
            a.record["best"]["hps"] == b.record["best"]["hps"] and a.record["best"]["test"] == b.record["best"]["test"]
        )

    print("20 kills; starts of each completed search:", kill_twenty_times(code.format(asdict(bo)), folder, 2, check))


def test_killed_kernel(tmp_path, alone):
    "The kernel of a task dies, as the system kills it for want of memory. The task says so; the next one goes on."
    parameters = {k: v for k, v in asdict(SMALL).items() if v != getattr(RunConfig(), k)}
    study = Study(
        "one", dict(parameters, model="mlp", epochs=SMALL.epochs), {}, dict(strategy=["badge"]), root=str(tmp_path)
    )
    cell, killed = study.experiment("al", 0), []

    def kill_kernel():
        "Asked five times a second by the task. Never asks to stop."
        kernels = [
            p
            for p in psutil.Process().children(recursive=True)
            if p.status() != psutil.STATUS_ZOMBIE and "ipykernel_launcher" in " ".join(p.cmdline())
        ]
        if kernels and len(RunFolder(cell.folder).cycles) and not killed:
            killed.append(kernels[0].kill())
        return False

    outcome = run_task(study, [cell], stopped=kill_kernel)
    if killed and not RunFolder(cell.folder).is_complete:
        assert outcome == "failed" and "too little memory" in last_start(log_of(study, cell))
    assert killed and run_task(study, [cell]) == "done"
    assert_same(RunFolder(cell.folder), alone)


def test_out_of_memory(tmp_path, alone):
    "No memory is left after the second cycle."
    config = replace(SMALL, out_dir=str(tmp_path))
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_faults import *
def no_more():
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    hold = bytearray(10**9)
run_part(RunConfig(**{asdict(config)!r}), 2, then=no_more)
"""
    process = python(code)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode and "MemoryError" in errors, errors
    assert len(RunFolder(run_path(config)).cycles) == 2
    assert_same(run_al(config, progress=False), alone)


# ---- the disk ----


@contextmanager
def mounted(folder: Path, options: str):
    "A small disk of its own."
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@root_only
def test_read_only_folder(tmp_path, alone):
    with mounted(tmp_path / "disk", "size=5m") as disk:
        config = replace(SMALL, out_dir=str(disk))
        run_part(config, 2)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(OSError, match="cannot write to .*choose another out_dir"):
            run_al(config, progress=False)
        with pytest.raises(OSError, match="cannot make the run folder .*choose another out_dir"):
            run_al(replace(config, seed=2), progress=False)
        assert len(RunFolder(run_path(config)).cycles) == 2  # reading goes on
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert_same(run_al(config, progress=False), alone)


def lines(text: bytes, n: int) -> bytes:
    return b"".join(text.splitlines(keepends=True)[:n])


def flipped(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


def other_index(content: bytes) -> bytes:  # a digit is another one: an index of another class
    rows, y = content.decode().splitlines(), load_dataset("digits").y_train
    order, index, label, cycle = rows[5].split(",")
    taken = {int(r.split(",")[1]) for r in rows[1:]}
    rows[5] = ",".join(
        [
            order,
            str(next(i for i in range(1297) if i not in taken and int(y[i]) != int(label) and i in POOL)),
            label,
            cycle,
        ]
    )
    return ("\n".join(rows) + "\n").encode()


POOL = set(torch.randperm(1297, generator=generator(1, "split"))[130:].tolist())
CHECKPOINT = "checkpoint-cycle2.pt"
DAMAGE = {
    "config.json cut off": ("config.json", lambda b: b[:200]),
    "config.json empty": ("config.json", lambda b: b""),
    "cycles.csv cut off": ("cycles.csv", lambda b: b[:-9]),
    "cycles.csv without its first row": (
        "cycles.csv",
        lambda b: lines(b, 1) + b"".join(b.splitlines(keepends=True)[2:]),
    ),
    "cycles.csv of zeros": ("cycles.csv", lambda b: b"\0" * len(b)),
    "selected.csv cut off": ("selected.csv", lambda b: b[:-3]),
    "selected.csv cut at a line": ("selected.csv", lambda b: lines(b, 30)),
    "selected.csv with another index": ("selected.csv", other_index),
    "selected.csv with an index twice": (
        "selected.csv",
        lambda b: (
            lines(b, 30) + lines(b, 31).splitlines(keepends=True)[-2] + b"".join(b.splitlines(keepends=True)[31:])
        ),
    ),
    "checkpoint cut off": (CHECKPOINT, lambda b: b[: len(b) // 2]),
    "checkpoint with a flipped bit": (CHECKPOINT, flipped),
    "checkpoint empty": (CHECKPOINT, lambda b: b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_seen(damage, tmp_path, alone):
    "A run does not go on from a damaged file: the error names it. Restored, it ends as if nothing had been."
    name, change = DAMAGE[damage]
    config = replace(SMALL, out_dir=str(tmp_path))
    folder = run_part(config, 3)
    whole = (folder.path / name).read_bytes()
    (folder.path / name).write_bytes(change(whole))
    assert change(whole) != whole
    with pytest.raises(ValueError, match=f"{name} is damaged.*[Dd]elete"):
        run_al(config, progress=False)
    (folder.path / name).write_bytes(whole)
    assert_same(run_al(config, progress=False), alone)


def test_cycles_cut_at_a_line_go_on(tmp_path, alone):
    "A cycle whose row is lost is done again (cold start: its network is not needed)."
    config = replace(SMALL, cold_start=True, out_dir=str(tmp_path))
    folder = run_part(config, 3)
    (folder.path / "cycles.csv").write_bytes(lines((folder.path / "cycles.csv").read_bytes(), 3))
    done = run_al(config, progress=False)
    assert_same(done, run_al(replace(config, out_dir=str(tmp_path / "alone")), progress=False))


class Code:
    "What runs when a pickle of it is loaded."

    def __reduce__(self):
        return os.system, (f"touch {os.environ['EVIDENCE']}",)


def test_checkpoint_with_code_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIDENCE", str(tmp_path / "evidence"))
    config = replace(SMALL, out_dir=str(tmp_path))
    folder = run_part(config, 3)
    torch.save({"weight": Code()}, folder.path / CHECKPOINT)
    with pytest.raises(ValueError, match="is damaged"):
        run_al(config, progress=False)
    np.savez(
        tmp_path / "data.npz", **{f"{a}_{p}": np.array([Code()], dtype=object) for a in "xy" for p in ("train", "test")}
    )
    with pytest.raises(ValueError, match="Cannot read .*data.npz"):
        load_dataset(str(tmp_path / "data.npz"))
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize("name", ["bo.json", "trials/0000.json"])
def test_damaged_search_is_seen(name, tmp_path):
    run = run_al(replace(SMALL, cold_start=True, out_dir=str(tmp_path)), progress=False)
    bo = BOConfig(run_dir=str(run.path), n_trials=2, n_folds=2)
    folder = run_bo(bo, progress=False)
    whole = (folder.path / name).read_bytes()
    (folder.path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{name} is damaged.*delete"):
        (run_bo(bo, progress=False), folder.trials)
    (folder.path / name).write_bytes(whole)
    assert run_bo(bo, progress=False).is_complete


@root_only
def test_full_disk_of_a_search(tmp_path):
    "On a disk of 300 kB. (A run on a full disk is in test_run_notebook.py.)"
    run = run_al(replace(SMALL, cold_start=True, out_dir=str(tmp_path)), progress=False)
    with mounted(tmp_path / "disk", "size=300k") as disk:
        bo = BOConfig(run_dir=str(run.path), n_trials=6, n_folds=3, out_dir=str(disk / "bo"))
        (disk / "ballast").write_bytes(b"0" * 250_000)
        with pytest.raises(Exception, match="free some space"):
            run_bo(bo, progress=False)
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        folder, alone = run_bo(bo, progress=False), run_bo(replace(bo, out_dir=str(tmp_path / "alone")), progress=False)
        pd.testing.assert_frame_equal(
            folder.table().drop(columns="seconds"), alone.table().drop(columns="seconds"), check_exact=True
        )


# ---- two at once ----


@root_only
def test_two_hosts_on_one_folder(tmp_path, alone):
    "A process on a machine of another name holds the folder; here it is refused, with its name. Then that one dies."
    config = replace(SMALL, out_dir=str(tmp_path))
    imports = "import time; from dal_nb.record import RunFolder"
    code = f"{imports}\nwith RunFolder({str(run_path(config))!r}).lock(): time.sleep(600)"
    there = subprocess.Popen(
        [
            "unshare",
            "--uts",
            "--mount",
            "--kill-child",
            "--fork",
            "sh",
            "-c",
            'hostname other-node; exec "$0" -c "$1"',
            sys.executable,
            code,
        ]
    )
    try:
        owner, end = run_path(config) / "owner.json", time.monotonic() + 60
        while not owner.exists() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.2)
        with pytest.raises(RuntimeError, match="in use by process .* on other-node"):
            run_al(config, progress=False)
    finally:
        there.kill()
        there.wait()
    time.sleep(0.5)
    assert_same(run_al(config, progress=False), alone)


# ---- the clock ----


def test_clock_going_backwards(tmp_path, monkeypatch, alone):
    now = [2e9]

    def backwards():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    folder = run_al(replace(SMALL, out_dir=str(tmp_path)), progress=False)
    assert_same(folder, alone)
    assert (folder.cycles[["train_seconds", "query_seconds"]] >= 0).all(axis=None)


# ---- the data ----


@pytest.fixture
def data(tmp_path) -> Path:
    digits = load_dataset("digits")
    np.savez(
        tmp_path / "mine.npz",
        x_train=digits.x_train[:300, 0],
        y_train=digits.y_train[:300],
        x_test=digits.x_test[:50, 0],
        y_test=digits.y_test[:50],
    )
    return tmp_path / "mine.npz"


def test_data_that_changes(data, tmp_path):
    config = replace(SMALL, dataset=str(data), out_dir=str(tmp_path / "changed"))
    alone = run_al(replace(config, out_dir=str(tmp_path / "alone")), progress=False)
    whole = data.read_bytes()

    def change():
        "While the run has it in memory: that does not disturb the run."
        arrays = dict(np.load(data))
        arrays["y_train"][7] = (arrays["y_train"][7] + 1) % 10
        np.savez(data, **arrays)

    assert_same(run_part(config, 2, then=change), alone)
    shutil.rmtree(tmp_path / "changed")
    data.write_bytes(whole)
    folder = run_part(config, 2)
    change()
    with pytest.raises(ValueError, match="data fingerprint: .* there, .* asked for"):
        run_al(config, progress=False)
    with pytest.raises(ValueError, match="is not the data set that .* was made with"):
        prepare_bo(BOConfig(run_dir=str(folder.path), budget=20))
    data.write_bytes(whole)
    assert_same(run_al(config, progress=False), alone)


def test_data_that_vanishes(data, tmp_path):
    config = replace(SMALL, dataset=str(data), out_dir=str(tmp_path / "runs"))
    alone = run_al(replace(config, out_dir=str(tmp_path / "alone")), progress=False)
    run_part(config, 2)
    data.rename(tmp_path / "elsewhere.npz")
    with pytest.raises(FileNotFoundError, match="There is no file .*mine.npz"):
        run_al(config, progress=False)
    (tmp_path / "elsewhere.npz").rename(data)
    assert_same(run_al(config, progress=False), alone)


def test_other_threads(tmp_path):
    "The number of threads of the first start is kept, by later starts and by searches."
    small = replace(SMALL, model="resnet18", width=8, epochs=2, budget=40, threads=2, cold_start=True)
    whole = run_al(replace(small, out_dir=tmp_path / "whole"), progress=False)
    one = run_al(replace(small, threads=1, out_dir=tmp_path / "one"), progress=False)
    assert not whole.cycles.test_nll.equals(one.cycles.test_nll)  # so it does matter
    begun = run_part(replace(small, out_dir=tmp_path / "begun"), cycles=1)
    later = replace(small, threads=0, out_dir=str(tmp_path / "begun"))
    imports = "from dal_nb.config import RunConfig; from dal_nb.loop import run_al"
    code = f"{imports}; run_al(RunConfig(**{asdict(later)!r}))"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    assert_same(begun, whole)
    scores = []
    for cpus in (1, 2):
        bo = BOConfig(str(whole.path), out_dir=str(tmp_path / f"bo{cpus}"), n_trials=1, n_folds=2, cpus_per_trial=cpus)
        scores.append([fold["nll"] for fold in run_bo(bo, progress=False).trials[0]["folds"]])
    assert scores[0] == scores[1]
