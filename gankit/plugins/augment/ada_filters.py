"""Resampling and band-pass filters of ADA as matrix products: Karras et al. 2020 (StyleGAN2-ADA), appendix B.

A filter along an axis is a matrix [B, out, in], one per image, with the reflection at the borders folded in. At image
sizes a matrix product is faster than padding and a depthwise convolution, on CPU several times so, and it is
differentiable to any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Low-pass decomposition filters of the symlet wavelets (Daubechies 1992).
SYM2 = [-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025]
SYM6 = [
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263748752646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
]


def low_pass() -> Tensor:
    """Taps [12] of the symlet low-pass filter for resampling by 2, sum 1."""
    taps = torch.tensor(SYM6, dtype=torch.float64)
    return (taps / taps.sum()).float()


def filter_bank() -> Tensor:
    """Taps [4, 43] of band-pass filters for [0, 1/8], [1/8, 1/4], [1/4, 1/2], [1/2, 1] of Nyquist; they sum to the
    identity."""
    low = np.asarray(SYM2)
    high = low * (-1.0) ** np.arange(len(low))
    low2 = np.convolve(low, low[::-1]) / 2
    high2 = np.convolve(high, high[::-1]) / 2
    bank = np.eye(4, 1)
    for i in range(1, 4):
        stuffed = np.zeros((4, 2 * bank.shape[1] - 1))
        stuffed[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in stuffed])
        start = (bank.shape[1] - len(high2)) // 2
        bank[i, start : start + len(high2)] += high2
    return torch.from_numpy(bank).float()


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices into [0, size), mirrored about the centres of the first and the last pixel."""
    return (size - 1) - (index.remainder(max(2 * (size - 1), 1)) - (size - 1)).abs()


def _scatter(source: Tensor, weight: Tensor, size: int) -> Tensor:
    """Matrix [B, out, size] with each `weight` [B, out, taps] added at its input index `source` [B, out, taps]."""
    return weight.new_zeros(*source.shape[:2], size).scatter_add_(2, source, weight)


def upsample_matrix(size: int, before: Tensor, after: Tensor, canvas: int, taps: Tensor) -> Tensor:
    """Matrix [B, 2 * canvas, size]: pad by reflection, before [B] and after [B], then upsample by 2 with an even-length
    filter.

    The result starts at row 0; rows past an image's own padding are zero.
    """
    half = len(taps) // 2
    row = torch.arange(2 * canvas, device=taps.device)[:, None]
    tap = (row + half - 1) % 2 + 2 * torch.arange(half, device=taps.device)
    padded = (row + half - 1 - tap) // 2
    length = (size + before + after)[:, None, None]
    weight = 2 * taps[tap] * ((padded >= 0) & (padded < length) & (row < 2 * length))
    return _scatter(_reflect(padded - before[:, None, None], size), weight, size)


def downsample_matrix(size: int, crop: int, taps: Tensor) -> Tensor:
    """Matrix [size, 2 * size + 2 * crop]: crop on either side, then filter with an even-length filter and keep every
    second sample."""
    row = torch.arange(size, device=taps.device)[:, None]
    tap = torch.arange(len(taps), device=taps.device)
    source = 2 * row + tap + crop + 1 - len(taps) // 2
    return _scatter(source[None], taps.expand(1, size, -1), 2 * size + 2 * crop)[0]


def filter_matrix(size: int, taps: Tensor) -> Tensor:
    """Matrices [B, size, size]: filter with odd, symmetric taps [B, n] and reflected borders."""
    n = taps.shape[1]
    row = torch.arange(size, device=taps.device)[:, None]
    source = _reflect(row + torch.arange(n, device=taps.device) - n // 2, size)
    return _scatter(source.expand(len(taps), -1, -1), taps[:, None].expand(-1, size, -1), size)


def apply_separable(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Apply one matrix per axis.

    images [B, C, H, W], vertical [B, H', H] or [H', H], horizontal [B, W', W] or [W', W] -> [B, C, H', W'].
    """
    columns = vertical.unsqueeze(-3) @ images
    batch, channels, height, _ = columns.shape
    return (columns.flatten(1, 2) @ horizontal.mT).view(batch, channels, height, -1)


def warp(images: Tensor, inverse: Tensor, taps: Tensor) -> Tensor:
    """Warp images [B, C, H, W] by an affine map at twice the resolution, with reflection padding.

    inverse [B, 3, 3], on the CPU, maps output to input pixel coordinates, origin at the image centre; taps is the
    low-pass filter. The padding of an image depends on its own transform alone (at most one reflection), so its result
    does not depend on the other images of the batch.
    """
    height, width = images.shape[2:]
    margin = len(taps) // 4  # pixels around the view that the low-pass filter needs
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = inverse @ torch.tensor([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]]).T
    reach = torch.stack([-corners[:, 0], -corners[:, 1], corners[:, 0], corners[:, 1]], 1).amax(2)
    reach = reach + 2 * margin - torch.tensor([x, y, x, y])
    limit = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    left, top, right, bottom = reach.clamp(min=0).minimum(limit).ceil().long().unbind(1)

    canvas_x, canvas_y = width + int((left + right).max()), height + int((top + bottom).max())
    left_, top_, right_, bottom_ = torch.stack([left, top, right, bottom]).to(images.device)
    canvas = apply_separable(
        images,
        upsample_matrix(height, top_, bottom_, canvas_y, taps),
        upsample_matrix(width, left_, right_, canvas_x, taps),
    )

    # Output u, canvas v, both in pixels of double size about their centres: v = 2 (G^-1 (u + 1/2) / 2 + shift) - 1/2,
    # where the halves make up for the even length of the low-pass.
    theta = inverse[:, :2].clone()
    theta[:, :, 2] += theta[:, :, :2].sum(2) / 4 - 0.25
    theta[:, 0, 2] += left + (width - canvas_x) / 2
    theta[:, 1, 2] += top + (height - canvas_y) / 2
    view_x, view_y = width + 2 * margin, height + 2 * margin
    theta = theta * torch.tensor([view_x / 2, view_y / 2, 1]) / torch.tensor([[canvas_x / 2], [canvas_y / 2]])
    grid = F.affine_grid(
        theta.to(images.device), [len(images), 1, 2 * view_y, 2 * view_x], align_corners=False
    )
    view = BilinearSample.apply(canvas, grid)
    return apply_separable(
        view, downsample_matrix(height, 2 * margin, taps), downsample_matrix(width, 2 * margin, taps)
    )


class BilinearSample(torch.autograd.Function):
    """`grid_sample` with zero padding and a constant grid, differentiable twice in every version of torch.

    It is linear in the image, so the derivative of its backward is the sampling itself.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _BilinearSplat.apply(grad, grid, ctx.shape), None


class _BilinearSplat(torch.autograd.Function):
    """The transpose of `BilinearSample`."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        like = grad.new_zeros(1).expand(shape)  # only its shape matters; the image need not be kept
        return torch.ops.aten.grid_sampler_2d_backward(grad, like, grid, 0, 0, False, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return BilinearSample.apply(grad, grid), None, None
