"""What tests of convolutions with gradients share."""

from __future__ import annotations

import torch


def results(function, x, w, b, dtype):
    """The value, the gradient of a loss, and that of the gradients' norms, as in R1, and by the weight, too."""
    x, w, b = (t.detach().to(dtype).requires_grad_() for t in (x, w, b))
    y = function(x, w, b)
    (gradient,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    r1 = torch.autograd.grad(gradient.square().sum(), (x, w, b))
    first = torch.autograd.grad(function(x, w, b).sin().sum(), (x, w, b), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, w, b))
    return [y, gradient, *r1, *first, *second]


def compare(own, plain, x, w, b, dtype=torch.float32):
    """Against float64, by the rounding of torch's own."""
    names = ["y", "gradient", *(f"{of} by {by}" for of in ("r1", "first", "second") for by in "xwb")]
    sets = (results(f, x, w, b, d) for f, d in ((own, dtype), (plain, dtype), (plain, torch.float64)))
    for name, mine, direct, exact in zip(names, *sets):
        assert (mine.shape, mine.dtype) == (exact.shape, dtype), name
        rounding = (direct - exact).square().mean().sqrt()
        error = (mine - exact).square().mean().sqrt()
        assert error <= 3 * rounding + 1e-6 * exact.square().mean().sqrt(), name
