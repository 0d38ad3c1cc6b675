"""Make the records of the present schema, once, when it is new: `python tests/records/make.py`. Those of earlier schemas are never made again."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from dal_nb.config import SCHEMA, RunConfig, run_path
from dal_nb.files import write_json
from dal_nb.loop import run_al
from dal_nb.studies.publish import PRIVATE

SMALL = RunConfig(model="mlp", width=4, epochs=3, warmup_epochs=1, n_init=20, acq_size=10, budget=60, subset_size=200)
CASES = dict(
    cold=replace(SMALL, strategy="badge"),
    warm=replace(SMALL, strategy="entropy", cold_start=False),
    ensemble=replace(SMALL, strategy="entropy", cold_start=False, posterior="ensemble", members=2),
)


class Killed(Exception):
    "Raised after the third cycle."


def die(row):
    if row["cycle"] == 2:
        raise Killed


for name, config in CASES.items():
    for part, on_cycle in dict(killed=die, whole=None).items():
        there = Path(__file__).with_name(f"schema{SCHEMA}") / name / part
        with tempfile.TemporaryDirectory() as root:
            at = replace(config, out_dir=root)
            try:
                run_al(at, progress=False, on_cycle=on_cycle)
            except Killed:
                pass
            folder = run_path(at)
            there.mkdir(parents=True)
            for path in folder.glob("*.csv"):
                shutil.copy(path, there)
            if part == "killed":
                for path in folder.glob("*.pt"):
                    shutil.copy(path, there)
            record = json.loads((folder / "config.json").read_text())
            record["config"]["out_dir"] = "runs"
            record["starts"] = [{k: v for k, v in start.items() if k not in PRIVATE} for start in record["starts"]]
            write_json(there / "config.json", record)
