"""Bias, activation, gain and clamp in one call (StyleGAN2, Karras et al. 2020, appendix B).

`y = clamp(gain * act(x + b), -c, c)`. Positively homogeneous activations take the gain before the activation, where it
costs no pass of its own, and then run in place on the fresh tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.cuda.activations import ACTIVATIONS, Activation, activation


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`operators.bias_act` without checks."""
    spec = activation(act)
    alpha = spec.alpha if alpha is None else alpha
    gain = spec.gain if gain is None else gain
    if b is not None:
        b = b.to(x.dtype).reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])

    if spec.homogeneous and gain > 0:
        fresh = b is not None or gain != 1
        if b is not None:
            x = torch.add(b * gain, x, alpha=gain)
        elif gain != 1:
            x = x * gain
        return activate(x, spec, alpha, clamp, in_place=fresh)
    y = spec.function(x if b is None else x + b, alpha)
    y = y if gain == 1 else y * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def activate(x: Tensor, spec: Activation, alpha: float, clamp: float | None, *, in_place: bool) -> Tensor:
    """Activation (without gain) and clamp; `in_place` allows to overwrite `x`."""
    if in_place and spec is ACTIVATIONS["lrelu"] and alpha > 0:
        x = F.leaky_relu_(x, alpha)  # autograd reads the sign from the output, so the input need not be kept
    elif in_place and spec is ACTIVATIONS["relu"]:
        x = F.relu_(x)
    else:
        x = spec.function(x, alpha)
    return x if clamp is None else x.clamp(-clamp, clamp)


def normalize_2nd_moment(x: Tensor, dim: int = 1) -> Tensor:
    """Divide by the root mean square along `dim`."""
    return x * (x.square().mean(dim, keepdim=True) + 1e-8).rsqrt()
