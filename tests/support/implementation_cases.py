"""An implementation against the reference, values and derivatives, over shapes, layouts, factors, paddings, filters.

A test module imports the tests and sets `IMPL` by a fixture.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gankit.core import cuda
from gankit.core.cuda.activations import ACTIVATIONS

IMPL = "composite"
TUNED: dict[str, str] = {}  # tuning constants of the implementation, by path -> 'block' or 'fold'
LAYOUTS = ("contiguous", "channels last", "every second", "transposed")


def arrange(x: Tensor, layout: str) -> Tensor:
    """The same values in another layout."""
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "every second":
        wide = x.new_full((x.shape[0], 2 * x.shape[1], x.shape[2], 3 * x.shape[3]), float("nan"))
        wide[:, ::2, :, 1::3] = x
        return wide[:, ::2, :, 1::3]
    return x.transpose(2, 3).contiguous().transpose(2, 3) if layout == "transposed" else x


def derivatives(function, variables):
    """Value, gradients for a cotangent, gradients of their contraction with fixed vectors."""
    variables = [v.detach().requires_grad_() for v in variables]
    generator = torch.Generator().manual_seed(1)
    fixed = lambda t: torch.randn(t.shape, generator=generator, dtype=t.dtype)  # noqa: E731
    y = function(*variables)
    dy = fixed(y).requires_grad_()
    first = torch.autograd.grad(y, variables, dy, create_graph=True)
    contraction = sum((g * fixed(g)).sum() for g in first)
    again = torch.autograd.grad(contraction, [dy, *variables], allow_unused=True, materialize_grads=True)
    return [y, *first, *again]


def compare(function, x, *others, layout="contiguous"):
    """`function(impl, x, *others)` with x laid out by `layout`, in float64: only the order of sums may differ."""
    expected = derivatives(lambda *t: function("reference", *t), [x, *others])
    actual = derivatives(lambda *t: function(IMPL, *t), [arrange(x, layout), *others])
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-7)
    with torch.no_grad():  # in float32, and what needs no gradients may take a path of its own
        alone = function(IMPL, arrange(x.float(), layout), *(t.float() for t in others))
    if alone.numel():
        torch.testing.assert_close(
            alone.double(), expected[0], rtol=0, atol=1e-5 * (1 + expected[0].abs().max().item())
        )


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


sizes = st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
factors = st.integers(1, 3)
sides = st.integers(-2, 9)
layouts = st.sampled_from(LAYOUTS)
filters = st.one_of(
    st.none(), st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 5), st.integers(1, 5))
)  # 1-D, 2-D


def taps(shape) -> Tensor | None:
    return None if shape is None else torch.randn(shape, dtype=torch.float64)


def enough(size: int, up: int, before: int, after: int, taps: int) -> int:
    """`after` or the least padding that leaves a pixel."""
    return max(after, taps - size * up - before)


@settings(max_examples=150, deadline=None)
@given(size=sizes, dim=st.integers(-4, 3), act=st.sampled_from(list(ACTIVATIONS)), bias=st.booleans(),
       gain=st.sampled_from([None, 1, 0.5, -1.5, 0]), alpha=st.sampled_from([None, 0.0, 0.3, -0.2]),
       clamp=st.sampled_from([None, 0.7]), layout=layouts)  # fmt: skip
def test_bias_act(size, dim, act, bias, gain, alpha, clamp, layout):
    torch.manual_seed(0)
    options = {"dim": dim, "act": act, "gain": gain, "alpha": alpha, "clamp": clamp}
    b = [randn(size[dim])] if bias else []
    compare(lambda impl, x, *b: cuda.bias_act(x, *b, **options, impl=impl), randn(*size), *b, layout=layout)


@settings(max_examples=200, deadline=None)
@given(size=sizes, f=filters, up=st.tuples(factors, factors), down=st.tuples(factors, factors),
       padding=st.tuples(sides, sides, sides, sides), flip=st.booleans(), gain=st.sampled_from([1, 4, 0.7]),
       layout=layouts)  # fmt: skip
def test_upfirdn2d(size, f, up, down, padding, flip, gain, layout):
    torch.manual_seed(0)
    f, (x0, x1, y0, y1) = taps(f), padding
    ny, nx = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    padding = (x0, enough(size[3], up[0], x0, x1, nx), y0, enough(size[2], up[1], y0, y1, ny))
    options = {"up": up, "down": down, "padding": padding, "flip_filter": flip, "gain": gain}
    compare(lambda impl, x: cuda.upfirdn2d(x, f, **options, impl=impl), randn(*size), layout=layout)


@settings(max_examples=30, deadline=None)
@given(helper=st.sampled_from(["filter2d", "upsample2d", "downsample2d"]), size=sizes, f=filters, layout=layouts,
       padding=st.tuples(st.integers(0, 3), st.integers(0, 3)), flip=st.booleans())  # fmt: skip
def test_helpers_keep_the_size(helper, size, f, layout, padding, flip):
    torch.manual_seed(0)
    n, c, h, w = size = (*size[:2], 2 * size[2], 2 * size[3])
    f = taps(f)
    function = getattr(cuda, helper)
    expected = {"filter2d": (h, w), "upsample2d": (2 * h, 2 * w), "downsample2d": (h // 2, w // 2)}[helper]
    assert function(randn(*size), f).shape == (n, c, *expected)
    options = {"padding": padding, "flip_filter": flip, "gain": 0.7}
    compare(lambda impl, x: function(x, f, **options, impl=impl), randn(*size), layout=layout)


@settings(max_examples=150, deadline=None)
@given(size=sizes, fu=filters, fd=filters, up=factors, down=factors, padding=st.tuples(sides, sides, sides, sides),
       bias=st.booleans(), clamp=st.sampled_from([None, 0.5]), slope=st.sampled_from([0.2, 0.0, 1.0]),
       flip=st.booleans(), layout=layouts)  # fmt: skip
def test_filtered_lrelu(size, fu, fd, up, down, padding, bias, clamp, slope, flip, layout):
    torch.manual_seed(0)
    fu, fd, (x0, x1, y0, y1) = taps(fu), taps(fd), padding
    ny, nx = (sum(1 if f is None else f.shape[axis] for f in (fu, fd)) - 1 for axis in (0, -1))
    padding = (x0, enough(size[3], up, x0, x1, nx), y0, enough(size[2], up, y0, y1, ny))
    options = {
        "up": up,
        "down": down,
        "padding": padding,
        "clamp": clamp,
        "slope": slope,
        "flip_filter": flip,
    }
    b = [randn(size[1])] if bias else []
    compare(
        lambda impl, x, *b: cuda.filtered_lrelu(x, fu, fd, *b, **options, impl=impl),
        randn(*size),
        *b,
        layout=layout,
    )


@settings(max_examples=150, deadline=None)
@given(size=sizes, kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)), up=st.integers(1, 4),
       down=factors, f=filters, padding=st.tuples(sides, sides, sides, sides), groups=st.sampled_from([1, 3]),
       flip_weight=st.booleans(), bias=st.booleans(), layout=layouts)  # fmt: skip
def test_conv2d_resample(size, kernel, up, down, f, padding, groups, flip_weight, bias, layout):
    torch.manual_seed(0)
    f, (x0, x1, y0, y1) = taps(f), padding
    padding = (
        x0,
        x1 + kernel[1] + down * 2 + max(-x0 - x1, 0),
        y0,
        y1 + kernel[0] + down * 2 + max(-y0 - y1, 0),
    )
    options = {
        "f": f,
        "up": up,
        "down": down,
        "padding": padding,
        "groups": groups,
        "flip_weight": flip_weight,
    }
    x, w, b = randn(size[0], 3, *size[2:]), randn(6, 3 // groups, *kernel), [randn(6)] if bias else []

    def function(impl, x, w, *b):
        return cuda.conv2d_resample(x, w, b=b[0] if b else None, **options, impl=impl)

    compare(function, x, w, *b, layout=layout)


@settings(max_examples=150, deadline=None)
@given(size=sizes, kernel=st.sampled_from([1, 3]), resample=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]),
       noise=st.sampled_from(["none", "image", "batch"]), demodulate=st.booleans(), normalize=st.booleans(),
       input_gain=st.sampled_from(["none", "number", "channels", "samples"]), bias=st.booleans(),
       act=st.sampled_from(["linear", "relu", "lrelu", "swish"]), clamp=st.sampled_from([None, 0.8]),
       separable=st.booleans(), block=st.sampled_from([1, 2**10, 2**21]),
       fold=st.sampled_from([0, 2, 99]), flip_weight=st.booleans(), layout=layouts)  # fmt: skip
def test_modulated_conv2d(
    size,
    kernel,
    resample,
    noise,
    demodulate,
    normalize,
    input_gain,
    bias,
    act,
    clamp,
    separable,
    block,
    fold,
    flip_weight,
    layout,
):
    torch.manual_seed(0)
    n, c, *_ = size = (*size[:2], size[2] + 3, size[3] + 3)
    up, down = resample
    f = cuda.setup_filter([1, 3, 3, 1], separable=separable).double()
    gains = {"none": None, "number": torch.tensor(0.7), "channels": randn(c), "samples": randn(n, c)}
    options = {
        "up": up, "down": down, "padding": kernel // 2, "resample_filter": f, "demodulate": demodulate, "act": act,
        "normalize": normalize and n > 0, "clamp": clamp, "gain": 0.9, "flip_weight": flip_weight,
    }  # fmt: skip
    optional = {"input_gain": gains[input_gain]} if input_gain != "none" else {}
    y = cuda.modulated_conv2d(randn(*size), randn(4, c, kernel, kernel), randn(n, c), **options)
    if noise != "none":
        optional["noise"] = randn(*((n, 1) if noise == "batch" else ()), *y.shape[2:])
    if bias:
        optional["b"] = randn(4)

    def function(impl, x, w, s, *rest):
        return cuda.modulated_conv2d(x, w, s, **dict(zip(optional, rest)), **options, impl=impl)

    rest = [t.double() for t in optional.values()]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TUNED.items():
            patch.setattr(name, {"block": block, "fold": fold}[value])
        compare(function, randn(*size), randn(4, c, kernel, kernel), randn(n, c), *rest, layout=layout)
