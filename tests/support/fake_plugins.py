"""Plugins that tests register by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.interfaces.networks import FeatureNetwork, Tap
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
