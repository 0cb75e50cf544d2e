"""Base classes of data sources and of sources of pretrained weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from gankit.core.interfaces.labels import Label, Vocabulary

if TYPE_CHECKING:
    from PIL import Image


class Source(ABC):
    """An indexable set of images with labels. `__init__(self, path: str, *, options)`.

    Must be picklable, for worker processes. The constructor raises GankitError for a missing or empty path. `image` may
    raise `gankit.interfaces.BadImage`: the image is skipped and its name reported.
    """

    @classmethod
    def matches(cls, path: Path) -> bool:
        """True if this source opens `--data PATH` given without a source's name."""
        return False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The decoded image at its own size, in any mode that PIL knows."""

    @abstractmethod
    def label(self, index: int) -> Label:
        """What is known of the image, see `Label`; must be fast, without decoding the image."""

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's name for messages, such as its path."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash that changes when the content does; used as a key of caches and checked when a run resumes."""

    def vocabulary(self) -> Vocabulary:
        """What the labels of the data set have, with counts; the default reads every label."""
        return Vocabulary.collect(self.label(i) for i in range(len(self)))


class WeightSource(ABC):
    """Offline source of pretrained weights, asked before the hub and its cache.

    `folder` and `state_dict` return None for an unknown hub id."""

    def folder(self, hub_id: str) -> Path | None:
        """Folder in the hub's layout (config.json, tokenizer, model.safetensors)."""
        return None

    def state_dict(self, hub_id: str) -> dict[str, Tensor] | None:
        """State dict with the tensor names that the library of `hub_id` (timm, transformers) expects."""
        return None

    @abstractmethod
    def ids(self) -> Iterable[str]:
        """The hub ids whose weights this source has."""
