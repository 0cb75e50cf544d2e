"""filtered_lrelu is its definition, in every order of derivative; the low-pass filters; StyleGAN3's modulation."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from golden_utils import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from gankit.core import cuda
from gankit.core.cuda import native
from gankit.core.cuda.native import filters
from gankit.core.nn.lowpass import design_lowpass_filter


def by_definition(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip):
    x = x if b is None else x + b[:, None, None]
    x = cuda.upfirdn2d(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip)
    x = F.leaky_relu(x, slope) * gain
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return cuda.upfirdn2d(x, fd, down=down, flip_filter=flip)


@st.composite
def calls(draw):
    def taps():
        side = st.integers(1, 9)
        return draw(st.one_of(st.none(), st.tuples(side), st.tuples(side), st.tuples(side, side)))

    return {
        "size": (draw(st.integers(0, 3)), draw(st.integers(4, 9)), draw(st.integers(4, 9))),
        "fu": taps(),
        "fd": taps(),
        "bias": draw(st.booleans()),
        "up": draw(st.integers(1, 4)),
        "down": draw(st.integers(1, 4)),
        "padding": draw(st.lists(st.integers(-6, 9), min_size=4, max_size=4)),
        "gain": draw(st.sampled_from([1, 2**0.5])),
        "slope": draw(st.sampled_from([0.2, 0.0, 1.0, -0.3])),
        "clamp": draw(st.sampled_from([None, 0.4, 1e4])),
        "flip": draw(st.booleans()),
        "channels_last": draw(st.booleans()),
        "block": draw(st.sampled_from([1, 2**21])),
    }


@settings(max_examples=150, deadline=None)
@given(calls())
def test_is_its_definition(call):
    n, h, w = call["size"]
    torch.manual_seed(0)
    x = torch.randn(n, 3, h, w, dtype=torch.float64)
    if call["channels_last"]:
        x = x.contiguous(memory_format=torch.channels_last)
    fu, fd = (None if shape is None else torch.randn(shape) for shape in (call["fu"], call["fd"]))
    b = torch.randn(3, dtype=torch.float64) if call["bias"] else None
    same = {key: call[key] for key in ("up", "down", "padding", "gain", "slope", "clamp")}
    before = x.clone()

    def run():
        return cuda.filtered_lrelu(x, fu, fd, b, **same, flip_filter=call["flip"])

    try:
        expected = by_definition(x, fu, fd, b, **same, flip=call["flip"])
        assert expected.numel() or n == 0
    except (
        RuntimeError,
        ValueError,
        AssertionError,
    ):  # nothing is left of the image, at the high rate or after it
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["gankit.core.cuda.filtered_lrelu"], "BLOCK_BYTES", call["block"])
        torch.testing.assert_close(run(), expected)
    variables = [tensor.requires_grad_() for tensor in (x, b) if tensor is not None]
    dy = torch.randn_like(expected)
    actual = torch.autograd.grad(run(), variables, dy)
    wanted = torch.autograd.grad(by_definition(x, fu, fd, b, **same, flip=call["flip"]), variables, dy)
    for one, other in zip(actual, wanted):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(x.detach(), before, rtol=0, atol=0)


@settings(max_examples=250, deadline=None)
@given(
    calls(),
    st.integers(1, 40),
    st.sampled_from([(1, 1), (2, 2), (4, 2), (2, 1), (3, 3), (4, 1)]),
    st.booleans(),
)
def test_sampling_is_its_definition(call, channels, rates, kernels):
    """In float32, which a kernel computes or oneDNN."""
    n, h, w = call["size"]
    torch.manual_seed(0)
    x, b = torch.randn(n, channels, h, w), torch.randn(channels)
    fu, fd = (None if shape is None else torch.randn(shape) for shape in (call["fu"], call["fd"]))
    up, down = rates
    b = b if call["bias"] else torch.zeros(channels)
    rest = (up, down, call["padding"], call["gain"], call["slope"], call["clamp"])
    try:
        expected = by_definition(x.double(), fu, fd, b.double(), *rest, call["flip"])
        assert expected.numel() or n == 0
    except (RuntimeError, ValueError, AssertionError):
        return
    before = x.clone()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(sys.modules["gankit.core.cuda.filtered_lrelu"], "BLOCK_BYTES", call["block"])
        if not kernels:
            patch.setattr(native, "_failures", ["none in this test"])
        y = cuda.filtered_lrelu(x, fu, fd, b if call["bias"] else None, *rest, call["flip"])
    # of the largest sum of absolute values that rounding can meet
    largest = [t if t is None else t.double().abs() for t in (x, fu, fd, b)]
    bound = by_definition(*largest, *rest[:4], 1, None, call["flip"]).max() if expected.numel() else 0
    assert ((y.double() - expected).abs() <= 1e-6 * bound).all()
    assert y.shape == expected.shape
    assert torch.equal(x, before)


@pytest.mark.parametrize(("up", "down", "taps"), [(2, 2, (6, 6)), (4, 2, (12, 6)), (2, 4, (6, 12))])
def test_differentiates_twice(up, down, taps):
    torch.manual_seed(0)
    fu, fd = torch.rand(taps[0]), torch.rand(taps[1])
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def run(x, b):
        return cuda.filtered_lrelu(x, fu, fd, b, up=up, down=down, padding=[7, 6, 5, 8], clamp=0.9)

    assert gradcheck(run, (x, b))
    assert gradgradcheck(run, (x, b))


SAMPLING = [  # up, down, taps, whether fd has two dimensions; the last two not by a kernel
    (2, 2, 12, False),
    (2, 2, 5, False),
    (4, 2, 24, False),
    (4, 2, 12, True),
    (4, 2, 7, False),
    (2, 1, 6, True),
    (2, 2, 9, True),
    (1, 1, 4, False),
    (3, 2, 9, False),
    (1, 2, 6, True),
]


def sampled(up, down, taps, square=False, clamp=None, dtype=torch.float32, bias=True, channels=23):
    """The path without gradients, and the definition in float64."""
    torch.manual_seed(0)
    x, b, f = torch.randn(2, channels, 20, 17).to(dtype), torch.randn(channels), torch.rand(taps) * up / taps
    fd = torch.rand(taps, taps + 1) / taps**2 if square else f
    rest = (up, down, (taps, taps + 1, taps, taps - 1), 1.3, 0.2, clamp)
    with torch.no_grad():
        y = cuda.filtered_lrelu(x, f, fd, b if bias else None, *rest)
    return y, by_definition(x.double(), f, fd, b.double() * bias, *rest, False)


@pytest.mark.parametrize(("up", "down", "taps", "square"), SAMPLING)
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_sampling_with_and_without_kernels(
    monkeypatch, threads, up, down, taps, square, kernels, dtype, tolerance
):
    calls, run = [], filters.run
    monkeypatch.setattr(filters, "run", lambda *a: calls.append(1) or run(*a))
    monkeypatch.setattr(filters, "ROWS", 4)
    monkeypatch.setattr(native, "_failures", [] if kernels else ["none in this test"])
    for count, channels in ((1, 23), (3, 23), (3, 43)):  # a pixel is one vector, or two at a time in bf16
        threads(count)
        for clamp in (0.5, None):
            y, expected = sampled(up, down, taps, square, clamp, dtype, channels=channels)
            assert y.dtype == dtype
            assert y.is_contiguous(memory_format=torch.channels_last)
            assert (y.double() - expected).abs().max() <= tolerance * expected.abs().max()
    assert len(calls) == (6 if kernels and up % down == 0 else 0)


@pytest.mark.parametrize(("up", "down", "taps", "square"), SAMPLING[:-2])
def test_a_kernel_rounds_once(up, down, taps, square):
    y, expected = sampled(up, down, taps, square, dtype=torch.bfloat16, bias=False, channels=43)
    assert ((y.double() - expected).abs() <= expected.abs() / 2**8 + 1e-6 * expected.abs().max()).all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_keeps_what_is_not_a_number(dtype):
    x, f = torch.randn(1, 16, 9, 9).to(dtype), torch.ones(4) / 4
    expected = cuda.filtered_lrelu(x, f, f, None, 2, 2, 3, clamp=1)
    x[0, 3, 4, 4], x[0, 5, 0, 0] = torch.nan, -torch.inf
    y = cuda.filtered_lrelu(x, f, f, None, 2, 2, 3, clamp=1)
    others = [c for c in range(16) if c not in (3, 5)]
    assert torch.equal(y[:, others], expected[:, others])
    assert y[0, 3, 4, 4].isnan()
    assert y[0, 3, 0, 0] == expected[0, 3, 0, 0]
    assert y[0, 5].isfinite().all()
    assert y[0, 5, 0, 0] == -1


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "channels"), [(torch.float32, 19), (torch.bfloat16, 23), (torch.bfloat16, 43)]
)
def test_a_kernel_writes_its_map_alone(dtype, channels):
    """Neither beside a map that is part of a larger one, nor with the channels of neighbours."""
    x, f = torch.randn(2, channels, 8, 7).to(dtype), torch.rand(12) / 6
    x = x.contiguous(memory_format=torch.channels_last)
    expected = cuda.filtered_lrelu(x, f, f, None, 2, 2, 9, 1, flip_filter=True)
    h, w = expected.shape[2:]
    rows, columns = (filters.Phases.of(2 * f, 2, 9, (n - 1) * 2 + 12) for n in (h, w))
    whole = torch.full((2, 3 * h, 3 * w, channels), 7.0, dtype=dtype).permute(0, 3, 1, 2)
    inner = whole[:, :, h : 2 * h, w : 2 * w]
    filters.run(x, inner, rows, columns, f, 2, 0.2, None)
    torch.testing.assert_close(inner, expected)
    inner.fill_(7)
    assert (whole == 7).all()


@pytest.mark.parametrize("moment", ["compile", "run"])
def test_a_kernel_that_fails_is_replaced_with_one_warning(monkeypatch, threads, moment):
    def broken(*arguments):
        raise RuntimeError("no such instruction")

    class Broken:
        run = broken

    monkeypatch.setattr(native, "_failures", [])
    monkeypatch.setattr(filters, "kernel", broken if moment == "compile" else lambda kind: Broken())
    threads(2)
    with pytest.warns(RuntimeWarning, match="no such instruction") as seen:
        results = [sampled(2, 2, 12, clamp=0.5) for _ in range(2)]
    for y, expected in results:
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == 1
    assert "no such instruction" in native.obstacle()


def test_without_llvmlite_operators_of_torch_do_it_in_silence(monkeypatch):
    monkeypatch.setattr(native, "_failures", [])
    for name in ("filters", "machine"):
        monkeypatch.delitem(sys.modules, f"gankit.core.cuda.native.{name}")
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    y, expected = sampled(2, 2, 12, clamp=0.5)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert "llvmlite cannot be imported" in native.obstacle()


@torch.no_grad()
@pytest.mark.parametrize(("up", "down", "taps", "square"), SAMPLING)
def test_forward_mode_derivatives_traces_and_fake_tensors(up, down, taps, square):
    """The fast path looks at values and has no derivatives: it stands back here."""
    torch.manual_seed(0)
    x, dx, f = torch.randn(1, 16, 12, 11), torch.randn(1, 16, 12, 11), torch.rand(taps) * up / taps
    fd = torch.rand(taps, taps) / taps**2 if square else f

    def run(x):
        return cuda.filtered_lrelu(x, f, fd, None, up, down, taps, clamp=1e3)

    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(x, dx))).tangent
    eps = 1e-6
    expected = (run(x.double() + eps * dx.double()) - run(x.double() - eps * dx.double())) / (2 * eps)
    # but for the few pixels whose sign the difference changes
    assert ((tangent - expected).abs() > 1e-4 * expected.abs().max()).double().mean() < 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(run, (x,), check_trace=False)
    torch.testing.assert_close(traced(1e4 * x), run(1e4 * x), rtol=1e-5, atol=1e-3)  # with the bound
    graph = make_fx(run)(x)
    torch.testing.assert_close(graph(1e4 * x), run(1e4 * x), rtol=1e-5, atol=1e-3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert run(torch.empty(1, 16, 12, 11)).shape == expected.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(dtype):
    torch.manual_seed(0)
    x, b = torch.randn(2, 8, 36, 36).to(dtype), torch.randn(8).to(dtype)
    f = design_lowpass_filter(12, cutoff=4, width=8, fs=32)
    run = lambda x, b: cuda.filtered_lrelu(x, f, f, b, up=2, down=2, padding=9, clamp=256)  # noqa: E731
    actual, expected = run(x, b), run(x.float(), b.float())
    assert actual.dtype == dtype
    error = (actual.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < (1e-3 if dtype == torch.float16 else 8e-3)


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"up": 0}, "up"),
        ({"down": 0}, "down"),
        ({"fu": torch.ones(1, 2, 3)}, "fu"),
        ({"fd": torch.ones([])}, "fd"),
        ({"padding": -2}, "padding"),
        ({"gain": 0}, "gain"),
        ({"x": torch.ones(1, 4, 4)}, "x must"),
    ],
)
def test_wrong_arguments_are_named(kwargs, name):
    with pytest.raises(ValueError, match=name):
        cuda.filtered_lrelu(**{"x": torch.ones(1, 1, 4, 4), **kwargs})


# ----------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize("case", load_golden("ops_design_lowpass_filter").cases, ids=lambda case: case.name)
def test_lowpass_golden(case):
    taps = design_lowpass_filter(**case.kwargs)
    if not case.outputs:
        assert taps is None
    else:
        case.check("f", taps)


def test_lowpass_known_values():
    taps = design_lowpass_filter(12, cutoff=2, width=12, fs=32)
    half = torch.tensor([0.000792, 0.010018, 0.038950, 0.092413, 0.156526, 0.201302])
    torch.testing.assert_close(taps[:6], half, rtol=0, atol=1e-6)
    radial = design_lowpass_filter(12, cutoff=2, width=12, fs=32, radial=True)
    half = torch.tensor([0.000205, 0.002279, 0.008198, 0.018542, 0.030533, 0.038755])
    torch.testing.assert_close(radial[5, :6], half, rtol=0, atol=1e-6)
    assert radial.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"numtaps": 0}, "numtaps"), ({"numtaps": 5, "radial": True}, "numtaps"), ({"cutoff": 20}, "cutoff")],
)
def test_lowpass_wrong_arguments_are_named(change, name):
    with pytest.raises(ValueError, match=name):
        design_lowpass_filter(**{"numtaps": 12, "cutoff": 2, "width": 4, "fs": 32, **change})


# --------------------------------------------------------------------------------------------- modulation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_modulation_with_input_gain(dtype):
    x, w, s = (
        torch.ones(1, 2, 1, 1, dtype=dtype),
        torch.tensor([1.0, 2]).view(1, 2, 1, 1),
        torch.tensor([[1.0, -3]]),
    )
    for normalize in (False, True):
        y = cuda.modulated_conv2d(x, w, s, input_gain=0.5, normalize=normalize)
        assert y.item() == pytest.approx(-2.5 / 37**0.5, rel=1e-6 if dtype == torch.float32 else 1e-3)
