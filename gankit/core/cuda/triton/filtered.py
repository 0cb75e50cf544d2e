"""filtered_lrelu (StyleGAN3, section 3.2): bias, up-FIR, leaky ReLU, gain, clamp and down-FIR in one kernel.

A 2-D filter is a sum of products of 1-D filters, one for each term of its singular value decomposition (one for
separable filters, at most 6 for the radial 12x12 of StyleGAN3-R).

For backward two bits a pixel of the enlarged map are kept: 0 positive, 1 negative, 2 clamped. Backward is the same
structure with the filters exchanged and turned round and a product with the slopes that the bits tell. That is linear
in its input, so its own derivative is again itself, of every order.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from gankit.core.cuda.triton.activate import bias_act
from gankit.core.cuda.triton.filtered_kernel import run
from gankit.core.cuda.triton.launch import empty_like, guarded
from gankit.core.cuda.upfirdn2d import upfirdn2d as plain_upfirdn2d
from gankit.core.runtime.precision import at_least_float32

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
    y = run(
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
    return run(x, None, mask, filters, up, down, pad, offset, high, size, gain, slope, None, read=True)


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
    """`operators.filtered_lrelu` in one kernel: float32 to 1e-6, half precision to 10 bits of mantissa or more."""
    x0, x1, y0, y1 = padding
    if fu is None and fd is None and up == down == 1 and padding == (0, 0, 0, 0):
        return bias_act(x, b, 1, "lrelu", slope, gain, clamp)
    fux, fuy = _cached_factors(fu, x.device)
    fdx, fdy = _cached_factors(fd, x.device)
    high = (
        x.shape[3] * up + x0 + x1 - fux.shape[1] + 1,
        x.shape[2] * up + y0 + y1 - fuy.shape[1] + 1,
    )
    size = ((high[0] - fdx.shape[1]) // down + 1, (high[1] - fdy.shape[1]) // down + 1)
    if not flip_filter:
        fux, fuy, fdx, fdy = fux.flip(1), fuy.flip(1), fdx.flip(1), fdy.flip(1)
    keep = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    y, _ = _forward(
        x, b, fux * up, fuy * up, fdx, fdy, up, down, (x0, y0), high, size, float(gain), float(slope),
        None if clamp is None else float(clamp), keep,
    )  # fmt: skip
    return y
