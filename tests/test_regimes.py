"""Runs that tune by themselves: killed at any moment, resumed, equal; asked for on the command line; done by a study.

The random kills of every kind take minutes and run only with DAL_NB_SLOW=1.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from dal_nb.bo.record import BOFolder
from dal_nb.config import RunConfig, run_path, tuned_budgets
from dal_nb.loop import run_al
from dal_nb.record import RunFolder
from dal_nb.results.frames import read_runs
from dal_nb.studies.cross import CrossFolder
from dal_nb.studies.grid import Study
from dal_nb.studies.plan import spent
from dal_nb.studies.run_here import is_done, run_here

ROOT = Path(__file__).resolve().parents[1]
CLOCK = ["train_seconds", "query_seconds", "peak_memory_mb"]
SMALL = RunConfig(
    strategy="margin",
    model="mlp",
    width=4,
    epochs=6,
    warmup_epochs=1,
    n_init=20,
    acq_size=10,
    budget=40,
    subset_size=200,
    tune_trials=4,
    tune_folds=3,
)
KINDS = {
    "start": dict(tune_at="start"),
    "doubling": dict(tune_at="doubling"),
    "every": dict(tune_at="every", tune_trials=3),
    "end": dict(tune_at="end"),
    "list": dict(tune_at="30,40"),
    "sample": dict(tune_at="every", tune_val=0.2, tune_trials=3),
    "ensemble": dict(tune_at="end", posterior="ensemble", members=2, tune_trials=2),
}
slow = pytest.mark.skipif("DAL_NB_SLOW" not in os.environ, reason="takes minutes: set DAL_NB_SLOW=1")


def without_seconds(bo: BOFolder) -> pd.DataFrame:
    return bo.table().drop(columns="seconds")


def assert_same(a: RunFolder, b: RunFolder):
    "Equal to the last bit, the searches too, apart from the clock."
    pd.testing.assert_frame_equal(a.selected, b.selected, check_exact=True)
    pd.testing.assert_frame_equal(a.cycles.drop(columns=CLOCK), b.cycles.drop(columns=CLOCK), check_exact=True)
    assert a.config.tune_at == b.config.tune_at
    for n in tuned_budgets(a.config):
        one, other = (BOFolder(folder.path / f"bo{n}") for folder in (a, b))
        pd.testing.assert_frame_equal(without_seconds(one), without_seconds(other), check_exact=True)
        assert one.record["best"] == other.record["best"]


def start(config: RunConfig) -> subprocess.Popen:
    imports = "from dal_nb.config import RunConfig; from dal_nb.loop import run_al"
    code = f"{imports}; run_al(RunConfig(**{asdict(config)!r}), progress=False)"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def run_and_kill(config: RunConfig, when) -> bool:
    "Start a run and kill it with SIGKILL as soon as `when` holds; was it killed?"
    process = start(config)
    while process.poll() is None and not when():
        time.sleep(0.01)
    process.kill()
    errors = process.communicate(timeout=300)[1]
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


def test_killed_in_and_between_searches(tmp_path):
    "In the first search, between it and its cycle, after the cycle, in the second search."
    config = replace(SMALL, tune_at="doubling", out_dir=str(tmp_path / "alone"))
    alone = run_al(config, progress=False)
    config = replace(config, out_dir=str(tmp_path / "killed"))
    folder = RunFolder(run_path(config))
    moments = [
        lambda: (folder.path / "bo20/trials/0002.json").exists(),
        lambda: BOFolder(folder.path / "bo20").is_complete,
        lambda: len(folder.cycles) == 1,
        lambda: (folder.path / "bo40/trials/0001.json").exists(),
    ]
    killed = [run_and_kill(config, moment) for moment in moments]
    assert killed[0] and sum(killed) >= 3
    run_al(config, progress=False)
    assert_same(alone, folder)
    first = BOFolder(folder.path / "bo20").record
    assert alone.cycles.hps_from.tolist() == ["bo20", "bo20", "bo40"] and len(first["starts"]) >= 2


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_killed_at_random(kind, tmp_path):
    config = replace(SMALL, **KINDS[kind], out_dir=str(tmp_path / "alone"))
    begin = time.monotonic()
    assert start(config).wait(timeout=600) == 0
    whole = time.monotonic() - begin
    rng = random.Random(kind)
    killed = replace(config, out_dir=str(tmp_path / "killed"))
    kills = 0
    for _ in range(5):
        until = time.monotonic() + rng.uniform(0.2, 0.9) * whole
        kills += run_and_kill(killed, lambda until=until: time.monotonic() > until)
    run_al(killed, progress=False)
    assert kills >= 1
    assert_same(RunFolder(run_path(config)), RunFolder(run_path(killed)))


def test_on_the_command_line(tmp_path):
    "papermill hands on a number: -p tune_at 40."
    parameters = dict(model="linear", epochs=3, warmup_epochs=1, budget=40, tune_at=40, tune_trials=2, tune_folds=2)
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(ROOT / "nbs/run.ipynb"), str(out), "--no-progress-bar", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "images_tuning" in out.read_text()
    (cycles,) = (tmp_path / "runs").rglob("cycles.csv")
    assert RunFolder(cycles.parent).cycles.hps_from.tolist() == ["own", "bo40"]


def test_a_study_of_regimes_with_all_stages(tmp_path):
    run = dict(dataset="digits", model="mlp", width=4, epochs=6, warmup_epochs=1, acq_size=20, budget=60)
    regimes = {
        "never": {},
        "end": dict(tune_at="end", cost="4x"),
        "sample": dict(tune_at="60", tune_val=0.2, cost="4x"),
    }
    pairs = {"HP 1": dict(lr=0.1, weight_decay=0.005), "HP 3": dict(lr=0.003, weight_decay=0.05)}
    grid = dict(strategy=["random"], regime=regimes, hp=pairs, seed=[1])
    points = dict(lr=[0.01, 0.1], weight_decay=[0.001, 0.05])
    landscape = dict(budget=[40], regime=["never"], hp=["HP 1"], points=points, folds=2)
    study = Study("regimes", run, {}, grid, root=str(tmp_path), cross=dict(budget=[60]), landscape=landscape)
    run_here(study, progress=False)
    assert all(is_done(e) for stage in ("al", "cross", "landscape") for e in study.experiments(stage))
    records = read_runs(tmp_path)  # searches of a run are a part of it, and labels bought first are labels
    assert len(records.runs) == 6 and (records.runs.problem == "").all() and records.runs.complete.all()
    assert len(records.bo) == 0
    costs = spent(study)
    assert (costs.images_training + costs.images_tuning == costs.planned).all()
    for crossing in study.experiments("cross"):  # the diagonal is the run itself
        rows = {row["name"]: row for row in CrossFolder(crossing.folder).rows}
        last = RunFolder(crossing.folder.parent).cycles.iloc[-1]
        if crossing.names["regime"] == "never":
            assert rows[crossing.names["hp"]]["test_accuracy"] == last.test_accuracy
    (judged,) = study.experiments("landscape")
    assert [len(row["cv_right"]) for row in CrossFolder(judged.folder).rows] == [40] * 4
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    run_here(study, progress=False)
    assert {path: path.read_bytes() for path in files} == before
