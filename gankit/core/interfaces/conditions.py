"""The condition of a batch of images, and the base class of conditioners, which encode labels into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.interfaces.composition import Component, CondSpec
from gankit.core.interfaces.labels import COMMON, Label, Vocabulary


@dataclass
class Condition:
    """The condition of a batch of images.

    Args:
        embedding: [B, c_dim], one vector for each image, or None.
        tokens: [B, T, token_dim], one sequence for each image, or None.
        mask: [B, T] bool, True where `tokens` holds a token.
    """

    embedding: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None

    def map(self, fn: Any) -> Condition:
        """A new condition with `fn` applied to each tensor that is present."""
        return Condition(*(None if t is None else fn(t) for t in (self.embedding, self.tokens, self.mask)))

    def __getitem__(self, rows: Any) -> Condition:
        """Rows of the batch; a slice, an index tensor or a boolean mask."""
        return self.map(lambda t: t[rows])

    def to(self, device: torch.device | str) -> Condition:
        return self.map(lambda t: t.to(device))

    def detach(self) -> Condition:
        return self.map(torch.Tensor.detach)

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Concatenate along the batch."""

        def join(name: str) -> Tensor | None:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        return Condition(join("embedding"), join("tokens"), join("mask"))


Cond = Condition | Tensor | None


def embedding_of(cond: Cond) -> Tensor | None:
    """The embedding [B, c_dim] of a Condition, a tensor (returned unchanged) or None."""
    return cond.embedding if isinstance(cond, Condition) else cond


def required_embedding(cond: Cond, c_dim: int) -> Tensor | None:
    """The embedding [B, c_dim] of a condition; raises ValueError if it is missing or of another width and c_dim > 0."""
    c = embedding_of(cond)
    if c_dim and (c is None or c.shape[1:] != (c_dim,)):
        given = "none" if c is None else list(c.shape)
        raise ValueError(f"this network needs a condition with an embedding [B, {c_dim}], not {given}")
    return c


class Conditioner(nn.Module, Component, ABC):
    """Encodes labels into conditions: one-hot, multi-hot or encoder features; learned projections belong to G and D.

    It is constructed with its options; then `set_vocabulary` is called once (with the vocabulary of the data set or of
    `conditioner.json`), after which `spec` is valid. Parameters with `requires_grad` are trained together with G.
    """

    spec: CondSpec

    @abstractmethod
    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Set what the data's labels have. Raises GankitError if something that this conditioner needs is missing."""

    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The vocabulary with which `set_vocabulary` rebuilds this conditioner; saved in `conditioner.json`."""

    @abstractmethod
    def encode(self, labels: Sequence[Label]) -> Condition:
        """Labels -> condition on the module's device, without dropout or noise.

        A field that a label lacks is encoded as "not given". Unknown tags or classes raise GankitError with near
        matches."""

    def augment(self, cond: Condition) -> Condition:
        """Apply dropout and noise to a condition in training; draws from `gankit.core.runtime.random`.

        Returns `cond` unchanged by default."""
        return cond

    @property
    def accepts(self) -> frozenset[str]:
        """The fields of a label that this conditioner reads: 'cls', 'tags', 'text' and names of `Label.fields`.

        A name of its own is a valid keyword argument, since a request gives it as one: `pipe(box=[...])`."""
        raise NotImplementedError

    def examples(self) -> Mapping[str, Sequence[Any]]:
        """Two or more valid values, all different, of each field of its own that it accepts, such as {'box': [...]}.

        The conformance tests try them, and programs that offer controls may. Called before `set_vocabulary` as well."""
        return {}

    def check(self, label: Label) -> None:
        """Raise GankitError if a field of its own has a value that `encode` would refuse.

        Training asks for every image before it begins, so that a mistake in the data does not stop it days later."""

    def mirror(self, label: Label) -> Label | None:
        """The label of an image flipped left to right; None if that is not known, so that such training is refused.

        By default, class, tags and captions stay, and nothing is known about other fields."""
        return None if self.accepts - COMMON.keys() else label

    def columns(self) -> list[tuple[str, str]]:
        """Meaning of each of the `spec.c_dim` numbers of an embedding: a pair (kind, name), all different.

        The kind is 'cls', 'tags' or one of the conditioner's own. Numbers with the same pair in two models mean the
        same; `--init` matches them by it."""
        return [(type(self).__name__, str(i)) for i in range(self.spec.c_dim)]

    def ignored(self, label: Label) -> list[str]:
        """Tags of a label that are in the vocabulary but have no effect because they are rare in the training data."""
        return []

    def identity(self) -> dict[str, str]:
        """Hashes of frozen pretrained encoders, by role; a model loads only with encoders of the same hashes."""
        return {}

    def prepare(self, cache_dir: Path | None, device: torch.device) -> None:
        """Called once before training; may open a cache of embeddings in `cache_dir` (None: no cache on disk)."""
