"""Weights of convolutions made ready for a CPU, to be kept from call to call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from gankit.core.cuda import onednn
from gankit.core.runtime.devices import forget, unchanged_in_file

WEIGHTS = 512  # remembered at most
KEPT_BYTES = 32 * 2**20  # of weights made ready, beyond the weights' own


class ConstantWeights:
    """Weights of convolutions as the CPU wants them, made ready once for many calls without gradients.

    A weight that is written to in place, replaced or moved is made ready anew; writing through `weight.data` or numpy
    goes unnoticed. Takes `most` bytes beyond the weights' own memory: the first to come are kept, in a generator those
    of the coarse layers, where making a weight ready takes the largest share of the time. What the last call did not
    use makes room. A weight that lies unchanged in a mapped file, as those of `gankit.load` on Linux do, gives its
    memory for what is made of it, and is read again where it is wanted.
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
        """Whether so many bytes more may be kept, after what has fallen out of use is gone."""
        free = self.most - size
        for ready in list(self.known.values()):  # a list, as other threads may add, too
            for key, kernel in list(ready.kernels.items()):
                if kernel.call < self.calls - 1:
                    ready.kernels.pop(key, None)
                else:
                    free -= kernel.extra
        return free >= 0


_constant: ContextVar[ConstantWeights | None] = ContextVar("constant weights", default=None)


@dataclass
class Kernel:
    """A weight made ready for maps of one kind: in one piece, or in several."""

    parts: list[Tensor]
    extra: int  # bytes that keeping it takes
    call: int = 0  # the last that used it


Kernels = dict[tuple[Any, ...], Kernel]


@dataclass
class Ready:
    """What depends on a weight alone. The weight is kept, so that its id stays its own."""

    weight: Tensor
    version: int
    address: int
    kernels: Kernels = field(default_factory=dict)

    @cached_property
    def energy(self) -> Tensor:
        """[O, I] in float32, sums of squares."""
        return self.weight.detach().float().square().sum((2, 3))

    def get(self, here: Kernels, key: tuple[Any, ...], make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The weight made ready as `key` says: kept, or in `here`, which is of one call, or new from `make`."""
        constant = _constant.get()
        kernel = self.kernels.get(key) or here.get(key)
        if kernel is None or (kernel.parts[0].is_mkldnn and onednn.failures):
            parts = make()
            size = sum(part.numel() * part.element_size() for part in parts)
            # values that lie in a file need no memory beside those that are ready
            spare = constant is not None and not self.kernels and unchanged_in_file(self.weight)
            kernel = Kernel(parts, size - self.weight.nbytes if spare else size)
            keeps = constant is not None and constant.room(kernel.extra)
            (self.kernels if keeps else here)[key] = kernel
            if keeps and spare:
                forget(self.weight)
        kernel.call = 0 if constant is None else constant.calls
        return kernel.parts


def ready_for(weight: Tensor) -> Ready:
    """What is kept of it, if within `ConstantWeights.kept`, or made new."""
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
