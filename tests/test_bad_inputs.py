"""What people give by mistake: parameters, files, folders, models, strategies, searches, studies, records. Each is
refused before any work, with a message that names what is wrong and says what would be right.

A case is a name, what is done, and words of the message: of the thing, and of the remedy.
"""

import io
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from dal_nb import loop, posterior, tables, training
from dal_nb.bo import folds
from dal_nb.bo import search as bo_search
from dal_nb.bo.record import BOFolder, make_bo_config
from dal_nb.bo.search import engine, run_bo
from dal_nb.config import make_config, run_path
from dal_nb.files import write_csv
from dal_nb.loop import run_al
from dal_nb.models import MLP
from dal_nb.record import RunFolder
from dal_nb.results.frames import read_runs
from dal_nb.setup import prepare
from dal_nb.slurm import status, submit
from dal_nb.strategies.contract import Strategy
from dal_nb.strategies.contract_test import check_strategy
from dal_nb.strategies.needs import NEEDS, Need, resolve_needs
from dal_nb.studies import __main__ as studies
from dal_nb.studies.grid import load_study

ME = __name__  # models and strategies of one's own are named "test_bad_inputs:name"
SMALL = dict(model="mlp", width=4, epochs=2, warmup_epochs=1, n_init=20, acq_size=10, budget=40, subset_size=100)
GPU = torch.cuda.is_available()


@dataclass
class Case:
    name: str
    make: Callable  # folder → function without arguments that must be refused; what it makes before is not part of it
    words: tuple[str, ...]  # in the message: what is wrong, what would be right
    error: type = ValueError


CASES: list[Case] = []


def case(name, make, *words, error=ValueError):
    assert len(words) >= 2, f"{name}: words of the thing, and words of the remedy"
    CASES.append(Case(name, make, words, error))


def made(values, folder):
    "The parameters; those that are functions are made in the folder first."
    return {name: value(folder) if callable(value) else value for name, value in values.items()}


def run(**parameters):
    "A run with these parameters."

    def make(folder):
        given = {**SMALL, "out_dir": str(folder / "runs"), **made(parameters, folder)}
        return lambda: run_al(make_config(**given), progress=False)

    return make


# --- parameters of a run ---------------------------------------------------------------------------------------------

case("a misspelt parameter", run(stratgy="badge"), "Unknown parameter 'stratgy'", "Did you mean 'strategy'")
case("another's name for a parameter", run(momentun=0.9), "'momentun'", "Did you mean 'momentum'")
case("a misspelt preset", run(preset="publishd"), "preset 'publishd'", "Did you mean 'published'")
for field in ("width", "epochs", "batch_size", "n_init", "acq_size", "image_size", "posterior_samples", "members"):
    case(f"{field} 0", run(**{field: 0}), field, "at least 1, got 0")
for field in ("weight_decay", "warmup_epochs", "subset_size", "seed"):
    case(f"{field} -1", run(**{field: -1}), field, "0 or more", "got -1")
for field in ("val_fraction", "momentum", "dropout", "label_smoothing"):
    case(f"{field} 1", run(**{field: 1}), field, "must lie in [0, 1)", "got 1.0")
for value in (0, -0.1, float("inf")):
    case(f"lr {value}", run(lr=value), "lr must be", "positive and finite")
case("lr NaN", run(lr=float("nan")), "lr must be", "a number, got nan")
case("an infinite weight decay", run(weight_decay=float("inf")), "weight_decay must be", "finite, got inf")
case("half an epoch", run(epochs=2.5), "epochs must be", "a whole number, got 2.5")
case("a number as a text", run(epochs="many"), "epochs must be", "a whole number, got 'many'")
case("a rate as a text", run(lr="fast"), "lr must be", "a number, got 'fast'")
case("a rate as a list", run(lr=[0.1]), "lr must be", "a number, got [0.1]")
case("a truth as a rate", run(lr=True), "lr must be", "a number, got True")
case("yes for True", run(cold_start="yes"), "cold_start must be", "True or False, got 'yes'")
case("a number for a name", run(strategy=3), "strategy must be", "a text, got 3")
case("a seed that is a fraction", run(seed=1.5), "seed must be", "a whole number, got 1.5")
case("a seed that is too large", run(seed=2**63), "seed must be", "at most 9223372036854775807")
case("a large seed as a float", run(seed=2.0**60), "seed must be", "exact")
case("a budget below n_init", run(budget=10), "budget must be", "at least n_init (20), got 10")
case("a budget above the pool", run(budget=5000), "budget must be", "at most the 1167 examples of the pool")
case("warm-up to the end", run(warmup_epochs=2), "warmup_epochs must be", "below epochs (2)")
case("a subset below acq_size", run(subset_size=5), "subset_size must be", "0 (all) or at least acq_size (10)")
case("nesterov without momentum", run(nesterov=True, momentum=0), "nesterov", "needs a momentum above 0")
case("an ensemble of one", run(posterior="ensemble", members=1), "ensemble", "at least 2 members, got 1")
case("dropout passes without dropout", run(posterior="mc_dropout"), "mc_dropout", "needs a dropout rate above 0")
case("misspelt augmentation", run(augment="flip"), "Unknown augment 'flip'", "crop_flip")
case("mirrored digits", run(augment="crop_flip"), "digits are never flipped", "Use 'crop' or 'none'")
case("a misspelt posterior", run(posterior="laplac"), "posterior 'laplac'", "Did you mean 'laplace'")
case("an unknown init", run(init="first"), "Unknown init 'first'", "balanced, random")
case("init balanced with few labels", run(init="balanced", n_init=5), "init='balanced'", "n_init of at least 10")
case("an unknown precision", run(precision="fp16"), "precision 'fp16'", "Did you mean 'bf16'")
case("TF32 on a CPU", run(precision="tf32", device="cpu"), "precision='tf32'", "the device is cpu", "Use fp32")
case("an unknown tracker", run(tracker="wandb"), "Unknown tracker 'wandb'", "mlflow, none, tensorboard")
case("no GPU", run(device="cuda:99" if GPU else "cuda"), "device='cuda", "Use 'auto' or 'cpu'")
case("a device of another name", run(device="gpu"), "device='gpu'", "Use 'auto'", "'cpu'")
case("a device without memory", run(device="meta"), "device='meta'", "Use 'auto'", "'cpu'")
case("no device", run(device=""), "device=''", "Use 'auto'", "'cpu'")
case(
    "out_dir is a file",
    run(out_dir=lambda f: text(f / "runs", "")),
    "cannot make the run folder",
    "choose another out_dir",
    error=OSError,
)


# --- searches within a run, and hyperparameters from elsewhere -------------------------------------------------------

case("a misspelt tune_at", run(tune_at="doublings"), "Unknown tune_at 'doublings'", "Did you mean 'doubling'")
case("two words for tune_at", run(tune_at="start,end"), "tune_at 'start,end'", "as in 200,400")
case("tune_at between budgets", run(tune_at="25"), "never has 25 labels", "it has 20, 30, 40")
case("tune_at above the budget", run(tune_at=[20, 50]), "never has 50 labels", "it has 20, 30, 40")
case("no trials in a run", run(tune_at="end", tune_trials=0), "tune_trials must be", "at least 1, got 0")
case("one fold in a run", run(tune_at="end", tune_folds=1), "tune_folds must be", "at least 2, got 1")
case("searches of a warm start", run(tune_at="end", cold_start=False), "tune_at", "needs cold_start=True")
case("a sample for no search", run(tune_val=0.1), "tune_val", "tune_at='never'")
case("a sample of one", run(tune_at="end", tune_val=0.03), "tune_val of 0.03 of 40 labels is 1", "raise it")
case("a sample of nearly all", run(tune_at="end", tune_val=0.8), "tune_val of 0.8 buys 32", "lower it")
case("a sample of all", run(tune_at="end", tune_val=1), "tune_val", "must lie in [0, 1)")
case("too few labels to tune", run(tune_at="start", n_init=3), "3 labels at the first search", "Search later")
TF32 = {"precision": ["choice", "fp32", "tf32"]}
case("TF32 in a space, on a CPU", run(tune_at="end", tune_space=TF32, device="cpu"), "'tf32'", "the device is cpu")
case("no space", run(tune_at="end", tune_space="lr"), "space must be a dict", '{"lr": [')
case("a misspelt space", run(tune_at="end", tune_space={"wd": ["log", 1e-4, 0.1]}), "'wd'", "'weight_decay'")
case("a space without its own", run(tune_at="end", lr=1), "own lr of 1.0 lies outside", "widen the space")
case(
    "a space that does not suit",
    run(tune_at="end", tune_space={"model": ["choice", "mlp", "auto"]}),
    "cannot have the choice 'auto'",
    "name mlp instead",
)
case("HPs from nowhere", run(hps_from="nowhere"), "hps_from: there is no folder", "give a BO folder")
case(
    "HPs from an empty folder",
    run(hps_from=lambda f: str((f / "runs").mkdir() or f / "runs")),
    "no complete search",
    "Search first",
)


# --- optimizer and schedule ------------------------------------------------------------------------------------------


def own_none(params, config):
    return None


def own_broken(params, config):
    return {}["no such key"]


def own_lbfgs(params, config):
    return torch.optim.LBFGS(params)


class Matrices(torch.optim.SGD):
    "For matrices only: convolutions and vectors are none."

    def step(self, closure=None):
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise RuntimeError("2-D only")


def own_matrices(params, config):
    return Matrices(params, lr=config.lr)


def own_zero(epoch, config):
    return config.lr / (epoch - 1)


def own_text(epoch, config):
    return "fast"


def own_nan(epoch, config):
    return float("nan")


def own_late(epoch, config):
    return {0: 0.1}[epoch]


NUMBER = 3
case("a misspelt optimizer", run(optimizer="adam"), "Unknown optimizer 'adam'", "Did you mean 'adamw'")
case("a misspelt option of it", run(optimizer="adamw(beta=0.9)"), "option of the optimizer 'adamw'", "'beta2'")
case("an option that it has not", run(optimizer="sgd(beta2=0.9)"), "'sgd' has no options", "Leave it out")
case("an optimizer's option out of range", run(optimizer="adamw(beta2=2.0)"), "optimizer='adamw(beta2=2.0)'", "beta")
case(
    "an optimizer's option of another kind",
    run(optimizer="adamw(eps='small')"),
    "optimizer=\"adamw(eps='small')\"",
    "must",
)
case("adamw with nesterov", run(optimizer="adamw", nesterov=True), "optimizer='adamw'", "set nesterov=False")
case("an optimizer that is no function", run(optimizer=f"{ME}:NUMBER"), "optimizer=", "must be a function, got 3")
case("an optimizer that makes none", run(optimizer=f"{ME}:own_none"), "own_none", "must return a torch.optim.Optimizer")
case("an optimizer that breaks", run(optimizer=f"{ME}:own_broken"), "own_broken", "KeyError", "f(params, config)")
case("an optimizer with a closure", run(optimizer=f"{ME}:own_lbfgs"), "own_lbfgs", "without a closure")
case("an optimizer of matrices only", run(optimizer=f"{ME}:own_matrices"), "own_matrices", "2-D only", "step")
case("a misspelt schedule", run(schedule="cosin"), "Unknown schedule 'cosin'", "Did you mean 'cosine'")
case("a schedule's option out of range", run(schedule="cosine(end=2)"), "schedule='cosine(end=2)'", "in [0, 1]")
case("a time of a step that is no share", run(schedule="step(at=30)"), "schedule='step(at=30)'", "at=(0.5, 0.75)")
case("a schedule that divides by 0", run(schedule=f"{ME}:own_zero"), "own_zero", "epoch 1", "must return a rate")
case("a schedule that ends early", run(schedule=f"{ME}:own_late"), "own_late", "KeyError", "must return a rate")
case("a schedule of texts", run(schedule=f"{ME}:own_text"), "own_text", "must return a rate of 0 or more")
case("a schedule of NaN", run(schedule=f"{ME}:own_nan"), "own_nan", "must return a rate of 0 or more, a finite float")

# --- strategies ------------------------------------------------------------------------------------------------------

case("a misspelt strategy", run(strategy="bagde"), "Unknown strategy 'bagde'", "Did you mean 'badge'")
case("a module that is not there", run(strategy="no_such:f"), "strategy 'no_such:f'", "No module named", "PYTHONPATH")
case("a name that it has not", run(strategy=f"{ME}:no_such"), "has no 'no_such'", "It has")
case("no name behind the colon", run(strategy=f"{ME}:"), "strategy", "'package.module:object'")
case("a strategy that is a number", run(strategy=f"{ME}:NUMBER"), "NUMBER", "neither a Strategy nor a function")
case("a bracket that stays open", run(strategy="badge("), "options of the strategy", "name(option=0.5")
case("an option without a name", run(strategy="badge(0.7)"), "options of the strategy", "name(option=0.5")
case("an option that is a formula", run(strategy="badge(x=1/2)"), "options of the strategy", "name(option=0.5")
case("options where there are none", run(strategy="badge(delta=0.7)"), "badge has no options", "got delta=0.7")
case("an option twice", run(strategy=f"{ME}:own_radius(delta=1.0, delta=2.0)"), "options of the strategy", "once")
case("an infinite option", run(strategy=f"{ME}:own_radius(delta=1e999)"), "option", "delta", "finite")
case("a line break in an option", run(strategy=f"{ME}:own_word(word='a\\nb')"), "option", "word", "one line")
case("a NUL in an option", run(strategy=f"{ME}:own_word(word='a\\0b')"), "option", "word", "printable")
case(
    "an option that is a novel",
    run(strategy=f"{ME}:own_word(word='{'x' * 300}')"),
    "strategy gives its folder a name of",
    "at most 255",
    "shorten it",
)
case("an option of another kind", run(strategy=f"{ME}:own_radius(delta='wide')"), "option delta", "delta=0.7")
case("a misspelt option", run(strategy=f"{ME}:own_radius(deta=0.7)"), "option of", "Did you mean 'delta'")
case("an option out of range", run(strategy=f"{ME}:own_radius(delta=-1.0)"), "own_radius", "delta must be positive")


def own_radius(outputs, n, *, generator, labeled=None, delta=0.7):
    if delta <= 0:
        raise ValueError(f"delta must be positive, got {delta}")
    return torch.arange(n)


def own_word(outputs, n, *, generator, labeled=None, word="a"):
    return torch.arange(n)


def own_signature(outputs):
    return torch.arange(1)


def own_floats(outputs, n, *, generator, labeled=None):
    return torch.rand(n)


def own_few(outputs, n, *, generator, labeled=None):
    return torch.arange(n - 1)


def own_twice(outputs, n, *, generator, labeled=None):
    return torch.zeros(n, dtype=torch.int64)


def own_typo(outputs, n, *, generator, labeled=None):
    return outputs.logit_N_C.argmax(1)[:n]


def own_undeclared(outputs, n, *, generator, labeled=None):
    return outputs.weight_C_D.sum(1).argsort()[:n]


own_needy = Strategy("own_needy", own_word, needs=("logits", "head"))


def select(name):
    return run(strategy=f"{ME}:{name}")


case("a strategy without generator", select("own_signature"), "own_signature", "f(outputs, n, *, generator, labeled")
case("picks that are fractions", select("own_floats"), "own_floats", "must return a 1-D LongTensor")
case("too few picks", select("own_few"), "own_few returned", "were asked for")
case("the same pick twice", select("own_twice"), "own_twice returned", "more than once")
case("a field that does not exist", select("own_typo"), "own_typo", "no 'logit_N_C'", "the fields are logits_N_C")
case(
    "a field that was not declared",
    select("own_undeclared"),
    "own_undeclared",
    "It has asked for features",
    "must be named in needs=",
)
case(
    "head of a model without one",
    run(strategy=f"{ME}:own_needy", model=f"{ME}:headless"),
    "headless",
    "no nn.Linear",
    "(linear(features), features)",
)
case(
    "passes without a posterior",
    run(strategy=f"{ME}:own_passes", posterior="none"),
    "posterior='none'",
    "Choose laplace, mc_dropout, ensemble or auto",
)
case(
    "more passes than samples",
    run(strategy=f"{ME}:own_passes", posterior_samples=2),
    "own_passes",
    "set posterior_samples to 3 or more",
)
case(
    "more passes than members",
    run(strategy=f"{ME}:own_passes", posterior="ensemble", members=2),
    "own_passes",
    "set members to 3 or more",
)

own_passes = Strategy("own_passes", own_word, passes=3)


def with_need(name, need):
    "A run whose strategy has a need of its own, which is there only meanwhile."

    def make(folder):
        def do():
            NEEDS[name] = need
            try:
                globals()["own_new"] = Strategy("own_new", own_word, needs=(name,))
                run(strategy=f"{ME}:own_new")(folder)()
            finally:
                del NEEDS[name]

        return do

    return make


case(
    "a need of wrong axes",
    with_need("dark", Need(("dark_N_Q",), lambda view: view.logits[:, 0])),
    "dark_N_Q",
    "must have the axes ['N', 'Q']",
)
case(
    "a need that breaks",
    with_need("dark", Need(("dark_N",), lambda view: view.darkness)),
    "need 'dark'",
    "darkness",
    "indices, logits, features",
)
case(
    "a need of two tensors for one",
    with_need("dark", Need(("dark_N",), lambda view: (view.logits, view.logits))),
    "need 'dark'",
    "gives 2 tensors for the fields dark_N",
)
case(
    "a need that counts",
    with_need("dark", Need(("dark_N",), lambda view: view.indices)),
    "dark_N",
    "must be a floating point tensor",
)
case(
    "a need that is of labels of candidates",
    with_need("dark", Need(("dark_N",), lambda view: view.labels.float())),
    "labels of candidates",
    "candidates=False",
)
case(
    "a need with a field that there is",
    with_need("dark", Need(("logits_N_C",), lambda view: view.logits)),
    "need 'dark'",
    "logits_N_C",
    "another name",
)
case(
    "a need with a reserved field",
    with_need("dark", Need(("parts",), lambda view: view.logits[:, 0])),
    "need 'dark'",
    "'parts'",
    "dark_N",
)
case("a need without fields", with_need("dark", Need((), lambda view: ())), "need 'dark'", "at least one field")
case(
    "needs that do not exist",
    lambda f: lambda: Strategy("mine", own_word, needs=("logit",)),
    "unknown needs",
    "known are logits",
)
case("check_strategy of a number", lambda f: lambda: check_strategy(3), "check_strategy", "a Strategy, a function or")
case(
    "check_strategy of a wrong function",
    lambda f: lambda: check_strategy(own_signature),
    "own_signature",
    "f(outputs, n, *, generator, labeled=None)",
)
case("needs that do not exist, as a text", lambda f: lambda: resolve_needs("pases"), "'pases'", "passes")


# --- models ----------------------------------------------------------------------------------------------------------


class Headless(MLP):
    def forward(self, x):
        logits, features = super().forward(x)
        return logits**3, features


class Frozen(MLP):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.requires_grad_(False)


class Nan(MLP):
    def forward(self, x):
        logits, features = super().forward(x)
        return logits / 0 * 0, features


class Detached(MLP):
    def forward(self, x):
        logits, features = super().forward(x)
        return logits.detach(), features


class Auxiliary(MLP):
    def forward(self, x):
        logits, features = super().forward(x)
        return (logits, logits, features) if self.training else (logits, features)


class Wide(MLP):
    def forward(self, x):
        logits, features = super().forward(x)
        return logits, features[:, :, None]


class Broken(MLP):
    def forward(self, x):
        return super().forward(x.view(-1, 7))


class Integers(MLP):
    def forward(self, x):
        logits, features = super().forward(x)
        return logits.argsort(1), features


def headless(shape, n_classes, width):
    return Headless(64, n_classes, width)


def frozen(shape, n_classes, width):
    return Frozen(64, n_classes, width)


def not_finite(shape, n_classes, width):
    return Nan(64, n_classes, width)


def detached(shape, n_classes, width):
    return Detached(64, n_classes, width)


def auxiliary(shape, n_classes, width):
    return Auxiliary(64, n_classes, width)


def wide(shape, n_classes, width):
    return Wide(64, n_classes, width)


def broken(shape, n_classes, width):
    return Broken(64, n_classes, width)


def integers(shape, n_classes, width):
    return Integers(64, n_classes, width)


def other_classes(shape, n_classes, width):
    return MLP(64, n_classes + 1, width)


def no_pair(shape, n_classes, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes))


def no_arguments():
    return MLP(64, 10)


def no_module(shape, n_classes, width):
    return "a network"


def raises(shape, n_classes, width):
    raise RuntimeError("no weights on this machine")


def needs_batch_norm(shape, n_classes, width):
    return Normed(64, n_classes, width)


class Normed(MLP):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.body.append(nn.BatchNorm1d(self.head.in_features))


BUILD = "build(shape, n_classes, width)"
PAIR = "(logits, features)"
for name, *words in (
    ("headless2", "has no 'headless2'", "It has"),
    ("NUMBER", "NUMBER", "must be a function", BUILD),
    ("no_arguments", "no_arguments", BUILD),
    ("no_module", "no_module", "returns a torch.nn.Module", "'a network'"),
    ("raises", "raises", "no weights on this machine", BUILD),
    ("no_pair", "no_pair", f"must return {PAIR}", "(B, 10) and (B, D)"),
    ("other_classes", "other_classes", f"must return {PAIR}", "it returned [(2, 11), (2, 32)]"),
    ("wide", "wide", f"must return {PAIR}", "(2, 32, 1)"),
    ("integers", "integers", f"must return {PAIR}", "floating point"),
    ("broken", "broken", "(2, 1, 8, 8)", f"must return {PAIR}"),
    ("frozen", "frozen", "no trainable parameter", "requires_grad"),
    ("detached", "detached", "no gradient", "detach"),
    ("not_finite", "not_finite", "NaN or infinite", "finite"),
    ("auxiliary", "auxiliary", "in training mode", f"must return {PAIR}"),
):
    case(f"model {name}", run(model=f"{ME}:{name}"), *words)
case("a misspelt model", run(model="resnet"), "Unknown model 'resnet'", "Did you mean 'resnet18'")
case("a model whose module is not there", run(model="no_such:build"), "model 'no_such:build'", "No module named")
case(
    "a model without dropout",
    run(model=f"{ME}:headless", dropout=0.5),
    "takes no dropout rate",
    "Give its builder an argument dropout=0.0",
)
case(
    "dropout passes of a model without",
    run(model=f"{ME}:headless", posterior="mc_dropout"),
    "mc_dropout",
    "Set dropout, or choose laplace or ensemble",
)
case(
    "laplace without a last layer",
    run(model=f"{ME}:headless", posterior="laplace"),
    "headless",
    "no nn.Linear",
    "choose another posterior",
)
case(
    "one label for batch normalisation",
    run(model=f"{ME}:needs_batch_norm", n_init=1, acq_size=1),
    "batch normalisation",
    "at least 2 labels and a batch_size of at least 2",
)
case(
    "batches of one for batch normalisation",
    run(model="resnet18", batch_size=1),
    "batch normalisation",
    "a batch_size of at least 2",
)
case(
    "resnet18 on features",
    run(model="resnet18", dataset=lambda f: npz(x=np.ones((60, 5)))(f)),
    "resnet18",
    "Use mlp or linear",
)
case(
    "crops of features",
    run(augment="crop", dataset=lambda f: npz(x=np.ones((60, 5)))(f)),
    "augment='crop'",
    "Use 'none' or 'auto'",
)

# --- data: .npz ------------------------------------------------------------------------------------------------------

X = np.arange(60 * 8 * 8, dtype=np.uint32).reshape(60, 8, 8).astype(np.uint8)
Y = np.arange(60) % 3


def npz(x=X, y=Y, **arrays):
    "A data set of 60 examples, 40 of them for training, with other arrays or (None) without some."

    def make(folder):
        there = dict(x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:]) | arrays
        np.savez(folder / "set.npz", **{name: array for name, array in there.items() if array is not None})
        return str(folder / "set.npz")

    return make


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(path)


def data(name, file, *words, error=ValueError, **parameters):
    sizes = dict(n_init=4, acq_size=2, budget=8)
    case(name, run(**{"dataset": file, **sizes, **parameters}), *words, error=error)


def with_value(array, value):
    array = array.astype(np.result_type(array, type(value)) if not isinstance(value, str) else object)
    array[3] = value
    return array


data("a misspelt data set", lambda f: "cifar", "Unknown data set 'cifar'", "Did you mean 'cifar10' or 'cifar100'")
data(
    "a named set that is not there",
    lambda f: "cifar10",
    "No cifar10 below",
    "say with data_dir where they lie",
    error=FileNotFoundError,
    download=False,
)
data("a file that is not there", lambda f: str(f / "set.npz"), "no file", "dataset", error=FileNotFoundError)
data("a folder that is not there", lambda f: str(f / "images"), "no folder", "dataset", error=FileNotFoundError)
data("a text named .npz", lambda f: text(f / "set.npz", "no zip"), "set.npz", "make one with numpy.savez")
data("a file that was cut off", lambda f: cut(npz()(f)), "set.npz", "make one with numpy.savez")
data("an empty file", lambda f: text(f / "set.npz", ""), "set.npz", "make one with numpy.savez")
data("a file of another kind", lambda f: text(f / "set.csv", "1,2"), "set.csv", ".npz file")
data("no test part", npz(x_test=None), "set.npz", "needs x_train, y_train, x_test, y_test")
data("arrays of other names", npz(x_train=None, X=X), "set.npz", "needs x_train", "has y_train, x_test, y_test, X")
data("labels of another length", npz(y_train=Y[:39]), "y_train", "39 labels for 40 examples", "one")
data("no examples", npz(x_train=X[:0], y_train=Y[:0]), "y_train", "is empty", "at least")
data("labels as objects", npz(y_train=np.array([0, "a"] * 20, dtype=object)), "y_train", "with y.astype(str)")
data("images as objects", npz(x_train=np.array([None] * 40)), "x_train", "images as uint8")
data("labels that are fractions", npz(y=Y + 0.5), "y_train", "must be class labels", "whole numbers")
data("labels that are NaN", npz(y=with_value(Y, np.nan)), "y_train", "such as nan", "whole numbers")
data("infinite labels", npz(y=with_value(Y, np.inf)), "y_train", "inf", "whole numbers")
data("labels one-hot", npz(y_train=np.eye(3)[Y[:40]]), "y_train", "one label an example", "argmax")
data("dates as labels", npz(y=Y.astype("datetime64[D]")), "y_train", "whole numbers")
data("complex labels", npz(y=Y.astype(complex)), "y_train", "whole numbers")
data(
    "names of only some classes",
    npz(class_names=["a", "b"]),
    "2 class_names for 3 distinct labels",
    "give one name for each",
)
data(
    "names with negative labels",
    npz(y=with_value(Y, -1), class_names=["a", "b", "c"]),
    "class_names",
    "-1",
    "give one name for each",
)
data(
    "a label beyond the names",
    npz(y=with_value(Y, 7), class_names=["a", "b", "c"]),
    "class_names",
    "7",
    "give one name for each",
)
data("names as a table", npz(class_names=[["a"], ["b"], ["c"]]), "class_names", "one name for each")
data("names that are one text", npz(class_names=np.array("abc")), "class_names", "one name for each")
data("labels of one class", npz(y=0 * Y), "at least 2 classes are needed", "got 0 alone")
data("NaN in the features", npz(x=with_value(np.ones((60, 5)), np.nan)), "x_train", "1 rows with NaN", "np.nan_to_num")
data("infinite features", npz(x=with_value(np.ones((60, 5)), np.inf)), "x_train", "rows with NaN or infinite", "Remove")
data("features beyond float32", npz(x=np.full((60, 5), 1e300)), "x_train", "float32", "Scale")
data("complex features", npz(x=np.ones((60, 5), complex)), "x_train", "complex", "float features N,D")
data("features of texts", npz(x=np.full((60, 5), "a")), "x_train", "float features N,D")
data("features without a column", npz(x=np.ones((60, 0))), "x_train", "(40, 0)", "at least one")
data("one number an example", npz(x=np.ones(60)), "x_train", "float features N,D", "x.reshape(-1, 1)")
data("images as fractions", npz(x=X / 255), "x_train", "(255 * x).round().astype('uint8')")
data("images of 16 bits", npz(x=X.astype(np.uint16)), "x_train", "(x / 257).round().astype('uint8')")
data("images as whole numbers", npz(x=X.astype(int)), "x_train", "x.astype('uint8')")
data("images of two channels", npz(x=np.stack([X, X], 1)), "x_train", "need 1 or 3 channels")
data("images of no pixels", npz(x=X[:, :0]), "x_train", "at least one pixel")
data("films", npz(x=X[:, None, None]), "x_train", "uint8 images N,H,W or N,H,W,C")
data("parts of other shapes", npz(x_test=X[40:, :4]), "the parts differ in shape", "(1, 4, 8)", "same")
data(
    "a class in the test part only",
    npz(y_test=np.full(20, 9), class_names=["a", "b", "c"]),
    "class_names",
    "9",
    "give one name for each",
)
data("a budget above a small pool", npz(), "budget must be", "at most the 36 examples", budget=50)


def cut(path):
    raw = Path(path).read_bytes()
    Path(path).write_bytes(raw[: len(raw) // 2])
    return path


# --- data: folders of images -----------------------------------------------------------------------------------------


def images(*classes, parts=("train", "test"), n=6, then=lambda folder: None):
    "A folder of images, one class a sub-folder, and what is done to it then."

    def make(folder):
        root = folder / "images"
        root.mkdir()
        for part in parts:
            for c in classes:
                (root / part / c).mkdir(parents=True)
                for i in range(n):
                    Image.fromarray(X[i]).save(root / part / c / f"{i}.png")
        then(root)
        return str(root)

    return make


def floats(high):
    return lambda root: Image.fromarray(np.full((8, 8), high, np.float32)).save(root / "train/a/7.tiff")


data("an empty folder", images(), "images", "needs the folders train/<class>/ and test/<class>/")
data("no folder test", images("a", "b", parts=("train",)), "images", "missing: test")
data(
    "images without classes",
    images("train", "test", parts=("",)),
    "train has no folders of classes",
    "images belong in",
)
data("one class", images("a"), "at least 2 classes are needed", "got a alone")
data("a class without images", images("a", "b", then=lambda r: (r / "train/c").mkdir()), "no images in c", ".png")
data(
    "a class that test has not",
    images("a", "b", then=lambda r: shutil.rmtree(r / "test/b")),
    "b",
    "test and train differ in their classes",
    "same",
)
data(
    "a class with files of another kind",
    images("a", "b", then=lambda r: (text(r / "train/c/x.txt", ""), text(r / "test/c/x.txt", ""))),
    "no images in c",
    "Image files end in",
)
data(
    "an image that is a text",
    images("a", "b", then=lambda r: text(r / "train/a/9.png", "no image")),
    "9.png",
    "Cannot read the image",
    "remove it",
)
data(
    "an image that was cut off",
    images("a", "b", then=lambda r: cut(r / "train/a/0.png")),
    "0.png",
    "Cannot read the image",
    "remove it",
)
data(
    "an empty image",
    images("a", "b", then=lambda r: text(r / "test/b/0.png", "")),
    "0.png",
    "Cannot read the image",
    "remove it",
)
data("an image of NaN", images("a", "b", then=floats(np.nan)), "7.tiff", "Scale it to 0 … 255")
data("an image of large numbers", images("a", "b", then=floats(1e6)), "7.tiff", "Scale it to 0 … 255")
data(
    "parts in one folder",
    images("a", "b", parts=("images/train", "images/test")),
    "images",
    "missing: train, test",
    "needs the folders train/<class>/",
)
data(
    "a folder instead of an .npz file",
    lambda f: [(f / "x.npz").mkdir(), str(f / "x.npz")][1],
    "x.npz",
    "needs the folders train/<class>/ and test/<class>/",
)


# --- embedding -------------------------------------------------------------------------------------------------------


def embedding(name, make, *words, error=ValueError):
    case(name, run(embedding=make), "embedding", *words, error=error)


def saved(**arrays):
    return lambda folder: [np.savez(folder / "e.npz", **arrays), str(folder / "e.npz")][1]


N = 1297  # training examples of digits
embedding("an embedding that is not there", lambda f: str(f / "e.npz"), "there is no file", "leave embedding empty")
embedding("an embedding that is a folder", lambda f: str(f), "must be an .npz file", "numpy.savez")
embedding("an embedding that is a text", lambda f: text(f / "e.npz", "x"), "must be an .npz file", "numpy.savez")
embedding("an embedding of other rows", saved(embedding=np.ones((5, 3))), f"one row for each of the {N}", "(5, 3)")
embedding("an embedding without columns", saved(embedding=np.ones((N, 0))), "at least one column", f"({N}, 0)")
embedding("an embedding of images", saved(embedding=np.ones((N, 2, 2))), f"one row for each of the {N}", "(1297, 2, 2)")
embedding("a complex embedding", saved(embedding=np.ones((N, 2), complex)), "real numbers", "complex128")
embedding("an embedding of texts", saved(embedding=np.full((N, 2), "a")), "real numbers", "<U1")
embedding("an embedding of objects", saved(embedding=np.full((N, 2), None)), "e.npz", "real numbers")
embedding("an embedding of another name", saved(a=np.ones((N, 2)), b=np.ones((N, 2))), "array 'embedding'", "a, b")
embedding("an embedding of NaN", saved(embedding=np.full((N, 2), np.nan)), "NaN or infinity", "finite")


# --- run folders -----------------------------------------------------------------------------------------------------


@cache
def prepared(**parameters):
    return prepare(make_config(**{**SMALL, **parameters}))


def recorded(then=lambda path: None, cycles=3, **parameters):
    "A run folder as a run would have left it, made without one, and what is done to it."

    def make(folder):
        setup = prepared(**parameters)
        config = replace(setup.config, out_dir=str(folder / "runs"))
        run_folder = RunFolder(run_path(config))
        with run_folder.lock():
            run_folder.begin(config, setup.record, "cpu")
        pool = setup.pool
        rows = []
        for cycle in range(cycles):
            n = 20 if cycle == 0 else 10
            pool = pool.acquire(pool.unlabeled[:n], cycle)
            rows.append(dict(cycle=cycle, n_labeled=len(pool), test_accuracy=0.5, diverged=False))
        if cycles and cycles < 3:
            pool = pool.acquire(pool.unlabeled[:10], cycles)  # bought by the last cycle that is done
        if rows:
            torch.save({}, run_folder.path / f"checkpoint-cycle{cycles - 1}.pt")
            write_csv(run_folder.path / "selected.csv", pool.to_frame(setup.data.y_train))
            write_csv(run_folder.path / "cycles.csv", pd.DataFrame(rows))
        then(run_folder.path)
        return run_folder.path

    return make


def again(name, then, *words, cycles=2, error=ValueError, **parameters):
    "The same command on a folder that was damaged."

    def make(folder):
        recorded(then, cycles)(folder)
        return run(**parameters)(folder)

    case(name, make, *words, error=error)


def edited(name, old, new):
    def do(path):
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new))

    return do


CONFIG = "config.json"
again("an empty config.json", lambda p: text(p / CONFIG, ""), CONFIG, "is damaged", "Restore it from a copy")
again("half of config.json", lambda p: cut(p / CONFIG), CONFIG, "is damaged", "Restore it from a copy")
again("a list as config.json", lambda p: text(p / CONFIG, "[]"), CONFIG, "is damaged", "Restore it from a copy")
again("an object without data", lambda p: text(p / CONFIG, "{}"), CONFIG, "is damaged", "Restore it from a copy")
again("a config.json of the future", edited(CONFIG, '"schema": 2', '"schema": 9'), CONFIG, "use a newer version")
again("no config.json", lambda p: (p / CONFIG).unlink(), CONFIG, "has results but no", "Restore it, or delete")
again(
    "another run in the folder",
    lambda p: None,
    "holds another run (epochs: 2 there, 3 asked for)",
    "Choose another out_dir",
    epochs=3,
)
again("cycles.csv that was cut off", lambda p: cut(p / "cycles.csv"), "cycles.csv", "is damaged", "Restore it")
again("an empty cycles.csv", lambda p: text(p / "cycles.csv", ""), "cycles.csv", "is damaged", "Restore it")
again("selected.csv of other labels", edited("selected.csv", ",0,", ",1,"), "selected.csv", "damaged", "Restore it")
again(
    "no checkpoint to go on from",
    lambda p: (p / "checkpoint-cycle1.pt").unlink(),
    "checkpoint-cycle1.pt",
    "to start this run afresh",
    error=FileNotFoundError,
    cold_start=False,
)
CASES[-1].make = lambda f: [
    recorded(lambda p: (p / "checkpoint-cycle1.pt").unlink(), 2, cold_start=False)(f),
    run(cold_start=False)(f),
][1]
case(
    "a damaged member",
    lambda f: [
        recorded(lambda p: text(p / "member0-cycle2.pt", "x"), 2, posterior="ensemble", members=2)(f),
        run(posterior="ensemble", members=2)(f),
    ][1],
    "member0-cycle2.pt",
    "is damaged",
    "Remove this file",
    "the same command",
)


# --- searches --------------------------------------------------------------------------------------------------------


def search(then=lambda path: None, run_parameters=None, cycles=3, **parameters):
    "A search on a recorded run."

    def make(folder):
        path = recorded(then, cycles, **(run_parameters or {}))(folder)
        given = {"run_dir": str(path), **made(parameters, folder)}
        return lambda: run_bo(make_bo_config(**given), progress=False)

    return make


def space(name, space, *words, **parameters):
    case(name, search(space=space, **parameters), *words)


FORM = "['log', low, high]"
LR = {"lr": ["log", 0.01, 0.5], "weight_decay": ["log", 1e-5, 0.1]}
case("a misspelt parameter of a search", search(n_trial=3), "Unknown parameter 'n_trial'", "Did you mean 'n_trials'")
case("a misspelt preset of a search", search(preset="quik"), "preset 'quik'", "Did you mean 'quick'")
case("a search of nothing", lambda f: lambda: make_bo_config(), "run_dir is needed", "indices and out_dir")
case(
    "a folder that is no run",
    lambda f: lambda: run_bo(make_bo_config(run_dir=str(f / "no"))),
    "/no",
    "holds no active-learning run (no config.json)",
)
case("a run that has not begun", search(cycles=0), "has no finished cycle", "finish the run")
case("a budget between two cycles", search(budget=25, space=LR), "no budget of 25 labels", "it has 20, 30, 40")
case("a budget beyond the run", search(budget=100), "no budget of 100 labels", "it has 20, 30, 40")
case("a damaged run", search(lambda p: text(p / CONFIG, "{")), CONFIG, "is damaged", "Restore it from a copy")
for content in ("", "[1]"):
    case(
        f"bo.json of {content or 'nothing'}",
        search(lambda p, content=content: text(p / "bo40/bo.json", content), space=LR),
        "bo.json is damaged",
        "Restore it from a copy",
    )
    case(
        f"a trial of {content or 'nothing'}",
        lambda f, content=content: [text(f / "trials/0000.json", content), lambda: BOFolder(f).trials][1],
        "0000.json is damaged",
        "Restore it from a copy",
    )
case("no trials", search(n_trials=0), "n_trials must be", "at least 1, got 0")
case("one fold", search(n_folds=1), "n_folds must be", "at least 2, got 1")
case("folds as a text", search(n_folds="five"), "n_folds must be", "a whole number, got 'five'")
case("an unknown sampler", search(sampler="random"), "Unknown sampler 'random'", "gp, tpe")
case("an unknown objective", search(objective="acc"), "Unknown objective 'acc'", "accuracy, nll")
case("an unknown tracker of a search", search(tracker="wandb"), "Unknown tracker 'wandb'", "mlflow, none, tensorboard")
case("a negative seed of a search", search(seed=-2), "seed must be", "0 or more, or -1 for the run's")
case("fewer than no cores", search(cpus_per_trial=-1), "cpus_per_trial must be", "0 or more, and finite, got -1")
case("infinite cores", search(cpus_per_trial=float("inf")), "cpus_per_trial must be", "finite")
case("a negative number of GPUs", search(gpus_per_trial=-1), "gpus_per_trial must be", "0 or more, and finite")
case(
    "GPUs that Ray cannot share", search(gpus_per_trial=1.5), "gpus_per_trial must be", "a fraction below 1 or a whole"
)
case("a negative number at a time", search(max_concurrent=-1), "max_concurrent must be", "0 or more")
case("two at a time without Ray", search(ray_address="none", max_concurrent=2), "without Ray", "must be 1")
case("cores without Ray", search(ray_address="none", cpus_per_trial=2), "without Ray", "cpus_per_trial", "at 0")
case(
    "a search without a GPU",
    search(device="cuda:99" if GPU else "cuda", space=LR),
    "device='cuda",
    "Use 'auto' or 'cpu'",
)
case("a search of TF32 on a CPU", search(device="cpu", space=TF32), "precision='tf32'", "the device is cpu")
case("a search on an unknown device", search(device="gpu", space=LR), "device='gpu'", "'cpu'")
case(
    "labels of a file that is not there",
    search(indices="no.csv", out_dir=lambda f: str(f / "bo"), space=LR),
    "no.csv",
    "a column named index",
    error=FileNotFoundError,
)
case(
    "labels of a file without index",
    search(indices=lambda f: text(f / "i.csv", "i\n1\n"), space=LR, out_dir=lambda f: str(f / "bo")),
    "i.csv",
    "needs a column named index, has i",
)
case(
    "labels of an empty file",
    search(indices=lambda f: text(f / "i.csv", ""), space=LR, out_dir=lambda f: str(f / "bo")),
    "i.csv",
    "column named index",
)
case(
    "labels beyond the data",
    search(indices=lambda f: text(f / "i.csv", "index\n1\n9999\n"), space=LR, out_dir=lambda f: str(f / "bo")),
    "i.csv",
    "indices must lie in 0 … 1296",
)
case(
    "indices that are fractions",
    search(indices=lambda f: text(f / "i.csv", "index\n1.5\n"), space=LR, out_dir=lambda f: str(f / "bo")),
    "i.csv",
    "must hold whole numbers",
)
case(
    "a label twice",
    search(indices=lambda f: text(f / "i.csv", "index\n1\n1\n"), space=LR, out_dir=lambda f: str(f / "bo")),
    "i.csv",
    "names 1 examples twice",
    "distinct",
)
case(
    "fewer than 4 labels",
    search(indices=lambda f: text(f / "i.csv", "index\n1\n2\n3\n"), space=LR, out_dir=lambda f: str(f / "bo")),
    "A cross-validation needs",
    "at least 4 labels, got 3",
)
case("indices without out_dir", search(indices="i.csv"), "indices need", "an out_dir of their own")
space("a space that is a text", "lr", "space must be a dict as in", FORM)
space("a space that is a list", [1], "space must be a dict of ranges as in", '["log", 1e-05, 0.1]')
space("an empty space", {}, "space is empty", FORM)
space("an unknown hyperparameter", {"lrr": ["log", 0.01, 0.5]}, "hyperparameter 'lrr'", "Did you mean 'lr'")
space("another's name for it", {"wd": ["log", 0.01, 0.5]}, "hyperparameter 'wd'", "Did you mean 'weight_decay'")
space("one that cannot be searched", {"seed": ["choice", 1, 2]}, "hyperparameter 'seed'", "Valid: augment")
space("a range that is a number", {"lr": 0.1}, "range of lr must be", FORM)
space("a range without bounds", {"lr": ["log"]}, "range of lr must be", FORM)
space("a range of three", {"lr": ["log", 0.1, 0.2, 0.3]}, "range of lr must be", FORM)
space("a range of another kind", {"lr": ["uniform", 0.01, 0.5]}, "range of lr must be", FORM)
space("a range the wrong way round", {"lr": ["log", 0.5, 0.01]}, "range of lr must go", "from low to high")
space("a logarithm of 0", {"weight_decay": ["log", 0, 0.1]}, "range of weight_decay", "above 0", "linear")
space("bounds that are texts", {"lr": ["log", "a", "b"]}, "lr must be", "a number, got 'a'")
space(
    "a range of names", {"optimizer": ["linear", "sgd", "adamw"]}, "range of optimizer must be", "['choice', a, b, …]"
)
space("a choice with a misspelt name", {"optimizer": ["choice", "sgd", "adam"]}, "Unknown optimizer 'adam'", "'adamw'")
space("a choice with a misspelt model", {"model": ["choice", "mlp", "lnear"]}, "Unknown model 'lnear'", "'linear'")
space("a choice with a broken model", {"model": ["choice", "mlp", f"{ME}:no_pair"]}, "no_pair", f"must return {PAIR}")
space("a choice with auto", {"model": ["choice", "mlp", "auto"]}, "space", "model", "'auto'", "mlp")
space("a choice that flips digits", {"augment": ["choice", "crop", "crop_flip"]}, "never flipped", "Use 'crop'")
space(
    "batches of one in a space",
    {"batch_size": ["choice", 1, 32]},
    "batch normalisation",
    "a batch_size of at least 2",
    run_parameters=dict(model="resnet18"),
)
space(
    "dropout of a model that has none",
    {"dropout": ["linear", 0, 0.5]},
    "takes no dropout rate",
    "dropout=0.0",
    run_parameters=dict(model=f"{ME}:headless"),
)
space("a value that cannot be", {"epochs": ["linear", 0, 3]}, "epochs must be", "at least 1, got 0")
space("a space without the run's own", {"lr": ["log", 0.2, 0.5]}, "run's own lr of 0.1", "widen the space")
case(
    "more cores than there are",
    lambda f: lambda: engine(make_bo_config(run_dir="r", cpus_per_trial=9999)).__enter__(),
    "cpus_per_trial of 9999",
    "more than the 2 that there are",
)


# --- studies ---------------------------------------------------------------------------------------------------------

STUDY = """
run: {dataset: digits, model: mlp, width: 4, epochs: 2, warmup_epochs: 1, n_init: 20, acq_size: 10, budget: 40,
      subset_size: 100}
bo: {n_trials: 3, n_folds: 2}
grid:
  strategy: [random, badge]
  hp:
    HP 1: {lr: 0.1, weight_decay: 0.005}
  seed: [1, 2]
bo_grid: {hp: [HP 1], budget: [40]}
"""


def study(name, *changes, words, error=ValueError):
    "The study with (old, new) texts."

    def make(folder):
        content = STUDY
        for old, new in changes:
            assert old in content, old
            content = content.replace(old, new)
        path = text(folder / "mine.yaml", content)
        return lambda: load_study(path)

    case(name, make, *words, error=error)


case("a misspelt study", lambda f: lambda: load_study("digit"), "Unknown study 'digit'", "Did you mean 'digits'")
case(
    "a study that is not there", lambda f: lambda: load_study(f / "no.yaml"), "There is no study", "no.yaml", "cifar10"
)
study("a study that is no YAML", ("[random, badge]", "[random, badge"), words=("mine.yaml", "line 7", "close brackets"))
study("a study with a tab", ("  strategy", "\tstrategy"), words=("mine.yaml", "line 6", "spaces"))
study("an empty study", (STUDY, ""), words=("mine.yaml", "needs the parts run and grid"))
study("a study that is a list", (STUDY, "- 1"), words=("mine.yaml", "needs the parts run and grid"))
study("a misspelt part", ("bo_grid:", "bogrid:"), words=("Unknown part 'bogrid'", "'bo_grid'"))
study(
    "a part that is a list",
    ("{n_trials: 3, n_folds: 2}", "[3, 2]"),
    words=("bo must be names with values", "name: value"),
)
study(
    "an empty grid",
    (STUDY[STUDY.index("grid:") :], "grid: {}"),
    words=("grid", "must have at least one axis", "strategy"),
)
study("a list that is empty", ("[1, 2]", "[]"), words=("seed must be a list that is not empty", "got []"))
study("an axis that is a number", ("[1, 2]", "1"), words=("seed must be a list", "got 1"))
study("a value twice", ("[1, 2]", "[1, 1]"), words=("seed names something twice", "[1, 1]", "once"))
study(
    "a strategy twice, written otherwise",
    ("[random, badge]", "[badge, 'badge()']"),
    words=("badge", "are the same", "run"),
)
study(
    "a name twice",
    ("    HP 1:", "    HP 1: {lr: 0.2, weight_decay: 0.1}\n    HP 1:"),
    words=("mine.yaml", "HP 1", "twice", "line 9"),
)
study("a misspelt axis", ("  seed:", "  sed:"), words=("Unknown parameter 'sed'", "Did you mean 'seed'"))
study("a misspelt parameter of the runs", ("epochs: 2", "epoch: 2"), words=("Unknown parameter 'epoch'", "'epochs'"))
study("a misspelt parameter of an HP", ("{lr: 0.1,", "{rate: 0.1,"), words=("Unknown parameter 'rate'", "Valid:"))
study(
    "an HP that is a number",
    ("{lr: 0.1, weight_decay: 0.005}", "0.1"),
    words=("HP 1", "0.1", "{lr: 0.1, weight_decay: 0.005}"),
)
study(
    "a misspelt parameter of the searches", ("n_trials", "trials"), words=("Unknown parameter 'trials'", "'n_trials'")
)
study("a value that cannot be, in a study", ("epochs: 2", "epochs: 0"), words=("epochs must be", "at least 1, got 0"))
study(
    "values that do not go together",
    ("[1, 2]", "[1, 2]\n  n_init: [20, 50]"),
    words=("budget must be", "at least n_init (50), got 40"),
)
study(
    "a budget as two axes",
    ("[1, 2]", "[1, 2]\n  budget: [40, 60]"),
    words=("budget is an axis of grid and of bo_grid", "one of them only"),
)
study("no model", ("model: mlp, ", ""), words=("run needs a model", "mlp, resnet18"))
study("searches of an unknown axis", ("bo_grid: {hp", "bo_grid: {hps"), words=("axis of bo_grid 'hps'", "'hp'"))
study("searches of an unknown HP", ("{hp: [HP 1]", "{hp: [HP 2]"), words=("Unknown hp 'HP 2'", "Valid: HP 1"))
study("searches without a budget", (", budget: [40]", ""), words=("bo_grid", "needs a list of budgets"))
study("a search at no cycle's budget", ("[40]", "[35]"), words=("no budget of 35 labels", "they have 20, 30, 40"))
study("a budget that is a text", ("[40]", "[all]"), words=("budget", "'all'", "20, 30, 40"))
study("one search twice", ("[40]", "[40, 40]"), words=("budget names something twice", "once"))
study("a way out of the root", ("  seed:", "  init: ['../x', random]\n  seed:"), words=("'../x'", "without '..'"))
study("a line break in a name", ("  seed:", '  init: ["a\\nb", random]\n  seed:'), words=("'a\\nb'", "one line"))
study(
    "axes that the path does not show",
    ("weight_decay: 0.005}", "weight_decay: 0.005}\n    HP 2: {lr: 0.1, weight_decay: 0.005, epochs: 3}"),
    words=("are the same run", "Make that an axis of its own"),
)
case(
    "an experiment that it has not",
    lambda f: lambda: load_study("digits").experiment("al", 9999),
    "'digits'",
    "no al experiment 9999",
    "It has 0, 1",
)


# --- command lines ---------------------------------------------------------------------------------------------------


def command(main, *arguments, before=lambda folder: None):
    "A command: what it says where it ends with an error. A traceback is none."

    def make(folder):
        before(folder)
        words = [argument(folder) if callable(argument) else argument for argument in arguments]

        def do():
            said = io.StringIO()
            with redirect_stdout(io.StringIO()), redirect_stderr(said):
                try:
                    main(words)
                except SystemExit as end:
                    if end.code in (0, None):
                        return
                    said.write(end.code if isinstance(end.code, str) else "")
                    raise SystemExit(said.getvalue()) from end

        return do

    return make


def cli(name, main, arguments, *words, **more):
    case(name, command(main, *arguments, **more), *words, error=SystemExit)


def mine(change=("", "")):
    def make(folder):
        assert change[0] in STUDY
        return text(folder / "mine.yaml", STUDY.replace(*change))

    return make


cli("tables of nothing", tables.main, [], "Give the folder of the runs", "--study digits")
cli("tables of a folder that is not there", tables.main, ["nowhere"], "no folder nowhere", "give the out_dir")
cli("tables of a folder without runs", tables.main, [str], "no run folder", "config.json")
cli(
    "tables of a run without a cycle",
    tables.main,
    [lambda f: str(recorded(cycles=0)(f))],
    "No run has finished a cycle",
    "yet",
)
cli("tables of a misspelt study", tables.main, ["--study", "digit"], "Unknown study 'digit'", "Did you mean 'digits'")
cli(
    "tables at another budget",
    tables.main,
    [lambda f: str(recorded()(f)), "--budgets", "99"],
    "99 labels",
    "There are: 20, 30, 40",
)
cli(
    "tables of other HPs",
    tables.main,
    [lambda f: str(recorded()(f)), "--hp", "A", "9", "9"],
    "has one of the HPs",
    "--hp NAME LR WD",
)
cli(
    "an HP without numbers",
    tables.main,
    [lambda f: str(recorded()(f)), "--hp", "A", "x", "1"],
    "--hp 'A'",
    "two numbers",
)
cli(
    "tables into no folder",
    tables.main,
    [lambda f: str(recorded()(f)), "--hp", "A", "0.1", "0.0005", "--out", lambda f: text(f / "out", "")],
    "--out",
    "must be a folder",
)
cli(
    "tables of an empty config.json",
    tables.main,
    [lambda f: str(recorded(lambda p: text(p / CONFIG, ""))(f))],
    "No run can be read",
    "config.json is damaged",
)
cli(
    "tables of a config.json without data",
    tables.main,
    [lambda f: str(recorded(lambda p: text(p / CONFIG, "{}"))(f))],
    "No run can be read",
    "config.json is damaged",
)
cli("a study of a name that is not there", studies.main, ["digit"], "Unknown study 'digit'", "Did you mean 'digits'")
cli("an unknown stage", studies.main, ["digits", "--stage", "all"], "--stage", "choose from")
cli(
    "a study below a file",
    studies.main,
    [mine(), "--root", lambda f: text(f / "root", "")],
    "cannot make the run folder",
    "root",
)
cli(
    "a study on data that are not there",
    studies.main,
    [mine(("dataset: digits", "dataset: no/set.npz"))],
    "no file",
    "set.npz",
)
cli(
    "a strategy that breaks, in a study",
    studies.main,
    [mine(("badge]", f"'{ME}:own_radius(delta=-1.0)']"))],
    "own_radius",
    "delta must be positive",
)
cli("a misspelt strategy, in a study", studies.main, [mine(("badge]", "bagde]"))], "strategy 'bagde'", "'badge'")
cli("a misspelt model, in a study", studies.main, [mine(("model: mlp", "model: mpl"))], "model 'mpl'", "'mlp'")
cli(
    "a budget above the data, in a study",
    studies.main,
    [mine(("budget: 40,", "budget: 4000,"))],
    "budget must be",
    "at most the 1167",
)
cli(
    "a misspelt space, in a study",
    studies.main,
    [mine(("n_folds: 2", "n_folds: 2, space: {lrr: [log, 0.1, 1]}"))],
    "hyperparameter 'lrr'",
    "Did you mean 'lr'",
)
cli(
    "HPs outside of the space, in a study",
    studies.main,
    [mine(("n_folds: 2", "n_folds: 2, space: {lr: [log, 0.2, 1]}"))],
    "run's own lr of 0.1",
    "widen the space",
)
cli("status of a misspelt study", status.main, ["digit"], "Unknown study 'digit'", "Did you mean 'digits'")
for dry in (["--dry-run"], []):
    how = "printed" if dry else "submitted"
    cli(f"a misspelt study, {how}", submit.main, ["digit", *dry], "Unknown study 'digit'", "Did you mean 'digits'")
    cli(f"a misspelt strategy, {how}", submit.main, [mine(("badge]", "bagde]")), *dry], "strategy 'bagde'", "'badge'")
    cli(
        f"a strategy's option, {how}",
        submit.main,
        [mine(("badge]", f"'{ME}:own_radius(deta=1.0)']")), *dry],
        "option of",
        "'delta'",
    )
cli("a misspelt model, printed", submit.main, [mine(("model: mlp", "model: mpl")), "--dry-run"], "model 'mpl'", "'mlp'")
cli(
    "a model that is not there, printed",
    submit.main,
    [mine(("model: mlp", "model: 'no_such:build'")), "--dry-run"],
    "model 'no_such:build'",
    "No module named",
)
cli(
    "a misspelt optimizer, printed",
    submit.main,
    [mine(("width: 4", "width: 4, optimizer: adam")), "--dry-run"],
    "optimizer 'adam'",
    "'adamw'",
)
cli(
    "a budget above the data, printed",
    submit.main,
    [mine(("budget: 40,", "budget: 4000,")), "--dry-run"],
    "budget must be",
    "at most the 1167",
)
cli(
    "a strategy that breaks, printed",
    submit.main,
    [mine(("badge]", f"'{ME}:own_typo']")), "--dry-run"],
    "own_typo",
    "the fields are logits_N_C",
)
cli("an axis that the study has not", submit.main, [mine(), "--dry-run", "--only", "sed=1"], "axis 'sed'", "'seed'")
cli(
    "a part that the study has not",
    submit.main,
    [mine(), "--dry-run", "--only", "seed=7"],
    "seed",
    "'7'",
    "Valid: 1, 2",
)
cli("a part without a value", submit.main, [mine(), "--dry-run", "--only", "seed"], "--only", "AXIS=VALUE")
cli(
    "no runs in a task",
    submit.main,
    [mine(), "--dry-run", "--runs-per-task", "0"],
    "--runs-per-task",
    "must be at least 1",
)
cli("a negative throttle", submit.main, [mine(), "--dry-run", "--throttle", "-1"], "--throttle", "0 or more")
cli(
    "a name that SLURM changes",
    submit.main,
    [mine(), "--dry-run", "--root", lambda f: str(f / "a%b")],
    "root of the study",
    "'%'",
    "Choose another",
)
for name, file in (("submission", "submit.json"), ("list of jobs", "jobs.csv")):
    cli(
        f"a damaged {name}",
        submit.resubmit,
        ["digits", "--root", lambda f, file=file: str(Path(text(f / "root/slurm" / file, "{")).parents[1])],
        f"{file} is damaged",
        "Remove it",
    )
cli("nothing to submit again", submit.resubmit, ["digits", "--root", str], "Nothing was submitted", "dal_nb_submit")


# --- the test --------------------------------------------------------------------------------------------------------


def tree(folder):
    "Paths and contents; not the lock of a folder, and not what the record of a run says, which notes every start."
    paths = [p for p in sorted(folder.rglob("*")) if p.name != "lock"]
    return {p.relative_to(folder): p.read_bytes() if p.is_file() and p.name != CONFIG else None for p in paths}


def trained(*arguments, **more):
    pytest.fail("it began to train")


def without_work(monkeypatch):
    "Whoever begins to train, or to search, fails the test; Ray is not started."
    for module in (training, loop, posterior):
        monkeypatch.setattr(module, "fit", trained)
    for module in (posterior, folds):
        monkeypatch.setattr(module, "fit_posterior", trained)
    monkeypatch.setattr(bo_search, "search", trained)
    monkeypatch.setattr(bo_search.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(bo_search.ray, "cluster_resources", lambda: dict(CPU=2.0))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_it_is_refused_before_any_work(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_work(monkeypatch)
    call = case.make(tmp_path)
    before = tree(tmp_path)
    state = torch.get_rng_state()
    with pytest.raises(case.error) as found:
        call()
    message = str(found.value)
    lacking = [words for words in case.words if words not in message]
    assert not lacking, f"{case.name}: {lacking} not in: {message}"
    assert case.error is not ValueError or type(found.value) is ValueError, repr(found.value)
    assert tree(tmp_path) == before, "it left files"
    assert torch.equal(torch.get_rng_state(), state), "it drew random numbers of others"


def test_there_are_many_and_no_two_alike():
    names = [case.name for case in CASES]
    assert len(names) >= 150 and len(set(names)) == len(names), [name for name in names if names.count(name) > 1]


RIGHT = {
    "digits": run(),
    "an own model, optimizer and schedule": run(
        model=f"{ME}:headless", optimizer=f"{ME}:own_plain", schedule=f"{ME}:own_flat"
    ),
    "an own strategy": run(strategy=f"{ME}:own_radius(delta=0.5)"),
    "an own strategy with passes of an ensemble": run(strategy=f"{ME}:own_passes", posterior="ensemble", members=3),
    "an own need": with_need("dark", Need(("dark_N",), lambda view: view.logits[:, 0])),
    "batches of two": run(model=f"{ME}:needs_batch_norm", n_init=2, batch_size=2),
    "an .npz file": run(dataset=npz(), n_init=4, acq_size=2, budget=8),
    "an .npz file of features": run(dataset=npz(x=np.random.rand(60, 5)), n_init=4, acq_size=2, budget=8),
    "a folder": run(dataset=images("a", "b", n=9), n_init=4, acq_size=2, budget=8),
    "an embedding": run(embedding=saved(embedding=np.random.rand(N, 3))),
    "a recorded run": lambda folder: [recorded(cycles=2)(folder), run()(folder)][1],
    "a search": search(space=LR),
    "a search of choices": search(space={"model": ["choice", "mlp", "linear"], "augment": ["choice", "crop", "none"]}),
    "a study": command(studies.main, mine()),
}


def own_plain(params, config):
    return torch.optim.SGD(params, lr=config.lr)


def own_flat(epoch, config):
    return config.lr


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_begins_to_train(name, tmp_path, monkeypatch):
    "So what is refused above is refused for what was changed."
    monkeypatch.chdir(tmp_path)
    without_work(monkeypatch)
    call = RIGHT[name](tmp_path)
    with pytest.raises(pytest.fail.Exception, match="it began to train"):
        call()


def test_a_large_seed_is_kept_to_the_last_digit(tmp_path):
    seed = 2**63 - 1
    path = recorded(seed=seed)(tmp_path)
    assert RunFolder(path).config.seed == seed and path.name == f"seed{seed}"
    text(tmp_path / "runs/damaged/config.json", "{}")
    records = read_runs(tmp_path / "runs")
    assert records.cycles.seed.unique().tolist() == [seed] and (records.runs.problem != "").sum() == 1


def test_numbers_as_texts_and_a_study_without_hps(tmp_path, monkeypatch, capsys):
    "YAML reads 1e-3 as a text; a study may compare other things than HPs."
    monkeypatch.chdir(tmp_path)
    one = load_study(mine(("lr: 0.1", "lr: 1e-1"))(tmp_path))
    assert one.hps == {"HP 1": (0.1, 0.005)} and "lr0.1-" in str(one.experiments("al")[0].folder)
    path = mine(("  hp:\n    HP 1: {lr: 0.1, weight_decay: 0.005}\n", ""))(tmp_path)
    Path(path).write_text(Path(path).read_text().replace("{hp: [HP 1], ", "{"))
    for run_of_study in load_study(path).experiments("al"):
        parameters = {name: value for name, value in run_of_study.parameters.items() if name not in ("out_dir", *SMALL)}
        recorded(**parameters)(tmp_path)
    tables.main([str(tmp_path / "runs"), "--study", path])
    assert "lr 0.1, wd 0.0005" in capsys.readouterr().out
    status.main([path])
    assert "4 runs: 4 missing" in capsys.readouterr().out
