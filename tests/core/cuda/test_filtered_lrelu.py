"""filtered_lrelu is its definition, in every order of derivative; the low-pass filters; StyleGAN3's modulation."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from filtered_cases import RATES, SAMPLING, by_definition, calls, check_sampling
from golden_utils import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from gankit.core import cuda
from gankit.core.nn.lowpass import design_lowpass_filter


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
        return cuda.filtered_lrelu(x, fu, fd, b, **same, flip_filter=call["flip"], impl="composite")

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
@given(calls(), st.integers(1, 40), st.sampled_from(RATES))
def test_sampling_is_its_definition(call, channels, rates):
    """In float32, which oneDNN computes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["gankit.core.cuda.filtered_lrelu"], "BLOCK_BYTES", call["block"])
        check_sampling(call, channels, rates, "composite")


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
