"""The source 'folder': images in a folder and its sub-folders, with or without metadata."""

from __future__ import annotations

import os
from pathlib import Path

from gankit.core.data.images import SUFFIXES, BadImage
from gankit.errors import GankitError
from gankit.plugins.sources.metadata import METADATA_FILES, FileSource
from gankit.plugins.sources.shards import ShardSource


class FolderSource(FileSource):
    """Images in a folder and its sub-folders, in the order of their names.

    Labels come from metadata.jsonl, metadata.csv (file_name, class, tags, text, other fields) or dataset.json, from a
    .json file (the same fields) and a .txt file (one caption a line) beside an image, and from the names of the
    first-level folders (classes). Hidden files and folders are left out.

    Args:
        classes: take the names of first-level folders as classes; not beside a dataset.json.
        strict: stop at an image that cannot be read or that the metadata does not list, and at a .json file beside an
            image that says nothing of it, instead of going on without.
        max_megapixels: larger images are skipped.
    """

    def __init__(
        self, path: str, *, classes: bool = True, strict: bool = False, max_megapixels: float = 200.0
    ) -> None:
        self.root = Path(path).expanduser()
        if not self.root.exists():
            raise GankitError(f"the folder {path} does not exist")
        if not self.root.is_dir():
            raise GankitError(f"{path} is a file, not a folder of images")
        found = sorted(_images(self.root))
        names, self._beside_it = [name for name, _ in found], bytes(beside for _, beside in found)
        if not names:
            raise GankitError(
                f"{path} holds no images, also in its sub-folders; looked for {' '.join(sorted(SUFFIXES))}"
            )
        files = [file for file in METADATA_FILES if (self.root / file).is_file()]
        try:
            metadata = {file: (self.root / file).read_bytes() for file in files}
        except OSError as error:
            raise GankitError(f"cannot read {error.filename}: {error.strerror}") from None
        super().__init__(
            str(path), names, metadata, classes=classes, strict=strict, max_megapixels=max_megapixels
        )

    @classmethod
    def matches(cls, path: Path) -> bool:
        return path.is_dir() and not ShardSource.matches(path)

    def _read(self, index: int, suffix: str = "") -> bytes | None:
        name = self.names[index]
        if suffix:
            if not self._beside_it[index] & _BESIDE[suffix]:
                return None
            name = os.path.splitext(name)[0] + suffix
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror or error}") from None

    def _stamp(self, index: int) -> int:
        try:
            return (self.root / self.names[index]).stat().st_size
        except OSError:
            return -1


# Bits that tell which files lie beside an image: to try and open them costs an access of the disk each
_BESIDE = {".json": 1, ".txt": 2}


def _images(root: Path) -> list[tuple[str, int]]:
    """Relative paths of all image files, and which of `_BESIDE` they have; linked folders are followed, each folder is
    visited once."""

    def stop(error: OSError) -> None:
        raise GankitError(f"cannot read the folder {error.filename}: {error.strerror}") from None

    found = []
    visited = set()
    for folder, subfolders, files in os.walk(root, onerror=stop, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in visited else sorted(s for s in subfolders if not s.startswith("."))
        if real in visited:
            continue
        visited.add(real)
        prefix = Path(folder).relative_to(root)
        there = {file.lower() for file in files}  # names may be the same in either case
        for file in files:
            stem, suffix = os.path.splitext(file)
            if not file.startswith(".") and suffix.lower() in SUFFIXES:
                beside = sum(bit for other, bit in _BESIDE.items() if stem.lower() + other in there)
                found.append(((prefix / file).as_posix(), beside))
    return found
