"""What a GPU must not change: whole runs there, killed, resumed, and beside runs on the CPU; strategies on its tensors.
Skipped where there is none.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dal_nb.config import RunConfig
from dal_nb.loop import run_al
from dal_nb.record import RunFolder
from dal_nb.strategies.base import Outputs, available_strategies, get_strategy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CLOCK = ["train_seconds", "query_seconds", "peak_memory_mb"]
IMAGES = RunConfig(
    model="resnet18", width=8, epochs=4, warmup_epochs=1, n_init=100, acq_size=50, budget=300, subset_size=500,
    strategy="badge", cold_start=False, device="cuda",
)  # warm start needs the checkpoint, too
PASSES = dict(strategy="bald", posterior="mc_dropout", dropout=0.2)


def assert_same(a: RunFolder, b: RunFolder):
    pd.testing.assert_frame_equal(a.selected, b.selected, check_exact=True)
    pd.testing.assert_frame_equal(a.cycles.drop(columns=CLOCK), b.cycles.drop(columns=CLOCK), check_exact=True)


def start(config: RunConfig) -> subprocess.Popen:
    code = f"from dal_nb.config import RunConfig\nfrom dal_nb.loop import run_al\nrun_al({config!r}, progress=False)"
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("fields", [{}, dict(precision="bf16"), PASSES], ids=["fp32", "bf16", "passes"])
def test_a_killed_run_ends_at_the_same_bits(fields, tmp_path):
    config = replace(IMAGES, **fields, threads=1)
    alone = run_al(replace(config, out_dir=str(tmp_path / "alone")), progress=False)
    assert alone.record["starts"][0]["gpu"]
    assert_same(run_al(replace(config, out_dir=str(tmp_path / "again")), progress=False), alone)
    killed = replace(config, out_dir=str(tmp_path / "killed"))
    process = start(killed)
    while process.poll() is None and not list(tmp_path.glob("killed/**/cycles.csv")):
        time.sleep(0.01)
    time.sleep(0.1)  # in the second cycle's training
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = run_al(killed, progress=False)
    assert 1 < len(folder.record["starts"]) and folder.is_complete
    assert_same(folder, alone)


def test_a_larger_budget_goes_on_at_the_same_bits(tmp_path):
    alone = run_al(replace(IMAGES, out_dir=str(tmp_path / "alone")), progress=False)
    smaller = replace(IMAGES, out_dir=str(tmp_path / "extended"), budget=200)
    run_al(smaller, progress=False)
    assert_same(run_al(replace(smaller, budget=300), progress=False), alone)


@pytest.mark.parametrize("model, width", [("mlp", 16), ("resnet18", 4)])
def test_accuracies_are_those_of_the_cpu(model, width, tmp_path):
    "The same seeds: the same first labels and weights. Rounding leads them apart, as another seed does."
    config = RunConfig(model=model, width=width, epochs=20, strategy="random", threads=1, budget=100, acq_size=80)
    found = {}
    for device in ("cpu", "cuda"):
        runs = [
            run_al(replace(config, device=device, seed=seed, out_dir=str(tmp_path / device)), progress=False)
            for seed in range(1, 9)
        ]
        found[device] = np.array([run.cycles.test_accuracy for run in runs])
    difference = (found["cuda"] - found["cpu"])[:, -1]
    error = difference.std(ddof=1) / len(difference) ** 0.5
    spread = found["cpu"][:, -1].std(ddof=1)
    print(f"{model}: {difference.mean():+.4f} ± {error:.4f}, seeds ± {spread:.4f}")
    assert abs(difference.mean()) < 4 * error + 0.002
    assert difference.std(ddof=1) < 2 * spread + 0.002


def outputs(n, n_labeled, device, dtype=torch.float64, C=5, D=16, S=10):
    "All that a strategy may ask for, made on the CPU: with clusters, so that distances differ."
    rng = torch.Generator().manual_seed(0)
    centers = torch.randn(C, D, generator=rng, dtype=dtype)
    head = torch.randn(C, D, generator=rng, dtype=dtype), torch.randn(C, generator=rng, dtype=dtype)

    def draw(n):
        labels = torch.randint(C, (n,), generator=rng)
        features = (torch.randn(n, D, generator=rng, dtype=dtype) + centers[labels]).relu()
        logits = features @ head[0].T + head[1]
        passes = logits + torch.randn(S, n, C, generator=rng, dtype=dtype)
        embedding = torch.randn(n, D, generator=rng, dtype=dtype) + centers[labels]
        parts = (logits, features, passes, labels, *head, embedding)
        return Outputs(*(x.to(device) for x in parts))

    return draw(n), draw(n_labeled)


@pytest.mark.parametrize("strategy", available_strategies())
def test_a_strategy_chooses_as_on_the_cpu(strategy):
    "In double precision, where rounding decides no choice."
    n = 10 if strategy == "batch_bald" else 40
    picks = []
    for device in ("cpu", "cuda"):
        candidates, labeled = outputs(600, 50, device)
        generator = torch.Generator().manual_seed(1)
        picks.append(get_strategy(strategy)(candidates, n, generator=generator, labeled=labeled).tolist())
    assert picks[0] == picks[1]


@pytest.mark.parametrize("strategy", available_strategies())
def test_a_strategy_runs_on_the_gpu(strategy, tmp_path):
    config = RunConfig(
        width=4, epochs=3, warmup_epochs=1, batch_size=8, n_init=20, acq_size=5, budget=30, subset_size=60,
        strategy=strategy, device="cuda", out_dir=str(tmp_path), threads=1,
    )
    run = run_al(config, progress=False)
    assert run.cycles.chosen_by.tolist() == [strategy] * 2 + ["-"]
    assert run.record["starts"][0]["device"].startswith("cuda")
