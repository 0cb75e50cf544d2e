"""The source 'zip': images in a zip file laid out like a folder, read in place."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

from gankit.core.data.images import SUFFIXES, BadImage
from gankit.errors import GankitError
from gankit.plugins.sources.metadata import METADATA_FILES, FileSource

MAX_MEMBER_BYTES = 1 << 30  # limit for the unpacked size of a member


class ZipSource(FileSource):
    """Images in a .zip file, read in place; layout and labels as in a folder (`gankit plugins show folder`).

    A single top-level folder around everything is looked through.

    Args:
        classes: take the names of first-level folders as classes; not beside a dataset.json.
        strict: stop at an image that cannot be read or that the metadata does not list, and at a .json file beside an
            image that says nothing of it, instead of going on without.
        max_megapixels: larger images are skipped.
    """

    def __init__(
        self, path: str, *, classes: bool = True, strict: bool = False, max_megapixels: float = 200.0
    ) -> None:
        self.file = Path(path).expanduser()
        if not self.file.is_file():
            raise GankitError(f"the zip file {path} does not exist")
        self._zip: zipfile.ZipFile | None = None
        self._pid = 0
        try:
            members = [info for info in self._opened().infolist() if not info.is_dir()]
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise GankitError(
                f"{path} cannot be read as a zip file ({error}); copy or create it anew"
            ) from None
        for info in members:
            _check_member(info, str(path))
        visible = [info.filename for info in members if not _hidden(info.filename)]
        tops = {name.split("/", 1)[0] for name in visible}
        self._prefix = f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in visible) else ""
        names = sorted(
            name.removeprefix(self._prefix)
            for name in set(visible)
            if os.path.splitext(name)[1].lower() in SUFFIXES
        )
        if not names:
            raise GankitError(f"{path} holds no images; looked for {' '.join(sorted(SUFFIXES))}")
        try:
            found = {file: self._member(file) for file in METADATA_FILES}
        except BadImage as error:
            raise GankitError(f"the metadata in {path} {error}") from None
        metadata = {file: data for file, data in found.items() if data is not None}
        super().__init__(
            str(path), names, metadata, classes=classes, strict=strict, max_megapixels=max_megapixels
        )

    @classmethod
    def matches(cls, path: Path) -> bool:
        return path.suffix.lower() == ".zip" and path.is_file()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}

    def _opened(self) -> zipfile.ZipFile:
        """The open zip file of this process: a forked process would share the file position with its parent."""
        if self._zip is None or self._pid != os.getpid():
            self._zip, self._pid = zipfile.ZipFile(self.file), os.getpid()
        return self._zip

    def _member(self, name: str) -> bytes | None:
        try:
            info = self._opened().getinfo(self._prefix + name)
        except KeyError:
            return None
        if info.file_size > MAX_MEMBER_BYTES:
            raise BadImage(f"unpacks to {info.file_size >> 20} MiB, more than {MAX_MEMBER_BYTES >> 20} MiB")
        try:
            return self._opened().read(info)
        except (
            Exception
        ) as error:  # BadZipFile, zlib.error, NotImplementedError (method), OSError, EOFError, ...
            raise BadImage(f"cannot be unpacked: {type(error).__name__}: {error}") from None

    def _read(self, index: int, suffix: str = "") -> bytes | None:
        name = self.names[index]
        return self._member(os.path.splitext(name)[0] + suffix if suffix else name)

    def _stamp(self, index: int) -> int:
        return self._opened().getinfo(self._prefix + self.names[index]).CRC


def _check_member(info: zipfile.ZipInfo, path: str) -> None:
    name = info.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or (name[1:2] == ":" and name[0].isalpha()):
        raise GankitError(
            f"{path} holds the unsafe name {info.filename!r}; create it anew with relative names"
        )
    if info.flag_bits & 1:
        raise GankitError(f"{path} is encrypted ({info.filename!r}); create it anew without a password")


def _hidden(name: str) -> bool:
    """True for hidden files and the metadata of macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
