"""The filters of ADA: the original's taps, warping with reflection, gradients of bilinear sampling."""

from __future__ import annotations

import pytest
import torch
from golden_utils import load_golden
from torch import Tensor

from gankit.plugins.augment import ada_filters

GOLDEN = load_golden("ada_augment")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_filters_match_the_original() -> None:
    torch.testing.assert_close(ada_filters.low_pass(), GOLDEN.tensors["buffers/Hz_geom"], rtol=0, atol=1e-7)
    torch.testing.assert_close(
        ada_filters.filter_bank(), GOLDEN.tensors["buffers/Hz_fbank"], rtol=0, atol=1e-7
    )
    impulse = torch.eye(43)[21]
    torch.testing.assert_close(ada_filters.filter_bank().sum(0), impulse, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0])
def test_warp_reflects_as_far_as_if_alone(factor: float) -> None:
    """A shrunk image shows more of its surroundings, but not more because its neighbour needs more of its own."""
    x = images(2, 3, 16, 16)
    inverse = torch.stack([torch.diag(torch.tensor([f, f, 1.0])) for f in (factor, 4.0)])
    taps = ada_filters.low_pass()
    alone = ada_filters.warp(x[:1], inverse[:1], taps)
    together = ada_filters.warp(x, inverse, taps)[:1]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_bilinear_sample_gradients() -> None:
    """First and second derivatives agree with finite differences and with torch's own sampler."""
    x = images(2, 2, 5, 6).double().requires_grad_()
    grid = images(2, 4, 3, 2, seed=2).double() * 1.3
    reference = torch.nn.functional.grid_sample(x, grid, align_corners=False)
    torch.testing.assert_close(ada_filters.BilinearSample.apply(x, grid), reference)
    dy = images(*reference.shape, seed=3).double()
    (expected,) = torch.autograd.grad(reference, x, dy)
    (actual,) = torch.autograd.grad(ada_filters.BilinearSample.apply(x, grid), x, dy)
    torch.testing.assert_close(actual, expected)
    sample = ada_filters.BilinearSample.apply
    assert torch.autograd.gradcheck(lambda x: sample(x, grid), (x,))
    assert torch.autograd.gradgradcheck(lambda x: sample(x.square(), grid), (x,))
