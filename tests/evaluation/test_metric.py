"""No number from a broken computation."""

from __future__ import annotations

import numpy as np
import pytest

from gankit import GankitError
from gankit.evaluation.metric import Metric, measure
from gankit.evaluation.moments import FeatureSet

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(257, 9)) @ RNG.normal(size=(9, 9)) + 1e4  # an offset that ruins sums of squares


class Ratio(Metric):
    """1 / (difference of the means)."""

    values = {"ratio": "higher"}
    min_images = 3

    def compute(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        with np.errstate(divide="ignore"):
            return {"ratio": float(1 / np.abs(real.moments.mean - fake.moments.mean).sum())}


def test_no_number_from_a_broken_computation() -> None:
    good, other = FeatureSet.of(ROWS), FeatureSet.of(ROWS + 1)
    assert measure("ratio", Ratio(), good, other)["ratio"] == pytest.approx(1 / 9)
    nan = ROWS.copy()
    nan[7, 3] = np.nan
    cases = [
        (FeatureSet.of(ROWS[:, :5]), "'ratio' compares features of 9 and 5 numbers"),
        (FeatureSet.of(ROWS[:2]), "'ratio' needs 3 generated images or more, there are 2; raise --num"),
        (FeatureSet.of(nan), "'ratio': features of generated images are not finite"),
        (good, "'ratio': ratio came out as inf; it is not reported"),
    ]
    for fake, message in cases:
        with pytest.raises(GankitError, match=message):
            measure("ratio", Ratio(), good, fake)
    with pytest.raises(GankitError, match="3 real images or more, there are 1; use a larger data set"):
        measure("ratio", Ratio(), FeatureSet.of(ROWS[:1]), good)
