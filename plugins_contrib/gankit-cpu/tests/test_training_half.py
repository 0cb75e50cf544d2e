"""Convolutions with gradients in bfloat16, as on a CPU with AVX512_BF16 and without AMX."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx
from training_cases import compare

from gankit.core import cuda
from gankit.interfaces import ops
from gankit_cpu import kernels, training
from gankit_cpu.llvm import winograd_tiles


@pytest.fixture
def half(monkeypatch):
    """As on a CPU with AVX512_BF16 and without AMX. Gives the sizes of what kernels make."""
    calls, function = [], winograd_tiles.plain
    monkeypatch.setattr(ops, "bf16_units", lambda: ["AVX512_BF16"])
    monkeypatch.setattr(ops, "multiplies_like", lambda x: True)
    monkeypatch.setattr(winograd_tiles, "plain", lambda *a: calls.append(a[3]) or function(*a))
    return calls


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 2), (1, 0)])
def test_half_precision(half, padding):
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 64, 37, 33), torch.randn(40, 64, 3, 3) / 24, torch.randn(40)
    compare(
        lambda x, w, b: training.conv2d(x, w, b, 1, padding, 1),
        lambda x, w, b: F.conv2d(x, w, b, padding=padding),
        *(t.bfloat16().float() for t in (x, w, b)),
        torch.bfloat16,
    )
    narrow = (35 + 2 * padding[0], 31 + 2 * padding[1])
    assert {*half} == {(37, 33), narrow}


@pytest.mark.parametrize("lost", [0, 1])
def test_half_precision_with_a_stride(half, lost):
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 32, 67 + lost, 65), torch.randn(48, 32, 3, 3) / 16, torch.randn(48)
    compare(
        lambda x, w, b: training.conv2d(x, w, b, 2, (0, 0), 1),
        lambda x, w, b: F.conv2d(x, w, b, 2),
        *(t.bfloat16().float() for t in (x, w, b)),
        torch.bfloat16,
    )
    assert {*half} == ({(67, 65)} if not lost else set())


def test_half_precision_transposed(half):
    torch.manual_seed(0)
    x, w = torch.randn(2, 64, 32, 33), torch.randn(64, 32, 3, 3) / 24
    compare(
        lambda x, w, b: training.conv_transpose2d(x, w, 2, (0, 0), 1) + b,
        lambda x, w, b: F.conv_transpose2d(x, w, None, 2) + b,
        *(t.bfloat16().float() for t in (x, w, torch.randn(1))),
        torch.bfloat16,
    )
    assert {*half} == {(65, 67)}


def test_results_in_half_precision_may_be_changed_in_place(half):
    x, w = torch.randn(2, 32, 34, 33).bfloat16(), torch.randn(40, 32, 3, 3).bfloat16().requires_grad_()
    training.conv2d(x, w, None, 1, (1, 1), 1).mul_(2).sum().backward()
    training.conv_transpose2d(x, w.transpose(0, 1), 2, (0, 0), 1).mul_(2).sum().backward()
    assert len(half) == 2


def test_autocast_in_half_precision(half):
    """As in training: parameters and their gradients stay in float32, and R1 within autocast works, too."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 32, 34, 33, requires_grad=True), (torch.randn(40, 32, 3, 3) / 17).requires_grad_()
    b = torch.randn(40, requires_grad=True)

    def gradients(function, x, w, b):
        y = function(x, w, b)
        (by_x,) = torch.autograd.grad(y.float().sin().sum(), x, create_graph=True)
        return y, by_x, *torch.autograd.grad(by_x.float().square().sum(), (x, w, b))

    def plain(x, w, b):
        return F.conv2d(x, w, b, padding=1)

    with torch.autocast("cpu", torch.bfloat16):
        seen = gradients(lambda x, w, b: cuda.conv2d_resample(x, w, b=b, padding=1), x, w, b)
        direct = gradients(plain, x, w, b)
    exact = gradients(plain, *(t.detach().double().requires_grad_() for t in (x, w, b)))
    assert {*half} == {(34, 33)}
    assert [t.dtype for t in seen] == [t.dtype for t in direct]
    for mine, other, right in zip(seen, direct, exact):
        assert (mine - right).norm() < 3 * (other - right).norm()


@pytest.mark.parametrize(
    "what",
    ["AMX", "neither", "few channels", "few pixels", "taps", "stride", "padding", "groups", "watched", "jvp"],
)
def test_where_half_precision_is_left_to_torch(half, monkeypatch, what):
    x, w = torch.randn(1, 40, 34, 34).bfloat16(), torch.randn(40, 40, 3, 3).bfloat16()
    stride, padding, groups = 1, (1, 1), 1
    call = lambda x: training.conv2d(x, w, None, stride, padding, groups)  # noqa: E731
    call(x)
    assert half == [(34, 34)]
    if what in ("AMX", "neither"):
        units = {"AMX": ["AVX512_BF16", "AMX"], "neither": []}[what]
        monkeypatch.setattr(ops, "bf16_units", lambda: units)
    elif what == "few channels":
        x, w = x[:, :31], w[:, :31]
    elif what == "few pixels":
        x = x[:, :, :30]
    elif what == "taps":
        w = w[:, :, :2]
    elif what == "stride":
        stride = 3
    elif what == "padding":
        stride = 2
    elif what == "groups":
        w, groups = w[:, :20], 2
    if what == "watched":
        make_fx(call)(x)
    elif what == "jvp":
        torch.func.jvp(call, (x,), (x,))
    else:
        call(x)
    assert half == [(34, 34)]


def test_a_cpu_that_llvm_does_not_know(half, monkeypatch, recwarn):
    monkeypatch.setattr(winograd_tiles, "features", dict)
    x, w = torch.randn(1, 40, 34, 34).bfloat16(), torch.randn(40, 40, 3, 3).bfloat16()
    y = training.conv2d(x, w, None, 1, (1, 1), 1)
    torch.testing.assert_close(y, F.conv2d(x, w, padding=1), rtol=2**-7, atol=2**-3)
    assert not recwarn
    assert kernels.obstacle() is None


def test_kernels_of_half_precision_that_fail(half, monkeypatch):
    monkeypatch.setattr(kernels, "_failures", [])

    def broken(*arguments):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(winograd_tiles, "plain", broken)
    x, w = torch.randn(1, 40, 34, 34).bfloat16(), torch.randn(40, 40, 3, 3).bfloat16()
    with pytest.warns(RuntimeWarning, match="no such instruction") as seen:
        y = [training.conv2d(x, w, None, 1, (1, 1), 1) for _ in range(2)]
    assert len(seen) == 1
    for own in y:
        torch.testing.assert_close(own, F.conv2d(x, w, padding=1), rtol=2**-7, atol=2**-3)
