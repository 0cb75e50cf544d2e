"""Winograd's minimal filtering: against direct convolutions in float64, and where it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core import cuda
from gankit.core.cuda import ConstantWeights
from gankit_cpu import kernels, modulated_sampling, onednn, winograd_rows


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch):
    """These take its place where they are."""
    monkeypatch.setattr(kernels, "_failures", ["none in this test"])


def filtered(x, weight, styles, padding, rows):
    """By blocks of rows, put together."""
    points = [k.contiguous() for k in winograd_rows.kernels(weight)]
    h = x.shape[2] + 2 * padding[0] - 2
    y = torch.full((len(x), len(weight), h, x.shape[3] + 2 * padding[1] - weight.shape[3] + 1), torch.nan)
    x = x.contiguous(memory_format=torch.channels_last)

    def product(point, t):
        assert t.is_contiguous(memory_format=torch.channels_last)
        return F.conv2d(t, points[point], padding=(0, padding[1]))

    for i, top, t in winograd_rows.blocks(x, styles, rows, padding, product):
        assert t.shape[2] == min(rows, h - top)
        y[i : i + 1, :, top : top + t.shape[2]] = t
    return y


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(3, 23), st.integers(3, 12)),
    width=st.sampled_from([1, 2, 3, 5]),
    padding=st.tuples(st.integers(0, 3), st.integers(1, 2)),
    rows=st.sampled_from([4, 8, 24]),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_any_shape(n, size, width, padding, rows, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels[0], *size, generator=generator)
    weight = torch.randn(channels[1], channels[0], 3, width, generator=generator)
    styles = torch.randn(n, channels[0], 1, 1, generator=generator)
    y = filtered(x, weight, styles, padding, rows)
    expected = F.conv2d((x * styles).double(), weight.double(), padding=padding)
    assert not y.isnan().any()  # each pixel was written
    # rounding is that of the largest terms
    scale = F.conv2d((x * styles).abs().double(), weight.abs().double(), padding=padding).max()
    assert (y - expected).abs().max() <= 2e-6 * scale


def test_rounding_is_that_of_a_direct_convolution():
    torch.manual_seed(0)
    x, weight, styles = torch.randn(1, 256, 32, 32), torch.randn(64, 256, 3, 3), torch.ones(1, 256, 1, 1)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    error, direct = (
        (y - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        for y in (filtered(x, weight, styles, (1, 1), 32), F.conv2d(x, weight, padding=1))
    )
    assert error < 2e-6
    assert error < 4 * direct


@torch.no_grad()
@pytest.mark.parametrize("noise", [None, (3, 1, 44, 40), (44, 40)])
@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("kept", [True, False])
def test_modulated_conv2d(monkeypatch, noise, clamp, kept):
    torch.manual_seed(0)
    monkeypatch.setattr(winograd_rows, "BLOCK_BYTES", 2**18)  # several blocks
    blocks, function = [], winograd_rows.blocks
    monkeypatch.setattr(winograd_rows, "blocks", lambda *a: blocks.append(a[2]) or function(*a))
    x, w, s = torch.randn(3, 64, 44, 40), torch.randn(80, 64, 3, 3), torch.rand(3, 64) + 0.5
    options = {
        "padding": 1,
        "noise": None if noise is None else torch.randn(noise),
        "b": torch.randn(80),
        "act": "lrelu",
        "gain": 1.7,
        "clamp": clamp,
    }
    expected = cuda.modulated_conv2d(x.double(), w.double(), s.double(), impl="reference", **{
        k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()
    })  # fmt: skip
    weights = ConstantWeights() if kept else ConstantWeights(most=0)
    for _ in range(2):
        with weights.kept():
            y = cuda.modulated_conv2d(x, w, s, **options)
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=3e-5)
    assert blocks == [16, 16]  # of 44 rows
    one = cuda.modulated_conv2d(x[1:2], w, s[1:2], **{**options, "noise": None})
    three = cuda.modulated_conv2d(x, w, s, **{**options, "noise": None})
    # an image is the same in every batch but for the rounding of its styles
    torch.testing.assert_close(one, three[1:2], rtol=2e-6, atol=2e-6)


@torch.no_grad()
def test_kernels_are_made_once(monkeypatch):
    calls, function = [], winograd_rows.kernels
    monkeypatch.setattr(winograd_rows, "kernels", lambda *a: calls.append(1) or function(*a))
    x, w, s = torch.randn(2, 64, 32, 32), torch.randn(64, 64, 3, 3), torch.rand(2, 64)
    weights = ConstantWeights()
    for _ in range(3):
        with weights.kept():
            cuda.modulated_conv2d(x, w, s, padding=1)
    assert len(calls) == 1
    cuda.modulated_conv2d(x, w, s, padding=1)
    assert len(calls) == 2


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "weight", "dtype", "taken"),
    [
        ((1, 64, 32, 32), (64, 64, 3, 3), torch.float32, True),
        ((1, 64, 32, 32), (64, 64, 3, 1), torch.float32, True),
        ((1, 64, 32, 32), (64, 64, 1, 3), torch.float32, False),
        ((1, 64, 32, 32), (64, 64, 5, 5), torch.float32, False),
        ((1, 64, 32, 32), (64, 64, 3, 3), torch.bfloat16, False),  # polynomials want more bits
        ((1, 32, 32, 32), (64, 32, 3, 3), torch.float32, False),
        ((4, 64, 16, 16), (64, 64, 3, 3), torch.float32, False),
        ((1, 64, 4, 512), (64, 64, 3, 3), torch.float32, False),
    ],
)
def test_where_it_is_taken(monkeypatch, shape, weight, dtype, taken):
    blocks, function = [], winograd_rows.blocks
    monkeypatch.setattr(winograd_rows, "blocks", lambda *a: blocks.append(1) or function(*a))
    monkeypatch.setattr(modulated_sampling, "multiplies_like", lambda x: True)
    x, w, s = torch.randn(shape).to(dtype), torch.randn(weight), torch.rand(shape[:2])
    padding = [weight[3] // 2] * 2 + [weight[2] // 2] * 2
    y = cuda.modulated_conv2d(x, w, s, padding=padding)
    expected = cuda.modulated_conv2d(x, w, s, padding=padding, impl="reference")
    tolerance = (2e-2 if dtype == torch.bfloat16 else 1e-5) * expected.abs().max().item()
    torch.testing.assert_close(y, expected, rtol=0, atol=tolerance)
    assert bool(blocks) == taken


@torch.no_grad()
def test_defaults_of_torch_do_not_matter():
    x, w, s = torch.randn(3, 64, 32, 32), torch.randn(64, 64, 3, 3), torch.rand(3, 64)
    small = x[:, :, :8, :8]
    expected = [cuda.modulated_conv2d(t, w, s, padding=1) for t in (x, small)]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            for t, value in zip((x, small), expected):
                assert torch.equal(cuda.modulated_conv2d(t, w, s, padding=1), value)
    finally:
        torch.set_default_dtype(torch.float32)


@torch.no_grad()
def test_a_failing_onednn_is_replaced(monkeypatch):
    monkeypatch.setattr(onednn, "failures", [])
    x, w, s = torch.randn(1, 64, 32, 32), torch.randn(64, 64, 3, 3), torch.rand(1, 64)
    expected = cuda.modulated_conv2d(x, w, s, padding=1)

    def broken(*arguments):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onednn, "_packed", broken)
    weights = ConstantWeights()
    with weights.kept(), pytest.warns(RuntimeWarning, match="no such operator"):
        y = cuda.modulated_conv2d(x, w, s, padding=1)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)
    (ready,) = weights.known.values()
    packed = {key[-1]: [part.is_mkldnn for part in kernel.parts] for key, kernel in ready.kernels.items()}
    assert not any(packed[False])  # kept in place of the packed ones, which fall out of use
