"""Leaky ReLU between an upsampling and a downsampling FIR filter (StyleGAN3, Karras et al. 2021, section 3.1).

The nonlinearity acts at a higher sampling rate, where the frequencies that it makes can be filtered away again.
Zeros are never inserted: 1-D filters run as depthwise convolutions, one for each phase of the upsampled grid. On a CPU
in channels-last this is bound by memory, so without gradients the op runs over blocks of rows whose upsampled maps stay
in the cache. Products with banded matrices were no faster over the layers of StyleGAN3-T, with AMX or without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda import inference
from gankit.core.cuda.arguments import filter_size
from gankit.core.cuda.bias_act import bias_act
from gankit.core.cuda.upfirdn2d import pad_or_crop, upfirdn2d
from gankit.core.precision import without_autocast

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
    """As `gankit.core.cuda.filtered_lrelu`, unchecked; the result is channels-last where `x` is on a CPU."""
    pad = padding
    (ux, uy), (dx, dy) = filter_size(fu), filter_size(fd)
    width = (x.shape[3] * up + pad[0] + pad[1] - ux - dx + 1 + down) // down
    height = (x.shape[2] * up + pad[2] + pad[3] - uy - dy + 1 + down) // down
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
            alone = inference.undisturbed(x, (x, b))
            op = replace(op, clamp=None) if alone and not op.may_clamp(x, b) else op
            return op.in_blocks(x, b, (pad[2], pad[0]), (height, width), alone)
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

    def __call__(
        self,
        x: Tensor,
        b: Tensor | None,
        offset: tuple[int, int],
        size: tuple[int, int],
        alone: bool = False,
        y: Tensor | None = None,
    ) -> Tensor:
        """`alone`: see `inference.undisturbed`. The result may be written to `y`, of its shape, where that is given."""
        (taps_x, taps_y), up, down = filter_size(self.fd), self.up, self.down
        fine = ((size[0] - 1) * down + taps_y, (size[1] - 1) * down + taps_x)
        fine = (
            -(-fine[0] // up) * up,
            -(-fine[1] // up) * up,
        )  # whole phases: cropping here would copy the map
        spans = [_inputs(len(self.fu), up, offset[i], fine[i]) for i in (0, 1)]
        x = _window(x, spans, b)
        start = [offset[i] + spans[i][0] * up for i in (0, 1)]
        if alone and self.splits:
            with without_autocast(x):
                return self._by_parity(x, start, fine, size, y)
        x = _resample(x, self._taps(self.fu, x, up * self.gain), 2, up, 1, start[0], fine[0])
        taps = self._taps(self.fu, x, up)
        if alone and up > 1 and self.slope >= 0:
            with without_autocast(x):
                x = _clamp(_interpolate(x, taps, 3, up, start[1], fine[1], self.slope), self.clamp)
        else:
            x = _activate(_resample(x, taps, 3, up, 1, start[1], fine[1]), self.slope, self.clamp)
        if self.fd is not None and self.fd.ndim == 1:
            taps = self._taps(self.fd, x)
            return _resample(_resample(x, taps, 2, 1, down, 0, size[0]), taps, 3, 1, down, 0, size[1])
        x = upfirdn2d(x, self.fd, down=down, flip_filter=self.flip)
        return x[:, :, : size[0], : size[1]]

    @property
    def splits(self) -> bool:
        """Whether `_by_parity` can take this."""
        fd = self.fd
        return (
            self.up in (2, 4)
            and self.down == 2
            and self.slope >= 0
            and fd is not None
            and fd.ndim == 1 < len(fd)
        )

    def _by_parity(
        self,
        x: Tensor,
        start: Sequence[int],
        fine: tuple[int, int],
        size: tuple[int, int],
        y: Tensor | None,
    ) -> Tensor:
        """Twice reduced: pixels of the upsampled map in even and odd rows and columns are four maps of their own, each
        of one phase or two, and each meets every other tap of `fd`. So nothing is strided, and less is interleaved."""
        channels, up = x.shape[1], self.up
        assert self.fd is not None
        taps, fd = self._taps(self.fu, x, up), self._taps(self.fd, x)
        x, rows = _apart(x, self._taps(self.fu, x, up * self.gain), 2, up, start[0], fine[0])
        x, columns = _apart(x, taps, 3, up, start[1], fine[1])
        enlarge = [_weight(columns[s::2], channels, 3) for s in (0, 1)]
        reduce = [[_weight(fd[s::2][None], channels, axis) for s in (0, 1)] for axis in (2, 3)]
        width = fine[1] // 2 - (len(fd) + 1) // 2 + 1  # cutting the maps here would copy them
        total = y.zero_() if y is not None and width == size[1] else None
        for r in (0, 1):
            t = _repeated(x, rows[r::2])
            part: Tensor | None = None
            for s in (0, 1):
                z = _clamp(_woven(_convolve(t, enlarge[s], self.slope), channels), self.clamp)
                w = reduce[1][s]
                part = _add(part, z[..., : w.shape[3] + width - 1], w)
            w = reduce[0][r]
            assert part is not None
            total = _add(total, part[:, :, : w.shape[2] + size[0] - 1], w)
        assert total is not None
        return total if total is y else total[..., : size[1]]

    def in_blocks(
        self, x: Tensor, b: Tensor | None, offset: tuple[int, int], size: tuple[int, int], alone: bool
    ) -> Tensor:
        """The same, block after block of rows, so that upsampled maps are small enough for a CPU's cache."""
        (_, taps), n = filter_size(self.fd), len(self.fu)
        row = x.shape[1] * size[1] * self.down**2 * x.element_size()  # upsampled, for each row of the result
        row = row // 2 if alone and self.splits else row  # so much is held at a time
        step = max(BLOCK_BYTES // row, taps // self.down, 1)
        if len(x) == 1 and step >= size[0]:
            return self(x, b, offset, size, alone).contiguous(memory_format=torch.channels_last)
        shape = (len(x), x.shape[1], *size)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for first in range(0, size[0], step):
            count = min(step, size[0] - first)
            fine = first * self.down - offset[0]  # on the grid where pixel i of x lies at i * up
            i0 = max(-(-fine // self.up), 0)
            i1 = max((fine + (count - 1) * self.down + taps + n - 2) // self.up + 1, i0)
            rows, start = x[:, :, i0:i1], i0 * self.up - fine
            for i in range(len(x)):
                part = y[i : i + 1, :, first : first + count]
                own = self(rows[i : i + 1], b, (start, offset[1]), (count, size[1]), alone, part)
                if own is not part:
                    part.copy_(own)
        return y

    def may_clamp(self, x: Tensor, b: Tensor | None) -> bool:
        """Whether any value can reach the bound: a pass over the small map, which may spare one over the large one."""
        if self.clamp is None or x.numel() == 0:
            return False
        largest = torch.stack(torch.aminmax(x.permute(0, 2, 3, 1))).abs().max().item()
        largest += 0.0 if b is None else b.abs().max().item()
        sums = [self.fu[r :: self.up].abs().sum().item() for r in range(self.up)]
        grown = self.up * max(sums)  # along one axis
        bound = largest * grown**2 * self.gain * max(abs(self.slope), 1) * 1.05  # rounding in half precision
        return not bound <= self.clamp  # nor where it is not a number

    def _taps(self, f: Tensor, x: Tensor, gain: float = 1) -> Tensor:
        """In the order of a correlation, in the dtype of `x`."""
        f = f.detach().to(x.device, torch.promote_types(f.dtype, x.dtype)) * gain
        return (f if self.flip else f.flip(0)).to(x.dtype)


def _activate(x: Tensor, slope: float, clamp: float | None) -> Tensor:
    """Leaky ReLU and clamp; may overwrite `x`."""
    # where slope < 0, the output does not tell the sign of the input; a compiler saves the copies by itself
    if slope < 0 or torch.compiler.is_compiling():
        x = F.leaky_relu(x, slope)
        return x if clamp is None else x.clamp(-clamp, clamp)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Activate.apply(x, slope, clamp)
    return _clamp(F.leaky_relu_(x, slope), clamp)


def _clamp(x: Tensor, clamp: float | None) -> Tensor:
    """In place."""
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


def _interpolate(
    x: Tensor, taps: Tensor, axis: int, up: int, start: int, size: int, slope: float = 1
) -> Tensor:
    """`size` outputs or more: those with o mod up = r see every up-th tap, a plain convolution of `x` for each r.
    Along axis 3, a leaky ReLU can follow."""
    x, phases = _apart(x, taps, axis, up, start, size)
    channels = x.shape[1]
    if axis == 2:
        maps = [F.conv2d(x, _weight(row[None], channels, 2), groups=channels) for row in phases]
        return torch.stack([y.permute(0, 2, 3, 1) for y in maps], 2).flatten(1, 2).permute(0, 3, 1, 2)
    return _woven(_convolve(torch.cat([x] * up, 1), _weight(phases, channels, 3), slope), channels)


def _repeated(x: Tensor, phases: Tensor) -> Tensor:
    """As `_interpolate` along axis 2, with all channels as often as there are phases. Without gradients."""
    (n, channels, _, w), times = x.shape, len(phases)
    maps = [F.conv2d(x, _weight(row[None], channels, 2), groups=channels) for row in phases]
    if times == 1:
        return maps[0]
    y = x.new_empty(n, maps[0].shape[2], times, w, times, channels)
    for r, rows in enumerate(maps):
        y[:, :, r] = rows.permute(0, 2, 3, 1)[..., None, :]
    return y.flatten(4).flatten(1, 2).permute(0, 3, 1, 2)


def _woven(y: Tensor, channels: int) -> Tensor:
    """Columns of several maps in turn: with these as the slow channels of one convolution, its channels-last result is
    interleaved already."""
    return y.permute(0, 2, 3, 1).unflatten(3, (-1, channels)).flatten(2, 3).permute(0, 3, 1, 2)


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


def _convolve(x: Tensor, weight: Tensor, slope: float) -> Tensor:
    """Depthwise, and a leaky ReLU if `slope` is not 1: by oneDNN in the same pass."""
    if slope == 1:
        return F.conv2d(x, weight, groups=x.shape[1])
    if inference.packs(x.dtype):
        options = ([0, 0], [1, 1], [1, 1], x.shape[1], "leaky_relu", [slope], "")
        try:
            return torch.ops.mkldnn._convolution_pointwise(x, weight, None, *options)  # type: ignore[no-any-return]
        except Exception as error:
            inference.give_up(error)
    return F.leaky_relu_(F.conv2d(x, weight, groups=x.shape[1]), slope)


def _add(total: Tensor | None, x: Tensor, weight: Tensor) -> Tensor:
    """`total`, if there is one, plus the depthwise convolution of `x`, in place: by oneDNN in the same pass."""
    if total is not None and inference.packs(x.dtype):
        options: tuple[Any, ...] = ([0, 0], [1, 1], [1, 1], x.shape[1], "add", None, None, [], None)
        try:
            return torch.ops.mkldnn._convolution_pointwise_.binary(total, x, weight, None, *options)  # type: ignore[no-any-return]
        except Exception as error:
            inference.give_up(error)
    y = F.conv2d(x, weight, groups=x.shape[1])
    return y if total is None else total.add_(y)


def _weight(taps: Tensor, channels: int, axis: int) -> Tensor:
    """[P, K] -> depthwise kernels [P * channels, 1, K, 1] or [P * channels, 1, 1, K]."""
    taps = taps[:, None, None, :, None] if axis == 2 else taps[:, None, None, None, :]
    return taps.expand(-1, channels, -1, -1, -1).flatten(0, 1)


def _inputs(taps: int, up: int, start: int, size: int) -> tuple[int, int]:
    """Which inputs, as (first, count), are seen by the outputs of all phases up to `size`; see `_interpolate`."""
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
