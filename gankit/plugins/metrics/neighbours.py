"""Metrics of nearest neighbours: precision, recall, density and coverage.

Improved precision and recall are those of Kynkaanniemi et al., NeurIPS 2019 (section 2); density and coverage those of
Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020 (section 3).
"""

from __future__ import annotations

import numpy as np

from gankit.errors import GankitError
from gankit.evaluation.metric import Metric
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.networks import OwnFeature


class PrecisionRecall(Metric):
    """Precision, recall, density and coverage; the ball of an image has the distance of its k-th nearest neighbour as
    radius.

    precision: share of generated images within the ball of a real one; recall: share of real images within the ball of
    a generated one; density: real balls that contain a generated image, on average, over k; coverage: share of real
    images whose ball contains a generated one.

    Args:
        k: neighbours for precision and recall.
        density_k: neighbours for density and coverage.
        block: images in memory at a time; distances take block x block numbers.
        feature: feature network; that of --feature when omitted.
        side: side in pixels of the square images that enter it; that of its training when omitted.
    """

    values = {"precision": "higher", "recall": "higher", "density": "higher", "coverage": "higher"}
    needs_rows = True

    def __init__(
        self,
        *,
        k: int = 3,
        density_k: int = 5,
        block: int = 2048,
        feature: OwnFeature = None,
        side: int | None = None,
    ) -> None:
        if min(k, density_k, block) < 1:
            raise GankitError(
                f"k = {k}, density_k = {density_k} and block = {block} of 'pr' must be at least 1"
            )
        self.k, self.density_k, self.block = k, density_k, block
        self.feature, self.side = feature, side
        self.min_images = max(k, density_k) + 1

    def compute(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        assert real.rows is not None
        assert fake.rows is not None
        most = max(self.k, self.density_k)
        reach_real = neighbour_distances(real.rows, most, self.block)
        reach_fake = neighbour_distances(fake.rows, self.k, self.block)[:, self.k - 1]
        reach, reach_dc = reach_real[:, self.k - 1], reach_real[:, self.density_k - 1]
        precise = np.zeros(fake.count, bool)
        recalled = np.zeros(real.count, bool)
        covered = np.zeros(real.count, bool)
        pairs = 0
        for i in range(0, real.count, self.block):
            x = real.rows[i : i + self.block].astype(np.float64)
            a = slice(i, i + len(x))
            for j in range(0, fake.count, self.block):
                y = fake.rows[j : j + self.block].astype(np.float64)
                b = slice(j, j + len(y))
                distance = squared_distances(x, y)
                precise[b] |= (distance <= reach[a, None]).any(0)
                recalled[a] |= (distance <= reach_fake[None, b]).any(1)
                within = distance <= reach_dc[a, None]
                covered[a] |= within.any(1)
                pairs += int(within.sum())
        return {
            "precision": float(precise.mean()),
            "recall": float(recalled.mean()),
            "density": pairs / (self.density_k * fake.count),
            "coverage": float(covered.mean()),
        }


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances [n, m] of x [n, width] and y [m, width], both float64: in float32 the differences would be
    noise."""
    return (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * (x @ y.T)


def neighbour_distances(rows: np.ndarray, k: int, block: int) -> np.ndarray:
    """Squared distances [N, k] of each row to its k nearest others, ascending; `block` rows at a time."""
    found = np.empty((len(rows), k))
    for i in range(0, len(rows), block):
        x = rows[i : i + block].astype(np.float64)
        nearest = np.full((len(x), k), np.inf)
        for j in range(0, len(rows), block):
            distance = squared_distances(x, x if i == j else rows[j : j + block].astype(np.float64))
            if i == j:
                np.fill_diagonal(distance, np.inf)  # itself
            nearest = np.partition(np.concatenate([nearest, distance], 1), k - 1, axis=1)[:, :k]
        found[i : i + len(x)] = np.sort(nearest, axis=1)
    return found


def nearest(rows: np.ndarray, others: np.ndarray, k: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances [N, k] of each row to its k nearest of another set, ascending, and their indices [N, k]
    there."""
    distances = np.empty((len(rows), k))
    places = np.empty((len(rows), k), np.int64)
    for i in range(0, len(rows), block):
        x = rows[i : i + block].astype(np.float64)
        best, where = np.full((len(x), k), np.inf), np.zeros((len(x), k), np.int64)
        for j in range(0, len(others), block):
            found = squared_distances(x, others[j : j + block].astype(np.float64))
            best = np.concatenate([best, np.maximum(found, 0)], 1)
            where = np.concatenate([where, np.broadcast_to(np.arange(j, j + found.shape[1]), found.shape)], 1)
            order = np.argsort(best, 1, kind="stable")[:, :k]
            best, where = np.take_along_axis(best, order, 1), np.take_along_axis(where, order, 1)
        distances[i : i + len(x)], places[i : i + len(x)] = best, where
    return distances, places
