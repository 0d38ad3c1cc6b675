"""The strategies beside independent packages: scikit-activeml, batchbald-redux and baal pick the same where they mean
the same, and where they mean something else the difference is what the notebooks say.

`pip install '.[peers]'` brings the first. The other two require what they do not use here, an SSH client and all of
Jupyter: `pip install --no-deps batchbald-redux toma baal structlog`. Tests that miss theirs are skipped."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from dal_nb.strategies.badge import loss_gradient
from dal_nb.strategies.base import Outputs, available_strategies, get_strategy
from dal_nb.strategies.skactiveml import ROUTES, as_skactiveml

DRAWS = 1000


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(seed=0, n=300, c=4, d=6, s=8):
    "Random outputs of n candidates and of 40 labeled examples, in float64"
    g = gen(seed)

    def outputs(n):
        logits = 2 * torch.randn(n, c, generator=g, dtype=torch.float64)
        features = torch.randn(n, d, generator=g, dtype=torch.float64)
        passes = logits + torch.randn(s, n, c, generator=g, dtype=torch.float64)
        return Outputs(logits, features, passes, embedding_N_E=features, labels_N=torch.arange(n) % c)

    return outputs(n), outputs(40)


def picks_of(text, outputs, labeled=None, n=20, seed=0):
    return get_strategy(text)(outputs, n, generator=gen(seed), labeled=labeled).tolist()


def theirs(text, outputs, labeled=None, n=20, seed=0):
    pytest.importorskip("skactiveml", reason="pip install '.[peers]'")
    return picks_of(f"skactiveml:{text}", outputs, labeled, n, seed)


def blobs(sizes, d=8, radius=0.05, seed=0):
    "Points in tight clusters of these sizes around random unit vectors, and the cluster of each"
    centers = torch.nn.functional.normalize(torch.randn(len(sizes), d, generator=gen(seed), dtype=torch.float64))
    cluster = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    noise = torch.randn(len(cluster), d, generator=gen(seed + 1), dtype=torch.float64)
    return centers[cluster] + radius * noise, cluster


def assert_drawn_from(counts, probs):
    "A chi-square test at the 0.1 % level; cells that are expected less than 5 times are one cell"
    expected = counts.sum() * probs
    rare = expected < 5
    cells = [(counts[~rare], expected[~rare]), (counts[rare].sum()[None], expected[rare].sum()[None])]
    seen, expected = (torch.cat(parts) for parts in zip(*cells))
    seen, expected = seen[expected > 0], expected[expected > 0]
    assert ((seen - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(seen) - 1)


# The same picks in the same order


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "ours, other",
    [
        ("margin", "UncertaintySampling(method='margin_sampling')"),
        ("entropy", "UncertaintySampling(method='entropy')"),
        ("least_confident", "UncertaintySampling(method='least_confident')"),
        ("coreset", "CoreSet"),
        ("bald", "GreedyBALD"),
    ],
)
def test_same_picks_as_scikit_activeml(ours, other, seed):
    outputs, labeled = problem(seed)
    assert picks_of(ours, outputs, labeled) == theirs(other, outputs, labeled)


def test_batch_bald_as_scikit_activeml():
    "Six picks of four classes are 4^5 configurations before the last: exact in both"
    outputs, _ = problem()
    assert picks_of("batch_bald", outputs, n=6) == theirs("BatchBALD(n_MC_samples=2000)", outputs, n=6)


def test_bald_and_batch_bald_as_batchbald_redux():
    batchbald = pytest.importorskip("batchbald_redux.batchbald", reason="pip install --no-deps batchbald-redux toma")
    outputs, _ = problem()
    log_probs_N_K_C = outputs.logits_S_N_C.log_softmax(2).transpose(0, 1).contiguous()
    assert picks_of("bald", outputs) == batchbald.get_bald_batch(log_probs_N_K_C, 20).indices
    batch = batchbald.get_batchbald_batch(log_probs_N_K_C, 6, 10_000, dtype=torch.double)
    assert picks_of("batch_bald", outputs, n=6) == batch.indices


def heuristics():
    return pytest.importorskip("baal.active.heuristics", reason="pip install --no-deps baal structlog")


def test_bald_and_epig_as_baal():
    outputs, _ = problem(n=80)
    probs_N_C_S = outputs.logits_S_N_C.softmax(2).permute(1, 2, 0).numpy()
    assert picks_of("bald", outputs) == heuristics().BALD()(probs_N_C_S)[:20].tolist()
    scores = heuristics().EPIG().compute_score(probs_N_C_S, probs_N_C_S)
    assert picks_of("epig(targets=80)", outputs) == scores.argsort()[::-1][:20].tolist()


def test_batch_bald_of_baal_starts_the_same():
    "From then on it draws 500 configurations, and ranks by the scores of different steps"
    outputs, _ = problem()
    probs_N_C_S = outputs.logits_S_N_C.softmax(2).permute(1, 2, 0).numpy()
    scores = heuristics().BatchBALD(num_samples=1).compute_score(probs_N_C_S)
    assert picks_of("batch_bald", outputs, n=1)[0] in np.flatnonzero(scores)


def test_contrastive_as_scikit_activeml():
    "Theirs takes five neighbours by default, and features as they are: ours ten, and features of norm 1"
    outputs, labeled = problem()
    assert picks_of("contrastive", outputs, labeled) != theirs("ContrastiveAL", outputs, labeled)
    directions = [
        Outputs(o.logits_N_C, torch.nn.functional.normalize(o.features_N_D), labels_N=o.labels_N)
        for o in (outputs, labeled)
    ]
    ten = "ContrastiveAL(nearest_neighbors_dict={'n_neighbors': 10}, eps=1e-12)"
    assert picks_of("contrastive", outputs, labeled) == theirs(ten, *directions)


# The same scores, where ties decide


def test_variation_ratio_as_scikit_activeml():
    outputs, _ = problem(s=10)
    votes_S_N = outputs.logits_S_N_C.argmax(2)
    counts_N = torch.stack([(votes_S_N == c).sum(0) for c in range(4)]).amax(0)
    picks = [picks_of("variation_ratio", outputs), theirs("QueryByCommittee(method='variation_ratios')", outputs)]
    assert len({tuple(counts_N[p].tolist()) for p in picks}) == 1


# The same distribution


def test_badge_and_that_of_scikit_activeml():
    """The first pick is certain in both. Ours draws the second in proportion to the squared distance to the first, as
    the authors do; scikit-activeml 1.0 takes the smaller of that and the squared distance to the origin."""
    outputs, _ = problem(n=12, c=3, d=2)
    gradients = (loss_gradient(outputs.logits_N_C)[:, :, None] * outputs.features_N_D[:, None]).flatten(1)
    norms = gradients.square().sum(1)
    first = int(norms.argmax())
    distances = (gradients - gradients[first]).square().sum(1)

    def seconds(draw, text, draws):
        pairs = torch.tensor([draw(text, outputs, n=2, seed=seed) for seed in range(draws)])
        assert (pairs[:, 0] == first).all()
        return torch.bincount(pairs[:, 1], minlength=12)

    assert_drawn_from(seconds(picks_of, "badge", DRAWS), distances / distances.sum())
    biased = distances.minimum(norms)
    assert_drawn_from(seconds(theirs, "Badge", 600), biased / biased.sum())


def test_falcun_as_scikit_activeml():
    """The first two picks have the same distribution where the least certain candidate has probabilities 1/2 and 1/2,
    and the most certain one is sure: then scaling to 0 … 1, which theirs does after a pick and ours before, too, does
    nothing. From the third pick on theirs goes on with scaled distances. Another relevance is told apart."""
    logits = torch.tensor(
        [[0.0, 0], [0.5, 0], [1, 0], [0, 1.5], [2, 0], [0, 40], [40, 0], [40, 0]], dtype=torch.float64
    )
    outputs = Outputs(logits)

    def seen(draw, text):
        pairs = torch.tensor([draw(text, outputs, n=2, seed=seed) for seed in range(DRAWS)])
        return torch.bincount(8 * pairs[:, 0] + pairs[:, 1], minlength=64)

    as_theirs = seen(theirs, "Falcun(gamma=2)")
    assert same_distribution(torch.stack([as_theirs, seen(picks_of, "falcun(gamma=2.0)")]))
    distance = "falcun(gamma=2.0, relevance='distance')"
    assert not same_distribution(torch.stack([as_theirs, seen(picks_of, distance)]))


def same_distribution(seen_2_K):
    "A chi-square test of homogeneity at the 0.1 % level; cells that were seen less than 20 times are one cell"
    rare = seen_2_K.sum(0) < 20
    seen = torch.cat([seen_2_K[:, ~rare], seen_2_K[:, rare].sum(1, keepdim=True)], dim=1).double()
    seen = seen[:, seen.sum(0) > 0]
    expected = seen.sum(1, keepdim=True) * seen.sum(0) / seen.sum()
    return ((seen - expected) ** 2 / expected).sum() < chi2.ppf(0.999, seen.shape[1] - 1)


# The same groups, where the data are groups


@pytest.mark.parametrize("seed", range(2))  # with others, one start of k-means does not always find the groups
def test_clue_as_scikit_activeml(seed):
    "One of each of ten groups, the same one; the order is that of the centres"
    features, cluster = blobs([20] * 10, seed=seed)
    outputs = Outputs(torch.randn(200, 4, generator=gen(seed), dtype=torch.float64), features)
    picks = picks_of("clue", outputs, n=10)
    assert set(cluster[picks].tolist()) == set(range(10))
    assert set(picks) == set(theirs("Clue", outputs, n=10))


def test_drop_query_as_scikit_activeml():
    """A group of candidates is far from the origin in one feature and changes its class without it; another one is near
    the origin and does not. Both take one of each part of the first group."""
    parts = torch.repeat_interleave(torch.arange(8), 200)
    features = torch.eye(8, dtype=torch.float64)[parts] * torch.where(parts < 4, 2.0, 0.1).double()[:, None]
    features = features + 0.001 * torch.rand(features.shape, generator=gen(), dtype=torch.float64)
    weight, bias = torch.tensor([[0.0] * 8, [1.0] * 8]).double(), torch.tensor([1.0, 0]).double()
    outputs = Outputs(features_N_D=features, weight_C_D=weight, bias_C=bias)
    for picks in (picks_of("drop_query", outputs, n=4), theirs("DropQuery", outputs, n=4)):
        assert set(parts[picks].tolist()) == set(range(4))


def stars(n_stars, radius=0.05, seed=0):
    "Points with seven others around each and some farther away, more from star to star: the middle is most typical"
    centers, _ = blobs([1] * n_stars, radius=0, seed=seed)
    points, middles = [], []
    for i, center in enumerate(centers):
        plane = torch.linalg.qr(torch.cat([center[:, None], torch.randn(8, 2, generator=gen(i)).double()], 1))[0][:, 1:]
        angle = torch.arange(7).double() * 2 * torch.pi / 7
        far = torch.arange(i).double() * 2 * torch.pi / max(i, 1) + 0.1
        ring = torch.cat([torch.stack([angle.cos(), angle.sin()], 1), 3 * torch.stack([far.cos(), far.sin()], 1)])
        middles.append(sum(map(len, points)))
        points += [center[None], center + radius * ring @ plane.T]
    return torch.nn.functional.normalize(torch.cat(points)), middles


def test_typiclust_as_scikit_activeml():
    "Clusters without a label, the largest first; theirs takes five neighbours by default, of distances without squares"
    points, middles = stars(6)
    labeled = Outputs(embedding_N_E=points[middles[-1] + 1 :][:1])  # in the largest star
    outputs = Outputs(embedding_N_E=points)
    picks = picks_of("typiclust", outputs, labeled, n=5)
    assert picks == middles[-2::-1]
    assert picks == theirs("TypiClust(k=4)", outputs, labeled, n=5)


# Ours as theirs


@pytest.mark.parametrize("name", available_strategies())
def test_each_strategy_is_a_query_strategy(name):
    "With a linear classifier behind it, or an ensemble of them; picks are rows without a label, the same under a seed"
    pytest.importorskip("skactiveml", reason="pip install '.[peers]'")
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.utils import simple_batch
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression

    rng = np.random.RandomState(0)
    x = rng.randn(120, 5)
    y = np.where(np.arange(120) < 30, np.digitize(x[:, 0], [-0.5, 0.5]), np.nan)
    clf = SklearnClassifier(LogisticRegression(), classes=[0, 1, 2])
    ensemble = [SklearnClassifier(LogisticRegression(C=c), classes=[0, 1, 2]) for c in np.logspace(-3, 2, 10)]
    strategy = clone(as_skactiveml(name, random_state=0))
    picks, utilities = strategy.query(x, y, clf, ensemble=ensemble, batch_size=8, return_utilities=True)
    assert picks.tolist() == strategy.query(x, y, clf, ensemble=ensemble, batch_size=8).tolist()
    assert len(set(picks)) == 8 and np.isnan(y[picks]).all()
    assert [simple_batch(u)[0] for u in utilities] == picks.tolist()


def test_every_route_is_to_a_strategy_of_theirs():
    pool = pytest.importorskip("skactiveml.pool", reason="pip install '.[peers]'")
    assert set(ROUTES) <= set(pool.__all__)
    for name in set(pool.__all__) - set(ROUTES):
        with warnings.catch_warnings(), pytest.raises(ValueError, match="asks for more than|These work"):
            get_strategy(f"skactiveml:{name}")


# Coverage: what is covered at each step is the same, whoever breaks ties


def test_prob_cover_as_scikit_activeml():
    "Theirs counts a ball with its rim, on points as they are; ours takes unit vectors"
    points, _ = blobs([40, 30, 20, 20, 10, 5], radius=0.2)
    points = torch.nn.functional.normalize(points)
    head = {"weight_C_D": torch.zeros(4, 8, dtype=torch.float64), "bias_C": torch.zeros(4, dtype=torch.float64)}
    outputs = Outputs(embedding_N_E=points, **head)
    labeled = Outputs(embedding_N_E=points[:3], labels_N=torch.arange(3))
    near = torch.cdist(points, points) < 0.5
    covered = near[:3].any(0)

    def newly_covered(picks):
        open_, counts = ~covered, []
        for pick in picks:
            counts.append(int((near[pick] & open_).sum()))
            open_ = open_ & ~near[pick]
        return counts

    counts = newly_covered(picks_of("prob_cover(delta=0.5)", outputs, labeled, n=6))
    assert counts[0] > 10 and counts == sorted(counts, reverse=True)
    assert counts == newly_covered(theirs("ProbCover(deltas=[0.5])", outputs, labeled, n=6))


@pytest.mark.parametrize("with_labels", [False, True])
def test_max_herding_as_scikit_activeml(with_labels):
    "Their kernel is exp(-gamma d^2), by default with gamma = 1/D; ours has gamma = 1 / width^2 = 1"
    outputs, labeled = problem()
    labeled = labeled if with_labels else None
    picks = picks_of("max_herding", outputs, labeled)
    assert picks == theirs("MaxHerding(metric_dict={'gamma': 1.0})", outputs, labeled)
    assert picks != theirs("MaxHerding", outputs, labeled)


def test_labels_may_be_texts():
    "Labels are positions among the classifier's classes, whatever these are and whatever marks a missing one"
    classifier = pytest.importorskip("skactiveml.classifier", reason="pip install '.[peers]'")
    from sklearn.linear_model import LogisticRegression

    x = np.random.RandomState(0).randn(100, 5)
    y = np.where(np.arange(100) < 30, np.digitize(x[:, 0], [-0.5, 0.5]), np.nan)
    texts = np.array(["?" if np.isnan(label) else "abc"[int(label)] for label in y])
    picks = []
    for labels, classes, missing in ((y, [0, 1, 2], np.nan), (texts, ["a", "b", "c"], "?")):
        clf = classifier.SklearnClassifier(LogisticRegression(), classes=classes, missing_label=missing)
        strategy = as_skactiveml("alfa_mix", missing_label=missing, random_state=0)
        picks.append(strategy.query(x, labels, clf, batch_size=5).tolist())
    assert picks[0] == picks[1]
