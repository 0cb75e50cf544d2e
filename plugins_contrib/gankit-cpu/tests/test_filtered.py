"""The kernel of filtered_lrelu: its definition, rounding, what it leaves alone, and what takes its place."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from filtered_cases import RATES, SAMPLING, calls, check_sampling, sampled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from gankit.core import cuda
from gankit_cpu import kernels
from gankit_cpu.llvm import filters


@settings(max_examples=250, deadline=None)
@given(calls(), st.integers(1, 40), st.sampled_from(RATES), st.booleans())
def test_sampling_is_its_definition(call, channels, rates, with_kernels):
    """In float32, which a kernel computes or oneDNN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["gankit.core.cuda.filtered_lrelu"], "BLOCK_BYTES", call["block"])
        if not with_kernels:
            patch.setattr(kernels, "_failures", ["none in this test"])
        check_sampling(call, channels, rates, "cpu")


@pytest.mark.parametrize(("up", "down", "taps", "square"), SAMPLING)
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_sampling_with_and_without_kernels(
    monkeypatch, threads, up, down, taps, square, kernels, dtype, tolerance
):
    calls, run = [], filters.run
    monkeypatch.setattr(filters, "run", lambda *a: calls.append(1) or run(*a))
    monkeypatch.setattr(filters, "ROWS", 4)
    monkeypatch.setattr("gankit_cpu.kernels._failures", [] if kernels else ["none in this test"])
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

    monkeypatch.setattr(kernels, "_failures", [])
    monkeypatch.setattr(filters, "kernel", broken if moment == "compile" else lambda kind: Broken())
    threads(2)
    with pytest.warns(RuntimeWarning, match="no such instruction") as seen:
        results = [sampled(2, 2, 12, clamp=0.5) for _ in range(2)]
    for y, expected in results:
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == 1
    assert "no such instruction" in kernels.obstacle()


def test_without_llvmlite_operators_of_torch_do_it_in_silence(monkeypatch):
    monkeypatch.setattr(kernels, "_failures", [])
    monkeypatch.setattr(kernels, "_missing", [])
    for name in ("filters", "machine"):
        monkeypatch.delitem(sys.modules, f"gankit_cpu.llvm.{name}")
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    y, expected = sampled(2, 2, 12, clamp=0.5)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert "llvmlite cannot be imported" in kernels.obstacle()


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
