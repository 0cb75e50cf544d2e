"""The activations that every implementation knows, with their defaults (StyleGAN2, Karras et al. 2020)."""

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
