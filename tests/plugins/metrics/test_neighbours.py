"""Precision and recall against their definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from metric_cases import close, features

from gankit.evaluation.metric import measure
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.neighbours import PrecisionRecall, neighbour_distances


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
