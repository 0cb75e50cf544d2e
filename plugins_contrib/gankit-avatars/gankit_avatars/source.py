"""The source 'avatars': unlimited labelled avatars, drawn on demand and cached on disk."""

from __future__ import annotations

import hashlib
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from gankit.interfaces import GankitError, Label, Source, Vocabulary, cache_dir
from gankit_avatars.attributes import Avatar
from gankit_avatars.captions import captions

FORMAT = 1  # raise it when the drawings or the words of an index change


class AvatarSource(Source):
    """Cartoon avatars with a class (hair style or hat), tags and three captions each, deterministic by index.

    Args:
        count: number of avatars.
        seed: picks the set; another seed gives other avatars, for held-out evaluation.
        size: side of the square pictures in pixels.
        background: colour behind the avatar, as CSS writes it.
        cache: folder that keeps the drawn pixels (count x size x size x 3 bytes), "auto" for
            GANKIT_CACHE/avatars or ~/.cache/gankit/avatars, "off" to draw each time.
    """

    def __init__(
        self,
        path: str = "",
        *,
        count: int = 50000,
        seed: int = 0,
        size: int = 64,
        background: str = "#ccd6e0",
        cache: str = "auto",
    ) -> None:
        if path not in ("", "avatars"):
            raise GankitError(
                f"the source 'avatars' draws its images and reads no path, but got {path!r}; "
                "leave the path out or choose another source"
            )
        for name, value in (("count", count), ("size", size)):
            if value < 1:
                raise GankitError(f"option '{name}' of the source 'avatars' must be at least 1, not {value}")
        try:
            rgb = ImageColor.getrgb(background)
        except ValueError:
            raise GankitError(
                f"option 'background' of the source 'avatars' is not a colour: {background!r}; "
                "write e.g. '#ccd6e0'"
            ) from None
        self.count, self.seed, self.size = count, seed, size
        self.background = "#{:02x}{:02x}{:02x}".format(*rgb[:3])
        self.cache = cache
        self._pixels: np.ndarray | None = None
        self._drawn: np.ndarray | None = None
        self._opened = False

    @classmethod
    def matches(cls, path: Path) -> bool:
        return False

    def __len__(self) -> int:
        return self.count

    def _check(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"avatar {index} of {self.count}")
        return index

    def avatar(self, index: int) -> Avatar:
        """Attributes (ground truth) of an image. Raises IndexError for one that does not exist."""
        return Avatar.draw(self.seed, self._check(index))

    def label(self, index: int) -> Label:
        avatar = self.avatar(index)
        return Label(avatar.top, dict.fromkeys(avatar.tags(), 1.0), captions(avatar, self.seed, index))

    def name(self, index: int) -> str:
        return f"avatar {self._check(index)} of seed {self.seed}"

    def fingerprint(self) -> str:
        parts = (FORMAT, version("python-avatars"), self.count, self.seed, self.size, self.background)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def vocabulary(self) -> Vocabulary:
        avatars = (self.avatar(i) for i in range(self.count))  # no captions: they take most of a label's time
        found = Vocabulary.collect(Label(a.top, dict.fromkeys(a.tags(), 1.0)) for a in avatars)
        found.captioned = self.count
        return found

    def image(self, index: int) -> Image.Image:
        self._check(index)
        self._open_cache()
        if self._drawn is not None and self._pixels is not None and self._drawn[index]:
            return Image.fromarray(self._pixels[index])
        from gankit_avatars.drawing import render

        picture = render(self.avatar(index), self.size, self.background)
        if self._drawn is not None and self._pixels is not None:
            self._pixels[index] = np.asarray(picture)
            self._drawn[index] = 1  # after the pixels: a reader in another process never sees half a row
        return picture

    def _open_cache(self) -> None:
        """Map the two cache files, shared between processes; without free space there is no cache."""
        if self._opened:
            return
        self._opened = True
        if self.cache == "off":
            return
        folder = cache_dir("avatars") if self.cache == "auto" else Path(self.cache).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pixels, drawn = (folder / f"{self.fingerprint()}.{kind}" for kind in ("pixels", "drawn"))
            shape = (self.count, self.size, self.size, 3)
            missing = int(np.prod(shape)) - (_allocated(pixels) if pixels.exists() else 0)
            if shutil.disk_usage(folder).free < missing + 2**28:  # a full disk would kill the process later
                return
            for file, size in ((pixels, int(np.prod(shape))), (drawn, self.count)):
                with open(file, "ab") as stream:
                    stream.truncate(size)  # sparse; the same size whoever does it
            self._pixels = np.memmap(pixels, np.uint8, "r+", shape=shape)
            self._drawn = np.memmap(drawn, np.uint8, "r+", shape=(self.count,))
        except OSError:
            self._pixels = self._drawn = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None, "_drawn": None, "_opened": False}


def _allocated(file: Path) -> int:
    """Bytes that a sparse file takes on disk already."""
    stat = file.stat()
    return stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size
