"""Inception Score (Salimans et al., Improved Techniques for Training GANs, NeurIPS 2016, section 4)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gankit.errors import GankitError
from gankit.evaluation.metric import Metric
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.networks import INCEPTION, OwnFeature

SEED = 2020  # torch-fidelity's, so that the same images share a split


class InceptionScore(Metric):
    """Inception Score: exp of the mutual information of image and predicted class, mean over splits of the images.

    Args:
        splits: number of equal parts; `is_std` is the standard deviation over them.
        feature: classifier; only values of the same one are comparable.
        side: side in pixels of the square images that enter it; that of its training when omitted.
    """

    values = {"is": "higher", "is_std": ""}
    output = "logits"
    needs_rows = True
    needs_real = False

    def __init__(
        self,
        *,
        splits: int = 10,
        feature: OwnFeature = INCEPTION,
        side: int | None = None,
    ) -> None:
        if splits < 1:
            raise GankitError(f"splits = {splits} of 'is' must be at least 1")
        self.splits, self.feature, self.side = splits, feature, side
        self.min_images = 2 * splits

    def compute(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        assert fake.rows is not None
        order = np.random.RandomState(SEED).permutation(fake.count)
        bounds = [i * fake.count // self.splits for i in range(self.splits + 1)]
        scores = [
            inception_score(fake.rows[np.sort(order[a:b])]) for a, b in pairwise(bounds)
        ]  # sorted: rows lie on the disk
        return {"is": float(np.mean(scores)), "is_std": float(np.std(scores))}


def inception_score(logits: np.ndarray) -> float:
    """exp of the mean KL divergence of each image's class distribution from their mean; logits [N, classes],
    computed in float64."""
    logs = logits.astype(np.float64)
    logs -= logs.max(1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    p = np.exp(logs)
    mean = p.mean(0)
    log_mean = np.log(np.maximum(mean, np.finfo(np.float64).tiny))  # a class of probability 0 adds nothing
    return float(np.exp((p * (logs - log_mean)).sum(1).mean()))
