"""The operators: agreement with their definitions, derivatives, memory format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gankit.core import cuda
from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.nn.stylegan_layers import Conv2dLayer, FullyConnected, minibatch_std
from gankit.errors import GankitError

# ------------------------------------------------------------------------------------------- definitions


def upfirdn_by_definition(x: Tensor, f: Tensor, up, down, padding, flip: bool, gain: float) -> Tensor:
    """Section by section: insert zeros, pad or crop, filter, decimate."""
    n, c, h, w = x.shape
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, padding
    y = x.new_zeros(n, c, h * uy, w * ux)
    y[:, :, ::uy, ::ux] = x
    y = F.pad(y, (max(x0, 0), max(x1, 0), max(y0, 0), max(y1, 0)))
    y = y[:, :, max(-y0, 0) : y.shape[2] - max(-y1, 0), max(-x0, 0) : y.shape[3] - max(-x1, 0)]
    f = f.to(x)
    kernel = torch.outer(f, f) if f.ndim == 1 else f
    kernel = kernel if flip else kernel.flip([0, 1])
    y = F.conv2d(y.flatten(0, 1)[:, None], kernel[None, None]) * gain
    return y.unflatten(0, (n, c))[:, :, 0, ::dy, ::dx]


factors = st.tuples(st.integers(1, 3), st.integers(1, 3))
sides = st.integers(-2, 4)


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    taps=st.one_of(st.tuples(st.integers(1, 5)), st.tuples(st.integers(1, 5), st.integers(1, 5))),
    up=factors,
    down=factors,
    padding=st.tuples(sides, sides, sides, sides),
    flip=st.booleans(),
    gain=st.sampled_from([1, 4, 0.7]),
    channels_last=st.booleans(),
)
def test_upfirdn2d_is_its_definition(size, taps, up, down, padding, flip, gain, channels_last):
    rows, columns = taps[0], taps[-1]
    if (
        size[0] * up[1] + padding[2] + padding[3] < rows
        or size[1] * up[0] + padding[0] + padding[1] < columns
    ):
        return
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    f = torch.randn(taps)
    expected = upfirdn_by_definition(x, f, up, down, padding, flip, gain)
    actual = cuda.upfirdn2d(x, f, up=up, down=down, padding=padding, flip_filter=flip, gain=gain)
    torch.testing.assert_close(actual, expected)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(6, 9), st.integers(6, 9)),
    kernel=st.sampled_from([1, 3]),
    up=st.integers(1, 4),
    down=st.integers(1, 3),
    taps=st.integers(1, 9),
    groups=st.sampled_from([1, 2]),
    padding=st.sampled_from([0, 1, [1, 2, 0, 1]]),
    flip_weight=st.booleans(),
    bias=st.booleans(),
)
def test_conv2d_resample_is_its_definition(size, kernel, up, down, taps, groups, padding, flip_weight, bias):
    torch.manual_seed(0)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    w = torch.randn(6, 4 // groups, kernel, kernel, dtype=torch.float64)
    b = torch.randn(6, dtype=torch.float64) if bias else None
    f = cuda.setup_filter(torch.rand(taps) + 0.1)
    pad = [padding] * 4 if isinstance(padding, int) else list(padding)
    if up > 1:
        pad = [p + (taps + up - 1) // 2 if i % 2 == 0 else p + (taps - up) // 2 for i, p in enumerate(pad)]
    if down > 1:
        pad = [
            p + (taps - down + 1) // 2 if i % 2 == 0 else p + (taps - down) // 2 for i, p in enumerate(pad)
        ]
    y = cuda.upfirdn2d(x, f if up > 1 else None, up=up, padding=pad, gain=up**2)
    y = F.conv2d(y, w if flip_weight else w.flip([2, 3]), groups=groups)
    y = cuda.upfirdn2d(y, f, down=down) if down > 1 else y
    expected = y if b is None else y + b[:, None, None]
    actual = cuda.conv2d_resample(
        x, w, f, up=up, down=down, padding=padding, groups=groups, flip_weight=flip_weight, b=b
    )
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("clamp", [None, 0.9])
@pytest.mark.parametrize("gain", [1, None, 0.5, -1])
def test_modulated_conv2d_epilogue_is_bias_act(act, demodulate, clamp, gain):
    torch.manual_seed(0)
    x, w, s = torch.randn(3, 4, 6, 5), torch.randn(7, 4, 3, 3), torch.randn(3, 4)
    noise, b = torch.randn(3, 1, 6, 5), torch.randn(7)
    y = torch.stack([F.conv2d(x[i], w * s[i, :, None, None], padding=1) for i in range(3)])
    if demodulate:
        y = y * ((w * s[:, None, :, None, None]).square().sum((2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None]
    expected = cuda.bias_act(y + noise, b, act=act, gain=gain, clamp=clamp)
    actual = cuda.modulated_conv2d(
        x, w, s, noise, padding=1, demodulate=demodulate, b=b, act=act, gain=gain, clamp=clamp
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pointwise_modulation_equals_scaling(memory_format):
    torch.manual_seed(0)
    x = torch.randn(3, 8, 5, 6).contiguous(memory_format=memory_format)
    w, s, b = torch.randn(3, 8, 1, 1), torch.randn(3, 8), torch.randn(3)
    expected = F.conv2d(x * s[:, :, None, None], w, b)
    torch.testing.assert_close(cuda.modulated_conv2d(x, w, s, demodulate=False, b=b), expected)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("gain", [None, 0.3, -2.0])
def test_bias_act_order(act, gain):
    """Bias, activation, gain, clamp, in this order; the homogeneous shortcut must not show."""
    x, b = torch.linspace(-3, 3, 24).view(2, 3, 4), torch.tensor([0.5, -1.0, 0.0])
    spec = ACTIVATIONS[act]
    expected = spec.function(x + b[:, None], 0.35) * (spec.gain if gain is None else gain)
    actual = cuda.bias_act(x, b, act=act, alpha=0.35, gain=gain, clamp=1.1)
    torch.testing.assert_close(actual, expected.clamp(-1.1, 1.1))
    torch.testing.assert_close(x, torch.linspace(-3, 3, 24).view(2, 3, 4))


def test_bias_act_leaves_its_input_alone():
    x = torch.randn(2, 3)
    before = x.clone()
    cuda.bias_act(x, act="lrelu", gain=1)
    cuda.bias_act(x, act="relu")
    torch.testing.assert_close(x, before, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------- known values


def test_filter_setup():
    taps = np.float32([1, 3, 3, 1])
    kernel = cuda.setup_filter(taps)
    assert kernel.shape == (4, 4)
    assert kernel[0, 0] == 1 / 64
    assert taps.tolist() == [1, 3, 3, 1]  # not normalised in place
    assert cuda.setup_filter([1] * 8, gain=4).sum().item() == pytest.approx(2)
    assert cuda.setup_filter(torch.tensor([1.0, 2.0]), separable=True).shape == (2,)
    assert cuda.setup_filter([1, 3, 3, 1], normalize=False).sum() == 64
    with pytest.raises(ValueError, match="one or two axes"):
        cuda.setup_filter(torch.ones(2, 2, 2))


def test_upfirdn2d_on_a_line():
    x, f = torch.tensor([1.0, 0, 0, 2]).view(1, 1, 1, 4), torch.tensor([[1.0, 2, 4]])
    run = lambda **kw: cuda.upfirdn2d(x, f, **kw).flatten().tolist()  # noqa: E731
    assert run(padding=[2, 2, 0, 0]) == [1, 2, 4, 2, 4, 8]
    assert run(padding=[2, 2, 0, 0], flip_filter=True) == [4, 2, 1, 8, 4, 2]
    assert run(padding=[1, 2, 0, 0], up=[2, 1], down=[2, 1]) == [2, 0, 0, 4, 0]


def test_resampling_values():
    k = cuda.setup_filter([1, 3, 3, 1])
    up = cuda.upsample2d(torch.arange(4.0).view(1, 1, 2, 2), k)[0, 0]
    expected = [
        [0, 0.1875, 0.5625, 0.5625],
        [0.375, 0.75, 1.25, 1.125],
        [1.125, 1.75, 2.25, 1.875],
        [1.125, 1.6875, 2.0625, 1.6875],
    ]
    torch.testing.assert_close(up, torch.tensor(expected))
    down = cuda.downsample2d(torch.arange(16.0).view(1, 1, 4, 4), k)[0, 0]
    torch.testing.assert_close(down, torch.tensor([[2.734375, 3.9375], [7.546875, 8.75]]))


def test_resampling_convolution_values():
    k, w = cuda.setup_filter([1, 3, 3, 1]), torch.arange(9.0).view(1, 1, 3, 3)
    x = torch.arange(4.0).view(1, 1, 2, 2)
    y = cuda.conv2d_resample(x, w, k, up=2, padding=1, flip_weight=False)[0, 0]
    torch.testing.assert_close(y[0], torch.tensor([1.5625, 5.5, 10.5625, 12.4375]))
    torch.testing.assert_close(y[-1], torch.tensor([33.4375, 54.625, 64.5625, 55.5625]))
    y = cuda.conv2d_resample(torch.arange(16.0).view(1, 1, 4, 4), w, k, down=2, padding=1)[0, 0]
    torch.testing.assert_close(y, torch.tensor([[157.203125, 173.515625], [212.703125, 210.640625]]))


def test_demodulation_value():
    y = cuda.modulated_conv2d(
        torch.ones(1, 2, 1, 1), torch.tensor([1.0, 2]).view(1, 2, 1, 1), torch.tensor([[1.0, -3]])
    )
    assert y.item() == pytest.approx(-5 / 37**0.5, abs=1e-6)


def test_half_precision_does_not_overflow():
    torch.manual_seed(0)
    x, w, s = torch.randn(2, 16, 4, 4), 3000 * torch.randn(8, 16, 3, 3), 500 * torch.randn(2, 16)
    expected = cuda.modulated_conv2d(x, w, s, padding=1)
    actual = cuda.modulated_conv2d(x.half(), w, s, padding=1)
    assert actual.dtype == torch.float16
    torch.testing.assert_close(actual.float(), expected, rtol=2e-2, atol=2e-2)


def test_minibatch_std():
    x = torch.tensor([0.0, 10, 2, 16]).view(4, 1, 1, 1)
    y = minibatch_std(x, 2)
    torch.testing.assert_close(y[:, 0], x[:, 0])
    torch.testing.assert_close(y[:, 1].flatten(), torch.tensor([1.0, 3, 1, 3]))
    assert minibatch_std(x, 2, 0) is x


@pytest.mark.parametrize(
    ("batch", "group", "used"), [(6, 4, 3), (5, 4, 1), (4, None, 4), (3, 8, 3), (1, 4, 1)]
)
def test_minibatch_std_takes_the_largest_divisor(batch, group, used):
    torch.manual_seed(0)
    x = torch.randn(batch, 6, 3, 2)
    torch.testing.assert_close(minibatch_std(x, group, 2), minibatch_std(x, used, 2))
    groups = batch // used if used > 1 else 1  # single samples deviate by nothing
    assert len(minibatch_std(x, group, 2)[:, 6, 0, 0].unique()) == groups


# ---------------------------------------------------------------------------------------------- derivatives


def check_derivatives(function, *inputs):
    torch.manual_seed(0)
    inputs = [t.double().requires_grad_() for t in inputs]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_differentiates_twice(act):
    check_derivatives(
        lambda x, b: cuda.bias_act(x, b, act=act, clamp=1.2), torch.randn(2, 3, 2), torch.randn(3)
    )


@pytest.mark.parametrize("taps", [[[1.0, 2, 3], [0.5, 1, -1]], list(range(1, 9))])
@pytest.mark.parametrize("kwargs", [{"up": 2}, {"down": 2}, {"padding": [-1, 5, 4, 0]}])
def test_upfirdn2d_differentiates_twice(taps, kwargs):
    f = cuda.setup_filter(taps)
    kwargs = {"padding": 4, **kwargs} if f.ndim == 1 else kwargs
    check_derivatives(lambda x: cuda.upfirdn2d(x, f, **kwargs), torch.randn(1, 2, 4, 5))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_conv2d_differentiates_twice(up, demodulate):
    f = cuda.setup_filter([1, 3, 3, 1])

    def function(x, w, s, b, noise):
        return cuda.modulated_conv2d(
            x,
            w,
            s,
            noise,
            up=up,
            padding=1,
            resample_filter=f,
            demodulate=demodulate,
            b=b,
            act="lrelu",
            gain=None,
        )

    torch.manual_seed(0)
    shapes = [(2, 2, 2, 1), (1, 2, 3, 3), (2, 2), (1,), (2, 1, 2 * up, up)]
    check_derivatives(function, *(torch.randn(shape) for shape in shapes))


def test_pointwise_modulation_differentiates_twice():
    x = torch.randn(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    check_derivatives(
        lambda x, w, s: cuda.modulated_conv2d(x, w, s, demodulate=False),
        x,
        torch.randn(2, 3, 1, 1),
        torch.randn(2, 3),
    )


def test_minibatch_std_differentiates_twice():
    torch.manual_seed(0)
    check_derivatives(lambda x: minibatch_std(x, 2, 2), torch.randn(4, 4, 2, 1))


# ---------------------------------------------------------------------------------- layers, formats, errors


@pytest.mark.parametrize(
    "function", ["modulated up", "modulated", "down", "upsample2d", "downsample2d", "bias_act"]
)
def test_channels_last_stays(function):
    x = torch.randn(2, 4, 8, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    f, w, s, b = cuda.setup_filter([1, 3, 3, 1]), torch.randn(5, 4, 3, 3), torch.randn(2, 4), torch.randn(5)
    modulated = {"resample_filter": f, "padding": 1, "b": b, "act": "lrelu", "noise": torch.randn(2, 1, 1, 1)}
    y = {
        "modulated up": lambda: cuda.modulated_conv2d(x, w, s, up=2, flip_weight=False, **modulated),
        "modulated": lambda: cuda.modulated_conv2d(x, w, s, **modulated),
        "down": lambda: cuda.conv2d_resample(x, w, f, down=2, padding=1, b=b),
        "upsample2d": lambda: cuda.upsample2d(x, f),
        "downsample2d": lambda: cuda.downsample2d(x, f),
        "bias_act": lambda: cuda.bias_act(x, b[:4], act="lrelu", clamp=1),
    }[function]()
    assert y.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=30, deadline=None)
@given(
    act=st.sampled_from(["lrelu", "linear", "swish"]),
    kernel=st.sampled_from([1, 3]),
    resample=st.sampled_from([{}, {"up": 2}, {"down": 2}]),
    clamp=st.sampled_from([None, 0.4]),
    gain=st.sampled_from([1, 0.5**0.5]),
)
def test_conv_layer(act, kernel, resample, clamp, gain):
    torch.manual_seed(0)
    layer = Conv2dLayer(3, 4, kernel, activation=act, conv_clamp=clamp, **resample)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 8, 6)
    y = cuda.conv2d_resample(
        x,
        layer.weight / (3 * kernel**2) ** 0.5,
        layer.resample_filter,
        padding=kernel // 2,
        flip_weight="up" not in resample,
        **resample,
    )
    total = ACTIVATIONS[act].gain * gain
    expected = cuda.bias_act(y, layer.bias, act=act, gain=total, clamp=clamp and clamp * gain)
    torch.testing.assert_close(layer(x, gain=gain), expected, rtol=1e-4, atol=1e-5)


def test_fully_connected():
    torch.manual_seed(0)
    layer = FullyConnected(50, 400, activation="lrelu", lr_multiplier=0.01, bias_init=0.5)
    assert layer.weight.std().item() == pytest.approx(100, rel=0.05)
    x = torch.randn(3, 50)
    expected = F.leaky_relu(x @ layer.weight.t() * (0.01 / 50**0.5) + 0.5, 0.2) * 2**0.5
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_autocast_leaves_dtypes_of_filters_alone():
    x, f = torch.randn(1, 3, 8, 8), cuda.setup_filter([1, 3, 3, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(cuda.upsample2d(x, f), cuda.upsample2d(x.double(), f).float())


def test_unknown_activation_names_near_ones():
    with pytest.raises(GankitError, match="did you mean 'lrelu'"):
        cuda.bias_act(torch.zeros(1, 1), act="lreluu")


@pytest.mark.parametrize("kwargs", [{"padding": [1, 2, 3]}, {"up": 0}, {"down": [1, 0]}])
def test_wrong_resampling_arguments(kwargs):
    with pytest.raises(ValueError, match=r"padding is|at least 1"):
        cuda.upfirdn2d(torch.zeros(1, 1, 4, 4), None, **kwargs)
