"""Reconstruction: its weight over the run."""

from __future__ import annotations

import pytest
import torch
from step_contexts import context

from gankit.plugins.regularizers.reconstruction import Reconstruction


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("nimg", "left"), [(0, 1.0), (500, 0.75), (2000, 0.0), (9000, 0.0)])
def test_reconstruction_fades_out(nimg: int, left: float) -> None:
    fake = torch.rand(4, 3, 8, 8, requires_grad=True)
    step = context(real=torch.rand(4, 3, 8, 8), nimg=nimg, features={"fake": fake})
    penalty = Reconstruction(weight=8.0, until_kimg=2.0).penalty(step)
    torch.testing.assert_close(penalty, 8.0 * left * (fake - step.real).abs().mean((1, 2, 3)))
    assert penalty.requires_grad == (left > 0)  # afterwards it costs nothing


@pytest.mark.parametrize(("nimg", "weight"), [(0, 8.0), (1000, 5.0), (2000, 2.0), (9000, 2.0)])
def test_reconstruction_can_stay(nimg: int, weight: float) -> None:
    fake = torch.rand(4, 3, 8, 8, requires_grad=True)
    step = context(real=torch.rand(4, 3, 8, 8), nimg=nimg, features={"fake": fake})
    penalty = Reconstruction(weight=8.0, until_kimg=2.0, final_weight=2.0).penalty(step)
    torch.testing.assert_close(penalty, weight * (fake - step.real).abs().mean((1, 2, 3)))
