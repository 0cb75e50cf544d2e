"""The composites against the reference, and the reference's derivatives, numerically."""

from __future__ import annotations

import implementation_cases
import pytest
import torch
from implementation_cases import (  # noqa: F401  run here, for the composites
    randn,
    test_bias_act,
    test_conv2d_resample,
    test_filtered_lrelu,
    test_helpers_keep_the_size,
    test_modulated_conv2d,
    test_upfirdn2d,
)
from torch.autograd import gradcheck, gradgradcheck

from gankit.core import cuda
from gankit.core.cuda.activations import ACTIVATIONS


@pytest.fixture(autouse=True)
def _composites(monkeypatch):
    monkeypatch.setattr(implementation_cases, "IMPL", "composite")


# ----------------------------------------------------------------------- derivatives of the reference, numerically


def numerically(function, *variables):
    torch.manual_seed(0)
    variables = [v.double().requires_grad_() for v in variables]
    assert gradcheck(function, variables)
    assert gradgradcheck(function, variables)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_reference_bias_act_differentiates(act):
    torch.manual_seed(0)
    numerically(
        lambda x, b: cuda.bias_act(x, b, act=act, clamp=1.2, impl="reference"), randn(2, 3, 2), randn(3)
    )


@pytest.mark.parametrize(
    "options", [{"up": 2, "padding": 1}, {"down": (1, 2)}, {"padding": [-1, 5, 4, 0]}], ids=str
)
def test_reference_upfirdn2d_differentiates(options):
    f = torch.tensor([[1.0, 2, 3], [0.5, 1, -1]])
    numerically(lambda x: cuda.upfirdn2d(x, f, **options, impl="reference"), torch.randn(1, 2, 3, 4))


def test_reference_filtered_lrelu_differentiates():
    torch.manual_seed(0)
    fu, fd = torch.rand(4) / 2, torch.rand(2, 3) / 4
    numerically(
        lambda x, b: cuda.filtered_lrelu(x, fu, fd, b, 2, 2, (3, 2, 3, 1), clamp=0.9, impl="reference"),
        randn(1, 2, 3, 2), randn(2),
    )  # fmt: skip


@pytest.mark.parametrize("up", [1, 2])
def test_reference_modulated_conv2d_differentiates(up):
    torch.manual_seed(0)
    options = {"up": up, "padding": 1, "resample_filter": cuda.setup_filter([1, 3, 3, 1]), "act": "lrelu"}
    numerically(
        lambda x, w, s, noise, b: cuda.modulated_conv2d(x, w, s, noise, b=b, **options, impl="reference"),
        randn(2, 2, 2, 1), randn(1, 2, 3, 3), randn(2, 2), randn(2, 1, 2 * up, up), randn(1),
    )  # fmt: skip


def test_reference_stylegan3_convolution_differentiates():
    torch.manual_seed(0)
    numerically(
        lambda x, w, s, g: cuda.modulated_conv2d(x, w, s, padding=2, input_gain=g, normalize=True, impl="reference"),
        randn(2, 2, 2, 1), randn(1, 2, 3, 3), randn(2, 2), randn(2),
    )  # fmt: skip
