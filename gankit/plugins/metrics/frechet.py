"""Frechet distance (Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017, section 4)."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np

from gankit.evaluation.metric import Metric
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.networks import OwnFeature


class FrechetDistance(Metric):
    """Frechet distance of two normal distributions fitted to the features; FID where these are Inception's.

    It is biased upwards for few images, so only values for the same number of images are comparable.

    Args:
        covariance: unbiased divides by N - 1 as numpy and torch-fidelity do, biased by N as NVIDIA's code does.
        feature: feature network; that of --feature when omitted.
        side: side in pixels of the square images that enter it; that of its training when omitted.
    """

    values = {"fd": "lower"}

    def __init__(
        self,
        *,
        covariance: Literal["unbiased", "biased"] = "unbiased",
        feature: OwnFeature = None,
        side: int | None = None,
    ) -> None:
        self.unbiased, self.feature, self.side = covariance == "unbiased", feature, side

    def compute(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        (key,) = self.values
        fewest = min(real.count, fake.count)
        if fewest <= real.width:
            warnings.warn(
                f"{key} of {fewest} images by {real.width} features is far above that of many images; compare it only "
                "with values for the same numbers of images",
                stacklevel=2,
            )
        covariances = [x.moments.covariance(unbiased=self.unbiased) for x in (real, fake)]
        return {key: frechet_distance(real.moments.mean, covariances[0], fake.moments.mean, covariances[1])}


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 sqrt(cov1 cov2)), for symmetric covariances of any rank.

    The trace of that root is the sum of the singular values of sqrt(cov1) sqrt(cov2). Their absolute error is of the
    order of eps, that of roots of the eigenvalues of cov1 cov2 of the order of sqrt(eps).
    """
    overlap = np.linalg.svd(_root(cov1).T @ _root(cov2), compute_uv=False).sum()
    delta = mean1 - mean2
    return max(0.0, float(delta @ delta + np.trace(cov1) + np.trace(cov2) - 2 * overlap))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Factor R [width, rank] with R R^T = covariance; eigenvalues that are zero but for rounding are left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])
