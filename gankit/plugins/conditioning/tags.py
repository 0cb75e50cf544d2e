"""Tag conditioner: a weighted set of tags as a multi-hot vector.

Few, frequent tags with dropout work better than an embedding that makes every image a class of its own, as
tag-conditional anime StyleGANs showed. Noise is StackGAN's conditioning augmentation (Zhang et al. 2017, section 3.2)
without the learned part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from gankit.core.interfaces.conditions import Condition, Conditioner, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.runtime.random import rand, randn
from gankit.errors import GankitError, unknown


class TagConditioner(Conditioner):
    """Multi-hot vector with the weights of the image's tags; all zeros where no tag is given.

    Tags of the data that are too rare for a column of the vector are accepted and ignored.

    Args:
        min_count: tags with fewer images than this in the training data are ignored.
        max_tags: number of tags to keep, the most frequent ones; null keeps all.
        dropout: probability in [0, 1] with which training hides each tag of an image.
        drop_all: probability in [0, 1] with which training hides all tags of an image.
        noise: standard deviation of Gaussian noise that training adds to each number of the vector.
        normalize: "none"; "sqrt" divides by the square root of the number of given tags; "l2" makes the length 1, so
            that only ratios of weights count.
    """

    _anchor: Tensor  # an empty buffer that follows the module's device

    def __init__(
        self,
        *,
        min_count: int = 1,
        max_tags: int | None = None,
        dropout: float = 0.0,
        drop_all: float = 0.0,
        noise: float = 0.0,
        normalize: Literal["none", "sqrt", "l2"] = "none",
    ) -> None:
        super().__init__()
        for name, value in (("dropout", dropout), ("drop_all", drop_all)):
            if not 0 <= value <= 1:
                raise GankitError(f"{name} = {value} of conditioner 'tags' must be in [0, 1]")
        if noise < 0:
            raise GankitError(f"noise = {noise} of conditioner 'tags' must not be negative")
        if max_tags is not None and max_tags < 1:
            raise GankitError(f"max_tags = {max_tags} of conditioner 'tags' must be at least 1, or null")
        self.min_count, self.max_tags = min_count, max_tags
        self.dropout, self.drop_all, self.noise = dropout, drop_all, noise
        self.normalize = normalize
        self.spec = CondSpec()
        self._counts: dict[str, int] = {}
        self._index: dict[str, int] = {}
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        if not vocabulary.tags:
            raise GankitError(
                "conditioner 'tags' needs images with tags, but the data has none; "
                "use another conditioner, or data with tags"
            )
        self._counts = dict(vocabulary.tags)
        frequent = (tag for tag, count in self._counts.items() if count >= self.min_count)
        self._index = {tag: i for i, tag in enumerate(islice(frequent, self.max_tags))}
        if not self._index:
            raise GankitError(
                f"conditioner 'tags': none of the {len(self._counts)} tags has min_count = {self.min_count} images, "
                f"the most frequent one has {max(self._counts.values())}; lower min_count"
            )
        self.spec = CondSpec(c_dim=len(self._index))

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(tags=dict(self._counts))

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"tags"})

    def ignored(self, label: Label) -> list[str]:
        """Tags of a label that occur in the data but are too rare to have an effect."""
        return [tag for tag in label.tags if tag in self._counts and tag not in self._index]

    def columns(self) -> list[tuple[str, str]]:
        return [("tags", name) for name in self._index]

    def encode(self, labels: Sequence[Label]) -> Condition:
        rows: list[int] = []
        columns: list[int] = []
        weights: list[float] = []
        for row, label in enumerate(labels):
            for tag, weight in label.tags.items():
                if tag in self._index:
                    rows.append(row)
                    columns.append(self._index[tag])
                    weights.append(weight)
                elif tag not in self._counts:
                    raise GankitError(unknown("tag", tag, self._index))
        embedding = torch.zeros(len(labels), self.spec.c_dim)
        embedding[rows, columns] = torch.tensor(weights)
        return Condition(self._scaled(embedding).to(self._anchor.device))

    def augment(self, cond: Condition) -> Condition:
        c = cond.embedding
        if c is None:
            return cond
        if self.dropout or self.drop_all:
            keep = torch.ones_like(c, dtype=torch.bool)
            if self.dropout:
                keep &= rand(*c.shape, device=c.device) >= self.dropout
            if self.drop_all:
                keep &= rand(len(c), 1, device=c.device) >= self.drop_all
            c = self._scaled(self._unscaled(c) * keep)
        if self.noise:
            given = (c != 0).any(dim=1, keepdim=True)  # "not given" stays exactly zero
            c = c + self.noise * randn(*c.shape, device=c.device) * given
        return Condition(c)

    def _scaled(self, c: Tensor) -> Tensor:
        if self.normalize == "l2":
            return torch.nn.functional.normalize(c, dim=1)
        if self.normalize == "sqrt":
            return c / (c != 0).sum(dim=1, keepdim=True).clamp(min=1).sqrt()
        return c

    def _unscaled(self, c: Tensor) -> Tensor:
        """Undo the scaling of "sqrt". For "l2" there is nothing to undo: the scale cancels when what is left is
        normalised again."""
        if self.normalize == "sqrt":
            return c * (c != 0).sum(dim=1, keepdim=True).sqrt()
        return c
