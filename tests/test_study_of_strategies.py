"""The studies of strategies have all of them, and each of their runs can begin."""

import numpy as np
import pytest

from dal_nb.config import make_config
from dal_nb.setup import prepare
from dal_nb.strategies.base import available_strategies
from dal_nb.studies.grid import load_study


@pytest.fixture
def features(tmp_path, monkeypatch):
    "A small file of features where the study expects it"
    rng = np.random.RandomState(0)
    y = {part: np.arange(n) % 5 for part, n in (("train", 1500), ("test", 50))}
    x = {part: (rng.randn(len(labels), 8) + labels[:, None]).astype("float32") for part, labels in y.items()}
    (tmp_path / "features").mkdir()
    path = tmp_path / "features" / "cifar10-efficientnet_lite0-pca256.npz"
    np.savez(path, **{f"{k}_{part}": v[part] for k, v in (("x", x), ("y", y)) for part in y})
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name, seeds", [("strategies", 10), ("strategies-features", 10)])
def test_a_study_has_all_strategies(name, seeds, features):
    "A new strategy goes to the end of the lists, so that the runs that there are keep their numbers"
    study = load_study(name)
    assert sorted(study.grid["strategy"]) == available_strategies()
    runs = study.experiments("al")
    assert len(runs) == len(available_strategies()) * 2 * seeds
    first = [make_config(**run.parameters) for run in runs if run.names["seed"] == 1 and run.names["hp"] == "HP 1"]
    for config in first:
        prepare(config)  # the posterior has the passes that the strategy needs
    same = {tuple(v for k, v in vars(config).items() if k not in ("strategy", "out_dir")) for config in first}
    assert len(same) == 1  # they differ in the strategy alone, so that results can be compared
