"""Kernels for the 1x1 convolutions to RGB on a CPU: against operators in float64, and where they are taken."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import around
from torch.fx.experimental.proxy_tensor import make_fx

from gankit.core import cuda
from gankit.core.cuda import dispatch
from gankit_cpu import kernels
from gankit_cpu.llvm import pointwise

FILTERS = {
    "symmetric": cuda.setup_filter([1, 3, 3, 1]),
    "separable": cuda.setup_filter([1, 2, 3, 4, 2, 1], separable=True),
    "two taps": cuda.setup_filter([1, 2]),
    "along each axis": torch.outer(torch.tensor([1.0, 2, 3, 5]), torch.tensor([2.0, 1, 4, 1])) / 88,
}


def tensors():
    torch.manual_seed(0)
    return torch.randn(3, 40, 36, 32).bfloat16(), torch.randn(3, 40, 1, 1), torch.rand(3, 40) + 0.5


def exact(x, w, s, b=None, **options):
    options = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    b = None if b is None else b.double()
    return cuda.modulated_conv2d(
        x.double(), w.double(), s.double(), demodulate=False, b=b, impl="reference", **options
    )


def near(y, right):
    """As operators of torch in bfloat16 are."""
    torch.testing.assert_close(y.double(), right, rtol=0, atol=0.02 * right.abs().max().item())


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 70)),
    channels=st.tuples(st.sampled_from([15, 16, 17, 31, 32, 33, 64, 91]), st.integers(1, 5)),
    bias=st.booleans(),
    clamp=st.sampled_from([None, 0.5]),
    count=st.sampled_from([1, 2, 5]),
    pixels=st.sampled_from([1, 2**12]),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_few_outputs(n, size, channels, bias, clamp, count, pixels, seed):
    torch.manual_seed(seed)
    i, o = channels
    _, x = around(n, i, *size, torch.bfloat16)
    x.copy_(torch.randn(x.shape))
    weight, styles, b = torch.randn(o, i), torch.randn(n, i), torch.randn(o) if bias else None
    before, fewest = torch.get_num_threads(), pointwise.PIXELS
    torch.set_num_threads(count)
    pointwise.PIXELS = pixels
    try:
        y = pointwise.run(x, weight, styles, b, clamp)
    finally:
        torch.set_num_threads(before)
        pointwise.PIXELS = fewest
    if i < 32 or o > 4:
        assert y is None
        return
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    expected = torch.einsum("nihw,ni,oi->nohw", x.double(), styles.double(), weight.double())
    expected = expected if b is None else expected + b[:, None, None]
    expected = expected if clamp is None else expected.clamp(-clamp, clamp)
    torch.testing.assert_close(
        y.double(), expected, rtol=2**-8, atol=1e-4
    )  # sums are in float32, rounded once


@torch.no_grad()
def test_to_rgb(monkeypatch):
    x, w, s = tensors()
    b, gain = torch.randn(3), torch.rand(3, 40) + 0.5
    calls, function = [], pointwise.run
    monkeypatch.setattr(pointwise, "run", lambda *a: calls.append(1) or function(*a))

    def rgb(x, **options):
        return cuda.modulated_conv2d(x, w, s, demodulate=False, b=b, **options)

    last = x.contiguous(memory_format=torch.channels_last)
    for options in ({}, {"clamp": 0.5}, {"input_gain": gain}):
        y = rgb(last, **options)
        right = exact(x, w, s, b, **options)
        torch.testing.assert_close(y.double(), right, rtol=2**-8, atol=1e-4)
        assert y.dtype == torch.bfloat16
    assert len(calls) == 3
    rgb(x)  # NCHW
    rgb(last.float())
    rgb(last, act="lrelu")
    rgb(last, gain=2)
    rgb(last, padding=1)
    rgb(last, noise=torch.randn(36, 32))
    cuda.modulated_conv2d(last, w, s, b=b)
    with torch.enable_grad():
        rgb(last.detach().requires_grad_()).float().sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rgb(last)
    make_fx(rgb)(last)
    assert len(calls) == 3
    monkeypatch.setattr(kernels, "_failures", [])

    def broken(*arguments):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(pointwise, "_plan", functools.cache(pointwise._plan.__wrapped__))
    monkeypatch.setattr(pointwise, "kernel", broken)
    with pytest.warns(RuntimeWarning, match="no such instruction"):
        y = rgb(last)
    right = exact(x, w, s, b)
    torch.testing.assert_close(y.double(), right, rtol=0, atol=0.02 * right.abs().max().item())


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    channels=st.tuples(st.sampled_from([32, 33, 64]), st.integers(1, 4)),
    name=st.sampled_from(list(FILTERS)),
    clamp=st.sampled_from([None, 0.5]),
    count=st.sampled_from([1, 2, 5]),
    pixels=st.sampled_from([1, 2**12]),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_levels_of_an_image(n, size, channels, name, clamp, count, pixels, seed):
    torch.manual_seed(seed)
    (h, w), (i, o) = size, channels
    before, fewest = torch.get_num_threads(), pointwise.PIXELS
    torch.set_num_threads(count)
    pointwise._plan.cache_clear()
    pointwise.PIXELS = pixels
    img = expected = None
    try:
        for _ in range(3):
            _, x = around(n, i, h, w, torch.bfloat16)
            x.copy_(torch.randn(x.shape))
            weight, styles, b = torch.randn(o, i), torch.randn(n, i), torch.randn(o)
            rgb = exact(x, weight[:, :, None, None], styles, b, clamp=clamp)
            if expected is not None:
                rgb += cuda.upsample2d(expected, FILTERS[name].double(), impl="reference")
            img = pointwise.onto(x, weight, styles, b, clamp, img, FILTERS[name])
            assert (img.shape, img.dtype) == (rgb.shape, torch.float32)
            torch.testing.assert_close(img.double(), rgb, rtol=1e-5, atol=1e-4)
            expected, h, w = rgb, 2 * h, 2 * w
    finally:
        torch.set_num_threads(before)
        pointwise.PIXELS = fewest
        pointwise._plan.cache_clear()


@pytest.fixture
def taken(monkeypatch):
    calls, function = [], pointwise.onto

    def onto(*arguments):
        y = function(*arguments)
        calls.append(y is not None)
        return y

    monkeypatch.setattr(pointwise, "onto", onto)
    return calls


def first_level(x, w, s):
    return cuda.add_rgb(None, None, x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), w, s)


@torch.no_grad()
@pytest.mark.parametrize(
    "what", ["NCHW", "no room", "odd taps", "square", "no filter", "size", "other channels"]
)
def test_images_that_operators_enlarge(taken, what):
    x, w, s = tensors()
    x, f = x.contiguous(memory_format=torch.channels_last), FILTERS["symmetric"]
    img = first_level(x, w, s)
    cuda.add_rgb(img, f, x, w, s)
    assert taken == [True, True]
    taken.clear()
    if what == "NCHW":
        img = img.contiguous()
    elif what == "no room":  # for the fourth channel of the last pixel
        own = torch.empty(img.numel() // 3 * 4 - 1)
        img = own.as_strided(img.shape, img.stride()).copy_(img)
    elif what == "odd taps":
        f = cuda.setup_filter([1, 2, 1])
    elif what == "square":
        f = cuda.setup_filter(torch.rand(4, 4))
    elif what == "no filter":
        f = None
    elif what == "size":
        img = img[:, :, :9]
    elif what == "other channels":
        img = img[:, :2]
    if what in ("size", "other channels"):
        with pytest.raises(ValueError, match="add_rgb: img must be"):
            cuda.add_rgb(img, f, x, w, s)
    else:
        y = cuda.add_rgb(img, f, x, w, s)
        right = exact(x, w, s) + cuda.upsample2d(
            img.double(), None if f is None else f.double(), impl="reference"
        )
        near(y, right)
    assert taken == ([] if what in ("size", "other channels") else [False])


@pytest.mark.parametrize("what", ["gradients", "float32", "autocast", "reference", "GANKIT_OPS", "watched"])
def test_operators_take_over(taken, monkeypatch, what):
    x, w, s = tensors()
    x, f = x.contiguous(memory_format=torch.channels_last), FILTERS["symmetric"]
    with torch.no_grad():
        img = first_level(x, w, s)
        assert taken == [True]
        taken.clear()
    if what == "GANKIT_OPS":
        monkeypatch.setattr(dispatch, "requested", "reference")
    with torch.set_grad_enabled(what == "gradients"), torch.autocast("cpu", enabled=what == "autocast"):
        if what == "gradients":
            w.requires_grad_()
            y = cuda.add_rgb(img, f, x, w, s)
            y.sum().backward()
            assert w.grad.isfinite().all()
        elif what == "float32":
            y = cuda.add_rgb(img, f, x.float(), w, s)
        elif what == "watched":
            y = make_fx(lambda x: cuda.add_rgb(img, f, x, w, s))(x)(x)
        else:
            y = cuda.add_rgb(img, f, x, w, s, impl="reference" if what == "reference" else "auto")
    assert taken == []
    right = exact(x, w.detach(), s) + cuda.upsample2d(img.double(), f.double(), impl="reference")
    near(y.detach(), right)


@torch.no_grad()
def test_a_kernel_for_levels_that_fails(monkeypatch):
    monkeypatch.setattr(kernels, "_failures", [])

    def broken(*arguments):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(pointwise, "_run", broken)
    x, w, s = tensors()
    x = x.contiguous(memory_format=torch.channels_last)
    with pytest.warns(RuntimeWarning, match="no such instruction"):
        y = cuda.add_rgb(None, None, x, w, s)
    near(y, exact(x, w, s))
