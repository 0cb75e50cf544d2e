"""Weights of convolutions in the order that an op backend computes with, kept from call to call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

WEIGHTS = 512  # remembered at most
KEPT_BYTES = 2**30  # of prepared weights


class ConstantWeights:
    """Prepared weights, made once for many calls without gradients.

    A weight that is written to in place, replaced or moved is prepared anew; writing through `weight.data` or numpy
    goes unnoticed. Prepared weights take memory beside the weights themselves, `most` bytes in all: the first to come
    are kept, in a generator those of the coarse layers, where preparing takes the largest share of the time. What the
    last call did not use makes room. Without an op backend that prepares weights, nothing is kept.
    """

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self.most = most
        self.known: dict[int, Ready] = {}
        self.calls = 0

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within, which is one call, convolutions take their weights from here."""
        self.calls += 1
        token = _constant.set(self)
        try:
            yield
        finally:
            _constant.reset(token)

    def room(self, size: int) -> bool:
        """True if `size` bytes more may be kept, after what has fallen out of use is gone."""
        free = self.most - size
        for ready in list(self.known.values()):  # a list, as other threads may add, too
            for key, kernel in list(ready.kernels.items()):
                if kernel.call < self.calls - 1:
                    ready.kernels.pop(key, None)
                else:
                    free -= kernel.size
        return free >= 0


_constant: ContextVar[ConstantWeights | None] = ContextVar("constant weights", default=None)


@dataclass
class Kernel:
    """A weight prepared for maps of one kind."""

    parts: list[Tensor]  # one, or several
    call: int = 0  # the last that used it

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return sum(part.numel() * part.element_size() for part in self.parts)


Kernels = dict[tuple[Any, ...], Kernel]


@dataclass
class Ready:
    """A weight with all that is prepared from it. It holds the weight, so that its id stays its own."""

    weight: Tensor
    version: int
    address: int
    kernels: Kernels = field(default_factory=dict)

    @cached_property
    def energy(self) -> Tensor:
        """Sum of squares of each kernel of the weight, [O, I] in float32."""
        return self.weight.detach().float().square().sum((2, 3))

    def get(self, here: Kernels, key: tuple[Any, ...], make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The prepared weight.

        Args:
            here: prepared weights of one call, which takes what finds no room in `ConstantWeights`.
            key: everything that the result depends on besides the weight, such as the size of the maps and whether the
                parts are packed in a library's own order.
            make: prepares it, where it is neither kept nor in `here`.
        """
        constant = _constant.get()
        kernel = self.kernels.get(key) or here.get(key)
        if kernel is None:
            kernel = Kernel(make())
            keeps = constant is not None and constant.room(kernel.size)
            (self.kernels if keeps else here)[key] = kernel
        kernel.call = 0 if constant is None else constant.calls
        return kernel.parts


def ready_for(weight: Tensor) -> Ready:
    """The kept `Ready` of a weight, within `ConstantWeights.kept`; otherwise a new, empty one."""
    constant = _constant.get()
    version = 0 if weight.is_inference() else weight._version
    known = None if constant is None else constant.known.get(id(weight))
    if known is None or (known.version, known.address) != (version, weight.data_ptr()):
        known = Ready(weight, version, weight.data_ptr())
        if constant is not None:
            constant.known[id(weight)] = known
            for old in list(constant.known)[:-WEIGHTS]:
                constant.known.pop(old, None)
    return known
