"""Layers with spectral normalisation (Miyato et al. 2018), one power iteration per training forward.

Parameter names, initial values and the order of the iteration are those of `torch.nn.utils.spectral_norm`, so that
weights of the original discriminators load. Unlike its hooks, these layers can be copied, exported and autocast.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from gankit.core.runtime.precision import without_autocast

EPS = 1e-12


class _SpectralNorm:
    """Mixin: stores `weight` [O, I, ...] as `weight_orig`, and singular vectors `weight_u` [O], `weight_v` [I * k]."""

    weight_orig: nn.Parameter
    weight_u: Tensor
    weight_v: Tensor
    bias: nn.Parameter | None
    training: bool
    transposed = False  # nn.ConvTranspose2d sets it to True on the instance: its weight is [I, O, ...]

    def _split(self: nn.Module) -> None:  # type: ignore[misc]
        weight = cast(nn.Parameter, self.weight)
        del self.weight
        self.weight_orig = weight
        rows, columns = (weight.transpose(0, 1) if self.transposed else weight).flatten(1).shape
        self.register_buffer("weight_u", F.normalize(torch.randn(rows), dim=0, eps=EPS))
        self.register_buffer("weight_v", F.normalize(torch.randn(columns), dim=0, eps=EPS))

    def sigma(self) -> Tensor:
        """Estimate of the largest singular value of the weight, a scalar; in training mode, after a power iteration."""
        weight = self.weight_orig.transpose(0, 1) if self.transposed else self.weight_orig
        with without_autocast(weight):
            # A channels-last weight is flattened in memory order, without a copy; v is permuted to match.
            permuted = not weight.is_contiguous()
            stored = weight.permute(0, 2, 3, 1) if permuted else weight
            matrix, v = stored.flatten(1), self.weight_v
            if permuted:
                v = v.view(weight.shape[1:]).permute(1, 2, 0).flatten()
            if not self.training:
                return torch.dot(self.weight_u, torch.mv(matrix, v))
            with torch.no_grad():
                v = F.normalize(torch.mv(matrix.t(), self.weight_u), dim=0, eps=EPS)
            product = torch.mv(matrix, v)
            with torch.no_grad():
                u = F.normalize(product, dim=0, eps=EPS)
                self.weight_u.copy_(u)
                self.weight_v.copy_(v.view(stored.shape[1:]).permute(2, 0, 1).flatten() if permuted else v)
            return torch.dot(u, product)

    def _normalise(self, y: Tensor) -> Tensor:
        """Turn the output of the layer with `weight_orig` into y / sigma + bias.

        Scaling the output is cheaper than scaling the weight in the heads of Projected GAN, which have far more
        weights than activations.
        """
        scale = self.sigma().reciprocal().to(y.dtype)
        if self.bias is None:
            return y * scale
        return torch.addcmul(self.bias.to(y.dtype).view(-1, *[1] * (y.ndim - 2)), y, scale)


class SNConv1d(_SpectralNorm, nn.Conv1d):  # type: ignore[misc]
    """`nn.Conv1d` whose weight has spectral norm 1."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split()

    def forward(self, x: Tensor) -> Tensor:
        return self._normalise(self._conv_forward(x, self.weight_orig, None))


class SNConv2d(_SpectralNorm, nn.Conv2d):  # type: ignore[misc]
    """`nn.Conv2d` whose weight has spectral norm 1."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split()

    def forward(self, x: Tensor) -> Tensor:
        return self._normalise(self._conv_forward(x, self.weight_orig, None))


class SNConvTranspose2d(_SpectralNorm, nn.ConvTranspose2d):  # type: ignore[misc]
    """`nn.ConvTranspose2d` without padding whose weight, as a matrix [O, I * kh * kw], has spectral norm 1."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split()

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self._normalise(F.conv_transpose2d(x, self.weight_orig, stride=self.stride))


class SNLinear(_SpectralNorm, nn.Linear):  # type: ignore[misc]
    """`nn.Linear` whose weight has spectral norm 1."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split()

    def forward(self, x: Tensor) -> Tensor:
        return self._normalise(F.linear(x, self.weight_orig))


@torch.no_grad()
def settle(network: nn.Module, iterations: int = 10) -> None:
    """Run power iterations in the spectrally normalised layers of a new network, which must be in training mode.

    The singular vectors are initialised at random, so sigma may be near zero and a deep network explode in eval mode.
    """
    for layer in network.modules():
        if isinstance(layer, _SpectralNorm) and not layer.weight_orig.is_meta:
            for _ in range(iterations):
                layer.sigma()


class SpectralScale(nn.Module):
    """Parametrisation for layers with equalised learning rates: gain * weight has spectral norm 1.

    Args:
        weight: initial weight [O, I, ...].
        gain: factor by which the layer multiplies its weight, > 0.
    """

    u: Tensor

    def __init__(self, weight: Tensor, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("u", F.normalize(torch.randn(len(weight)), dim=0, eps=EPS))

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight):
            matrix = weight.flatten(1)
            with torch.no_grad():
                v = F.normalize(matrix.t() @ self.u, dim=0, eps=EPS)
                u = self.u
                if self.training:
                    u = F.normalize(matrix @ v, dim=0, eps=EPS)
                    self.u.copy_(u)
            return weight / (torch.dot(u, matrix @ v) * self.gain)


def normalise_layers(module: nn.Module) -> None:
    """Apply `SpectralScale` to every layer inside `module` that has a `weight` and a `weight_gain`."""
    for layer in module.modules():
        weight, gain = getattr(layer, "weight", None), getattr(layer, "weight_gain", None)
        if isinstance(weight, nn.Parameter) and isinstance(gain, float):
            register_parametrization(layer, "weight", SpectralScale(weight, gain), unsafe=True)
