"""A cache of text embeddings, in memory or on disk.

On disk it is a folder of segments, one for each process that ever added an entry, so that no two processes write to one
file. A segment is a pair of append-only files: `*.f32` with the embeddings, and `*.idx` with a hash of the text and a
checksum for each embedding. Truncated and damaged entries are ignored and computed again.

Texts are encoded one at a time, so that an embedding has the same bits whichever batch asked for it first, and a run
resumed without its cache computes the same.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

_HASH_BYTES = 16
_ENTRY = np.dtype([("hash", f"V{_HASH_BYTES}"), ("crc", "<u4")])
_FLOAT = np.dtype("<f4")


class TextCache:
    """Cache of text embeddings, by text.

    Args:
        folder: folder of all caches, shared between encoders and processes; None keeps the embeddings in memory only.
        key: everything that determines the embedding of a text; another key is another cache.
        dim: length of an embedding.
        memory_bytes: limit of the embeddings held in memory; beyond it they are read from the disk, or the oldest are
            dropped if there is no folder.
    """

    def __init__(self, folder: Path | None, key: str, dim: int, *, memory_bytes: int = 256 << 20) -> None:
        self.dim = dim
        self._memory_rows = max(1, memory_bytes // (dim * _FLOAT.itemsize))
        self._rows: dict[bytes, np.ndarray] = {}  # computed by this process
        self._places: dict[bytes, tuple[int, int]] = {}  # on disk: (segment, row)
        self._segments: list[tuple[np.ndarray, np.ndarray]] = []  # checksums, memory-mapped embeddings
        self._writer: _Segment | None = None
        self._lock = threading.Lock()
        self._folder: Path | None = None
        if folder is not None:
            self._folder = folder / f"text-{_hash(f'{dim} {key}').hex()}"
            for index in sorted(self._folder.glob("*.idx")):
                self._read_segment(index)

    def __deepcopy__(self, memo: dict[int, Any]) -> TextCache:
        return self  # copies of a conditioner share it

    def __len__(self) -> int:
        return len(self._places.keys() | self._rows.keys())

    def get(self, texts: Sequence[str], encode: Callable[[str], Tensor]) -> Tensor:
        """Embeddings [B, dim], float32 on the CPU; `encode` is called for each text that is not in the cache."""
        out = np.empty((len(texts), self.dim), _FLOAT)
        with self._lock:
            for text, target in zip(texts, out):
                name = _hash(text)
                row = self._find(name)
                if row is None:
                    row = encode(text).detach().to("cpu", torch.float32).contiguous().numpy()
                    self._rows[name] = row
                    self._write(name, row)
                target[:] = row
            self._flush()
            self._shrink()
        return torch.from_numpy(out)

    def _find(self, name: bytes) -> np.ndarray | None:
        if name in self._rows:
            return self._rows[name]
        if name not in self._places:
            return None
        segment, number = self._places[name]
        checksums, vectors = self._segments[segment]
        row = vectors[number]
        if zlib.crc32(row.data) == checksums[number]:
            return row
        del self._places[name]
        return None

    def _read_segment(self, index: Path) -> None:
        data = index.with_suffix(".f32")
        try:
            rows = data.stat().st_size // (self.dim * _FLOAT.itemsize)
            entries = np.fromfile(index, _ENTRY, rows)  # stops at a truncated record
            if len(entries) == 0:
                return
            vectors = np.memmap(data, _FLOAT, "r", shape=(len(entries), self.dim))
        except OSError:  # vanished meanwhile, or not readable: as if it were not there
            return
        hashes = entries["hash"].tobytes()
        for number in range(len(entries)):
            name = hashes[number * _HASH_BYTES : (number + 1) * _HASH_BYTES]
            self._places.setdefault(name, (len(self._segments), number))
        self._segments.append((entries["crc"].copy(), vectors))

    def _write(self, name: bytes, row: np.ndarray) -> None:
        if self._folder is None:
            return
        try:
            if self._writer is None or self._writer.pid != os.getpid():  # a forked child writes its own
                self._writer = _Segment(self._folder)
            self._writer.append(name, row)
        except OSError as error:
            self._give_up(error)

    def _flush(self) -> None:
        try:
            if self._writer is not None:
                self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Stop writing after an error, with a warning: a half-written record would shift all later ones."""
        warnings.warn(f"text embeddings are no longer cached in {self._folder}: {error}", stacklevel=4)
        self._folder = self._writer = None

    def _shrink(self) -> None:
        if len(self._rows) <= self._memory_rows:
            return
        if self._writer is not None:
            self._read_segment(self._writer.index)
            self._rows.clear()
        while len(self._rows) > self._memory_rows:
            del self._rows[next(iter(self._rows))]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()


class _Segment:
    """The pair of files to which this process appends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.pid = os.getpid()
        self.index = folder / f"{self.pid}-{secrets.token_hex(6)}.idx"
        self._data: IO[bytes] = open(self.index.with_suffix(".f32"), "xb")  # noqa: SIM115
        self._entries: IO[bytes] = open(self.index, "xb")  # noqa: SIM115

    def append(self, name: bytes, row: np.ndarray) -> None:
        self._data.write(row.astype(_FLOAT, copy=False).tobytes())
        self._entries.write(np.array((name, zlib.crc32(row.data)), _ENTRY).tobytes())

    def flush(self) -> None:
        """Flush the embeddings, then the index, so that no index entry lacks its embedding."""
        self._data.flush()
        self._entries.flush()
