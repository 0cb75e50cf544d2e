"""Leaky ReLU between an upsampling and a downsampling FIR filter (StyleGAN3, Karras et al. 2021, section 3.1).

The nonlinearity acts at a higher sampling rate, where the frequencies that it makes can be filtered away again.
Zeros are never inserted: 1-D filters run as depthwise convolutions, one for each phase of the upsampled grid. Without
gradients on a CPU, the op runs over blocks of rows whose upsampled maps stay in the cache: in channels-last it is bound
by memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda.arguments import filter_size
from gankit.core.cuda.bias_act import bias_act
from gankit.core.cuda.upfirdn2d import pad_or_crop, upfirdn2d
from gankit.core.runtime.precision import without_autocast

BLOCK_BYTES = 2**24  # of what is held of the upsampled map


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
) -> Tensor:
    """`operators.filtered_lrelu` without checks; the result is channels-last where `x` is on a CPU."""
    pad = padding
    height, width = output_size(x, fu, fd, up, down, padding)
    if fu is None or fu.ndim == 2:
        if b is not None and (up > 1 or any(pad)):  # zeros between and around the pixels get no bias
            x, b = x + b.to(x.dtype).view(-1, 1, 1), None
        x = (
            upfirdn2d(x, fu, up=up, padding=pad, flip_filter=flip_filter, gain=up**2)
            if up > 1 or fu is not None
            else pad_or_crop(x, pad)
        )
        act = "linear" if slope == 1 else "lrelu"
        x = bias_act(x, b, act=act, alpha=slope, gain=gain, clamp=clamp)
        return x if fd is None and down == 1 else upfirdn2d(x, fd, down=down, flip_filter=flip_filter)

    op = _FilteredLReLU(fu, fd, up, down, gain, slope, clamp, flip_filter)
    if x.device.type == "cpu":
        x = x.contiguous(memory_format=torch.channels_last)
        trained = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
        if not trained and not torch.compiler.is_compiling():
            return op.in_blocks(x, b, (pad[2], pad[0]), (height, width))
    return op(x, b, (pad[2], pad[0]), (height, width))


@dataclass(frozen=True, eq=False)  # torch.compile of some versions hashes it before it has its fields
class _FilteredLReLU:
    """The op with a 1-D `fu`; offsets and sizes are (y, x). Only the padding before the first pixel is given: the size
    of the result tells the rest."""

    fu: Tensor
    fd: Tensor | None
    up: int
    down: int
    gain: float
    slope: float
    clamp: float | None
    flip: bool

    def __call__(self, x: Tensor, b: Tensor | None, offset: tuple[int, int], size: tuple[int, int]) -> Tensor:
        (taps_x, taps_y), up, down = filter_size(self.fd), self.up, self.down
        fine = ((size[0] - 1) * down + taps_y, (size[1] - 1) * down + taps_x)
        fine = (
            -(-fine[0] // up) * up,
            -(-fine[1] // up) * up,
        )  # whole phases: cropping here would copy the map
        spans = [_inputs(len(self.fu), up, offset[i], fine[i]) for i in (0, 1)]
        x = _window(x, spans, b)
        start = [offset[i] + spans[i][0] * up for i in (0, 1)]
        x = _resample(x, correlation_taps(self.fu, x, up * self.gain, self.flip), 2, up, 1, start[0], fine[0])
        taps = correlation_taps(self.fu, x, up, self.flip)
        x = _activate(_resample(x, taps, 3, up, 1, start[1], fine[1]), self.slope, self.clamp)
        if self.fd is not None and self.fd.ndim == 1:
            taps = correlation_taps(self.fd, x, 1, self.flip)
            return _resample(_resample(x, taps, 2, 1, down, 0, size[0]), taps, 3, 1, down, 0, size[1])
        x = upfirdn2d(x, self.fd, down=down, flip_filter=self.flip)
        return x[:, :, : size[0], : size[1]]

    def in_blocks(
        self, x: Tensor, b: Tensor | None, offset: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        """The same, block after block of rows, so that upsampled maps are small enough for a CPU's cache."""
        (_, taps), n = filter_size(self.fd), len(self.fu)
        row = x.shape[1] * size[1] * self.down**2 * x.element_size()  # upsampled, for each row of the result
        step = max(BLOCK_BYTES // row, taps // self.down, 1)
        if len(x) == 1 and step >= size[0]:
            return self(x, b, offset, size).contiguous(memory_format=torch.channels_last)
        shape = (len(x), x.shape[1], *size)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for first in range(0, size[0], step):
            count = min(step, size[0] - first)
            fine = first * self.down - offset[0]  # on the grid where pixel i of x lies at i * up
            i0 = max(-(-fine // self.up), 0)
            i1 = max((fine + (count - 1) * self.down + taps + n - 2) // self.up + 1, i0)
            rows, start = x[:, :, i0:i1], i0 * self.up - fine
            for i in range(len(x)):
                own = self(rows[i : i + 1], b, (start, offset[1]), (count, size[1]))
                y[i : i + 1, :, first : first + count] = own
        return y


def output_size(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, up: int, down: int, padding: tuple[int, int, int, int]
) -> tuple[int, int]:
    """Height and width of the result of `filtered_lrelu`."""
    (ux, uy), (dx, dy) = filter_size(fu), filter_size(fd)
    width = (x.shape[3] * up + padding[0] + padding[1] - ux - dx + 1 + down) // down
    return (x.shape[2] * up + padding[2] + padding[3] - uy - dy + 1 + down) // down, width


def correlation_taps(f: Tensor, x: Tensor, gain: float, flip_filter: bool) -> Tensor:
    """The filter times `gain`, in the order of a correlation and in the dtype of `x`."""
    f = f.detach().to(x.device, torch.promote_types(f.dtype, x.dtype)) * gain
    if not flip_filter:
        f = f.flip(0) if f.ndim == 1 else f.flip(0, 1)
    return f.to(x.dtype)


def _activate(x: Tensor, slope: float, clamp: float | None) -> Tensor:
    """Leaky ReLU and clamp; may overwrite `x`."""
    # where slope < 0, the output does not tell the sign of the input; a compiler saves the copies by itself
    if slope < 0 or torch.compiler.is_compiling():
        x = F.leaky_relu(x, slope)
        return x if clamp is None else x.clamp(-clamp, clamp)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Activate.apply(x, slope, clamp)
    x = F.leaky_relu_(x, slope)
    return x if clamp is None else F.hardtanh_(x, -clamp, clamp)


class _Activate(torch.autograd.Function):
    """Keeps one upsampled map for the backward pass, the result; torch keeps two and makes both afresh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, clamp: float | None) -> Tensor:
        ctx.slope, ctx.clamp = slope, clamp
        # not marked as changed in place: autograd forbids this for views, such as the interleaved phases
        y = _activate(x.detach(), slope, clamp)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (y,) = gradients, ctx.saved_tensors
        y = y.detach()  # the mask is piecewise constant
        if ctx.clamp is not None:
            gradient = torch.ops.aten.hardtanh_backward(gradient, y, -ctx.clamp, ctx.clamp)
        return torch.ops.aten.leaky_relu_backward(gradient, y, ctx.slope, True), None, None


# One axis: y[o] = sum over i of x[i] * taps[i * up + start - o * down], for o below `size`. Exchanging `up` and `down`
# and reversing the taps gives the adjoint, so that every order of derivative is this again.


def _resample(x: Tensor, taps: Tensor, axis: int, up: int, down: int, start: int, size: int) -> Tensor:
    arguments = (x, taps, axis, up, down, start, size)
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        return _Resample.apply(*arguments)
    return _Resample.compute(*arguments)


class _Resample(torch.autograd.Function):
    @staticmethod
    def compute(x: Tensor, taps: Tensor, axis: int, up: int, down: int, start: int, size: int) -> Tensor:
        with without_autocast(x):  # the result has the dtype of x
            if up == 1:
                y = _decimate(x, taps, axis, down, start, size)
            else:
                y = _interpolate(x, taps, axis, up, start, (size - 1) * down + 1)
                y = y if down == 1 else y[(slice(None),) * axis + (slice(None, None, down),)]
            return y.narrow(axis, 0, size)

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, taps, ctx.axis, ctx.up, ctx.down, ctx.start, _ = arguments
        ctx.size = x.shape[ctx.axis]
        ctx.save_for_backward(taps)
        return _Resample.compute(*arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (taps,) = gradients, ctx.saved_tensors
        start = len(taps) - 1 - ctx.start
        dx = _resample(gradient, taps.flip(0), ctx.axis, ctx.down, ctx.up, start, ctx.size)
        return dx, None, None, None, None, None, None


def _decimate(x: Tensor, taps: Tensor, axis: int, down: int, start: int, size: int) -> Tensor:
    """`size` outputs or more, by a strided depthwise convolution."""
    before, after = start, (size - 1) * down + len(taps) - start - x.shape[axis]
    inside = max(min(before, after), 0)  # zeros that the convolution adds by itself
    if before != inside or after > inside:
        spans = [(0, x.shape[2]), (0, x.shape[3])]
        spans[axis - 2] = (inside - before, x.shape[axis] + before + max(after, inside) - 2 * inside)
        x = _window(x, spans)
    weight, stride, padding = _weight(taps[None], x.shape[1], axis), [1, 1], [0, 0]
    stride[axis - 2], padding[axis - 2] = down, inside
    return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])


def _interpolate(x: Tensor, taps: Tensor, axis: int, up: int, start: int, size: int) -> Tensor:
    """`size` outputs or more: those with o mod up = r see every up-th tap, a plain convolution of `x` for each r."""
    x, phases = _apart(x, taps, axis, up, start, size)
    channels = x.shape[1]
    if axis == 2:
        maps = [F.conv2d(x, _weight(row[None], channels, 2), groups=channels) for row in phases]
        return torch.stack([y.permute(0, 2, 3, 1) for y in maps], 2).flatten(1, 2).permute(0, 3, 1, 2)
    # with the phases as the slow channels of one convolution, its channels-last result is interleaved already
    y = F.conv2d(torch.cat([x] * up, 1), _weight(phases, channels, 3), groups=up * channels)
    return y.permute(0, 2, 3, 1).unflatten(3, (up, channels)).flatten(2, 3).permute(0, 3, 1, 2)


def _apart(x: Tensor, taps: Tensor, axis: int, up: int, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Window of `x` and taps [up, K], which along `axis` give the outputs of each phase, for `size` outputs or more."""
    first, count = _inputs(len(taps), up, start, size)
    spans = [(0, x.shape[2]), (0, x.shape[3])]
    spans[axis - 2] = (first, count)
    width = count + 1 - -(-size // up)
    rows = []
    for r in range(up):
        t = (start - r) % up
        skipped = (t - start + r) // up - first
        own = taps[t::up]
        rows.append(F.pad(own, (skipped, width - skipped - len(own))))
    return _window(x, spans), torch.stack(rows)


def _weight(taps: Tensor, channels: int, axis: int) -> Tensor:
    """[P, K] -> depthwise kernels [P * channels, 1, K, 1] or [P * channels, 1, 1, K]."""
    taps = taps[:, None, None, :, None] if axis == 2 else taps[:, None, None, None, :]
    return taps.expand(-1, channels, -1, -1, -1).flatten(0, 1)


def _inputs(taps: int, up: int, start: int, size: int) -> tuple[int, int]:
    """Range (first, count) of the inputs that outputs of all phases up to `size` depend on; see `_interpolate`."""
    firsts, lasts = [], []
    for r in range(up):
        t = (start - r) % up
        firsts.append((t - start + r) // up)
        lasts.append(firsts[-1] + -(-(taps - t) // up))
    return min(firsts), -(-size // up) - 1 + max(lasts) - min(firsts)


def _window(x: Tensor, spans: Sequence[tuple[int, int]], b: Tensor | None = None) -> Tensor:
    """Rows and columns of `x + b` by (first, count); those outside are zeros."""
    outside: list[int] = []
    for axis, (first, count) in zip((2, 3), spans):
        size = x.shape[axis]
        low, high = min(max(first, 0), size), max(min(first + count, size), 0)
        if high <= low:
            low, high = 0, 0
            outside = [count, 0, *outside]
        else:
            outside = [low - first, first + count - high, *outside]
        x = x.narrow(axis, low, high - low)
    if b is not None:
        x = x + b.to(x.dtype).view(-1, 1, 1)
    return pad_or_crop(x, (outside[0], outside[1], outside[2], outside[3]))
