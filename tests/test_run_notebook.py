"""`nbs/run.ipynb` as a user calls it: every kind of data, every strategy, wrong names, and SIGKILL."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from dal_nb.config import make_config
from dal_nb.data import load_dataset
from dal_nb.loop import run_al
from dal_nb.record import RunFolder

NOTEBOOK = Path(__file__).resolve().parents[1] / "nbs" / "run.ipynb"
STRATEGIES = ("random", "entropy", "coreset", "badge")
CIFAR = Path(os.environ.get("DAL_NB_CIFAR", "/nonexistent"))  # folder of cifar10.npz and cifar100.npz
FASHION = Path(
    os.environ.get("DAL_NB_FASHION", "/usr/share/datasets/fashion-mnist")
)  # as Debian's dataset-fashion-mnist has it
SMALL = dict(model="mlp", width=4, epochs=3, warmup_epochs=1, n_init=20, acq_size=10, budget=40, subset_size=200)
CLOCK = ["train_seconds", "query_seconds", "peak_memory_mb"]


def papermill(out, *, check=True, **parameters):
    "Execute the run notebook in a process of its own."
    flags = itertools.chain.from_iterable(("-p", k, str(v)) for k, v in parameters.items())
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(out), "--no-progress-bar", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=out.parent, timeout=900)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    "Small data sets of every form, cut from scikit-learn's digits: name → parameters of a run."
    root, digits = tmp_path_factory.mktemp("data"), load_dataset("digits")
    x, y = digits.x_train[:400, 0].numpy(), digits.y_train[:400].numpy()
    xt, yt = digits.x_test[:100, 0].numpy(), digits.y_test[:100].numpy()
    np.savez(root / "keras.npz", x_train=x, y_train=y, x_test=xt, y_test=yt)
    np.savez(
        root / "medmnist.npz",
        train_images=x,
        train_labels=y[:, None],
        val_images=xt[:50],
        val_labels=yt[:50, None],
        test_images=xt[50:],
        test_labels=yt[50:, None],
    )
    np.savez(
        root / "features.npz",
        x_train=x.reshape(400, -1) / 255.0,
        y_train=y,
        x_test=xt.reshape(100, -1) / 255.0,
        y_test=yt,
    )
    from PIL import Image

    for part, images, labels in (("train", x, y), ("test", xt, yt)):
        for i, (image, label) in enumerate(zip(images, labels)):
            path = root / "folder" / part / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    forms = {name: dict(dataset=str(root / f"{name}.npz")) for name in ("keras", "medmnist", "features")}
    forms |= dict(folder=dict(dataset=str(root / "folder"), image_size=8), digits=dict(dataset="digits"))
    forms |= {name: dict(dataset=name, data_dir=str(CIFAR)) for name in ("cifar10", "cifar100")}
    return forms | dict(fashion_mnist=dict(dataset="fashion_mnist", data_dir=str(FASHION)))


def skip_missing(name):
    if name.startswith("cifar") and not (CIFAR / f"{name}.npz").exists():
        pytest.skip("no CIFAR: set DAL_NB_CIFAR to a folder of cifar10.npz and cifar100.npz")
    if name == "fashion_mnist" and not FASHION.exists():
        pytest.skip("no Fashion-MNIST: set DAL_NB_FASHION to the folder of its four files")


FORMS = ("digits", "keras", "medmnist", "features", "folder", "fashion_mnist", "cifar10", "cifar100")


@pytest.mark.parametrize("form", FORMS)
def test_every_strategy_on_every_data(form, data, tmp_path):
    skip_missing(form)
    for strategy in STRATEGIES:
        folder = run_al(make_config(strategy=strategy, out_dir=str(tmp_path), **SMALL, **data[form]), progress=False)
        assert folder.cycles.n_labeled.tolist() == [20, 30, 40] and set(folder.cycles.chosen_by[:-1]) == {strategy}


@pytest.mark.parametrize(
    "form, strategy",
    [("digits", s) for s in STRATEGIES]
    + [
        ("features", "badge"),
        ("folder", "coreset"),
        ("medmnist", "entropy"),
        ("fashion_mnist", "badge"),
        ("cifar100", "coreset"),
    ],
)
def test_papermill(form, strategy, data, tmp_path):
    skip_missing(form)
    parameters = {k: v for k, v in {**SMALL, **data[form]}.items() if k != "image_size"}
    papermill(tmp_path / "out.ipynb", strategy=strategy, **parameters)
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    pictures = sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
    assert pictures == (2 if form == "features" else 3)


def test_accuracy_rises_with_labels_on_cifar10(data, tmp_path):
    skip_missing("cifar10")
    papermill(
        tmp_path / "out.ipynb",
        strategy="badge",
        **data["cifar10"],
        width=8,
        epochs=10,
        n_init=100,
        acq_size=200,
        budget=500,
    )
    (record,) = tmp_path.rglob("cycles.csv")
    accuracy = pd.read_csv(record).test_accuracy
    assert accuracy.iloc[-1] > accuracy.iloc[0] and accuracy.iloc[-1] > 0.2, accuracy.tolist()


@pytest.mark.parametrize(
    "wrong, hint",
    [
        (dict(strategy="bagde"), "badge"),
        (dict(dataset="cifar_10"), "cifar10"),
        (dict(epoch=5), "epochs"),
        (dict(preset="publised"), "published"),
        (dict(lr="fast"), "lr must be a number"),
    ],
)
def test_wrong_names_fail_before_training(wrong, hint, tmp_path):
    result = papermill(tmp_path / "out.ipynb", check=False, **wrong)
    assert result.returncode == 1 and hint in result.stderr
    assert not list(tmp_path.rglob("cycles.csv"))


def test_own_strategy_and_model_by_module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom dal_nb.models import MLP\n"
        "def last(outputs, n, *, generator, labeled=None): return torch.arange(len(outputs))[-n:]\n"
        "def build(shape, n_classes, width): return MLP(64, n_classes, width)\n"
    )
    papermill(tmp_path / "out.ipynb", strategy="mine:last", **SMALL | dict(model="mine:build"))
    (record,) = tmp_path.rglob("cycles.csv")
    assert pd.read_csv(record).n_labeled.tolist() == [20, 30, 40]


KINDS = {
    "none": {},
    "laplace": {},
    "mc_dropout": dict(dropout=0.2),
    "ensemble": dict(members=2, epochs=6),
}


@pytest.mark.parametrize("posterior", KINDS)
def test_killed_papermill_goes_on(posterior, tmp_path):
    "SIGKILL of papermill in the middle; the same command ends with what an undisturbed run has."
    parameters = SMALL | dict(model="resnet18", epochs=12, budget=60, strategy="badge")
    parameters |= dict(posterior=posterior) | KINDS[posterior]
    alone = run_al(make_config(**parameters, out_dir=str(tmp_path / "alone")), progress=False)
    root = tmp_path / "killed"
    flags = itertools.chain.from_iterable(("-p", k, str(v)) for k, v in (parameters | dict(out_dir=root)).items())
    command = [sys.executable, "-m", "papermill", NOTEBOOK, tmp_path / "killed.ipynb", "--no-progress-bar", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(root.rglob("cycles.csv")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(3)  # the kernel notices that its parent is gone
    papermill(tmp_path / "killed.ipynb", out_dir=root, **parameters)
    killed = RunFolder(next(root.rglob("config.json")).parent)
    assert killed.config.posterior == posterior and len(killed.record["starts"]) == 2
    pd.testing.assert_frame_equal(alone.selected, killed.selected, check_exact=True)
    a, b = (folder.cycles.drop(columns=CLOCK) for folder in (alone, killed))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small tmpfs")
def test_full_disk_loses_nothing(tmp_path):
    "On a disk of 600 kB a run stops with an error that says what to do; with room again it goes on to the same end."
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    config = make_config(**SMALL | dict(budget=60, width=8), out_dir=str(disk / "runs"))
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"0" * 540_000)  # leaves room for one checkpoint, not for two
        with pytest.raises(OSError, match="free some space"):
            run_al(config, progress=False)
        done = len(RunFolder(next((disk / "runs").rglob("config.json")).parent).cycles)
        ballast.unlink()
        folder = run_al(config, progress=False)
        alone = run_al(make_config(**SMALL | dict(budget=60, width=8), out_dir=str(tmp_path / "alone")), progress=False)
        assert done < len(folder.cycles)
        pd.testing.assert_frame_equal(alone.selected, folder.selected, check_exact=True)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_config_names_where_the_number_was_made(tmp_path):
    folder = run_al(make_config(**SMALL, out_dir=str(tmp_path)), progress=False)
    record = json.loads((folder.path / "config.json").read_text())
    assert {"python", "packages", "processor", "threads", "device", "host"} <= set(record["starts"][0])
    assert len(record["data"]["fingerprint"]) == 16 and record["config"]["model"] == "mlp"
