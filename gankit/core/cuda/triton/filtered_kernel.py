"""The kernel of `filtered`: sizes of its tiles and its launch.

The enlarged map never leaves the processor: a program makes one tile of it, with the halo that the second filter needs,
as a product with banded matrices, `U = A_y X A_x^T`, and reduces it likewise, `Y = D_y Z D_x^T`; both run on tensor
cores.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankit.core.cuda.triton.launch import (
    INT32_LIMIT,
    empty_like,
    launch,
    power_of_2,
)

# Side of a tile of the enlarged map and warps. Small tiles repeat more of the halo; the large one has the registers
# for half precision and separable filters only.
LARGE, SMALL = (64, 4), (32, 4)
FAR = tl.constexpr(2**20)  # tiles start no further than this many samples before the image


# Long because a Triton kernel is one function: what it calls would be inlined, and its arguments are many.
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
    """Tile sizes that fit the register budget, fastest first."""
    half = dtype in (torch.float16, torch.bfloat16)
    return (LARGE, SMALL) if half and max(ranks) == 1 else (SMALL,)


def choose_config(
    dtype: torch.dtype, ranks: tuple[int, int], out: tuple[int, int], down: int, down_taps: tuple[int, int]
) -> tuple[int, int]:
    """The small tile where one of them makes the whole map."""
    whole = max(out) * down + max(down_taps) <= SMALL[0]
    return configs(dtype, ranks)[-1 if whole else 0]


def run(
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
        PRECISION=precision(x.dtype), **sizes, num_warps=warps,
    )  # fmt: skip
    return y


def precision(dtype: torch.dtype) -> str:
    """Precision of the products: full float32; in half precision its own 10 bits of mantissa or more."""
    return {torch.float64: "ieee", torch.float32: "tf32x3"}.get(dtype, "tf32")
