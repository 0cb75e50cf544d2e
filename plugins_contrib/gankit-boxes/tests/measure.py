"""Script: does a model draw where the box says? `python tests/measure.py RUN`.

Draws a picture for each of 64 boxes of held-out data, finds the box of what differs from the background, and prints how
much the two boxes overlap (IoU) and how far their centres are apart; the same for the pictures of the data themselves,
and for boxes and pictures that do not belong together.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import ImageColor

import gankit
from gankit_boxes.source import BACKGROUND, BoxSource

IMAGES = 64
FAINT = 48  # of 255: smaller differences from the background do not count
MARGIN = 0.02  # share of all differences beyond each side of the box that is found: specks do not count


def found(image) -> list[float]:
    """The box of what is drawn, [x0, y0, x1, y1] in [0, 1]."""
    different = abs(np.asarray(image).astype(int) - ImageColor.getrgb(BACKGROUND)).max(2)
    different[different < FAINT] = 0
    sides = []
    for axis in (0, 1):
        share = np.cumsum(different.sum(axis)) / max(1, different.sum())
        first, last = np.searchsorted(share, [MARGIN, 1 - MARGIN])
        sides.append((first / len(share), (last + 1) / len(share)))
    return [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]


def overlap(one: list[float], two: list[float]) -> float:
    """Area that two boxes share, as a share of the area that either covers (IoU)."""
    sides = [max(0.0, min(one[i + 2], two[i + 2]) - max(one[i], two[i])) for i in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    shared = sides[0] * sides[1]
    return shared / (sum(areas) - shared)


def centre(box: list[float]) -> list[float]:
    return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]


if __name__ == "__main__":
    pipe = gankit.load(sys.argv[1], device="cpu")
    source = BoxSource(count=IMAGES, seed=1, size=pipe.recipe.data.size[0])
    boxes = [source.label(i).fields["box"] for i in range(IMAGES)]
    drawn = [found(pipe(box=box, seeds=i)[0]) for i, box in enumerate(boxes)]
    real = [found(source.image(i)) for i in range(IMAGES)]
    for what, theirs in (("drawn", drawn), ("data", real), ("of another box", drawn[1:] + drawn[:1])):
        shared = np.mean([overlap(a, b) for a, b in zip(boxes, theirs)])
        apart = np.subtract([centre(box) for box in boxes], [centre(box) for box in theirs])
        print(
            f"{what}: IoU {shared:.2f}, centres {np.linalg.norm(apart, axis=1).mean():.3f} of the side apart"
        )
