"""Records outlive versions: of every schema so far, a run that was killed goes on here, and ends as it would have
ended there.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dal_nb.config import SCHEMA, run_path
from dal_nb.environment import environment
from dal_nb.loop import run_al
from dal_nb.record import RunFolder
from dal_nb.results.frames import read_runs

RECORDS = Path(__file__).with_name("records")
CASES = sorted(RECORDS.glob("schema*/*"))
CLOCK = ["train_seconds", "query_seconds", "peak_memory_mb"]


def names(case):
    return f"{case.parent.name}-{case.name}"


def test_every_schema_has_a_record():
    assert {case.parent.name for case in CASES} == {f"schema{n}" for n in range(1, SCHEMA + 1)}


@pytest.mark.parametrize("case", CASES, ids=names)
def test_killed_run_goes_on(case, tmp_path):
    killed, whole = RunFolder(case / "killed"), RunFolder(case / "whole")
    config = replace(killed.config, out_dir=str(tmp_path), data_dir=str(tmp_path))
    folder = RunFolder(run_path(config))
    shutil.copytree(killed.path, folder.path)
    before = json.loads((folder.path / "config.json").read_text())
    run_al(config, progress=False)
    after = json.loads((folder.path / "config.json").read_text())
    assert folder.is_complete
    assert {**after, "starts": []} == {**before, "starts": []}  # the record is as it was written, with one more start
    assert len(after["starts"]) == len(before["starts"]) + 1
    assert folder.cycles.iloc[:3].equals(killed.cycles)
    if environment()["processor"] != before["starts"][0]["processor"]:
        pytest.skip("the bits are those of another processor")
    assert (folder.path / "selected.csv").read_bytes() == (whole.path / "selected.csv").read_bytes()
    there, here = (f.cycles.drop(columns=CLOCK) for f in (whole, folder))
    pd.testing.assert_frame_equal(here, there, check_exact=True)


def test_a_run_begun_without_predictions_goes_on_with_them(tmp_path):
    killed = RunFolder(CASES[0] / "killed")
    config = replace(killed.config, out_dir=str(tmp_path), data_dir=str(tmp_path), predictions=True)
    folder = RunFolder(run_path(config))
    shutil.copytree(killed.path, folder.path)
    run_al(config, progress=False)
    assert len(killed.cycles) == 3 and folder.predictions.cycle_T.tolist() == [3, 4]
    right = folder.predictions.classes_T_N == folder.predictions.truth_N
    assert right.mean(1).tolist() == folder.cycles.test_accuracy[3:].tolist()


def test_all_schemas_side_by_side(tmp_path):
    for case in CASES:
        shutil.copytree(case / "whole", tmp_path / names(case))
    runs = read_runs(tmp_path).runs
    assert len(runs) == len(CASES) and runs.complete.all() and (runs.problem == "").all()
    assert not runs.optimizer.isna().any() and set(runs.optimizer) == {"sgd"}
