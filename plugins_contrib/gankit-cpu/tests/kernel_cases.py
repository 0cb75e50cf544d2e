"""What tests of kernels share."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gankit.core import cuda
from gankit_cpu.epilogue import Epilogue


def around(n, channels, h, w, dtype):
    """A map within a larger one, whose every value is 7."""
    whole = torch.full((n + 2, h + 2, w + 2, channels + 3), 7.0, dtype=dtype)
    return whole, whole[1 : n + 1, 1 : h + 1, 1 : w + 1, 1 : channels + 1].permute(0, 3, 1, 2)


def nothing_around(whole, inner):
    inner.fill_(7)
    return bool((whole == 7).all())


def epilogue(n, channels, size, noise, act, clamp):
    noises = {"none": None, "one": torch.randn(1, *size), "each": torch.randn(n, *size)}
    bias = None if noise == "none" else torch.randn(channels)
    slope = 1.0 if act == "linear" else 0.2
    return Epilogue(torch.rand(n, channels) + 0.5, bias, noises[noise], slope, clamp or torch.inf)


def finished(y, after):
    y = y * after.factors[:, :, None, None]
    y = y if after.bias is None else y + after.bias[:, None, None]
    y = y if after.noise is None else y + after.noise[:, None]
    return F.leaky_relu(y, after.slope).clamp(-after.bound, after.bound)


def tensors(dtype=torch.float32, side=36, i=40, o=48):
    torch.manual_seed(0)
    return torch.randn(3, i, side, side - 4).to(dtype), torch.randn(o, i, 3, 3), torch.rand(3, i) + 0.5


def exact(x, w, s, **options):
    options = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return cuda.modulated_conv2d(x.double(), w.double(), s.double(), impl="reference", **options)


FILTERS = {
    "symmetric": cuda.setup_filter([1, 3, 3, 1]),
    "separable": cuda.setup_filter([1, 2, 3, 4], separable=True),
    "longer": cuda.setup_filter([1, 2, 5, 3, 4, 1]),
    "along each axis": torch.outer(torch.tensor([1.0, 2, 3, 5]), torch.tensor([2.0, 1, 4, 1])) / 88,
}
