"""Metrics against independent implementations of their definitions, to 1e-6 relative."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden_utils import GOLDEN

from gankit import GankitError
from gankit.core.config import options
from gankit.evaluation.metric import measure
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.frechet import FrechetDistance, frechet_distance
from gankit.plugins.metrics.kernel import KernelDistance, squared_mmd
from gankit.plugins.metrics.neighbours import PrecisionRecall, neighbour_distances


def features(seed: int, count: int, width: int = 12, shift: float = 0.0) -> np.ndarray:
    """Correlated, like those of a network after a ReLU."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(width, width))
    return np.maximum(rng.normal(shift, 1, (count, width)) @ mix + 1, 0).astype(np.float32)


def close(value: float, expected: float) -> None:
    assert value == pytest.approx(expected, rel=1e-6, abs=0)


# ---------------------------------------------------------------------------------------------- Frechet distance


@pytest.mark.parametrize("covariance", ["unbiased", "biased"])
def test_fd_is_that_of_scipys_matrix_root(covariance: str) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x, y = features(0, 400), features(1, 300, shift=0.3)
    s1, s2 = (np.cov(rows.astype(np.float64), rowvar=False, bias=covariance == "biased") for rows in (x, y))
    delta = x.astype(np.float64).mean(0) - y.astype(np.float64).mean(0)
    expected = delta @ delta + np.trace(s1 + s2 - 2 * linalg.sqrtm(s1 @ s2).real)
    metric = options.build("metric", {"name": "fd", "covariance": covariance})
    close(measure("fd", metric, FeatureSet.of(x), FeatureSet.of(y))["fd"], expected)


def test_fd_of_commuting_covariances() -> None:
    """A closed form: |dm|^2 + sum (sqrt a - sqrt b)^2 for covariances with the same eigenvectors."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    a, b, mean = np.array([4.0, 1, 9, 0]), np.array([1.0, 4, 0, 16]), np.array([1.0, 2, 0, -1])
    value = frechet_distance(mean, turn * a @ turn.T, 0 * mean, turn * b @ turn.T)
    close(value, 6 + (np.sqrt(a) - np.sqrt(b)) @ (np.sqrt(a) - np.sqrt(b)))


def test_fd_of_fewer_images_than_features() -> None:
    """tr sqrt(S1 S2) is the nuclear norm of X Y^T over n - 1, X and Y being the centred rows."""
    x, y = (features(seed, 20, width=50).astype(np.float64) for seed in (0, 1))
    cx, cy = x - x.mean(0), y - y.mean(0)
    delta = x.mean(0) - y.mean(0)
    trace = ((cx**2).sum() + (cy**2).sum()) / 19
    expected = delta @ delta + trace - 2 * np.linalg.norm(cx @ cy.T, "nuc") / 19
    with pytest.warns(UserWarning, match="fd of 20 images by 50 features is far above"):
        values = measure("fd", FrechetDistance(), FeatureSet.of(x), FeatureSet.of(y))
    close(values["fd"], expected)


def test_fd_of_a_set_with_itself_is_zero() -> None:
    x = FeatureSet.of(features(0, 100))
    assert 0 <= FrechetDistance().compute(x, x)["fd"] < 1e-9 * np.trace(x.moments.covariance())


# ----------------------------------------------------------------------------------------------- kernel distance


def naive_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Image by image."""

    def mean(a: np.ndarray, b: np.ndarray, same: bool) -> float:
        pairs = [
            (1 + float(p.astype(np.float64) @ q.astype(np.float64)) / len(p)) ** 3
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not (same and i == j)
        ]
        return float(np.mean(pairs))

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_kid_is_the_mean_over_subsets() -> None:
    x, y = features(0, 40), features(1, 30, shift=0.3)  # real, generated
    close(squared_mmd(x.astype(np.float64), y.astype(np.float64)), naive_mmd(x, y))
    rng = np.random.RandomState(2020)
    expected = []
    for _ in range(5):
        drawn = y[rng.choice(30, 10, replace=False)]  # generated ones first, as torch-fidelity does
        expected.append(naive_mmd(x[rng.choice(40, 10, replace=False)], drawn))
    metric = KernelDistance(subsets=5, subset_size=10)
    values = measure("kid", metric, FeatureSet.of(x), FeatureSet.of(y))
    close(values["kid"], float(np.mean(expected)))
    close(values["kid_std"], float(np.std(expected)))
    close(values["kid_se"], float(np.std(expected)) * np.sqrt(10 / 20))
    assert values["kid_subset_size"] == 10


def test_kid_standard_error_is_how_much_kid_varies() -> None:
    metric = KernelDistance(subsets=60, subset_size=50)
    runs = [
        metric.compute(
            FeatureSet.of(features(2 * i, 200, 4)), FeatureSet.of(features(2 * i + 1, 200, 4, shift=1.0))
        )
        for i in range(60)
    ]
    spread = np.std([run["kid"] for run in runs])
    error = np.mean([run["kid_se"] for run in runs])
    assert 0.7 < error / spread < 1.4  # 60 runs know the spread to 10%


def test_kid_of_few_images_takes_halves() -> None:
    values = KernelDistance().compute(FeatureSet.of(features(0, 20)), FeatureSet.of(features(1, 31)))
    assert values["kid_subset_size"] == 10
    assert values["kid_se"] == values["kid_std"] > 0


# --------------------------------------------------------------------------------- precision, recall and relatives


@pytest.mark.parametrize("block", [7, 64, 2048])
def test_pr_by_the_definitions(block: int) -> None:
    """From the whole matrices of distances, which are differences of rows."""
    x, y = features(0, 90), features(1, 70, shift=0.4)

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None].astype(np.float64), axis=2)

    def reach(a: np.ndarray, k: int) -> np.ndarray:
        return np.sort(distances(a, a), axis=1)[:, k]  # column 0 is the image itself

    d = distances(x, y)
    values = measure("pr", PrecisionRecall(block=block), FeatureSet.of(x), FeatureSet.of(y))
    close(values["precision"], np.mean((d <= reach(x, 3)[:, None]).any(0)))
    close(values["recall"], np.mean((d <= reach(y, 3)[None]).any(1)))
    close(values["density"], (d <= reach(x, 5)[:, None]).sum() / (5 * 70))
    close(values["coverage"], np.mean((d <= reach(x, 5)[:, None]).any(1)))
    assert 0 < values["recall"] < 1 > values["precision"] > 0  # the case tells something


def test_neighbours_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    x = features(0, 50)
    expected = neighbors.NearestNeighbors(n_neighbors=5).fit(x.astype(np.float64)).kneighbors()[0]
    assert np.allclose(np.sqrt(neighbour_distances(x, 5, 16)), expected, rtol=1e-6, atol=0)


def test_pr_when_a_set_is_copied() -> None:
    x = FeatureSet.of(features(0, 60))
    values = PrecisionRecall().compute(x, x)
    assert values["precision"] == values["recall"] == values["coverage"] == 1


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        ({"name": "fd"}, 1, "'fd' needs 2 generated images or more, there are 1"),
        ({"name": "kid"}, 3, "'kid' needs 4 generated images or more"),
        ({"name": "pr"}, 5, "'pr' needs 6 generated images or more"),
        ({"name": "pr", "k": 9}, 9, "'pr' needs 10 generated images or more"),
    ],
)
def test_too_few_images(spec: dict[str, object], count: int, message: str) -> None:
    metric = options.build("metric", spec)
    with pytest.raises(GankitError, match=message):
        measure(str(spec["name"]), metric, FeatureSet.of(features(0, 50)), FeatureSet.of(features(1, count)))


@pytest.mark.parametrize(
    "spec", [{"name": "kid", "subsets": 1}, {"name": "pr", "k": 0}, {"name": "fd", "covariance": "robust"}]
)
def test_options_out_of_range(spec: dict[str, object]) -> None:
    with pytest.raises(GankitError, match=f"'{spec['name']}'"):
        options.build("metric", spec)


# ------------------------------------------------------------------------------------------------ torch-fidelity


@pytest.mark.parametrize("name", ["fd", "kid", "pr", "is"])
def test_the_numbers_of_torch_fidelity(name: str) -> None:
    """What torch-fidelity 0.4.0 printed for the same features, drawn as in the first lines here."""
    golden = json.loads((GOLDEN / "metrics.json").read_text(encoding="utf-8"))
    rng = np.random.RandomState(20)
    mix = rng.randn(24, 24)
    fake = (rng.randn(150, 24) @ mix * 0.7 + 0.2).astype(np.float32)
    real = (rng.randn(170, 24) @ mix).astype(np.float32)
    metric = options.build("metric", {"name": name, **golden.get(name, {})})
    fake = fake / 3 if name == "is" else fake  # as logits
    found = measure(name, metric, FeatureSet.of(real), FeatureSet.of(fake))
    compared = found.keys() & golden["values"].keys()
    assert len(compared) == {"fd": 1, "kid": 2, "pr": 2, "is": 2}[name]
    for key in compared:
        close(found[key], golden["values"][key])
