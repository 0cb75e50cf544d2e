"""The contracts of image sources and of sources of pretrained weights."""

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
    """An indexable set of images. `__init__(self, path: str, *, options)`, picklable (it travels to worker processes).

    Raise GankitError in the constructor for a missing or empty path. `image` may raise `gankit.interfaces.BadImage`:
    the sample is skipped and its name reported.
    """

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Whether `--data PATH` without a source's name means this one."""
        return False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The decoded image at its own size, in any mode that PIL knows."""

    @abstractmethod
    def label(self, index: int) -> Label:
        """Class, tags, texts; cheap, decodes no image."""

    @abstractmethod
    def name(self, index: int) -> str:
        """A name that lets the user find the image."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the content does; keys caches and guards resume."""

    def vocabulary(self) -> Vocabulary:
        """Classes and tags that occur; the default reads every label."""
        return Vocabulary.collect(self.label(i) for i in range(len(self)))


class WeightSource(ABC):
    """Offline origin of pretrained weights, asked before the hub and the local cache. Both return None if unknown."""

    def folder(self, hub_id: str) -> Path | None:
        """A folder in the hub's own layout (config.json, tokenizer, model.safetensors)."""
        return None

    def state_dict(self, hub_id: str) -> dict[str, Tensor] | None:
        """Tensors under the names that the library which knows `hub_id` expects."""
        return None

    @abstractmethod
    def ids(self) -> Iterable[str]:
        """The hub ids on offer."""
