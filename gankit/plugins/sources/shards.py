"""The source 'webdataset': tar files (shards) in which the files of a sample share a name (its "key").

    000017.jpg  000017.txt  000017.json  000017.cls

The key ends at the first dot, so `000017.mask.png` is another file of sample 000017 and not an image of its own. Shards
on a local disk are read at random, through an index of where each file begins.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from gankit.core.data.images import SUFFIXES, BadImage
from gankit.core.interfaces.labels import Label
from gankit.core.runtime.paths import cache_dir
from gankit.errors import GankitError
from gankit.plugins.sources.metadata import FileSource, class_name, merge

_COLUMNS = ("", ".json", ".txt", ".cls")  # of the index: the image, then the files beside it
_INDEX_VERSION = 1


class ShardSource(FileSource):
    """Images in WebDataset shards: one .tar, a folder of .tar files, or a pattern such as 'shards-{000..010}.tar'.

    Labels come from the .json (class, tags, text; also cls, label, caption; and any other fields), .txt (one caption a
    line) and .cls (class) of a sample; where two of them have a field, the earlier of these three is taken.

    Args:
        strict: stop at an image that cannot be read, instead of going on without.
        max_megapixels: larger images are skipped.
        cache: folder for the index of the shards; default GANKIT_CACHE/shards or ~/.cache/gankit/shards.
    """

    others_json = False

    def __init__(
        self,
        path: str,
        *,
        strict: bool = False,
        max_megapixels: float = 200.0,
        cache: str | None = None,
    ) -> None:
        self.shards = _shards(path)
        index_dir = Path(cache).expanduser() if cache else cache_dir("shards")
        names: list[str] = []
        tables = []
        for shard in self.shards:
            keys, table = _index(shard, index_dir)
            names += [f"{shard.name}/{key}" for key in keys]
            tables.append(table)
        if not names:
            raise GankitError(
                f"{path} holds no images; looked for {' '.join(sorted(SUFFIXES))} in its samples"
            )
        self._ends = np.cumsum([len(table) for table in tables])
        self._members = np.concatenate(tables)  # [images, _COLUMNS, (offset, size)], size -1 for none
        super().__init__(str(path), names, {}, classes=False, strict=strict, max_megapixels=max_megapixels)

    @classmethod
    def matches(cls, path: Path) -> bool:
        if path.is_dir():
            visible = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
            return any(entry.suffix == ".tar" for entry in visible) and not any(
                entry.suffix.lower() in SUFFIXES or entry.is_dir() for entry in visible
            )
        return path.suffix == ".tar" and (path.is_file() or "{" in str(path))

    def _read(self, index: int, suffix: str = "") -> bytes | None:
        offset, size = self._members[index, _COLUMNS.index(suffix)]
        if size < 0:
            return None
        shard = self.shards[np.searchsorted(self._ends, index, side="right")]
        try:
            with open(
                shard, "rb"
            ) as file:  # opened each time: a set may have more shards than a process may files
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror or error}") from None
        if len(data) != size:
            raise BadImage("the shard has become shorter")
        return data

    def _beside(self, index: int) -> Label:
        return merge(super()._beside(index), Label(class_name(self._text(index, ".cls"), "")))

    def _stamp(self, index: int) -> int:
        return int(self._members[index, 0, 1])


def _shards(path: str) -> list[Path]:
    expanded = Path(path).expanduser()
    if expanded.is_dir():
        shards = sorted(p for p in expanded.glob("*.tar") if not p.name.startswith("."))
        if not shards:
            raise GankitError(f"the folder {path} holds no .tar files")
        return shards
    if expanded.is_file() or "{" not in str(path):
        shards = [expanded]
    else:
        from braceexpand import braceexpand

        try:
            shards = [Path(p) for p in braceexpand(expanded.as_posix())]
        except ValueError as error:
            raise GankitError(f"the pattern {path!r} has unbalanced braces ({error})") from None
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        of = f" ({len(missing)} of {len(shards)} are missing)" if len(shards) > 1 else ""
        raise GankitError(f"the shard {missing[0]} does not exist{of}")
    return shards


def _index(shard: Path, cache_dir: Path) -> tuple[list[str], np.ndarray]:
    """Names [n] of the images in a shard and the table [n, 4, 2] of (offset, size) of their files, from the cache if
    it is fresh."""
    try:
        stat = shard.stat()
        stamp = np.array([_INDEX_VERSION, stat.st_size, stat.st_mtime_ns])
        key = hashlib.blake2b(os.fsencode(shard.resolve()), digest_size=16).hexdigest()
        cached = cache_dir / f"{key}.npz"
        unusable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
        with contextlib.suppress(*unusable), np.load(cached, allow_pickle=False) as saved:
            if np.array_equal(saved["stamp"], stamp):
                joined = saved["names"].tobytes().decode("utf-8", "surrogateescape")
                return joined.split("\0") if joined else [], saved["table"]
        names, rows = [], []
        for name, row in _scan(shard):
            names.append(name)
            rows.append(row)
    except (tarfile.TarError, OSError) as error:
        raise GankitError(
            f"the shard {shard} cannot be read as an uncompressed tar file ({error}); copy or create it anew"
        ) from None
    table = np.array(rows, np.int64).reshape(-1, len(_COLUMNS), 2)
    joined = "\0".join(names).encode("utf-8", "surrogateescape")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        cache_dir.mkdir(parents=True, exist_ok=True)
        aside = cached.with_name(f".{key}.{os.getpid()}.npz")
        np.savez(aside, stamp=stamp, names=np.frombuffer(joined, np.uint8), table=table)
        os.replace(aside, cached)
    return names, table


def _scan(shard: Path) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Name of each image of a shard, in their order there, and (offset, size) of its file for each of `_COLUMNS`."""
    images: list[tuple[str, PurePosixPath, tuple[int, int]]] = []
    beside: dict[tuple[PurePosixPath, str], tuple[int, int]] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            stem, _, extension = path.name.partition(".")
            suffix = f".{extension.lower()}"
            if not stem or not member.isreg() or member.issparse():
                continue
            if suffix in SUFFIXES:
                images.append((member.name, path.with_name(stem), (member.offset_data, member.size)))
            elif suffix in _COLUMNS:
                beside[path.with_name(stem), suffix] = (member.offset_data, member.size)
    for name, key, place in images:
        yield name, [place, *(beside.get((key, suffix), (0, -1)) for suffix in _COLUMNS[1:])]
