"""The source 'boxes': avatars of the source 'avatars', each drawn at a place of its own, with its bounding box."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from PIL import Image, ImageColor

from gankit.interfaces import GankitError, Label, Source, Vocabulary
from gankit_avatars.source import AvatarSource

BACKGROUND = "#ccd6e0"
FORMAT = 1  # raise it when the drawings of an index change


class BoxSource(Source):
    """Avatars at random places, in random sizes, with what the source 'avatars' knows of them and a field 'box'.

    Args:
        count: number of images.
        seed: picks the set; another seed gives other avatars and places, for held-out evaluation.
        size: side of the square pictures in pixels, >= 8.
        smallest: smallest side of a box, as a share of the picture's, in (0, largest].
        largest: largest side of a box, as a share of the picture's, in [smallest, 1].
    """

    def __init__(
        self,
        path: str = "",
        *,
        count: int = 20000,
        seed: int = 0,
        size: int = 64,
        smallest: float = 0.4,
        largest: float = 0.7,
    ) -> None:
        if size < 8:
            raise GankitError(f"size = {size} of source 'boxes' must be 8 or more")
        if not 0 < smallest <= largest <= 1:
            raise GankitError(
                f"smallest = {smallest} and largest = {largest} of source 'boxes' must be in (0, 1], the smallest first"
            )
        self.avatars = AvatarSource(path, count=count, seed=seed, size=size, background=BACKGROUND)
        self.sides = [max(2, round(share * size)) for share in (smallest, largest)]

    def __len__(self) -> int:
        return len(self.avatars)

    def _box(self, index: int) -> list[int]:
        """[x0, y0, x1, y1] in pixels."""
        rng = np.random.Generator(np.random.PCG64([FORMAT, self.avatars.seed, index]))
        width, height = (int(side) for side in rng.integers(self.sides[0], self.sides[1] + 1, 2))
        x = int(rng.integers(0, self.avatars.size - width + 1))
        y = int(rng.integers(0, self.avatars.size - height + 1))
        return [x, y, x + width, y + height]

    def label(self, index: int) -> Label:
        known = self.avatars.label(index)
        return replace(known, fields={"box": [side / self.avatars.size for side in self._box(index)]})

    def image(self, index: int) -> Image.Image:
        """The avatar without its margins, stretched to the box."""
        x0, y0, x1, y1 = self._box(index)
        avatar = self.avatars.image(index)
        picture = Image.new("RGB", avatar.size, BACKGROUND)
        drawn = (np.asarray(avatar) != ImageColor.getrgb(BACKGROUND)).any(2)
        rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
        face = avatar.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
        picture.paste(face.resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS), (x0, y0))
        return picture

    def name(self, index: int) -> str:
        return self.avatars.name(index)

    def fingerprint(self) -> str:
        parts = (FORMAT, self.avatars.fingerprint(), self.sides)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def vocabulary(self) -> Vocabulary:
        known = self.avatars.vocabulary()
        return replace(known, fields={"box": known.total})
