"""Kernel distance, KID on Inception (Binkowski et al., Demystifying MMD GANs, ICLR 2018, section 4)."""

from __future__ import annotations

import numpy as np

from gankit.errors import GankitError
from gankit.evaluation.metric import Metric
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.networks import OwnFeature

SEED = 2020  # torch-fidelity's, so that the same subsets are drawn


class KernelDistance(Metric):
    """Squared maximum mean discrepancy with the kernel (x y / width + 1)^3, unbiased: the mean over random subsets.

    `kid_std` is the spread over subsets that torch-fidelity prints. `kid_se` is the standard error of `kid` by the
    delete-d jackknife (Shao and Wu, A General Theory for Jackknife Variance Estimation, 1989): kid_std times
    sqrt(subset / (N - subset)) for N images; on the safe side where both sets are alike.

    Args:
        subsets: number of random subsets.
        subset_size: images in each; at most half of the images there are, and that half where it is less.
        feature: feature network; that of --feature when omitted.
        side: side in pixels of the square images that enter it; that of its training when omitted.
    """

    values = {"kid": "lower", "kid_se": "", "kid_std": "", "kid_subset_size": ""}
    needs_rows = True
    min_images = 4

    def __init__(
        self,
        *,
        subsets: int = 100,
        subset_size: int = 1000,
        feature: OwnFeature = None,
        side: int | None = None,
    ) -> None:
        if subsets < 2 or subset_size < 2:
            raise GankitError(
                f"subsets = {subsets} and subset_size = {subset_size} of 'kid' must be at least 2"
            )
        self.subsets, self.subset_size = subsets, subset_size
        self.feature, self.side = feature, side

    def compute(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        assert real.rows is not None
        assert fake.rows is not None
        images = min(real.count, fake.count)
        size = min(self.subset_size, images // 2)
        rng = np.random.RandomState(SEED)
        estimates = []
        for _ in range(self.subsets):
            y = fake.rows[rng.choice(fake.count, size, replace=False)]
            x = real.rows[rng.choice(real.count, size, replace=False)]
            estimates.append(squared_mmd(x.astype(np.float64), y.astype(np.float64)))
        spread = float(np.std(estimates))
        return {
            "kid": float(np.mean(estimates)),
            "kid_se": spread * float(np.sqrt(size / (images - size))),
            "kid_std": spread,
            "kid_subset_size": float(size),
        }


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of the squared MMD of x [n, width] and y [m, width]; the kernel of an image with itself is
    left out."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())
