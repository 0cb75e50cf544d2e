"""The condition of a batch of images, and the contract of conditioners, which encode labels into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.interfaces.labels import Label, Vocabulary


@dataclass(frozen=True)
class CondSpec:
    """Sizes of a `Condition`, known before any network is built; 0 means absent."""

    c_dim: int = 0
    token_dim: int = 0


@dataclass
class Condition:
    """What a batch of images is conditioned on.

    Args:
        embedding: [B, c_dim], one vector an image, or None.
        tokens: [B, T, token_dim], a sequence an image, or None.
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
    """The embedding [B, c_dim] of a condition given in any accepted form."""
    return cond.embedding if isinstance(cond, Condition) else cond


def required_embedding(cond: Cond, c_dim: int) -> Tensor | None:
    """The embedding [B, c_dim] that a conditional network cannot do without; whatever there is if c_dim is 0."""
    c = embedding_of(cond)
    if c_dim and (c is None or c.shape[1:] != (c_dim,)):
        given = "none" if c is None else list(c.shape)
        raise ValueError(f"this network needs a condition with an embedding [B, {c_dim}], not {given}")
    return c


class Conditioner(nn.Module, ABC):
    """Turns labels into conditions. Emits one-hot, multi-hot or encoder features; learned projections live in G and D.

    Life: constructed with its options, then `set_vocabulary` once (from the data set, or from `conditioner.json`),
    after which `spec` is valid. Parameters with `requires_grad` are trained together with G.
    """

    spec: CondSpec

    @abstractmethod
    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Take the classes and tags that exist. Raises GankitError when a needed one is missing from the data."""

    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """What `set_vocabulary` needs to rebuild this conditioner; saved as `conditioner.json`."""

    @abstractmethod
    def encode(self, labels: Sequence[Label]) -> Condition:
        """Labels -> condition on the module's device, without dropout or noise.

        A field that a label lacks is encoded as "not given". Unknown tags or classes raise GankitError with near
        matches."""

    def augment(self, cond: Condition) -> Condition:
        """Dropout and noise of training mode; draws from `gankit.core.runtime.random`. Identity by default."""
        return cond

    @property
    def accepts(self) -> frozenset[str]:
        """Which of 'cls', 'tags', 'text' this conditioner reads."""
        raise NotImplementedError

    def columns(self) -> list[tuple[str, str]]:
        """What each of the `spec.c_dim` numbers stands for: pairs of a kind ('cls', 'tags' or one of its own) and a
        name, all different. Numbers with the same name in two models mean the same, so that `--init` can match them."""
        return [(type(self).__name__, str(i)) for i in range(self.spec.c_dim)]

    def ignored(self, label: Label) -> list[str]:
        """Tags of a label that are known but without effect, because they are rare in the training data."""
        return []

    def identity(self) -> dict[str, str]:
        """Hashes of frozen pretrained encoders by what they are for; a model is tied to them."""
        return {}

    def prepare(self, cache_dir: Path | None, device: torch.device) -> None:
        """Called once before training: a place to open an on-disk cache of embeddings."""
