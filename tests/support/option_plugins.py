"""Plugins with options of every type."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from gankit.core.config.options import Nested
from gankit.core.config.registry import Plugin, registry
from gankit.core.interfaces.training import AdversarialLoss, Augmentation


class Part(AdversarialLoss):
    """Whatever the contract demands."""

    def d_loss(self, real: Any, fake: Any) -> Any:
        return fake[0][:, 0]

    def g_loss(self, fake: Any, real: Any = None) -> Any:
        return fake[0][:, 0]


class Inner(Part):
    """A small part.

    Args:
        gain: factor, > 0.
    """

    def __init__(self, *, gain: float = 1.0) -> None:
        self.gain = gain


class Outer(Augmentation):
    """First line.

    More about it.

    Args:
        width: number of channels, 1 to 64.
        mode: how to do it,
            on two lines: with a colon.
        taps (list of int): with a type in parentheses.
        part: the inner plugin.
        spare: another, or none.

    Raises:
        GankitError: never.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        width: int = 8,
        mode: Literal["fast", "slow"] = "fast",
        taps: tuple[int, ...] = (1, 2),
        rate: float | None = None,
        table: dict[str, float] | None = None,
        on: bool = False,
        part: Annotated[Inner, Nested("loss")] = {"name": "inner", "gain": 2},  # type: ignore[assignment]  # noqa: B006
        spare: Annotated[Inner | None, Nested("loss")] = None,
    ) -> None:
        super().__init__()
        self.image_shape, self.width, self.mode, self.taps = image_shape, width, mode, taps
        self.rate, self.table, self.on, self.part = rate, table, on, part
        self.spare = spare

    def forward(self, images: Any) -> Any:
        return images


class Many(Part):
    """Several parts.

    Args:
        parts: by name.
    """

    def __init__(self, *, parts: Annotated[dict[str, Inner], Nested("loss", many=True)]) -> None:
        self.parts = parts


def factory(*, size: int = 3) -> Part:
    """A function is a plugin as well.

    Args:
        size: of the result.
    """
    made: Any = Part()
    made.size = size
    return made


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """The plugins of this file are known to the registry."""
    table = registry().plugins
    mine = {
        ("augmentation", "outer"): "Outer",
        ("loss", "inner"): "Inner",
        ("loss", "many"): "Many",
        ("loss", "factory"): "factory",
    }
    for (kind, name), attribute in mine.items():
        table[kind, name] = Plugin(kind, name, f"{__name__}:{attribute}", "fake", "1.0")
    yield
    for key in mine:
        del table[key]
