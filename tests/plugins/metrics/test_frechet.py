"""The Fréchet distance against independent implementations, to 1e-6 relative."""

from __future__ import annotations

import numpy as np
import pytest
from metric_cases import close, features

from gankit.core.config import options
from gankit.evaluation.metric import measure
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.frechet import FrechetDistance, frechet_distance


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
