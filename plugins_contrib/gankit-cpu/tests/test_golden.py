"""The kernels against the reference vectors of the original code; gankit's own tests do it for the composites."""

from __future__ import annotations

import golden_ops
import pytest
import torch

# What half precision reaches, as a share of the largest value, as the composites do.
REACHED = {("cpu", torch.bfloat16): 2**-6, ("cpu", torch.float16): 2**-9}


@pytest.mark.parametrize("impl", ["cpu"])
@pytest.mark.parametrize(("name", "case"), golden_ops.CASES, ids=golden_ops.IDS)
def test_golden(name, case, impl):
    golden_ops.check(name, case, impl)


@pytest.mark.parametrize(("impl", "dtype"), REACHED, ids=str)
def test_half_precision(impl, dtype):
    """Values of inputs that are rounded to half precision, against the reference of the same in float64."""
    worst = golden_ops.worst_in_half_precision(impl, dtype)
    assert worst <= REACHED[impl, dtype]
    assert worst > REACHED[impl, dtype] / 8  # or the claim should be a tighter one
