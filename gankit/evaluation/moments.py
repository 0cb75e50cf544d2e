"""Features of a set of images: running mean and covariance, and single rows on disk."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class Moments:
    """Running mean and covariance of rows, in float64, with memory for width x width numbers.

    A batch is merged by the pairwise update of Chan, Golub and LeVeque (Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances, 1979), which is as exact as two passes over the data; sums of squares are not.

    Attributes:
        count: rows so far.
        mean: [width], float64.
        scatter: [width, width], sum over rows of the outer product of their deviation from the mean with itself.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))

    def update(self, rows: np.ndarray) -> None:
        """Add rows [B, width] of any float type; B may be 0."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"rows have shape {list(rows.shape)}, not [B, {len(self.mean)}]")
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        rows -= mean
        self._merge(len(rows), mean, rows.T @ rows)

    def merge(self, other: Moments) -> None:
        """Add the rows of another Moments, for example of another process."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"other has width {len(other.mean)}, not {len(self.mean)}")
        if other.count:
            self._merge(other.count, other.mean, other.scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(delta * (self.count * (count / total)), delta)
        self.mean += delta * (count / total)
        self.count = total

    def covariance(self, *, unbiased: bool = True) -> np.ndarray:
        """Covariance [width, width]: scatter / (count - 1), as in numpy and torch-fidelity, or biased, scatter / count.

        Raises ValueError for too few rows."""
        divisor = self.count - unbiased
        if divisor < 1:
            raise ValueError(f"a covariance needs more than {self.count} rows")
        return self.scatter / divisor


@dataclass
class FeatureSet:
    """Features of the real or of the generated images.

    Args:
        moments: moments of all rows.
        rows: [N, width] float32 in the order of the images, possibly memory-mapped; None unless a metric needs it.
    """

    moments: Moments
    rows: np.ndarray | None = None

    @property
    def count(self) -> int:
        return self.moments.count

    @property
    def width(self) -> int:
        return len(self.moments.mean)

    @classmethod
    def of(cls, rows: np.ndarray) -> FeatureSet:
        """The set of rows [N, width] in memory."""
        moments = Moments(rows.shape[1])
        moments.update(rows)
        return cls(moments, rows)

    @classmethod
    def collect(cls, batches: Iterable[np.ndarray], file: Path | None = None) -> FeatureSet:
        """The set of a stream of rows [B, width]; they are written to `file` (.npy) if it is given."""
        collector = Collector(file)
        for batch in batches:
            collector.add(batch)
        return collector.done()

    def save(self, folder: Path) -> None:
        """Save the moments to an existing folder; rows are there already if `collect` wrote them to its `rows.npy`."""
        m = self.moments
        np.savez(folder / "moments.npz", count=m.count, mean=m.mean, scatter=m.scatter)

    @classmethod
    def load(cls, folder: Path, *, rows: bool) -> FeatureSet | None:
        """Load a saved set, with memory-mapped rows if `rows`; None if it is missing, damaged or lacks wanted rows."""
        try:
            with np.load(folder / "moments.npz", allow_pickle=False) as page:
                moments = Moments(len(page["mean"]))
                moments.count = int(page["count"])
                moments.mean, moments.scatter = page["mean"], page["scatter"]
            stored = np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False) if rows else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        width = len(moments.mean)
        if moments.scatter.shape != (width, width):
            return None
        if stored is not None and stored.shape != (moments.count, width):
            return None
        return cls(moments, stored)


class Collector:
    """Builds a FeatureSet batch by batch; at most about `CHUNK` rows are in memory.

    Rows go to the disk by ordinary writes: a full disk then raises an error, whereas a memory map that cannot grow
    kills the process.

    Args:
        file: .npy file for the rows; None keeps moments only.
    """

    CHUNK = 512  # rows per update of the moments, which costs width^2 for any number of rows

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._stream = None if file is None else open(file, "wb")  # noqa: SIM115 - `done` and `close` close it
        self._moments: Moments | None = None
        self._waiting: list[np.ndarray] = []
        self._count = 0

    def add(self, rows: np.ndarray) -> None:
        """Add rows [B, width] of any float type, of the same width in every call."""
        if self._moments is None:
            self._moments = Moments(rows.shape[1])
            self._header()
        if rows.ndim != 2 or rows.shape[1] != len(self._moments.mean):
            raise ValueError(f"rows have shape {list(rows.shape)}, not [B, {len(self._moments.mean)}]")
        if self._stream is not None:
            self._stream.write(np.ascontiguousarray(rows, np.float32).data)
        self._count += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= self.CHUNK:
            self._flush()

    def done(self) -> FeatureSet:
        """The set of all rows added, with memory-mapped rows. Raises ValueError if there are none."""
        if self._moments is None:
            raise ValueError("no rows came")
        self._flush()
        rows = None
        if self._stream is not None:
            self._header()
            self.close()
            assert self.file is not None
            rows = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return FeatureSet(self._moments, rows)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _flush(self) -> None:
        assert self._moments is not None
        if self._waiting:
            self._moments.update(np.concatenate(self._waiting))
            self._waiting = []

    def _header(self) -> None:
        """Write the .npy header with the current count: 0 at the start, the final one in `done`.

        numpy pads headers, so that their length does not depend on the count."""
        if self._stream is None:
            return
        assert self._moments is not None
        shape = (self._count, len(self._moments.mean))
        self._stream.seek(0)
        np.lib.format.write_array_header_1_0(
            self._stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        self._stream.seek(0, os.SEEK_END)
