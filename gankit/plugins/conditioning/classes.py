"""Class conditioner: one class of a list as a one-hot vector (conditional StyleGAN2-ADA, StyleGAN-XL, R3GAN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime.random import rand
from gankit.errors import GankitError, unknown


class ClassConditioner(Conditioner):
    """One-hot vector of the image's class; all zeros where no class is given.

    Args:
        dropout: probability in [0, 1] with which training hides the class of an image, so that sampling without a
            class works too.
    """

    _anchor: Tensor  # an empty buffer that follows the module's device

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise GankitError(f"dropout = {dropout} of conditioner 'class' must be in [0, 1]")
        self.dropout = dropout
        self.spec = CondSpec()
        self._counts: dict[str, int] = {}
        self._index: dict[str, int] = {}
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        if not vocabulary.classes:
            raise GankitError(
                "conditioner 'class' needs images with a class, but the data has none; "
                "use conditioner 'none', or data with classes (e.g. one sub-folder for each)"
            )
        self._counts = dict(vocabulary.classes)
        self._index = {name: i for i, name in enumerate(self._counts)}
        self.spec = CondSpec(c_dim=len(self._index))

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(classes=dict(self._counts))

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"cls"})

    def columns(self) -> list[tuple[str, str]]:
        return [("cls", name) for name in self._index]

    def encode(self, labels: Sequence[Label]) -> Condition:
        embedding = torch.zeros(len(labels), self.spec.c_dim)
        for row, label in zip(embedding, labels):
            if label.cls is not None:
                if label.cls not in self._index:
                    raise GankitError(unknown("class", label.cls, self._index))
                row[self._index[label.cls]] = 1
        return Condition(embedding.to(self._anchor.device))

    def augment(self, cond: Condition) -> Condition:
        if not self.dropout or cond.embedding is None:
            return cond
        c = cond.embedding
        return Condition(c * (rand(len(c), 1, device=c.device) >= self.dropout))
