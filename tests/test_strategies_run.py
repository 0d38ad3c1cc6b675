"""Every strategy by its name alone, in small real runs: images and vectors, three kinds of network."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from test_faults import assert_same, run_part

from dal_nb.config import RunConfig
from dal_nb.loop import run_al
from dal_nb.strategies.base import available_strategies, get_strategy

SMALL = RunConfig(
    width=4, epochs=3, warmup_epochs=1, batch_size=8, n_init=20, acq_size=5, budget=34, subset_size=60, threads=1
)  # three acquisitions, the last one of four labels
KINDS = {
    "digits, mlp": dict(model="mlp"),
    "digits, resnet18": dict(model="resnet18", epochs=2),
    "features, linear": dict(model="linear", dataset="features.npz"),
    "features, mlp": dict(model="mlp", dataset="features.npz"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "With a file of float features: the digits by their principal components."
    path = tmp_path_factory.mktemp("features")
    x, y = load_digits(return_X_y=True)
    x, y = x[:600], y[:600]
    z = PCA(16, random_state=0).fit(x[:400]).transform(x).astype(np.float32)
    np.savez(path / "features.npz", x_train=z[:400], y_train=y[:400], x_test=z[400:], y_test=y[400:])
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", available_strategies())
def test_a_run_reaches_its_budget_and_survives_a_kill(strategy, kind, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    config = replace(SMALL, strategy=strategy, **KINDS[kind], out_dir=str(tmp_path / "alone"))
    run = run_al(config, progress=False)
    assert run.is_complete
    assert run.cycles.n_labeled.tolist() == [20, 25, 30, 34]
    assert run.cycles.chosen_by.tolist() == [strategy] * 3 + ["-"]
    assert np.isfinite(run.cycles.test_nll).all()
    assert len(run.selected) == run.selected["index"].nunique() == 34
    asks_for_passes = "passes" in get_strategy(strategy).needs
    assert run.record["config"]["posterior"] == ("laplace" if asks_for_passes else "none")
    killed = replace(config, out_dir=str(tmp_path / "killed"))
    assert len(run_part(killed, cycles=1).cycles) == 1
    assert_same(run_al(killed, progress=False), run)
