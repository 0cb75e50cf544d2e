"""The three sides of a convolution in training: its result, its transpose, and the gradient by the weight.

In float32 with stride 1, all three take half of the products (see `winograd_rows`). Gradients by the weight with a
larger stride, for which oneDNN took up to 2.4 times as long, are put together from such of every other row and column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.interfaces import ops
from gankit_cpu import kernels, onednn, winograd_rows

# Below, torch's own are as fast. N has no say, so that micro-batches of any size go one way
FEWEST_CHANNELS, FEWEST_VALUES = 128, 2**18  # with stride 1: of the fewer channels, in all pixels
FEWEST_STRIDED_CHANNELS, FEWEST_STRIDED_PIXELS = 64, 2**14  # else: of the larger maps
FEWEST_HALF_CHANNELS, FEWEST_HALF_PIXELS = 32, 2**10  # in bfloat16: of the smaller maps


@dataclass(frozen=True)
class Form:
    """A convolution of wide maps [N, I, H, W] with weights [O, I, kh, kw] to narrow ones [N, O, h, w].

    Its transpose takes narrow maps to wide ones. Pairs are (y, x).
    """

    wide: tuple[int, int]
    narrow: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]

    @property
    def lost(self) -> list[int]:
        """Rows and columns at the end of wide maps that no kernel reaches."""
        sizes = zip(self.wide, self.narrow, self.kernel, self.padding)
        return [large - ((small - 1) * self.stride + taps - 2 * pad) for large, small, taps, pad in sizes]

    def pays(self, w: Tensor) -> bool:
        """True if this is faster than torch's own, in sum with the gradients."""
        channels = min(w.shape[:2])
        if self.stride == 1:
            enough = channels >= FEWEST_CHANNELS and channels * math.prod(self.narrow) >= FEWEST_VALUES
            return enough and self.kernel[0] == winograd_rows.TAPS
        enough = channels >= FEWEST_STRIDED_CHANNELS and math.prod(self.wide) >= FEWEST_STRIDED_PIXELS
        return enough and max(self.padding) == 0

    def narrowed(self, x: Tensor, w: Tensor) -> Tensor:
        """Narrow maps of wide ones."""
        if self.stride > 1:
            return F.conv2d(x, w, None, self.stride)
        return filtered_convolution(x, w, self.padding)

    def widened(self, y: Tensor, w: Tensor) -> Tensor:
        """Wide maps of narrow ones."""
        if self.stride == 1:
            rest = [taps - 1 - pad for taps, pad in zip(self.kernel, self.padding)]
            return filtered_convolution(y, w.flip([2, 3]).transpose(0, 1), rest)
        return F.conv_transpose2d(y, w, None, self.stride, 0, self.lost)

    def by_weight(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient by the weight, [O, I, kh, kw], of wide and narrow maps, one of them being a gradient."""
        if self.stride == 1:
            return winograd_rows.weight_gradient(x, y, self.padding, self.kernel[1])
        shape = (y.shape[1], x.shape[1], *self.kernel)
        dw = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for top in range(min(self.stride, self.kernel[0])):
            for left in range(min(self.stride, self.kernel[1])):
                part = dw[:, :, top :: self.stride, left :: self.stride]
                h, w = (small + taps - 1 for small, taps in zip(self.narrow, part.shape[2:]))
                some = x[:, :, top :: self.stride, left :: self.stride][:, :, :h, :w]
                some = some.contiguous(memory_format=torch.channels_last)
                part.copy_(winograd_rows.direct_weight_gradient(some, y, part.shape))
        return dw


class HalfForm(Form):
    """The same in bfloat16, for CPUs with AVX512_BF16 and without AMX: 3x3 kernels take 16 or 25 of 36 products."""

    def pays(self, w: Tensor) -> bool:
        enough = min(w.shape[:2]) >= FEWEST_HALF_CHANNELS and math.prod(self.narrow) >= FEWEST_HALF_PIXELS
        known = self.stride == 1 or (self.stride == 2 and self.padding == (0, 0))
        fits = enough and known and self.kernel == (3, 3)
        # where a CPU multiplies bfloat16 in float32, training is in that
        return fits and ops.bf16_units() == ["AVX512_BF16"] and not kernels.watched()

    def narrowed(self, x: Tensor, w: Tensor) -> Tensor:
        y = self._by_kernel(x, w, self.padding, self.narrow) if self.stride == 1 else None
        return F.conv2d(x, w, None, self.stride, self.padding) if y is None else y

    def widened(self, y: Tensor, w: Tensor) -> Tensor:
        x = None
        if self.stride == 1:
            rest = (2 - self.padding[0], 2 - self.padding[1])
            x = self._by_kernel(y, w.flip([2, 3]).transpose(0, 1), rest, self.wide)
        elif not any(self.lost):
            x = self._by_kernel(y, w.transpose(0, 1), (0, 0), self.wide)
        return F.conv_transpose2d(y, w, None, self.stride, self.padding, self.lost) if x is None else x

    def by_weight(self, x: Tensor, y: Tensor) -> Tensor:
        shape = (y.shape[1], x.shape[1], *self.kernel)
        return winograd_rows.direct_weight_gradient(x, y, shape, self.padding, self.stride)

    def _by_kernel(
        self, x: Tensor, w: Tensor, padding: tuple[int, int], size: tuple[int, int]
    ) -> Tensor | None:
        """[N, O, *size] from weights [O, I, 3, 3]; with a stride the transposed convolution. None without kernels."""
        module = kernels.load("winograd_tiles")
        if module is None:
            return None
        return kernels.attempt(  # type: ignore[no-any-return]
            "gankit::conv2d", module.plain, x, w, padding, size, self.stride > 1
        )


def filtered_convolution(x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """The convolution of a channels-last map in float32 by `winograd_rows`, without gradients.

    Of a weight in training, nothing is kept from call to call. `padding` is (y, x).
    """
    h, w = (size + 2 * pad - taps + 1 for size, pad, taps in zip(x.shape[2:], padding, weight.shape[2:]))
    cut = [0, padding[1]]
    ready: list[Tensor] = []

    def kernel(point: int, t: Tensor) -> Tensor:
        if not ready or (ready[0].is_mkldnn and onednn.failures):
            ready[:] = [onednn.reorder(part, t, 1, cut) for part in winograd_rows.kernels(weight)]
        return ready[point]

    def product(point: int, t: Tensor) -> Tensor:
        return onednn.convolve(t, partial(kernel, point, t), None, 1, cut)

    shape = (len(x), len(weight), h, w)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for i, top, t in winograd_rows.blocks(
        x, None, winograd_rows.block_rows(weight, (h, w)), padding, product
    ):
        y[i : i + 1, :, top : top + t.shape[2]] = t
    return y
