"""Streaming moments against two passes of numpy; sets of features on disk; what a metric may be given."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gankit import GankitError
from gankit.evaluation.metric import Metric, measure
from gankit.evaluation.moments import FeatureSet, Moments

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(257, 9)) @ RNG.normal(size=(9, 9)) + 1e4  # an offset that ruins sums of squares


def stream(rows: np.ndarray, *sizes: int) -> Moments:
    moments = Moments(rows.shape[1])
    for batch in np.split(rows, np.cumsum(sizes)):
        moments.update(batch)
    return moments


@pytest.mark.parametrize("sizes", [(), (1,), (100, 0, 100), (1,) * 200, (256,)])
def test_a_stream_equals_two_passes(sizes: tuple[int, ...]) -> None:
    moments = stream(ROWS, *sizes)
    assert moments.count == 257
    assert np.allclose(moments.mean, ROWS.mean(0), rtol=1e-14, atol=0)
    for unbiased in (True, False):
        expected = np.cov(ROWS, rowvar=False, bias=not unbiased)
        assert np.allclose(moments.covariance(unbiased=unbiased), expected, rtol=1e-10, atol=1e-10)


def test_parts_merge() -> None:
    whole, first, second = stream(ROWS), stream(ROWS[:10]), stream(ROWS[10:], 60, 60)
    first.merge(second)
    first.merge(Moments(9))
    empty = Moments(9)
    empty.merge(first)
    for merged in (first, empty):
        assert merged.count == 257
        assert np.allclose(merged.mean, whole.mean, rtol=1e-14, atol=0)
        assert np.allclose(merged.scatter, whole.scatter, rtol=1e-10, atol=1e-8)


def test_rows_of_half_precision_are_summed_in_double() -> None:
    rows = (ROWS - 1e4).astype(np.float16)
    assert np.allclose(stream(rows, 50).mean, rows.astype(np.float64).mean(0), rtol=1e-13, atol=1e-15)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    def peak(batches: int) -> int:
        moments, batch = Moments(32), np.ones((16, 32), np.float32)
        tracemalloc.start()
        for _ in range(batches):
            moments.update(batch)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(500) < 2 * peak(5)


def test_mistakes_of_a_programmer_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape \[3, 4\], not \[B, 9\]"):
        Moments(9).update(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="width 4, not 9"):
        Moments(9).merge(Moments(4))
    for rows, unbiased in ((0, False), (1, True)):
        with pytest.raises(ValueError, match=f"more than {rows} rows"):
            stream(ROWS[:rows]).covariance(unbiased=unbiased)
    with pytest.raises(ValueError, match=r"shape \[5, 3\], not \[B, 2\]"):
        FeatureSet.collect([np.zeros((5, 2)), np.zeros((5, 3))])
    with pytest.raises(ValueError, match="no rows came"):
        FeatureSet.collect([])


# ---------------------------------------------------------------------------------------------- sets on disk


def test_a_set_is_stored_and_read(tmp_path: Path) -> None:
    rows = ROWS.astype(np.float32)
    written = FeatureSet.collect(np.array_split(rows, 5), tmp_path / "rows.npy")
    written.save(tmp_path)
    read = FeatureSet.load(tmp_path, rows=True)
    assert read is not None
    assert isinstance(read.rows, np.memmap)
    assert np.array_equal(read.rows, rows)
    assert (read.count, read.width) == (257, 9)
    assert np.array_equal(read.moments.scatter, written.moments.scatter)
    light = FeatureSet.load(tmp_path, rows=False)
    assert light is not None
    assert light.rows is None


def test_a_damaged_set_counts_as_absent(tmp_path: Path) -> None:
    assert FeatureSet.load(tmp_path, rows=False) is None
    FeatureSet.collect([ROWS]).save(tmp_path)
    assert FeatureSet.load(tmp_path, rows=False) is not None
    assert FeatureSet.load(tmp_path, rows=True) is None
    np.save(tmp_path / "rows.npy", ROWS[:100].astype(np.float32))
    assert FeatureSet.load(tmp_path, rows=True) is None
    whole = (tmp_path / "moments.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no zip file"):
        (tmp_path / "moments.npz").write_bytes(damaged)
        assert FeatureSet.load(tmp_path, rows=False) is None


# -------------------------------------------------------------------------------------------------- measuring


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
