"""The activations inside kernels: value, first and second derivative, in float32 (float64 for float64 tensors).

Each takes the pre-activation `x`, the activation's name as a constant and the slope `alpha` of lrelu.
"""

from __future__ import annotations

import triton
import triton.language as tl

SELU_SCALE = tl.constexpr(1.0507009873554805)
SELU_ALPHA = tl.constexpr(1.6732632423543772)


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x >= 0, 1 / (1 + e), e / (1 + e))


@triton.jit
def _tanh(x):
    e = tl.exp(-2 * tl.abs(x))
    y = (1 - e) / (1 + e)
    return tl.where(x >= 0, y, -y)


@triton.jit
def _expm1(x):
    # Kahan: the rounding errors of exp and log cancel, so that small x keep their digits.
    u = tl.exp(x)
    safe = (u == 1) | (u < 1e-30)
    return tl.where(
        u == 1, x, (u - 1) * tl.where(safe, 1.0, x / tl.where(safe, 1.0, tl.log(tl.where(safe, 2.0, u))))
    )


@triton.jit
def _softplus(x):
    e = tl.exp(-tl.abs(x))
    u = 1 + e
    log1p = tl.where(u == 1, e, tl.log(u) * e / tl.where(u == 1, 1.0, u - 1))
    return tl.maximum(x, 0.0) + log1p


@triton.jit
def value(x, ACT: tl.constexpr, alpha):
    if ACT == "relu":
        y = tl.where(x > 0, x, 0.0)
    elif ACT == "lrelu":
        y = tl.where(x > 0, x, x * alpha)
    elif ACT == "tanh":
        y = _tanh(x)
    elif ACT == "sigmoid":
        y = _sigmoid(x)
    elif ACT == "elu":
        y = tl.where(x > 0, x, _expm1(tl.minimum(x, 0.0)))
    elif ACT == "selu":
        y = SELU_SCALE * tl.where(x > 0, x, SELU_ALPHA * _expm1(tl.minimum(x, 0.0)))
    elif ACT == "softplus":
        y = _softplus(x)
    elif ACT == "swish":
        y = x * _sigmoid(x)
    else:
        y = x
    return y


@triton.jit
def slope(x, ACT: tl.constexpr, alpha):
    """First derivative. For relu and lrelu any `x` of the right sign will do, also the output."""
    if ACT == "relu":
        y = tl.where(x > 0, 1.0, 0.0)
    elif ACT == "lrelu":
        y = tl.where(x > 0, 1.0, alpha)
    elif ACT == "tanh":
        t = _tanh(x)
        y = 1 - t * t
    elif ACT == "sigmoid":
        s = _sigmoid(x)
        y = s * (1 - s)
    elif ACT == "elu":
        y = tl.where(x > 0, 1.0, tl.exp(tl.minimum(x, 0.0)))
    elif ACT == "selu":
        y = SELU_SCALE * tl.where(x > 0, 1.0, SELU_ALPHA * tl.exp(tl.minimum(x, 0.0)))
    elif ACT == "softplus":
        y = _sigmoid(x)
    elif ACT == "swish":
        s = _sigmoid(x)
        y = s * (1 + x * (1 - s))
    else:
        y = tl.where(x == x, 1.0, x)
    return y


@triton.jit
def curvature(x, ACT: tl.constexpr):
    """Second derivative of the activations that have one."""
    if ACT == "tanh":
        t = _tanh(x)
        y = -2 * t * (1 - t * t)
    elif ACT == "elu":
        y = tl.where(x > 0, 0.0, tl.exp(tl.minimum(x, 0.0)))
    elif ACT == "selu":
        y = SELU_SCALE * SELU_ALPHA * tl.where(x > 0, 0.0, tl.exp(tl.minimum(x, 0.0)))
    else:
        s = _sigmoid(x)
        d = s * (1 - s)
        if ACT == "sigmoid":
            y = d * (1 - 2 * s)
        elif ACT == "softplus":
            y = d
        else:  # swish
            y = d * (2 + x * (1 - 2 * s))
    return y
