"""The conditioner 'box': where in the image the subject is, as numbers for the networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gankit.interfaces import Condition, Conditioner, CondSpec, GankitError, Label, Vocabulary, rand

SIDES = ("centre x", "centre y", "width", "height")


class BoxConditioner(Conditioner):
    """The bounding box of an image's subject, [x0, y0, x1, y1] as shares of width and height; y points down.

    Its centre and size, each with sines and cosines of some octaves, by which a network tells near places apart
    (Tancik et al., Fourier Features, NeurIPS 2020); all zeros where no box is given.

    Args:
        octaves: sines and cosines of each number; the finest has a period of 2 ** (2 - octaves) of the image's side.
        dropout: probability in [0, 1] with which training hides the box of an image, so that sampling without one
            works too.
    """

    conformance = {"octaves": 2}
    _anchor: Tensor  # an empty buffer that follows the module's device

    def __init__(self, *, octaves: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        if octaves < 0:
            raise GankitError(f"octaves = {octaves} of conditioner 'box' must not be negative")
        if not 0 <= dropout <= 1:
            raise GankitError(f"dropout = {dropout} of conditioner 'box' must be in [0, 1]")
        self.octaves, self.dropout = octaves, dropout
        self.spec = CondSpec(c_dim=len(self.columns()))
        self._count = 0
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"box"})

    def examples(self) -> Mapping[str, Sequence[Any]]:
        return {"box": [[0.1, 0.2, 0.5, 0.6], [0.4, 0.1, 0.9, 0.8], [0.0, 0.0, 1.0, 1.0]]}

    def columns(self) -> list[tuple[str, str]]:
        waves = [f"{wave} {2**k} pi / 2" for k in range(self.octaves) for wave in ("sin", "cos")]
        return [
            ("box", "given"),
            *(("box", f"{form} {side}".strip()) for form in ["", *waves] for side in SIDES),
        ]

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        self._count = vocabulary.fields.get("box", 0)
        if not self._count:
            raise GankitError(
                "conditioner 'box' needs images with a field 'box', but the data has none; "
                "add it to the metadata, or use another conditioner"
            )

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(fields={"box": self._count})

    def check(self, label: Label) -> None:
        if "box" in label.fields:
            _checked(label.fields["box"])

    def mirror(self, label: Label) -> Label:
        if "box" not in label.fields:
            return label
        x0, y0, x1, y1 = _checked(label.fields["box"])
        return replace(label, fields={**label.fields, "box": [1 - x1, y0, 1 - x0, y1]})

    def encode(self, labels: Sequence[Label]) -> Condition:
        embedding = torch.zeros(len(labels), self.spec.c_dim)
        for row, label in zip(embedding, labels):
            if "box" in label.fields:
                x0, y0, x1, y1 = _checked(label.fields["box"])
                sides = torch.tensor([x0 + x1 - 1, y0 + y1 - 1, 2 * (x1 - x0) - 1, 2 * (y1 - y0) - 1])
                angles = [math.pi * 2**k * sides / 2 for k in range(self.octaves)]
                waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
                row[:] = torch.cat([torch.ones(1), sides, *waves])
        return Condition(embedding.to(self._anchor.device))

    def augment(self, cond: Condition) -> Condition:
        c = cond.embedding
        if not self.dropout or c is None:
            return cond
        return Condition(c * (rand(len(c), 1, device=c.device) >= self.dropout))


def _checked(box: Any) -> list[float]:
    """The four numbers of a box. Raises GankitError for anything else, and for a box that is empty or sticks out."""
    numbers = isinstance(box, list) and all(type(x) in (int, float) for x in box)
    if not numbers or len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise GankitError(
            f"a box must be [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, not {box!r}"
        )
    return box
