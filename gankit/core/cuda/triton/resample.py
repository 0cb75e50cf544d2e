"""upfirdn2d: zero insertion, padding, filter and decimation in one kernel that never makes the zeros.

Outputs that are a period apart meet the same taps, `taps / up` an axis (polyphase), so a program takes neighbouring
periods and goes through their phases: taps and the offset of the samples are then the same for all of its lanes. The
gradient is the operator itself with `up` and `down` exchanged and the filter turned round, which gives derivatives of
every order.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankit.core.cuda.triton.launch import (
    INT32_LIMIT,
    empty_like,
    guarded,
    is_channels_last,
    launch,
    power_of_2,
)
from gankit.core.cuda.upfirdn2d import upfirdn2d as plain_upfirdn2d

# (columns, rows, channels) of a program's tile in periods of the output, and warps. Contiguous maps run along x, where
# 32 columns make one access of a warp; channels-last maps run along channels. More rows reuse what is in L1.
CONTIGUOUS_CONFIGS = ((64, 16, 1, 4), (32, 16, 1, 4), (16, 16, 1, 2), (8, 8, 1, 1))
CHANNELS_LAST_CONFIGS = ((4, 4, 64, 4), (4, 4, 32, 4), (4, 4, 8, 1))


@triton.jit
def _column(
    x_ptr, f_ptr, sx, qx, iy, inside, first_y, pad_x, in_w, in_h, x_y, x_x,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, PERIOD_X: tl.constexpr,
    TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, CONVOLVE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Outputs of the phase `sx` of the periods `qx`, from the row of samples `iy` and the tap `first_y` on."""
    first_x = ((pad_x - sx * DOWN_X) % UP_X + UP_X) % UP_X  # of C's or Python's remainder, all the same
    ix = qx * (PERIOD_X * DOWN_X // UP_X) + (sx * DOWN_X - pad_x + first_x) // UP_X
    total = tl.zeros_like(ix).to(COMPUTE)
    for j in range((TAPS_Y + UP_Y - 1) // UP_Y):
        ky = first_y + j * UP_Y
        row = inside & (iy + j >= 0) & (iy + j < in_h)
        for i in tl.static_range((TAPS_X + UP_X - 1) // UP_X):
            kx = first_x + i * UP_X
            if CONVOLVE:
                at = (TAPS_Y - 1 - ky) * TAPS_X + TAPS_X - 1 - kx
            else:
                at = ky * TAPS_X + kx
            tap = tl.load(f_ptr + at, mask=(ky < TAPS_Y) & (kx < TAPS_X), other=0.0).to(COMPUTE)
            met = row & (ix + i >= 0) & (ix + i < in_w)
            total += tl.load(x_ptr + (iy + j) * x_y + (ix + i) * x_x, mask=met, other=0.0).to(COMPUTE) * tap
    return total


@triton.jit
def upfirdn2d_kernel(
    x_ptr, f_ptr, y_ptr, gain, channels, in_w, in_h, out_w, out_h, pad_x, pad_y,
    x_n, x_c, x_y, x_x, y_n, y_c, y_y, y_x, tiles_x, tiles_y, tiles_c,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    PERIOD_X: tl.constexpr, PERIOD_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr,
    CONVOLVE: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A period is up / gcd(up, down) outputs."""
    program = tl.program_id(0)
    tile_x = program % tiles_x
    program //= tiles_x
    tile_y = program % tiles_y
    program //= tiles_y
    tile_c = program % tiles_c
    n = (program // tiles_c).to(tl.int64)

    lane = tl.arange(0, BLOCK_X * BLOCK_Y * BLOCK_C)
    c = tile_c * BLOCK_C + lane % BLOCK_C
    qx = tile_x * BLOCK_X + lane // BLOCK_C % BLOCK_X
    qy = tile_y * BLOCK_Y + lane // (BLOCK_C * BLOCK_X)
    base = x_ptr + n * x_n + c.to(tl.int64) * x_c
    out = y_ptr + n * y_n + c.to(tl.int64) * y_c
    TOGETHER: tl.constexpr = BLOCK_C == 1 and (PERIOD_X == 2 or PERIOD_X == 4)

    # Tap k of output o lies at o * down + k - pad on the upsampled grid, and on a sample where `up` divides that.
    for sy in range(PERIOD_Y):
        first_y = ((pad_y - sy * DOWN_Y) % UP_Y + UP_Y) % UP_Y  # of C's or Python's remainder, all the same
        iy = qy * (PERIOD_Y * DOWN_Y // UP_Y) + (sy * DOWN_Y - pad_y + first_y) // UP_Y
        oy = qy * PERIOD_Y + sy
        inside = (c < channels) & (oy < out_h)
        for sx in tl.static_range(PERIOD_X):
            total = gain * _column(
                base, f_ptr, sx, qx, iy, inside, first_y, pad_x, in_w, in_h, x_y, x_x,
                UP_X, UP_Y, DOWN_X, PERIOD_X, TAPS_X, TAPS_Y, CONVOLVE, COMPUTE,
            )  # fmt: skip
            if not TOGETHER:
                ox = qx * PERIOD_X + sx
                at = out + oy * y_y + ox * y_x
                tl.store(at, total.to(y_ptr.dtype.element_ty), mask=inside & (ox < out_w))
            elif sx == 0:
                p0 = total
            elif sx == 1:
                p1 = total
            elif sx == 2:
                p0 = tl.interleave(p0, total)
            else:
                p1 = tl.interleave(p1, total)
        if TOGETHER:  # neighbours in memory, stored at once
            i = tl.arange(0, BLOCK_X * BLOCK_Y * PERIOD_X)
            ox = tile_x * BLOCK_X * PERIOD_X + i % (BLOCK_X * PERIOD_X)
            oy = (tile_y * BLOCK_Y + i // (BLOCK_X * PERIOD_X)) * PERIOD_Y + sy
            at = y_ptr + n * y_n + tile_c.to(tl.int64) * y_c + oy * y_y + ox * y_x
            total = tl.interleave(p0, p1).to(y_ptr.dtype.element_ty)
            tl.store(at, total, mask=(ox < out_w) & (oy < out_h))


def _output_size(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int]
) -> tuple[int, int, int, int]:
    w = (x.shape[3] * up[0] + padding[0] + padding[1] - f.shape[1] + down[0]) // down[0]
    h = (x.shape[2] * up[1] + padding[2] + padding[3] - f.shape[0] + down[1]) // down[1]
    return x.shape[0], x.shape[1], h, w


def _plain(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool, gain: float
) -> Tensor:
    y = plain_upfirdn2d(x, f, up, down, padding, flip_filter, gain)
    return empty_like(x, tuple(y.shape)).copy_(y)


@torch.library.custom_op(
    "gankit::upfirdn2d",
    mutates_args=(),
    schema="(Tensor x, Tensor f, int[2] up, int[2] down, int[4] padding, bool flip_filter, float gain) -> Tensor",
)
@guarded("upfirdn2d", _plain)
def _upfirdn2d(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool, gain: float
) -> Tensor:
    n, channels, out_h, out_w = shape = _output_size(x, f, up, down, padding)
    y = empty_like(x, shape)
    if y.numel() == 0:
        return y
    if max(x[0].numel(), y[0].numel()) > INT32_LIMIT:
        raise ValueError(f"one sample of {list(x.shape)} or {list(shape)} has 2^31 elements or more")
    period_x, period_y = (u // math.gcd(u, d) for u, d in zip(up, down))
    periods = triton.cdiv(out_w, period_x), triton.cdiv(out_h, period_y)
    block_x, block_y, block_c, warps = choose_tile(periods[0], channels, is_channels_last(x))
    tiles = triton.cdiv(periods[0], block_x), triton.cdiv(periods[1], block_y), triton.cdiv(channels, block_c)
    launch(
        upfirdn2d_kernel, n * tiles[0] * tiles[1] * tiles[2], x.device,
        x, f.contiguous(), y, gain, channels, x.shape[3], x.shape[2], out_w, out_h, padding[0], padding[2],
        *x.stride(), *y.stride(), *tiles,
        UP_X=up[0], UP_Y=up[1], DOWN_X=down[0], DOWN_Y=down[1], PERIOD_X=period_x, PERIOD_Y=period_y,
        TAPS_X=f.shape[1], TAPS_Y=f.shape[0],
        CONVOLVE=not flip_filter, COMPUTE=tl.float64 if x.dtype == torch.float64 else tl.float32,
        BLOCK_X=block_x, BLOCK_Y=block_y, BLOCK_C=block_c, num_warps=warps,
    )  # fmt: skip
    return y


def choose_tile(periods: int, channels: int, channels_last: bool) -> tuple[int, int, int, int]:
    """The largest configuration that the map, so many periods wide, fills."""
    configs = CHANNELS_LAST_CONFIGS if channels_last else CONTIGUOUS_CONFIGS
    extent = channels if channels_last else periods
    axis = 2 if channels_last else 0
    return next((config for config in configs if config[axis] <= power_of_2(extent)), configs[-1])


@_upfirdn2d.register_fake
def _(x, f, up, down, padding, flip_filter, gain):  # type: ignore[no-untyped-def]
    return empty_like(x, _output_size(x, f, up, down, padding))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, ctx.up, ctx.down, ctx.padding, ctx.flip_filter, ctx.gain = inputs
    ctx.in_size, ctx.out_size = x.shape, output.shape
    ctx.save_for_backward(f)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    (taps_y, taps_x), (x0, _, y0, _) = f.shape, ctx.padding
    padding = [
        taps_x - x0 - 1,
        ctx.in_size[3] * ctx.up[0] - ctx.out_size[3] * ctx.down[0] + x0 - ctx.up[0] + 1,
        taps_y - y0 - 1,
        ctx.in_size[2] * ctx.up[1] - ctx.out_size[2] * ctx.down[1] + y0 - ctx.up[1] + 1,
    ]
    dx = _upfirdn2d(dy, f, ctx.down, ctx.up, padding, not ctx.flip_filter, ctx.gain)
    return dx, None, None, None, None, None, None


_upfirdn2d.register_autograd(_differentiate, setup_context=_save)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """`operators.upfirdn2d` in one kernel, or two with a 1-D filter. Sums are made in float32."""
    f = torch.ones(1, 1, device=x.device) if f is None else f.detach()
    if f.ndim == 2:
        return _upfirdn2d(x, f, up, down, padding, flip_filter, float(gain))
    x = _upfirdn2d(x, f[None, :], (up[0], 1), (down[0], 1), (*padding[:2], 0, 0), flip_filter, float(gain))
    return _upfirdn2d(x, f[:, None], (1, up[1]), (1, down[1]), (0, 0, *padding[2:]), flip_filter, 1.0)
