"""The kernel distance against its definition, to 1e-6 relative."""

from __future__ import annotations

import numpy as np
from metric_cases import close, features

from gankit.evaluation.metric import measure
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.kernel import KernelDistance, squared_mmd


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
