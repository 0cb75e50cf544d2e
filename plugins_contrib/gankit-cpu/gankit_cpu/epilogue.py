"""The steps after a convolution without gradients, clamp(act(y * factors + bias + noise)), as one value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BLOCK_BYTES = 2**21  # of a map, in float32: what stays in a core's cache


@dataclass(frozen=True)
class Epilogue:
    """All tensors are in float32 and contiguous. act multiplies what is negative by `slope`."""

    factors: Tensor  # [N, O]
    bias: Tensor | None = None  # [O]
    noise: Tensor | None = None  # [N or 1, H, W]
    slope: float = 1.0  # at least 0
    bound: float = math.inf

    def of(self, some: slice) -> Epilogue:
        """For some of the samples."""
        noise = self.noise
        noise = noise if noise is None or len(noise) == 1 else noise[some]
        return replace(self, factors=self.factors[some], noise=noise)

    def rows(self, some: slice) -> Epilogue:
        """For some rows of the map."""
        return self if self.noise is None else replace(self, noise=self.noise[:, some])

    @property
    def linear(self) -> bool:
        """True if there are factors and a bias alone."""
        return self.noise is None and self.slope == 1 and self.bound == math.inf

    def without_factors(self) -> Epilogue:
        """The rest of the steps after a convolution that has applied factors and bias itself."""
        return replace(self, factors=torch.ones_like(self.factors), bias=None)

    def apply(self, t: Tensor, y: Tensor, scaled: bool = False) -> None:
        """Fill `y`, which may be `t`, in blocks of rows. `scaled`: `t` has its factors and bias already.

        Half precision is computed in float32, which is faster, too.
        """
        if scaled and self.linear:
            if y.data_ptr() != t.data_ptr():
                y.copy_(t)
            return
        rows = max(BLOCK_BYTES // (4 * t[:, :, 0].numel()), 1)
        exact = None if t.dtype == torch.float32 else torch.empty_like(t[:, :, :rows], dtype=torch.float32)
        factors = self.factors[:, :, None, None]
        for first in range(0, t.shape[2], rows):
            block = slice(first, first + rows)
            u, v = t[:, :, block], y[:, :, block]
            if exact is not None:
                u = v = exact[:, :, : u.shape[2]].copy_(u)
            if not scaled and self.bias is None:
                u = torch.mul(u, factors, out=v)
            elif not scaled:
                u = torch.addcmul(self.bias[:, None, None], u, factors, out=v)  # type: ignore[index]
            if self.noise is not None:
                u = torch.add(u, self.noise[:, None, block], out=v)
            if self.slope == 0:
                u = torch.clamp_min(u, 0, out=v)
            elif self.slope != 1:
                u = torch.ops.aten.leaky_relu.out(u, self.slope, out=v)
            if self.bound != math.inf:
                u = torch.clamp(u, -self.bound, self.bound, out=v)
            if exact is not None or u is not v:
                y[:, :, block] = u
