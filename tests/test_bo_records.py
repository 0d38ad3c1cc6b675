"""Searches that an earlier version recorded, and what a search does with its own records.

`records/half_done_search` was made by the version before records had a schema: `run` is an active-learning run,
`half` a search on its labels that was killed in the second
fold of its sixth trial, `whole` what the same search came to when nobody disturbed it.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dal_nb.bo.record import BOConfig, BOFolder, prepare_bo
from dal_nb.bo.search import run_bo
from dal_nb.config import SCHEMA, RunConfig
from dal_nb.environment import environment
from dal_nb.files import read_csv, write_json
from dal_nb.loop import run_al

OLD = Path(__file__).parent / "records" / "half_done_search"
DIGITS = Path(__file__).parents[1] / "nbs" / "records" / "digits"


def without_clock(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["seconds"])


def test_old_search_goes_on(tmp_path):
    "A search that was begun by an earlier version ends under this one as it would have there."
    shutil.copytree(OLD / "run", tmp_path / "run")
    shutil.copytree(OLD / "half", tmp_path / "half")
    began = BOFolder(tmp_path / "half")
    first = [t for t in began.trials if t["state"] != "running"]
    assert "schema" not in began.record and len(first) == 5
    folder = run_bo(
        BOConfig(run_dir=str(tmp_path / "run"), n_trials=8, n_folds=3, out_dir=str(tmp_path / "half")), progress=False
    )
    whole = json.loads((OLD / "whole" / "bo.json").read_text())
    expected = read_csv(OLD / "whole" / "trials.csv")
    table = read_csv(folder.path / "trials.csv")
    assert folder.trials[:5] == first and len(folder.record["starts"]) == 2
    assert [t["hps"] for t in folder.trials] == expected[["lr", "weight_decay"]].to_dict(
        "records"
    )  # the sampler's own draws
    assert "schema" not in folder.record and folder.record["task"] == whole["task"]
    there, here = whole["starts"][0], environment()
    if (there["processor"], there["packages"]["torch"]) == (here["processor"], here["packages"]["torch"]):
        pd.testing.assert_frame_equal(without_clock(table), without_clock(expected), check_exact=True)
        for part in ("best", "al", "states"):
            assert folder.record[part] == whole[part], part
        for part in ("images_unpruned", "folds", "final_images"):
            assert folder.record["cost"][part] == whole["cost"][part], part


@pytest.mark.parametrize("place", [OLD / "whole", DIGITS], ids=["before schemas", "the study digits"])
def test_searches_on_record_are_complete(place):
    "Of the first version, and of the one that made the records of the study."
    found = sorted(place.rglob("bo.json"))
    if not found:
        pytest.skip("no records of a study here")
    for path in found:
        folder = BOFolder(path.parent)
        assert folder.is_complete and ("schema" in folder.record) == (place == DIGITS)
        assert len(read_csv(path.parent / "trials.csv")) == folder.record["config"]["n_trials"]


def test_new_search_has_a_schema_and_its_table_is_whole(tmp_path):
    "The process died between the record of the last trial and the table: the table comes from the records."
    run = run_al(RunConfig(model="mlp", width=4, epochs=3, budget=40, out_dir=str(tmp_path)), progress=False)
    bo = BOConfig(run_dir=str(run.path), n_trials=3, n_folds=2)
    folder = run_bo(bo, progress=False)
    assert folder.record["schema"] == SCHEMA
    whole, record = (folder.path / "trials.csv").read_bytes(), folder.record
    (folder.path / "trials.csv").write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    write_json(folder.path / "bo.json", {**record, "state": "running"})
    run_bo(bo, progress=False)
    assert (folder.path / "trials.csv").read_bytes() == whole and folder.record["best"] == record["best"]


def test_own_recipe_is_compared(tmp_path):
    "A search without a run: what its first record did not say has the value of that time."
    run = run_al(RunConfig(model="mlp", width=4, epochs=3, budget=40, out_dir=str(tmp_path)), progress=False)
    run.selected[["index"]].to_csv(tmp_path / "labels.csv", index=False)
    bo = BOConfig(indices=str(tmp_path / "labels.csv"), out_dir=str(tmp_path / "bo"), n_trials=1, n_folds=2)
    setup = prepare_bo(bo, RunConfig(model="mlp", width=4, epochs=3))
    assert setup.cv.config.posterior == "none"
    folder = run_bo(bo, RunConfig(model="mlp", width=4, epochs=3), progress=False)
    record = folder.record
    for name in ("posterior", "dropout", "schedule"):
        del record["task"]["recipe"][name]
    write_json(folder.path / "bo.json", record)
    run_bo(bo, RunConfig(model="mlp", width=4, epochs=3), progress=False)
    with pytest.raises(ValueError, match="recipe dropout: 0.0 there, 0.5 asked for"):
        run_bo(bo, RunConfig(model="mlp", width=4, epochs=3, dropout=0.5), progress=False)
