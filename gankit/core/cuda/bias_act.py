"""Bias, activation, gain and clamp in one call (StyleGAN2, Karras et al. 2020, appendix B).

`y = clamp(gain * act(x + b), -c, c)`. Positively homogeneous activations take the gain before the activation, where it
costs no pass of its own, and then run in place on the fresh tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.errors import GankitError, unknown


@dataclass(frozen=True)
class Activation:
    """`homogeneous`: act(g * x) == g * act(x) for every g > 0."""

    function: Callable[[Tensor, float], Tensor]
    alpha: float = 0.0
    gain: float = 1.0
    homogeneous: bool = False


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda x, alpha: x, homogeneous=True),
    "relu": Activation(lambda x, alpha: F.relu(x), gain=math.sqrt(2), homogeneous=True),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), 0.2, math.sqrt(2), homogeneous=True),
    "tanh": Activation(lambda x, alpha: torch.tanh(x)),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x)),
    "elu": Activation(lambda x, alpha: F.elu(x)),
    "selu": Activation(lambda x, alpha: F.selu(x)),
    "softplus": Activation(lambda x, alpha: F.softplus(x)),
    "swish": Activation(lambda x, alpha: F.silu(x), gain=math.sqrt(2)),
}


def activation(name: str) -> Activation:
    """The table entry of an activation; an unknown name is the user's mistake."""
    if name not in ACTIVATIONS:
        raise GankitError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`clamp(gain * act(x + b))`.

    Args:
        x: input of any shape and floating type; the result has both.
        b: bias, 1-D, broadcast along `dim`.
        dim: the axis of `x` that `b` belongs to.
        act: name of the activation.
        alpha: slope of lrelu for negative inputs; None is 0.2.
        gain: factor after the activation; None is the activation's own (sqrt 2 for relu, lrelu, swish, else 1).
        clamp: bound on the magnitude of the result; None is no bound.
    """
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
