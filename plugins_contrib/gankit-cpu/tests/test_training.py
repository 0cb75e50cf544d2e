"""Convolutions with gradients of our own: values, first and second derivatives, what is computed and where they stand
back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training_cases import compare

from gankit.core import cuda
from gankit.core.cuda import primitives
from gankit_cpu import convolution_forms, training, winograd_rows


@pytest.fixture
def small(monkeypatch):
    """Small convolutions are taken, too."""
    for name in ("CHANNELS", "VALUES", "STRIDED_CHANNELS", "STRIDED_PIXELS"):
        monkeypatch.setattr(convolution_forms, f"FEWEST_{name}", 1)


@pytest.fixture
def taken(monkeypatch):
    """Which of the three forms were computed."""
    calls = []
    for name in ("narrowed", "widened", "by_weight"):
        function = getattr(convolution_forms.Form, name)

        def spy(*args, function=function, name=name):
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(convolution_forms.Form, name, spy)
    return calls


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 2), (1, 0)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_stride_1(small, monkeypatch, taken, padding, channels_last):
    torch.manual_seed(0)
    monkeypatch.setattr(winograd_rows, "BLOCK_BYTES", 2**18)  # several blocks
    filtered, function = [], winograd_rows.weight_gradient
    monkeypatch.setattr(winograd_rows, "weight_gradient", lambda *a: filtered.append(1) or function(*a))
    x, w, b = torch.randn(3, 64, 37, 33), torch.randn(72, 64, 3, 3) / 24, torch.randn(72)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    compare(
        lambda x, w, b: training.conv2d(x, w, b, 1, padding, 1),
        lambda x, w, b: F.conv2d(x, w, b, padding=padding),
        x, w, b,
    )  # fmt: skip
    assert {*taken} == {"narrowed", "widened", "by_weight"}
    assert filtered


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 5)])
@pytest.mark.parametrize("stride", [2, 3])
def test_strides(small, taken, kernel, stride):
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 32, 29, 32), torch.randn(48, 32, *kernel) / 16, torch.randn(48)
    compare(
        lambda x, w, b: training.conv2d(x, w, b, stride, (0, 0), 1),
        lambda x, w, b: F.conv2d(x, w, b, stride),
        x,
        w,
        b,
    )


@pytest.mark.parametrize(("stride", "padding"), [(1, (0, 0)), (1, (1, 0)), (2, (0, 0))])
def test_transposed(small, stride, padding):
    torch.manual_seed(0)
    x, w = torch.randn(2, 64, 32, 33), torch.randn(64, 32, 3, 3) / 24
    compare(
        lambda x, w, b: training.conv_transpose2d(x, w, stride, padding, 1) + b,
        lambda x, w, b: F.conv_transpose2d(x, w, None, stride, padding) + b,
        x, w, torch.randn(1),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    size=st.tuples(st.integers(3, 23), st.integers(3, 12)),
    width=st.sampled_from([1, 2, 3, 5]),
    padding=st.tuples(st.integers(0, 2), st.integers(1, 2)),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
    bytes=st.sampled_from([1, 2**12, 2**22]),
)
def test_weight_gradients_of_any_shape(n, size, width, padding, channels, seed, bytes):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels[0], *size, generator=generator)
    w = torch.zeros(channels[1], channels[0], 3, width, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x.double(), w, padding=padding)
    dy = torch.randn(y.shape, generator=generator)
    (expected,) = torch.autograd.grad(y, w, dy.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd_rows, "BLOCK_BYTES", bytes)
        x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
        dw = winograd_rows.weight_gradient(x, dy, padding, width)
    (scale,) = torch.autograd.grad(F.conv2d(x.double().abs(), w, padding=padding), w, dy.double().abs())
    assert (dw - expected).abs().max() <= 2e-6 * scale.max()


def test_what_is_asked_for_is_computed(small, taken):
    """A frozen layer gets no gradient by its weight, the first layer none by images; R1 takes that by images again."""
    x, w, b = torch.randn(1, 64, 32, 32), torch.randn(64, 64, 3, 3), torch.randn(64)
    y = training.conv2d(x.requires_grad_(), w.requires_grad_(), b.requires_grad_(), 1, (1, 1), 1)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert taken == ["narrowed", "widened", "by_weight"]
    gradient.square().sum().backward()
    assert "by_weight" in taken[3:]
    assert w.grad.isfinite().all()
    taken.clear()
    training.conv2d(x, w.detach(), b, 1, (1, 1), 1).sum().backward()
    assert taken == ["narrowed", "widened"]
    taken.clear()
    training.conv2d(x.detach(), w, b, 1, (1, 1), 1).sum().backward()
    assert taken == ["narrowed", "by_weight"]
    taken.clear()
    with torch.no_grad():
        assert not training.conv2d(x, w, b, 1, (1, 1), 1).requires_grad
    assert taken == ["narrowed"]


@pytest.mark.parametrize("stride", [1, 2])
def test_defaults_of_torch_do_not_matter(stride):
    form = convolution_forms.Form((9, 9), ((9 - 3) // stride + 1,) * 2, (3, 3), stride, (0, 0))
    x, w = torch.randn(2, 64, *form.wide), torch.randn(48, 64, *form.kernel)
    y = torch.randn(2, 48, *form.narrow)
    call = lambda: (form.narrowed(x, w), form.widened(y, w), form.by_weight(x, y))  # noqa: E731
    expected = call()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            for mine, value in zip(call(), expected):
                assert torch.equal(mine, value)
    finally:
        torch.set_default_dtype(torch.float32)


def test_layers_are_trained_by_it(small, taken):
    layer = nn.Conv2d(64, 64, 3, padding=1)
    x = torch.randn(1, 64, 32, 32)
    cuda.conv2d_resample(x, layer.weight, padding=1).sum().backward()
    mine, layer.weight.grad = layer.weight.grad, None
    assert taken == ["narrowed", "by_weight"]
    layer(x).sum().backward()
    torch.testing.assert_close(mine, layer.weight.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("taps", [1, 3])
def test_conv2d_resample(small, taken, up, down, taps):
    torch.manual_seed(0)
    f = cuda.setup_filter([1, 3, 3, 1])
    x, w, b = torch.randn(2, 64, 34, 34), torch.randn(64, 64, taps, taps) / 8 / taps, torch.randn(64)

    def call(impl):
        options = {"up": up, "down": down, "padding": taps // 2, "flip_weight": up == 1, "impl": impl}
        return lambda x, w, b: cuda.conv2d_resample(x, w, f.to(x.dtype), b=b, **options)

    compare(call("cpu"), call("reference"), x, w, b)
    assert taken or taps == 1


def test_checkpointing_and_changed_maps(small):
    x, w = torch.randn(1, 64, 32, 32, requires_grad=True), torch.randn(64, 64, 3, 3, requires_grad=True)
    call = lambda x: training.conv2d(x, w, None, 1, (1, 1), 1).sin()  # noqa: E731
    expected = torch.autograd.grad(call(x).sum(), (x, w))
    again = torch.utils.checkpoint.checkpoint(call, x, use_reentrant=False)
    for mine, value in zip(torch.autograd.grad(again.sum(), (x, w)), expected):
        torch.testing.assert_close(mine, value)
    maps = x * 1
    y = call(maps)
    maps.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {"padding": 1}),
        (3, {"padding": 1, "up": 2}),
        (1, {}),
        (1, {"up": 2}),
        (1, {"down": 2}),
        (3, {"groups": 2}),
    ],
)
def test_a_cpu_without_products_in_half_precision(monkeypatch, dtype, kernel, options):
    """They are done in float32, and their results rounded once; gradients likewise."""
    f = cuda.setup_filter([1, 3, 3, 1])
    x, w = (
        torch.randn(2, 8, 6, 7).to(dtype),
        torch.randn(6, 8 // options.get("groups", 1), kernel, kernel).to(dtype),
    )
    b = torch.randn(6).to(dtype)
    monkeypatch.setattr(primitives, "multiplies", lambda dtype, device: dtype == torch.float32)
    inputs = [t.clone().requires_grad_() for t in (x, w, b)]
    exact = [t.double().requires_grad_() for t in (x, w, b)]
    y, right = (cuda.conv2d_resample(x, w, f, b=b, **options) for x, w, b in (inputs, exact))
    dy = torch.randn_like(y)
    assert y.dtype == dtype
    epsilon = torch.finfo(dtype).eps
    bound = epsilon * (1 if options.keys() <= {"padding", "groups"} else 8)  # filters round, too
    torch.testing.assert_close(y.double(), right, rtol=bound, atol=bound * right.abs().max().item())
    for d, e in zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(right, exact, dy.double())):
        torch.testing.assert_close(d.double(), e, rtol=8 * epsilon, atol=8 * epsilon * e.abs().max().item())


@pytest.mark.parametrize(
    "what",
    [
        "autocast",
        "float64",
        "bfloat16",
        "few channels",
        "few pixels",
        "taps",
        "stride",
        "groups",
        "compile",
        "jvp",
        "vmap",
        "empty",
    ],
)
def test_where_it_stands_back(taken, monkeypatch, what):
    monkeypatch.setattr(training.ops, "multiplies_like", lambda x: True)
    x, w = torch.randn(2, 256, 32, 32), torch.randn(256, 256, 3, 3)
    call = lambda x, w: cuda.conv2d_resample(x, w, padding=1)  # noqa: E731
    call(x, w)
    assert taken == ["narrowed"]
    taken.clear()
    if what == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert call(x, w).dtype == torch.bfloat16
    elif what in ("float64", "bfloat16"):
        dtype = getattr(torch, what)
        assert call(x.to(dtype), w.to(dtype)).dtype == dtype
    elif what == "few channels":
        call(x[:, :64], w[:, :64])
    elif what == "few pixels":
        call(x[:, :, 1:], w)
    elif what == "taps":
        cuda.conv2d_resample(x, w[:, :, 1:2, 1:2])
    elif what == "stride":
        cuda.conv2d_resample(x, w, cuda.setup_filter([1, 3, 3, 1]), down=2, padding=1)
    elif what == "groups":
        cuda.conv2d_resample(x, w[:, :128], padding=1, groups=2)
    elif what == "empty":
        assert call(x[:0], w).shape == (0, 256, 32, 32)
    elif what == "compile":
        compiled = torch.compile(call, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, w), F.conv2d(x, w, padding=1))
    elif what == "jvp":
        value, tangent = torch.func.jvp(lambda x: call(x, w), (x,), (x,))
        torch.testing.assert_close(value, tangent)
    else:
        torch.testing.assert_close(
            torch.vmap(lambda x: call(x[None], w)[0])(x), F.conv2d(x, w, padding=1), rtol=1e-4, atol=1e-3
        )
    assert taken == []
