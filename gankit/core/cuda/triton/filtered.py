"""filtered_lrelu (StyleGAN3, section 3.2): bias, up-FIR, leaky ReLU, gain, clamp and down-FIR in one kernel.

The enlarged map never leaves the processor: a program makes one tile of it, with the halo that the second filter needs,
as a product with banded matrices, `U = A_y X A_x^T`, and reduces it likewise, `Y = D_y Z D_x^T`; both run on tensor
cores. A 2-D filter is a sum of such products, one for each term of its singular value decomposition (one for separable
filters, at most 6 for the radial 12x12 of StyleGAN3-R).

For backward two bits a pixel of the enlarged map are kept: 0 positive, 1 negative, 2 clamped. Backward is the same
structure with the filters exchanged and turned round and a product with the slopes that the bits tell. That is linear
in its input, so its own derivative is again itself, of every order.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankit.core.cuda.triton.activate import bias_act
from gankit.core.cuda.triton.launch import (
    INT32_LIMIT,
    TYPE_NAMES,
    Variant,
    empty_like,
    guarded,
    launch,
    power_of_2,
)
from gankit.core.cuda.upfirdn2d import Pair, padding4
from gankit.core.cuda.upfirdn2d import upfirdn2d as plain_upfirdn2d
from gankit.core.precision import at_least_float32

# Side of a tile of the enlarged map and warps. Small tiles repeat more of the halo; the large one has the registers
# for half precision and separable filters only.
LARGE, SMALL = (64, 4), (32, 4)
FAR = tl.constexpr(2**20)  # tiles start no further than this many samples before the image


@triton.jit
def filtered_lrelu_kernel(
    x_ptr, b_ptr, mask_ptr, y_ptr, fux_ptr, fuy_ptr, fdx_ptr, fdy_ptr, channels, in_w, in_h, high_w, high_h,
    out_w, out_h, mask_w, pad_x, pad_y, offset_x, offset_y, gain, slope, clamp,
    x_n, x_c, x_y, x_x, y_n, y_c, y_y, y_x, tiles_x, tiles_y,
    UP: tl.constexpr, DOWN: tl.constexpr, UX: tl.constexpr, UY: tl.constexpr, DX: tl.constexpr, DY: tl.constexpr,
    RANK_U: tl.constexpr, RANK_D: tl.constexpr, BIAS: tl.constexpr, CLAMP: tl.constexpr,
    READ: tl.constexpr, WRITE: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    TILE: tl.constexpr, IN_X: tl.constexpr, IN_Y: tl.constexpr, OUT: tl.constexpr, OUT_BLOCK: tl.constexpr,
):  # fmt: skip
    """`READ` the bits and multiply by the slopes, or apply the non-linearity and `WRITE` them. Filters correlate;
    UX, UY, DX, DY are their taps; a tile has OUT x OUT outputs, padded to OUT_BLOCK for the products."""
    program = tl.program_id(0)
    tile_x = program % tiles_x
    tile_y = program // tiles_x % tiles_y
    plane = program // tiles_x // tiles_y
    c = plane % channels
    n = (plane // channels).to(tl.int64)
    v0x = tile_x * OUT * DOWN  # where the tile starts in the enlarged map
    v0y = tile_y * OUT * DOWN
    i0x = (v0x - pad_x + UP - 1 + FAR * UP) // UP - FAR  # the first sample that it sees
    i0y = (v0y - pad_y + UP - 1 + FAR * UP) // UP - FAR

    iy = i0y + tl.arange(0, IN_Y)[:, None]
    ix = i0x + tl.arange(0, IN_X)[None, :]
    inside = (iy >= 0) & (iy < in_h) & (ix >= 0) & (ix < in_w)
    x = tl.load(x_ptr + n * x_n + c.to(tl.int64) * x_c + iy * x_y + ix * x_x, mask=inside, other=0.0).to(
        COMPUTE
    )
    if BIAS:  # of the image only: the padding stays zero
        x += tl.where(inside, tl.load(b_ptr + c).to(COMPUTE), 0.0)

    v = tl.arange(0, TILE)
    ky = iy.trans(1, 0) * UP + pad_y - v0y - v[:, None]  # [TILE, IN_Y]
    kx = ix.trans(1, 0) * UP + pad_x - v0x - v[None, :]  # [IN_X, TILE]
    u = tl.zeros([TILE, TILE], dtype=COMPUTE)
    for r in range(RANK_U):
        a = tl.load(fuy_ptr + r * UY + ky, mask=(ky >= 0) & (ky < UY), other=0.0).to(COMPUTE)
        rows = tl.dot(a, x, input_precision=PRECISION, out_dtype=COMPUTE)
        a = tl.load(fux_ptr + r * UX + kx, mask=(kx >= 0) & (kx < UX), other=0.0).to(COMPUTE)
        u = tl.dot(rows, a, acc=u, input_precision=PRECISION, out_dtype=COMPUTE)

    plane_bits = plane.to(tl.int64) * high_h * mask_w
    if READ:
        wy = v0y + offset_y + v[:, None]
        wx = v0x + offset_x + v[None, :]
        known = (wy >= 0) & (wy < high_h) & (wx >= 0) & (wx < high_w)
        code = tl.load(mask_ptr + plane_bits + wy * mask_w + (wx >> 2), mask=known, other=0).to(tl.int32)
        code = code >> ((wx & 3) * 2) & 3
        u *= tl.where(known & (code < 2), tl.where(code == 0, gain, gain * slope), 0.0)
    else:
        negative = u < 0
        u = tl.where(negative, u * slope, u) * gain
        code = negative.to(tl.int32)
        if CLAMP:
            code = tl.where(tl.abs(u) > clamp, 2, code)
            u = tl.minimum(tl.maximum(u, -clamp), clamp)
        if WRITE:  # each tile what is its own; the last ones all that they have
            quad = tl.reshape(code, [TILE, TILE // 4, 4]) << (tl.arange(0, 4) * 2)[None, None, :]
            packed = tl.sum(quad, axis=2).to(tl.uint8)
            wy = v0y + v[:, None]
            wx = v0x // 4 + tl.arange(0, TILE // 4)[None, :]
            own_y = (v[:, None] < OUT * DOWN) | (tile_y == tiles_y - 1)
            own_x = (tl.arange(0, TILE // 4)[None, :] < OUT * DOWN // 4) | (tile_x == tiles_x - 1)
            own = own_y & own_x & (wy < high_h) & (wx < mask_w)
            tl.store(mask_ptr + plane_bits + wy * mask_w + wx, packed, mask=own)

    o = tl.arange(0, OUT_BLOCK)
    ky = v[None, :] - o[:, None] * DOWN  # [OUT_BLOCK, TILE]
    kx = v[:, None] - o[None, :] * DOWN  # [TILE, OUT_BLOCK]
    y = tl.zeros([OUT_BLOCK, OUT_BLOCK], dtype=COMPUTE)
    for r in range(RANK_D):
        d = tl.load(fdy_ptr + r * DY + ky, mask=(ky >= 0) & (ky < DY), other=0.0).to(COMPUTE)
        rows = tl.dot(d, u, input_precision=PRECISION, out_dtype=COMPUTE)
        d = tl.load(fdx_ptr + r * DX + kx, mask=(kx >= 0) & (kx < DX), other=0.0).to(COMPUTE)
        y = tl.dot(rows, d, acc=y, input_precision=PRECISION, out_dtype=COMPUTE)
    oy = tile_y * OUT + o[:, None]
    ox = tile_x * OUT + o[None, :]
    inside = (o[:, None] < OUT) & (o[None, :] < OUT) & (oy < out_h) & (ox < out_w)
    at = y_ptr + n * y_n + c.to(tl.int64) * y_c + oy * y_y + ox * y_x
    tl.store(at, y.to(y_ptr.dtype.element_ty), mask=inside)


def tile_constants(
    tile: int, up: int, down: int, up_taps: tuple[int, int], down_taps: tuple[int, int]
) -> dict[str, int]:
    """Sizes of a program's products. OUT * down is a multiple of 4, the pixels in a byte of bits."""
    step = 4 // math.gcd(down, 4)
    out = ((tile - max(down_taps)) // down + 1) // step * step
    if out < 1:
        raise ValueError(f"filters of {max(down_taps)} taps do not fit a tile of {tile}")
    seen = [power_of_2((tile + taps - 2) // up + 1, least=16) for taps in up_taps]
    return {
        "TILE": tile,
        "IN_X": seen[0],
        "IN_Y": seen[1],
        "OUT": out,
        "OUT_BLOCK": power_of_2(out, least=16),
    }


def configs(dtype: torch.dtype, ranks: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """What fits the registers, the preferred one first."""
    half = dtype in (torch.float16, torch.bfloat16)
    return (LARGE, SMALL) if half and max(ranks) == 1 else (SMALL,)


def choose_config(
    dtype: torch.dtype, ranks: tuple[int, int], out: tuple[int, int], down: int, down_taps: tuple[int, int]
) -> tuple[int, int]:
    """The small tile where one of them makes the whole map."""
    whole = max(out) * down + max(down_taps) <= SMALL[0]
    return configs(dtype, ranks)[-1 if whole else 0]


def _run(
    x: Tensor, b: Tensor | None, mask: Tensor | None, filters: tuple[Tensor, ...], up: int, down: int,
    pad: list[int], offset: list[int], high: list[int], size: list[int], gain: float, slope: float,
    clamp: float | None, read: bool,
) -> Tensor:  # fmt: skip
    n, channels, in_h, in_w = x.shape
    y = empty_like(x, (n, channels, size[1], size[0]))
    if max(in_h * in_w, high[0] * high[1], size[0] * size[1]) * channels > INT32_LIMIT:
        raise ValueError(f"one sample of {list(x.shape)} has 2^31 elements or more when enlarged")
    fux, fuy, fdx, fdy = (f.contiguous() for f in filters)
    down_taps = (fdx.shape[1], fdy.shape[1])
    ranks = (fux.shape[0], fdx.shape[0])
    tile, warps = choose_config(x.dtype, ranks, (size[0], size[1]), down, down_taps)
    sizes = tile_constants(tile, up, down, (fux.shape[1], fuy.shape[1]), down_taps)
    tiles = triton.cdiv(size[0], sizes["OUT"]), triton.cdiv(size[1], sizes["OUT"])
    double = x.dtype == torch.float64
    launch(
        filtered_lrelu_kernel, n * channels * tiles[0] * tiles[1], x.device,
        x, b if b is None else b.contiguous(), mask, y, fux, fuy, fdx, fdy, channels, in_w, in_h, *high, *size,
        0 if mask is None else mask.shape[3], *pad, *offset, gain, slope, 0.0 if clamp is None else clamp,
        *x.stride(), *y.stride(), *tiles,
        UP=up, DOWN=down, UX=fux.shape[1], UY=fuy.shape[1], DX=down_taps[0], DY=down_taps[1],
        RANK_U=ranks[0], RANK_D=ranks[1], BIAS=b is not None, CLAMP=clamp is not None,
        READ=read, WRITE=mask is not None and not read, COMPUTE=tl.float64 if double else tl.float32,
        PRECISION=_precision(x.dtype), **sizes, num_warps=warps,
    )  # fmt: skip
    return y


def _precision(dtype: torch.dtype) -> str:
    """Of the products: float32 to the last digits; half precision with its own 10 bits of mantissa or more."""
    return {torch.float64: "ieee", torch.float32: "tf32x3"}.get(dtype, "tf32")


# ------------------------------------------------------------------------------------- the same in plain torch


def _enlarge(x: Tensor, fux: Tensor, fuy: Tensor, up: int, pad: list[int], high: tuple[int, int]) -> Tensor:
    f = torch.einsum("ry,rx->yx", fuy, fux)
    ends = [
        high[i] - x.shape[3 - i] * up - pad[i] + f.shape[1 - i] - 1 for i in (0, 1)
    ]  # what makes the map as large as `high`
    return plain_upfirdn2d(x, f, up=up, padding=(pad[0], ends[0], pad[1], ends[1]), flip_filter=True)


def _reduce(u: Tensor, fdx: Tensor, fdy: Tensor, down: int, size: list[int]) -> Tensor:
    f = torch.einsum("ry,rx->yx", fdy, fdx)
    return plain_upfirdn2d(u, f, down=down, flip_filter=True)[:, :, : size[1], : size[0]]


def _plain(
    x: Tensor, b: Tensor | None, fux: Tensor, fuy: Tensor, fdx: Tensor, fdy: Tensor, up: int, down: int,
    pad: list[int], high: list[int], size: list[int], gain: float, slope: float, clamp: float | None, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    t = at_least_float32(x)
    t = t if b is None else t + b.to(t.dtype)[:, None, None]
    u = _enlarge(t, fux, fuy, up, pad, (high[0], high[1]))
    code = (u < 0).to(torch.uint8)
    u = torch.where(u < 0, u * slope, u) * gain
    if clamp is not None:
        code[u.abs() > clamp] = 2
        u = u.clamp(-clamp, clamp)
    y = empty_like(x, (x.shape[0], x.shape[1], size[1], size[0])).copy_(_reduce(u, fdx, fdy, down, size))
    mask = _empty_mask(x, high, keep)
    if keep:
        code = torch.nn.functional.pad(code, (0, -high[0] % 4)).unflatten(3, (-1, 4))
        mask = (code << torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=x.device)).sum(4).to(torch.uint8)
    return y, mask


def _plain_masked(
    x: Tensor, mask: Tensor, fux: Tensor, fuy: Tensor, fdx: Tensor, fdy: Tensor, up: int, down: int,
    pad: list[int], offset: list[int], high: list[int], size: list[int], gain: float, slope: float,
) -> Tensor:  # fmt: skip
    own = (size[0] - 1) * down + fdx.shape[1], (size[1] - 1) * down + fdy.shape[1]
    u = _enlarge(at_least_float32(x), fux, fuy, up, pad, own)
    code = mask[..., None] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=x.device) & 3
    code = code.flatten(3)[..., : high[0]]
    slopes = torch.tensor([gain, gain * slope, 0.0, 0.0], dtype=u.dtype, device=x.device)[code.long()]
    ends = [own[i] - high[i] + offset[i] for i in (0, 1)]
    u = u * torch.nn.functional.pad(slopes, (-offset[0], ends[0], -offset[1], ends[1]))
    shape = (x.shape[0], x.shape[1], size[1], size[0])
    return empty_like(x, shape).copy_(_reduce(u, fdx, fdy, down, size))


# -------------------------------------------------------------------------------------------------- operators


def _empty_mask(x: Tensor, high: list[int], keep: bool) -> Tensor:
    shape = (x.shape[0], x.shape[1], high[1], (high[0] + 3) // 4) if keep else (0, 0, 0, 0)
    return torch.zeros(shape, dtype=torch.uint8, device=x.device)


_FILTERS = "Tensor fux, Tensor fuy, Tensor fdx, Tensor fdy, int up, int down, SymInt[2] pad"


@torch.library.custom_op(
    "gankit::filtered_lrelu",
    mutates_args=(),
    schema=f"(Tensor x, Tensor? b, {_FILTERS}, SymInt[2] high, SymInt[2] size, float gain, float slope, "
    "float? clamp, bool keep) -> (Tensor, Tensor)",
)
@guarded("filtered_lrelu", _plain)
def _forward(
    x: Tensor, b: Tensor | None, fux: Tensor, fuy: Tensor, fdx: Tensor, fdy: Tensor, up: int, down: int,
    pad: list[int], high: list[int], size: list[int], gain: float, slope: float, clamp: float | None, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    mask = _empty_mask(x, high, keep)
    filters = (fux, fuy, fdx, fdy)
    y = _run(
        x,
        b,
        mask if keep else None,
        filters,
        up,
        down,
        pad,
        [0, 0],
        high,
        size,
        gain,
        slope,
        clamp,
        read=False,
    )
    return y, mask


@torch.library.custom_op(
    "gankit::filtered_lrelu_masked",
    mutates_args=(),
    schema=f"(Tensor x, Tensor mask, {_FILTERS}, SymInt[2] offset, SymInt[2] high, SymInt[2] size, float gain, "
    "float slope) -> Tensor",
)
@guarded("filtered_lrelu_masked", _plain_masked)
def _masked(
    x: Tensor, mask: Tensor, fux: Tensor, fuy: Tensor, fdx: Tensor, fdy: Tensor, up: int, down: int,
    pad: list[int], offset: list[int], high: list[int], size: list[int], gain: float, slope: float,
) -> Tensor:  # fmt: skip
    filters = (fux, fuy, fdx, fdy)
    return _run(x, None, mask, filters, up, down, pad, offset, high, size, gain, slope, None, read=True)


@_forward.register_fake
def _(x, b, fux, fuy, fdx, fdy, up, down, pad, high, size, gain, slope, clamp, keep):  # type: ignore[no-untyped-def]
    return empty_like(x, (x.shape[0], x.shape[1], size[1], size[0])), _empty_mask(x, high, keep)


@_masked.register_fake
def _(x, mask, fux, fuy, fdx, fdy, up, down, pad, offset, high, size, gain, slope):  # type: ignore[no-untyped-def]
    return empty_like(x, (x.shape[0], x.shape[1], size[1], size[0]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, b, *filters, ctx.up, ctx.down, ctx.pad, ctx.high, _, ctx.gain, ctx.slope, _, _ = inputs
    ctx.in_size, ctx.offset, ctx.b_dtype = (x.shape[3], x.shape[2]), (0, 0), None if b is None else b.dtype
    ctx.save_for_backward(output[1], *filters)
    ctx.mark_non_differentiable(output[1])


def _save_masked(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mask, *filters, ctx.up, ctx.down, ctx.pad, ctx.offset, ctx.high, _, ctx.gain, ctx.slope = inputs
    ctx.in_size = (x.shape[3], x.shape[2])
    ctx.save_for_backward(mask, *filters)


def _adjoint(ctx: Any, dy: Tensor) -> Tensor:
    mask, fux, fuy, fdx, fdy = ctx.saved_tensors
    shift = ctx.pad[0] - (fux.shape[1] - 1), ctx.pad[1] - (fuy.shape[1] - 1)
    pad = [fdx.shape[1] - 1 - shift[0], fdy.shape[1] - 1 - shift[1]]
    offset = [ctx.offset[0] + shift[0], ctx.offset[1] + shift[1]]
    turned = (f.flip(1) for f in (fdx, fdy, fux, fuy))
    return _masked(
        dy, mask, *turned, ctx.down, ctx.up, pad, offset, ctx.high, ctx.in_size, ctx.gain, ctx.slope
    )


def _differentiate(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    dx = _adjoint(ctx, dy)
    db = dx.sum((0, 2, 3)).to(ctx.b_dtype) if ctx.needs_input_grad[1] else None
    return dx, db, *[None] * 13


def _differentiate_masked(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(ctx, dy), *[None] * 13


_forward.register_autograd(_differentiate, setup_context=_save)
_masked.register_autograd(_differentiate_masked, setup_context=_save_masked)


def _factors(f: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """[rank, taps] along x and along y, whose outer products add up to the filter."""
    if f is None:
        one = torch.ones(1, 1, device=device)
        return one, one
    f = f.detach().to(device)
    if f.ndim == 1:
        return f[None], f[None]
    left, values, right = torch.linalg.svd(f.double(), full_matrices=False)
    if not torch.compiler.is_compiling():  # the rank depends on the data, which a graph must not
        rank = max(1, int((values > 1e-9 * values[0]).sum()))
        left, values, right = left[:, :rank], values[:rank], right[:rank]
    root = values.sqrt()[:, None]
    dtype = f.dtype if f.dtype == torch.float64 else torch.float32
    return (right * root).to(dtype), (left.t() * root).to(dtype)


def _cached_factors(f: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    if f is None or f.ndim == 1 or torch.compiler.is_compiling():
        return _factors(f, device)
    known = _FACTORS_BY_ID.get(id(f))
    if known is None or known[0]() is not f or known[1:3] != (f._version, device):
        known = (weakref.ref(f), f._version, device, _factors(f, device))
        _FACTORS_BY_ID[id(f)] = known
    return known[3]


# Filters are few and live as long as their network; the reference tells a filter from a later one in its place.
_FACTORS_BY_ID: dict[int, tuple[Any, int, torch.device, tuple[Tensor, Tensor]]] = {}


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """Bias, upsampling, leaky ReLU, gain, clamp, downsampling (`ops.md`, section 10) of x [N, C, H, W].

    Args:
        x: floating point; float32 is computed to about 1e-6, half precision with 10 bits of mantissa or more.
        fu, fd: 1-D taps or 2-D kernels; None is an impulse. They get no gradient.
        b: [C].
        up, down: integer factors.
        padding: of the enlarged map: all sides, (x, y) or (x0, x1, y0, y1); negative ones crop.
        gain: positive factor after the leaky ReLU.
        slope: of the leaky ReLU for negative values.
        clamp: bound on the magnitude after the gain.
        flip_filter: correlate instead of convolving, in both filters.
    """
    x0, x1, y0, y1 = padding4(padding)
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x must be floating point [N, C, H, W], not {x.dtype} {list(x.shape)}")
    if b is not None and b.shape != x.shape[1:2]:
        raise ValueError(f"b must have the shape [{x.shape[1]}], not {list(b.shape)}")
    for name, f in (("fu", fu), ("fd", fd)):
        if f is not None and (f.ndim not in (1, 2) or f.numel() == 0):
            raise ValueError(f"{name} must be 1-D taps or a 2-D kernel, not {list(f.shape)}")
    for name, factor in (("up", up), ("down", down)):
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"{name} must be a positive integer, not {factor!r}")
    if fu is None and fd is None and up == down == 1 and (x0, x1, y0, y1) == (0, 0, 0, 0):
        return bias_act(x, b, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    fux, fuy = _cached_factors(fu, x.device)
    fdx, fdy = _cached_factors(fd, x.device)
    high = (
        x.shape[3] * up + x0 + x1 - fux.shape[1] + 1,
        x.shape[2] * up + y0 + y1 - fuy.shape[1] + 1,
    )
    size = ((high[0] - fdx.shape[1]) // down + 1, (high[1] - fdy.shape[1]) // down + 1)
    if min(size) < 1:
        raise ValueError(
            f"padding {padding!r} makes an output of {size[1]} x {size[0]} of x {list(x.shape)}; it must leave 1 x 1"
        )
    if not flip_filter:
        fux, fuy, fdx, fdy = fux.flip(1), fuy.flip(1), fdx.flip(1), fdy.flip(1)
    keep = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    y, _ = _forward(
        x, b, fux * up, fuy * up, fdx, fdy, up, down, (x0, y0), high, size, float(gain), float(slope),
        None if clamp is None else float(clamp), keep,
    )  # fmt: skip
    return y


# up, down, taps and ranks of fu and fd: StyleGAN3-T, its first and last layers, the gradients, StyleGAN3-R.
SHAPES = (
    (2, 2, 12, 12, 1, 1), (4, 2, 24, 12, 1, 1), (2, 4, 12, 24, 1, 1), (1, 1, 1, 1, 1, 1), (2, 1, 12, 12, 1, 1),
    (4, 2, 24, 12, 1, 6), (2, 4, 12, 24, 6, 1), (2, 2, 12, 12, 1, 6), (2, 2, 12, 12, 6, 1),
)  # fmt: skip


def variants(dtypes: tuple[torch.dtype, ...]) -> Iterator[Variant]:
    for dtype in dtypes:
        for up, down, up_taps, down_taps, rank_u, rank_d in SHAPES:
            for tile, warps in configs(dtype, (rank_u, rank_d)):
                for role in ("", " sampling", " backward"):  # sampling keeps no bits
                    names = filtered_lrelu_kernel.arg_names
                    types = {name: "*fp32" for name in names if name.endswith("_ptr")}
                    types |= {"x_ptr": f"*{TYPE_NAMES[dtype]}", "y_ptr": f"*{TYPE_NAMES[dtype]}"}
                    types["mask_ptr"] = "*u8"
                    types |= {name: "i32" for name in names if name.islower() and name not in types}
                    types |= dict.fromkeys(("gain", "slope", "clamp"), "fp32")
                    read = role == " backward"
                    constants = {
                        "UP": up, "DOWN": down, "UX": up_taps, "UY": up_taps, "DX": down_taps, "DY": down_taps,
                        "RANK_U": rank_u, "RANK_D": rank_d, "BIAS": not read, "CLAMP": not read, "READ": read,
                        "WRITE": role == "", "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
                        "PRECISION": _precision(dtype),
                    }  # fmt: skip
                    if role == " sampling":
                        del types["mask_ptr"]
                        constants["mask_ptr"] = None
                    constants |= tile_constants(tile, up, down, (up_taps,) * 2, (down_taps,) * 2)
                    yield Variant(
                        filtered_lrelu_kernel, types, constants, warps,
                        label=f"{TYPE_NAMES[dtype]} up {up} down {down} taps {up_taps}, {down_taps} "
                        f"ranks {rank_u}, {rank_d} tile {tile}{role}",
                    )  # fmt: skip
