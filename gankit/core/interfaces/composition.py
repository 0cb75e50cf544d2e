"""How the parts of a recipe fit each other: what a part is told about the others, and what it says about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

ImageShape = tuple[int, int, int]  # (C, H, W)


@dataclass(frozen=True)
class CondSpec:
    """Sizes of a `Condition`, known before any network is built; 0 means absent."""

    c_dim: int = 0
    token_dim: int = 0


@dataclass(frozen=True)
class Composition:
    """The plugins of a recipe and the sizes of images and conditions, known before any network is built.

    Args:
        image_shape: (C, H, W).
        cond: sizes of the condition.
        accepts: fields of labels that the conditioner reads, see `Conditioner.accepts`.
        parts: section of the recipe -> {'name': ..., option: value}; for sections of several plugins, such as
            regularizers, plugin name -> options.
    """

    image_shape: ImageShape
    cond: CondSpec
    accepts: frozenset[str]
    parts: Mapping[str, Any]

    @property
    def conditioner(self) -> str:
        """The conditioner's description in messages: "conditioner 'NAME'"."""
        return f"conditioner {self.parts['conditioner']['name']!r}"


class Component:
    """Base class of the plugins of a recipe: says with which others it cannot work.

    `gankit.core.config.compatibility` asks before any network is built, for mistakes that would show late or never.

    Attributes:
        needs_labels: fields of labels ('cls', 'tags', 'text' or another name); the conditioner has to read one of them.
            Empty: it works with any conditioner.
        conflicts: 'kind/name' of a plugin with which it cannot work -> the reason, such as
            {'discriminator/patches': 'it judges each patch by itself, so that nobody sees where a box lies'}. Plugins
            that are options of others count as well.
    """

    needs_labels: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        """(other plugin, reason) if this plugin cannot work in the recipe, such as ("conditioner 'none'", "..."), or
        None.

        For rules that depend on options or sizes; the others are data, `needs_labels` and `conflicts`."""
        return None
