"""Each implementation against the reference vectors of the original code; `triton_kernels` does it for Triton."""

from __future__ import annotations

import golden_ops
import pytest
import torch
from golden_utils import load_golden

from gankit.core import cuda


@pytest.mark.parametrize("impl", ["reference", "composite"])
@pytest.mark.parametrize(("name", "case"), golden_ops.CASES, ids=golden_ops.IDS)
def test_golden(name, case, impl):
    golden_ops.check(name, case, impl)


# What half precision reaches, as a share of the largest value: the reference rounds once, the composites
# after each step. 2^-9 is half a unit in the last place of bf16, 2^-12 of fp16.
REACHED = {
    ("reference", torch.bfloat16): 2**-8,
    ("reference", torch.float16): 2**-11,
    ("composite", torch.bfloat16): 2**-6,
    ("composite", torch.float16): 2**-9,
}


@pytest.mark.parametrize(("impl", "dtype"), REACHED, ids=str)
def test_half_precision(impl, dtype):
    """Values of inputs that are rounded to half precision, against the reference of the same in float64."""
    worst = golden_ops.worst_in_half_precision(impl, dtype)
    assert worst <= REACHED[impl, dtype]
    assert worst > REACHED[impl, dtype] / 8  # or the claim should be a tighter one


def test_all_vectors_are_read():
    assert {name for name, _ in golden_ops.CASES} == set(golden_ops.FILES)
    assert sum(len(load_golden(name).cases) for name in golden_ops.FILES) == len(golden_ops.CASES) >= 95


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", [1, 2, 4, 5])
@pytest.mark.parametrize(
    ("up", "down", "padding"),
    [(2, 1, 3), ((2, 3), 1, (4, 5)), (3, 2, 6), (1, 2, 4), (1, 3, (5, 4)), (2, 1, -1)],
)
def test_half_precision_resamples_and_differentiates(side, up, down, padding, dtype):
    """Half precision has a transposed convolution of its own."""
    torch.manual_seed(0)
    f, options = torch.randn(side, side).to(dtype), {"up": up, "down": down, "padding": padding}
    x = torch.randn(2, 3, 9, 7).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y = cuda.upfirdn2d(x, f, **options, impl="composite")
    expected = cuda.upfirdn2d(exact, f, **options, impl="reference")
    dy = torch.randn(y.shape).to(dtype)
    (dx,) = torch.autograd.grad(y, x, dy)
    (wanted,) = torch.autograd.grad(expected, exact, dy.double())
    for a, e in ((y, expected), (dx, wanted)):
        assert (a.double() - e).abs().max() <= e.abs().max() * (2**-7 if dtype is torch.bfloat16 else 2**-10)
