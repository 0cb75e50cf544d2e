"""Around a shared convolution: modulation before it, and demodulation, noise, bias, activation, gain, clamp after it.

`y = clamp(gain * act(x * s + noise + b))` in one pass over the feature maps, with s [N, C]; modulation is the same with
s alone. Backward is one pass as well: it writes dx and sums, for each sample and channel, what s and b get. Only
activations whose slope the sign of the output tells are fused; `convolve` composes the others.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankit.core.cuda.triton import activate, activation_code
from gankit.core.cuda.triton.launch import (
    INT32_LIMIT,
    dense,
    empty_like,
    guarded,
    is_channels_last,
    launch,
    memory_format,
)
from gankit.core.runtime.precision import at_least_float32

# (pixels, channels) of a tile and warps: 16-byte accesses along the axis that is contiguous in memory.
CONTIGUOUS_CONFIGS = ((1024, 1, 4), (128, 1, 1))
CHANNELS_LAST_CONFIGS = ((16, 64, 4), (32, 8, 1))
STEPS = 8  # tiles that one program of the backward kernel sums up before it writes


@triton.jit
def epilogue_kernel(
    x_ptr, s_ptr, noise_ptr, b_ptr, y_ptr, channels, pixels, noise_step, alpha, gain, clamp, tiles_p, tiles_c,
    SCALE: tl.constexpr, NOISE: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    p = (program % tiles_p * BLOCK_P + tl.arange(0, BLOCK_P))[:, None]
    c = (program // tiles_p % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    n = (program // tiles_p // tiles_c).to(tl.int64)
    inside = (p < pixels) & (c < channels)
    start = n * channels * pixels
    if CHANNELS_LAST:
        i = p * channels + c
    else:
        i = c * pixels + p
    y = tl.load(x_ptr + start + i, mask=inside, other=0.0).to(COMPUTE)
    if SCALE:
        y *= tl.load(s_ptr + n * channels + c, mask=c < channels, other=0.0).to(COMPUTE)
    if NOISE:
        y += tl.load(noise_ptr + n * noise_step + p, mask=p < pixels, other=0.0).to(COMPUTE)
    if BIAS:
        y += tl.load(b_ptr + c, mask=c < channels, other=0.0).to(COMPUTE)
    y = activation_code.value(y, ACT, alpha) * gain
    if CLAMP:
        y = tl.minimum(tl.maximum(y, -clamp), clamp)
    tl.store(y_ptr + start + i, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def epilogue_backward_kernel(
    dy_ptr, ref_ptr, x_ptr, s_ptr, dx_ptr, s_sum_ptr, g_sum_ptr, channels, pixels, alpha, gain, clamp, splits,
    tiles_c, SCALE: tl.constexpr, REF: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    split = program % splits
    c = (program // splits % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    n = (program // splits // tiles_c).to(tl.int64)
    start = n * channels * pixels
    if SCALE:
        s = tl.load(s_ptr + n * channels + c, mask=c < channels, other=0.0).to(COMPUTE)
    s_sum = tl.zeros([BLOCK_P, BLOCK_C], dtype=COMPUTE)
    g_sum = tl.zeros([BLOCK_P, BLOCK_C], dtype=COMPUTE)
    for step in range(STEPS):
        p = ((split * STEPS + step) * BLOCK_P + tl.arange(0, BLOCK_P))[:, None]
        inside = (p < pixels) & (c < channels)
        if CHANNELS_LAST:
            i = p * channels + c
        else:
            i = c * pixels + p
        g = tl.load(dy_ptr + start + i, mask=inside, other=0.0).to(COMPUTE) * gain
        if REF:
            y = tl.load(ref_ptr + start + i, mask=inside, other=0.0).to(COMPUTE)
            g *= activation_code.slope(y, ACT, alpha)
            if CLAMP:
                g = tl.where(tl.abs(y) < clamp, g, 0.0)
        g_sum += g
        if SCALE:
            s_sum += g * tl.load(x_ptr + start + i, mask=inside, other=0.0).to(COMPUTE)
            g *= s
        tl.store(dx_ptr + start + i, g.to(dx_ptr.dtype.element_ty), mask=inside)
    at = (n * splits + split) * channels + c
    tl.store(g_sum_ptr + at, tl.sum(g_sum, axis=0, keep_dims=True), mask=c < channels)
    if SCALE:
        tl.store(s_sum_ptr + at, tl.sum(s_sum, axis=0, keep_dims=True), mask=c < channels)


def _tile(x: Tensor) -> tuple[int, int, int]:
    if is_channels_last(x):
        return CHANNELS_LAST_CONFIGS[0 if x.shape[1] >= 64 else 1]
    return CONTIGUOUS_CONFIGS[0 if x.shape[2] * x.shape[3] > 128 else 1]


def _compute(x: Tensor) -> tuple[torch.dtype, Any]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def _plain(
    x: Tensor, s: Tensor | None, noise: Tensor | None, b: Tensor | None,
    act: str, alpha: float, gain: float, clamp: float | None,
) -> Tensor:  # fmt: skip
    y = at_least_float32(x)
    y = y if s is None else y * s[:, :, None, None]
    y = y if noise is None else y + noise
    y = y if b is None else y + b[:, None, None]
    y = activate.plain_bias_act(y, None, 1, act, alpha, gain, clamp)
    return empty_like(x).copy_(y)


def _plain_backward(
    dy: Tensor, ref: Tensor | None, x: Tensor | None, s: Tensor | None,
    act: str, alpha: float, gain: float, clamp: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    g = at_least_float32(dy) * gain
    if ref is not None:
        g = activate._plain_backward(at_least_float32(dy), ref, None, 1, act, alpha, gain, clamp).to(g.dtype)
    g_sum = g.sum((2, 3))
    if x is None or s is None:
        return empty_like(dy).copy_(g), torch.zeros_like(g_sum), g_sum
    return empty_like(dy).copy_(g * s[:, :, None, None]), (g * x).sum((2, 3)), g_sum


_OPTIONS = "str act, float alpha, float gain, float? clamp"


@torch.library.custom_op(
    "gankit::scale_bias_act",
    mutates_args=(),
    schema=f"(Tensor x, Tensor? s, Tensor? noise, Tensor? b, {_OPTIONS}) -> Tensor",
)
@guarded("scale_bias_act", _plain)
def _forward(
    x: Tensor, s: Tensor | None, noise: Tensor | None, b: Tensor | None,
    act: str, alpha: float, gain: float, clamp: float | None,
) -> Tensor:  # fmt: skip
    x = dense(x)
    y = empty_like(x)
    n, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    if channels * pixels > INT32_LIMIT:
        raise ValueError(f"one sample of {list(x.shape)} has 2^31 elements or more")
    block_p, block_c, warps = _tile(x)
    tiles_p, tiles_c = triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c)
    # backward knows outputs at the bound by their value, whichever way stores round
    bound = 0.0 if clamp is None else torch.tensor(clamp, dtype=x.dtype).item()
    launch(
        epilogue_kernel, n * tiles_p * tiles_c, x.device,
        x, *(t if t is None else t.contiguous() for t in (s, noise, b)), y, channels, pixels,
        0 if noise is None or noise.numel() == pixels else pixels, alpha, gain,
        bound, tiles_p, tiles_c,
        SCALE=s is not None, NOISE=noise is not None, BIAS=b is not None, ACT=act, CLAMP=clamp is not None,
        CHANNELS_LAST=is_channels_last(x), COMPUTE=_compute(x)[1], BLOCK_P=block_p, BLOCK_C=block_c,
        num_warps=warps,
    )  # fmt: skip
    return y


@torch.library.custom_op(
    "gankit::scale_bias_act_backward",
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? ref, Tensor? x, Tensor? s, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
)
@guarded("scale_bias_act_backward", _plain_backward)
def _backward(
    dy: Tensor, ref: Tensor | None, x: Tensor | None, s: Tensor | None,
    act: str, alpha: float, gain: float, clamp: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """-> dx, sum of g * x [N, C], sum of g [N, C], where g is the gradient of the pre-activation."""
    dy = dense(dy)
    ref, x = (t if t is None else t.contiguous(memory_format=memory_format(dy)) for t in (ref, x))
    dx = empty_like(dy)
    n, channels, pixels = dy.shape[0], dy.shape[1], dy.shape[2] * dy.shape[3]
    block_p, block_c, warps = _tile(dy)
    splits, tiles_c = triton.cdiv(pixels, block_p * STEPS), triton.cdiv(channels, block_c)
    dtype, compute = _compute(dy)
    sums = torch.zeros(2, n, splits, channels, dtype=dtype, device=dy.device)
    bound = 0.0 if clamp is None or ref is None else torch.tensor(clamp, dtype=ref.dtype).item()
    launch(
        epilogue_backward_kernel, n * splits * tiles_c, dy.device,
        dy, ref, x, s if s is None else s.contiguous(), dx, sums[0], sums[1], channels, pixels, alpha, gain, bound,
        splits, tiles_c, SCALE=s is not None, REF=ref is not None, ACT=act, CLAMP=clamp is not None,
        CHANNELS_LAST=is_channels_last(dy), COMPUTE=compute, BLOCK_P=block_p, BLOCK_C=block_c, STEPS=STEPS,
        num_warps=warps,
    )  # fmt: skip
    return dx, sums[0].sum(1), sums[1].sum(1)


@_backward.register_fake
def _(dy, ref, x, s, *options):  # type: ignore[no-untyped-def]
    sums = dy.new_empty(dy.shape[:2], dtype=_compute(dy)[0])
    return empty_like(dy), sums, torch.empty_like(sums)


_forward.register_fake(lambda x, s, noise, b, *options: empty_like(x))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, s, noise, b, *ctx.options = inputs
    act, _, _, clamp = ctx.options
    ctx.noise = noise if noise is None else (noise.shape, noise.dtype)
    ctx.b_dtype = None if b is None else b.dtype
    ref = None if act == "linear" and clamp is None else output
    ctx.save_for_backward(ref, x if s is not None else None, s)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    ref, x, s = ctx.saved_tensors
    dx, s_sum, g_sum = _backward(dy, ref, x, s, *ctx.options)
    ds = s_sum.to(s.dtype) if ctx.needs_input_grad[1] else None
    db = g_sum.sum(0).to(ctx.b_dtype) if ctx.needs_input_grad[3] else None
    dnoise = None
    if ctx.needs_input_grad[2]:
        shape, dtype = ctx.noise
        dnoise = _pre_activation_gradient(dy, ref, ctx.options).sum(1, keepdim=True)
        dnoise = dnoise.sum_to_size(shape) if len(shape) == 4 else dnoise.sum((0, 1))
        dnoise = dnoise.to(dtype)
    return dx, ds, dnoise, db, None, None, None, None


def _pre_activation_gradient(dy: Tensor, ref: Tensor | None, options: list[Any]) -> Tensor:
    return dy * options[2] if ref is None else activate._backward(dy, ref, None, 1, *options)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, ref, x, s, *ctx.options = inputs
    ctx.save_for_backward(dy, ref, x, s)


def _differentiate_backward(ctx: Any, ddx: Tensor, dds: Tensor, ddg: Tensor) -> tuple[Tensor | None, ...]:
    dy, ref, x, s = ctx.saved_tensors
    g = _pre_activation_gradient(dy, ref, ctx.options)
    d_x = d_s = None
    if s is None:
        h = ddx + ddg[:, :, None, None].to(ddx.dtype)
    else:
        h = ddx * s[:, :, None, None].to(ddx.dtype)
        h = h + torch.addcmul(ddg[:, :, None, None], dds[:, :, None, None], x.to(dds.dtype)).to(h.dtype)
        d_x = (dds[:, :, None, None] * g).to(x.dtype) if ctx.needs_input_grad[2] else None
        d_s = (ddx * g).sum((2, 3)).to(s.dtype) if ctx.needs_input_grad[3] else None
    return _pre_activation_gradient(h, ref, ctx.options), None, d_x, d_s, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_differentiate_backward, setup_context=_save_backward)


def scale_bias_act(
    x: Tensor,
    s: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float = 0.0,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """`clamp(gain * act(x * s + noise + b))` of x [N, C, H, W], s [N, C], noise [N or 1, 1, H, W] or [H, W], b [C]."""
    if not activate._from_output(act, alpha, gain):
        y = x if s is None and noise is None else scale_bias_act(x, s, noise)
        return activate.bias_act(y, b, 1, act, alpha, gain, clamp)
    return _forward(x, s, noise, b, act, float(alpha), float(gain), None if clamp is None else float(clamp))
