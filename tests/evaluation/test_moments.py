"""Streaming moments against two passes of numpy; sets of features on disk."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

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
