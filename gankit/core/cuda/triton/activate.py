"""Bias, activation, gain and clamp: one kernel forward, one backward, one for the curvature in double backward.

Where the sign of the output tells the slope (linear, relu, lrelu with positive gain) the output is what backward keeps,
so that the input can be freed; the other activations keep the input and compute again.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankit.core.cuda.activations import ACTIVATIONS, activation
from gankit.core.cuda.bias_act import bias_act as plain_bias_act
from gankit.core.cuda.triton import activation_code
from gankit.core.cuda.triton.launch import (
    INT32_LIMIT,
    dense,
    empty_like,
    guarded,
    is_channels_last,
    launch,
)
from gankit.core.runtime.precision import at_least_float32

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# Elements of a program and warps: 8 elements a thread are one 16-byte access in half precision, two in float32. The
# second is for maps so small that the first would leave most of a GPU idle.
CONFIGS = ((1024, 4), (256, 1))


@triton.jit
def bias_act_kernel(
    x_ptr, b_ptr, dy_ptr, ddx_ptr, out_ptr, n, b_step, b_size, alpha, gain, clamp,
    ACT: tl.constexpr, BIAS: tl.constexpr, CLAMP: tl.constexpr, ORDER: tl.constexpr, FROM_OUTPUT: tl.constexpr,
    LONG: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`ORDER` 0: y = clamp(gain * act(x + b)); 1: dy * y'; 2: ddx * dy * y''. `FROM_OUTPUT`: x_ptr holds y."""
    start = tl.program_id(0)
    if LONG:
        start = start.to(tl.int64)
    i = start * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    x = tl.load(x_ptr + i, mask=inside, other=0.0).to(COMPUTE)
    if BIAS:
        x += tl.load(b_ptr + (i // b_step) % b_size, mask=inside, other=0.0).to(COMPUTE)
    if ORDER == 0:
        y = activation_code.value(x, ACT, alpha) * gain
        if CLAMP:
            y = tl.minimum(tl.maximum(y, -clamp), clamp)
    else:
        y = tl.load(dy_ptr + i, mask=inside, other=0.0).to(COMPUTE) * gain
        if ORDER == 1:
            y *= activation_code.slope(x, ACT, alpha)
        else:
            y *= tl.load(ddx_ptr + i, mask=inside, other=0.0).to(COMPUTE) * activation_code.curvature(x, ACT)
        if CLAMP:
            if FROM_OUTPUT:
                y = tl.where(tl.abs(x) < clamp, y, 0.0)
            else:
                y = tl.where(tl.abs(activation_code.value(x, ACT, alpha) * gain) < clamp, y, 0.0)
    tl.store(out_ptr + i, y.to(out_ptr.dtype.element_ty), mask=inside)


def _run(
    order: int, x: Tensor, b: Tensor | None, dy: Tensor | None, ddx: Tensor | None,
    dim: int, act: str, alpha: float, gain: float, clamp: float | None,
) -> Tensor:  # fmt: skip
    x = dense(x)
    out = empty_like(x)
    match = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    dy, ddx = (t if t is None else t.contiguous(memory_format=match) for t in (dy, ddx))
    from_output = order > 0 and _from_output(act, alpha, gain)
    bound = 0.0 if clamp is None else float(clamp)
    if order == 0 or from_output:  # outputs at the bound must be known again, whichever way stores round
        bound = torch.tensor(bound, dtype=x.dtype).item()
    block, warps = CONFIGS[0] if x.numel() >= 2**18 else CONFIGS[1]
    launch(
        bias_act_kernel, triton.cdiv(x.numel(), block), x.device,
        x, x if b is None else b.contiguous(), dy, ddx, out, x.numel(),
        max(x.stride(dim), 1), x.shape[dim], float(alpha), float(gain), bound,
        ACT=act, BIAS=b is not None, CLAMP=clamp is not None, ORDER=order,
        FROM_OUTPUT=from_output, LONG=x.numel() > INT32_LIMIT,
        COMPUTE=tl.float64 if x.dtype == torch.float64 else tl.float32, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


def _from_output(act: str, alpha: float, gain: float) -> bool:
    return ACTIVATIONS[act].homogeneous and gain > 0 and alpha >= 0


# ------------------------------------------------------------------------------------- the same in plain torch


def _plain(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    y = plain_bias_act(x, b, dim, act, alpha, gain, clamp)
    return dense(y.clone() if y is x else y)


def _plain_backward(
    dy: Tensor,
    ref: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    x = _pre_activation(ref, b, dim)
    dx = dy.to(x.dtype) * gain * plain_slope(x, act, alpha)
    return dense((dx * _unclamped(x, ref, act, alpha, gain, clamp)).to(ref.dtype))


def _plain_curvature(
    ddx: Tensor, dy: Tensor, x: Tensor, b: Tensor | None,
    dim: int, act: str, alpha: float, gain: float, clamp: float | None,
) -> Tensor:  # fmt: skip
    t = _pre_activation(x, b, dim)
    s = torch.sigmoid(t)
    second = {
        "tanh": lambda: -2 * torch.tanh(t) * (1 - torch.tanh(t).square()),
        "sigmoid": lambda: s * (1 - s) * (1 - 2 * s),
        "softplus": lambda: s * (1 - s),
        "swish": lambda: s * (1 - s) * (2 + t * (1 - 2 * s)),
        "elu": lambda: torch.where(t > 0, 0, t.clamp(max=0).exp()),
        "selu": lambda: SELU_SCALE * SELU_ALPHA * torch.where(t > 0, 0, t.clamp(max=0).exp()),
    }[act]()
    d = ddx.to(t.dtype) * dy * gain * second
    return dense((d * _unclamped(t, x, act, alpha, gain, clamp)).to(x.dtype))


def _pre_activation(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    x = at_least_float32(x)
    return x if b is None else x + b.to(x.dtype).reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])


def _unclamped(
    x: Tensor, ref: Tensor, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor | float:
    if clamp is None:
        return 1.0
    if _from_output(act, alpha, gain):
        return ref.abs() < torch.tensor(clamp, dtype=ref.dtype, device=ref.device)
    return (activation(act).function(x, alpha) * gain).abs() < clamp


def plain_slope(x: Tensor, act: str, alpha: float) -> Tensor:
    """First derivative of an activation."""
    s = torch.sigmoid(x)
    return {
        "linear": lambda: torch.ones_like(x),
        "relu": lambda: (x > 0).to(x.dtype),
        "lrelu": lambda: torch.where(x > 0, 1.0, alpha).to(x.dtype),
        "tanh": lambda: 1 - torch.tanh(x).square(),
        "sigmoid": lambda: s * (1 - s),
        "softplus": lambda: s,
        "swish": lambda: s * (1 + x * (1 - s)),
        "elu": lambda: torch.where(x > 0, 1.0, x.clamp(max=0).exp()),
        "selu": lambda: SELU_SCALE * torch.where(x > 0, 1.0, SELU_ALPHA * x.clamp(max=0).exp()),
    }[act]()


# -------------------------------------------------------------------------------------------------- operators

_OPTIONS = "int dim, str act, float alpha, float gain, float? clamp"


@torch.library.custom_op(
    "gankit::bias_act", mutates_args=(), schema=f"(Tensor x, Tensor? b, {_OPTIONS}) -> Tensor"
)
@guarded("bias_act", _plain)
def _forward(x: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    return _run(0, x, b, None, None, *options)


@torch.library.custom_op(
    "gankit::bias_act_backward",
    mutates_args=(),
    schema=f"(Tensor dy, Tensor ref, Tensor? b, {_OPTIONS}) -> Tensor",
)
@guarded("bias_act_backward", _plain_backward)
def _backward(dy: Tensor, ref: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    return _run(1, ref, b, dy, None, *options)


@torch.library.custom_op(
    "gankit::bias_act_curvature",
    mutates_args=(),
    schema=f"(Tensor ddx, Tensor dy, Tensor x, Tensor? b, {_OPTIONS}) -> Tensor",
)
@guarded("bias_act_curvature", _plain_curvature)
def _curvature(ddx: Tensor, dy: Tensor, x: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    return _run(2, x, b, dy, ddx, *options)


_forward.register_fake(lambda x, b, *options: empty_like(x))
_backward.register_fake(lambda dy, ref, b, *options: empty_like(ref))
_curvature.register_fake(lambda ddx, dy, x, b, *options: empty_like(x))


def _sum_to_bias(dx: Tensor, b: Tensor, dim: int) -> Tensor:
    others = [axis for axis in range(dx.ndim) if axis != dim]
    return (dx.sum(others) if others else dx).to(b.dtype)  # a sum over no axes is one over all of them


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, *ctx.options = inputs
    _, act, alpha, gain, _ = ctx.options
    ctx.from_output = _from_output(act, alpha, gain)
    ctx.save_for_backward(output if ctx.from_output else x, b)


def _differentiate_forward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    ref, b = ctx.saved_tensors
    dx = _backward(dy, ref, None if ctx.from_output else b, *ctx.options)
    db = _sum_to_bias(dx, b, ctx.options[0]) if ctx.needs_input_grad[1] else None
    return dx, db, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, ref, b, *ctx.options = inputs
    ctx.save_for_backward(dy, ref, b)


def _differentiate_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    dy, ref, b = ctx.saved_tensors
    d_dy = _backward(ddx, ref, b, *ctx.options) if ctx.needs_input_grad[0] else None
    d_ref = d_b = None
    if not ACTIVATIONS[ctx.options[1]].homogeneous and any(ctx.needs_input_grad[1:3]):
        d_ref = _curvature(ddx, dy, ref, b, *ctx.options)
        d_b = _sum_to_bias(d_ref, b, ctx.options[0]) if ctx.needs_input_grad[2] else None
    return d_dy, d_ref, d_b, None, None, None, None, None


_forward.register_autograd(_differentiate_forward, setup_context=_save_forward)
_backward.register_autograd(_differentiate_backward, setup_context=_save_backward)


def bias_act(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    """`operators.bias_act` in one kernel; half precision is computed in float32 and rounded once."""
    return _forward(x, b, dim, act, float(alpha), float(gain), None if clamp is None else float(clamp))
