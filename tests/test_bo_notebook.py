"""`nbs/bo.ipynb` as a user calls it: without parameters, with a wrong budget, with a Gaussian process, and on labels of real CIFAR-10 images."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from dal_nb.bo.record import BOFolder
from dal_nb.config import RunConfig
from dal_nb.loop import run_al

NOTEBOOK = Path(__file__).resolve().parents[1] / "nbs" / "bo.ipynb"
CIFAR = Path(os.environ.get("DAL_NB_CIFAR", "/nonexistent")) / "cifar10.npz"


def papermill(out, **parameters):
    "Execute the BO notebook in a process of its own: its exit code, its stderr, all outputs of its cells."
    flags = itertools.chain.from_iterable(("-p", k, str(v)) for k, v in parameters.items())
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(out), "--no-progress-bar", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=out.parent, timeout=900)
    return result.returncode, result.stderr, [o for c in nbformat.read(out, 4).cells for o in c.get("outputs", [])]


def assert_quiet(stderr, outputs):
    "Neither the notebook nor the terminal shows a line of a library's."
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    for word in ("Warning:", "Missing packages", "ipywidgets", "ray.init", "Traceback"):
        assert word not in stderr, stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "The folder of a small run on digits, with 20, 40 and 60 labels."
    config = RunConfig(
        strategy="entropy",
        model="mlp",
        width=4,
        epochs=10,
        lr=0.003,
        budget=60,
        out_dir=str(tmp_path_factory.mktemp("runs")),
    )
    return run_al(config, progress=False).path


def test_without_parameters(tmp_path):
    "A run is made, and a better setting is found for it."
    code, stderr, outputs = papermill(tmp_path / "out.ipynb")
    assert code == 0, stderr[-3000:]
    assert_quiet(stderr, outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 4
    assert any("BO - AL" in o.get("data", {}).get("text/plain", "") for o in outputs)
    (file,) = tmp_path.rglob("bo.json")
    record = json.loads(file.read_text())
    assert record["best"]["test"]["test_accuracy"] > record["al"]["test"]["test_accuracy"]


def test_wrong_budget_names_the_budgets(run, tmp_path):
    code, stderr, _ = papermill(tmp_path / "out.ipynb", run_dir=run, budget=50)
    assert code == 1 and "has no budget of 50 labels; it has 20, 40, 60." in stderr
    assert not (run / "bo50").exists()


def test_wrong_space_shows_the_form(run, tmp_path):
    code, stderr, _ = papermill(tmp_path / "out.ipynb", run_dir=run, budget=40, space="lr")
    assert (
        code == 1
        and 'space must be a dict as in {"lr": ["log", 1e-05, 0.1]' in stderr
        and "['choice', a, b, …], got 'lr'" in stderr
    )
    code, stderr, _ = papermill(
        tmp_path / "out.ipynb", run_dir=run, budget=40, space='{"learning_rate": ["log", 1e-5, 0.1]}'
    )
    assert code == 1 and "Unknown hyperparameter 'learning_rate'. Did you mean 'lr'?" in stderr
    assert not (run / "bo40").exists()


def test_gaussian_process_and_own_space(run, tmp_path):
    "Past the GP's ten random trials."
    parameters = dict(
        run_dir=run,
        budget=40,
        n_trials=13,
        n_folds=2,
        sampler="gp",
        space='{"lr": ["log", 0.001, 1], "epochs": ["linear", 3, 10]}',
    )
    code, stderr, outputs = papermill(tmp_path / "out.ipynb", **parameters)
    assert code == 0, stderr[-3000:]
    assert_quiet(stderr, outputs)
    folder = BOFolder(run / "bo40")
    assert folder.record["config"]["sampler"] == "gp" and len(folder.trials) == 13
    for t in folder.trials:
        assert 0.001 <= t["hps"]["lr"] <= 1 and t["hps"]["epochs"] in range(3, 11)


@pytest.mark.skipif(not CIFAR.exists(), reason="no CIFAR-10: set DAL_NB_CIFAR to a folder of cifar10.npz")
def test_repairs_a_collapsed_setting_on_cifar10(tmp_path):
    """The study's HP 4 (lr 0.1) with a decay for which lr x weight decay x steps is 3, as this run has 300 steps and the study's have 25,000: the network collapses.
    The search finds a setting that does not, on the same labels."""
    with np.load(CIFAR) as cifar:  # real images, fewer of them
        rng = np.random.default_rng(0)
        train, test = (rng.permutation(len(cifar[f"y_{part}"]))[:n] for part, n in (("train", 4000), ("test", 2000)))
        np.savez(
            tmp_path / "cifar.npz",
            **{f"{a}_train": cifar[f"{a}_train"][train] for a in "xy"},
            **{f"{a}_test": cifar[f"{a}_test"][test] for a in "xy"},
        )
    config = RunConfig(
        strategy="entropy",
        dataset=str(tmp_path / "cifar.npz"),
        model="resnet18",
        width=8,
        augment="crop_flip",
        epochs=12,
        batch_size=8,
        lr=0.1,
        weight_decay=0.1,
        n_init=100,
        acq_size=100,
        budget=200,
        out_dir=str(tmp_path / "runs"),
    )
    path = run_al(config, progress=False).path
    code, stderr, _ = papermill(tmp_path / "out.ipynb", run_dir=path, budget=200, n_trials=6, n_folds=2)
    assert code == 0, stderr[-3000:]
    record = BOFolder(path / "bo200").record
    al, bo = (record[k]["test"]["test_accuracy"] for k in ("al", "best"))
    assert al < 0.15 < 0.18 < bo, (al, record["best"])
