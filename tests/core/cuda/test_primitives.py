"""Products in half precision on a CPU that has none: computed in float32, rounded once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gankit.core import cuda
from gankit.core.cuda import primitives


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {"padding": 1}),
        (3, {"padding": 1, "up": 2}),
        (1, {}),
        (1, {"up": 2}),
        (1, {"down": 2}),
        (3, {"groups": 2}),
    ],
)
def test_a_cpu_without_products_in_half_precision(monkeypatch, dtype, kernel, options):
    """They are done in float32, and their results rounded once; gradients likewise."""
    f = cuda.setup_filter([1, 3, 3, 1])
    x, w = (
        torch.randn(2, 8, 6, 7).to(dtype),
        torch.randn(6, 8 // options.get("groups", 1), kernel, kernel).to(dtype),
    )
    b = torch.randn(6).to(dtype)
    monkeypatch.setattr(primitives, "multiplies", lambda dtype, device: dtype == torch.float32)
    inputs = [t.clone().requires_grad_() for t in (x, w, b)]
    exact = [t.double().requires_grad_() for t in (x, w, b)]
    y, right = (
        cuda.conv2d_resample(x, w, f, b=b, **options, impl="composite") for x, w, b in (inputs, exact)
    )
    dy = torch.randn_like(y)
    assert y.dtype == dtype
    epsilon = torch.finfo(dtype).eps
    bound = epsilon * (1 if options.keys() <= {"padding", "groups"} else 8)  # filters round, too
    torch.testing.assert_close(y.double(), right, rtol=bound, atol=bound * right.abs().max().item())
    for d, e in zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(right, exact, dy.double())):
        torch.testing.assert_close(d.double(), e, rtol=8 * epsilon, atol=8 * epsilon * e.abs().max().item())


@pytest.mark.parametrize(
    "options", [{}, {"up": 2, "padding": 2}, {"down": 2}, {"up": 2, "down": 3, "padding": (-1, 2)}]
)
def test_so_are_those_of_upfirdn2d(monkeypatch, options):
    seen = []
    for name in ("conv2d", "conv_transpose2d"):
        function = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *a, f=function, **k: seen.append(a[0].dtype) or f(*a, **k))
    monkeypatch.setattr(primitives, "multiplies", lambda dtype, device: dtype == torch.float32)
    x, f = torch.randn(2, 3, 9, 8).bfloat16().requires_grad_(), cuda.setup_filter([1, 3, 3, 1])
    y = cuda.upfirdn2d(x, f, **options)
    assert set(seen) == {torch.float32}
    exact = x.detach().double().requires_grad_()
    right = cuda.upfirdn2d(exact, f.double(), **options, impl="reference")
    dy = torch.randn_like(y)
    (dx,), (expected,) = torch.autograd.grad(y, x, dy), torch.autograd.grad(right, exact, dy.double())
    assert (y.dtype, dx.dtype) == (torch.bfloat16, torch.bfloat16)
    for own, other in ((y, right), (dx, expected)):
        torch.testing.assert_close(own.double(), other, rtol=2**-8, atol=2**-8 * other.abs().max().item())


def test_so_are_those_of_a_modulated_1x1_convolution(monkeypatch):
    seen, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: seen.append(a.dtype) or bmm(a, b))
    monkeypatch.setattr(primitives, "multiplies", lambda dtype, device: dtype == torch.float32)
    x, w, s = torch.randn(2, 8, 6, 7).bfloat16(), torch.randn(3, 8, 1, 1), torch.randn(2, 8)
    for maps in (x, x.contiguous(memory_format=torch.channels_last)):
        y = cuda.modulated_conv2d(maps, w, s, demodulate=False, impl="composite")
        right = cuda.modulated_conv2d(
            maps.double(), w.double(), s.double(), demodulate=False, impl="reference"
        )
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.double(), right, rtol=2**-6, atol=2**-5)
    assert seen == [torch.float32] * 2
