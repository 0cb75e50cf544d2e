"""What every augmentation keeps: alpha and its colour, gradients for R1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gankit.core.runtime.random import batch_random
from gankit.plugins.augment.ada import ADA
from gankit.plugins.augment.diffaugment import DiffAugment

ALL_AUGMENTS = [
    pytest.param(lambda shape: ADA(shape, pipeline="bgcfnc", p=0.8), id="ada"),
    pytest.param(DiffAugment, id="diffaugment"),
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("make", ALL_AUGMENTS)
def test_alpha_keeps_its_colour(make) -> None:
    """The alpha channel moves with the colours, but its values are not recoloured."""
    name = "color"
    augment = (
        DiffAugment((4, 8, 8), policy=name) if make is DiffAugment else ADA((4, 8, 8), pipeline=name, p=1)
    )
    x = images(8, 4, 8, 8)
    y = augment(x)
    assert torch.equal(y[:, 3], x[:, 3])
    assert not torch.allclose(y[:, :3], x[:, :3])


@pytest.mark.parametrize("make", ALL_AUGMENTS)
@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 4, 4)])
def test_r1_gradients_through_the_augmentation(make, shape: tuple[int, int, int]) -> None:
    """y = L x + c, D(y) = sum(w y^2) / 2, so the gradient of |dD/dx|^2 / 2 to w is y * (L L^T w y)."""
    augment = make(shape)
    x = images(2, *shape).requires_grad_()
    size = x.numel()

    def apply(x: Tensor) -> Tensor:
        with batch_random("fixed", total=2):
            return augment(x)

    y = apply(x)
    w = images(*y.shape, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad((w * y.square()).sum() / 2, x, create_graph=True)
    (actual,) = torch.autograd.grad(gradient.square().sum() / 2, w)

    with torch.no_grad():
        offset = apply(torch.zeros_like(x))
        units = torch.eye(size).view(size, *x.shape)
        L = torch.stack([(apply(unit) - offset).flatten() for unit in units], dim=1)
        expected = y.flatten() * (L @ (L.T @ (w * y).flatten()))
    assert not torch.allclose(L, torch.eye(size))
    torch.testing.assert_close(actual.flatten(), expected, rtol=2e-3, atol=2e-4)
