"""The metric 'memorised': distances of generated images to their nearest training images, and a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gankit.core.data.contact_sheet import sheet
from gankit.errors import GankitError
from gankit.evaluation.metric import Metric
from gankit.evaluation.moments import FeatureSet
from gankit.plugins.metrics.neighbours import nearest, neighbour_distances
from gankit.plugins.metrics.networks import OwnFeature

if TYPE_CHECKING:
    from gankit.evaluation.metric_context import Album


class Memorised(Metric):
    """Authenticity of generated images, and a picture of them beside their nearest real images.

    A generated image is authentic if it is further from its nearest real image than that one is from the nearest other
    real one; `authenticity` is the share of those (Alaa et al., How Faithful is your Synthetic Data?, ICML 2022). It is
    0 for copies and 1 for images that are far from all data, good or bad: compare with what held-out real images give.
    `nearest` is the median distance of a generated image to the nearest real one, `nearest_real` that of a real image
    to the nearest other. Each row of the picture has a generated image and the real ones nearest to it, the most
    suspicious first. Compare with all images that the model was trained on (--num-real all).

    Args:
        rows: generated images in the picture.
        neighbours: real images beside each.
        block: images in memory at a time.
        feature: feature network; that of --feature when omitted.
        side: side in pixels of the square images that enter it; that of its training when omitted.
    """

    values = {"authenticity": "", "nearest": "", "nearest_real": ""}
    needs_rows = True

    def __init__(
        self,
        *,
        rows: int = 16,
        neighbours: int = 4,
        block: int = 2048,
        feature: OwnFeature = None,
        side: int | None = None,
    ) -> None:
        if min(rows, neighbours, block) < 1:
            raise GankitError(
                f"rows = {rows}, neighbours = {neighbours} and block = {block} of 'memorised' must be at least 1"
            )
        self.rows, self.neighbours, self.block = rows, neighbours, block
        self.feature, self.side = feature, side
        self.min_images = neighbours + 1

    def compute(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        among_real, closest, distance = self._search(real, fake)
        return {
            "authenticity": float(np.mean(distance[:, 0] > among_real[closest[:, 0]])),
            "nearest": float(np.sqrt(np.median(distance[:, 0]))),
            "nearest_real": float(np.sqrt(np.median(among_real))),
        }

    def pictures(self, real: FeatureSet, fake: FeatureSet, album: Album) -> dict[str, Image.Image]:
        among_real, closest, distance = self._search(real, fake)
        ratio = distance[:, 0] / np.maximum(among_real[closest[:, 0]], np.finfo(np.float64).tiny)
        images = []
        for row in np.argsort(ratio, kind="stable")[: self.rows]:
            images += [album.fake(int(row)), *(album.real(int(i)) for i in closest[row])]
        return {"memorised": sheet(images, self.neighbours + 1)}

    def _search(self, real: FeatureSet, fake: FeatureSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nearest neighbours by squared distance.

        Returns the distance [N] of each real row to the nearest other one, and for each generated row the indices [M,
        k] of the nearest real ones and their distances [M, k].
        """
        assert real.rows is not None
        assert fake.rows is not None
        among_real = np.maximum(neighbour_distances(real.rows, 1, self.block)[:, 0], 0)
        distance, closest = nearest(fake.rows, real.rows, self.neighbours, self.block)
        return among_real, closest, distance
