"""Plugins that tests register by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.interfaces.networks import FeatureNetwork, Tap
from gankit.errors import GankitError
from gankit.sampling.engine import Engine


class Recorder(Engine):
    """Draws what it shall, and writes down what it was asked for."""

    fixed_batch = True
    log: ClassVar[list[Any]] = []
    fails: ClassVar[str] = ""
    shift: ClassVar[float] = 0.0

    def prepare(self, module: Any, inputs: Any) -> Any:
        self.log.append(("prepare", len(inputs["ws"]), sorted(inputs)))
        if self.fails == "prepare":
            raise RuntimeError("no such header\nat all")

        def draw(inputs: Any) -> torch.Tensor:
            if self.fails == "draw":
                raise RuntimeError("out of luck")
            self.log.append(("draw", len(inputs["ws"])))
            return module(**inputs) + self.shift

        return draw


class Broken(FeatureNetwork):
    """NaN for bright images."""

    name, num_pooled, num_logits = "broken", 2, 0
    taps = [Tap(2, 1)]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images[:, :2]]

    def pooled(self, images: Tensor) -> Tensor:
        return (images.mean((2, 3))[:, :2] - 10).sqrt()


class Letters(Conditioner):
    """A text encoder without weights to download: how often each letter occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = CondSpec(26)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        pass

    def vocabulary(self) -> Vocabulary:
        return Vocabulary()

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"text"})

    def encode(self, labels: Sequence[Label]) -> Condition:
        rows = [[float((label.text or "").lower().count(chr(97 + i))) for i in range(26)] for label in labels]
        return Condition(torch.tensor(rows))


class Angle(Conditioner):
    """A field of its own: a number of degrees, which a mirrored image has with the other sign."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = CondSpec(2)
        self.count = 0

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        self.count = vocabulary.fields.get("angle", 0)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(fields={"angle": self.count})

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"angle"})

    def examples(self) -> dict[str, list[float]]:
        return {"angle": [30.0, -90.0]}

    def check(self, label: Label) -> None:
        angle = label.fields.get("angle", 0.0)
        if type(angle) not in (int, float) or not -180 <= angle <= 180:
            raise GankitError(f"an angle must be -180 to 180 degrees, not {angle!r}")

    def mirror(self, label: Label) -> Label | None:
        if "angle" not in label.fields:
            return label
        return replace(label, fields={**label.fields, "angle": -label.fields["angle"]})

    def encode(self, labels: Sequence[Label]) -> Condition:
        for label in labels:
            self.check(label)
        angles = [label.fields.get("angle") for label in labels]
        return Condition(torch.tensor([[0.0, 0.0] if a is None else [1.0, a / 180] for a in angles]))
