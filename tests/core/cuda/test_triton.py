"""The Triton package without a GPU: its kernels in the interpreter and the assembler, and the way back to torch.

Both need a process of their own: TRITON_INTERPRET is read when triton is imported, and either excludes the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from repository import ROOT

pytest.importorskip("triton", reason="torch for CPUs only comes without Triton")

from gankit.core import cuda
from gankit.core.cuda import dispatch
from gankit.core.cuda.triton import launch
from gankit.plugins.op_backends.triton import Triton

SUPPORT = ROOT / "tests" / "support"
# A kernel of each kind in the configuration that most layers use.
TYPICAL = (
    r"bias_act.*fp16 lrelu order 1 block 1024|upfirdn2d.*fp16 up 2 down 1 taps 4x4 tile 64|"
    r"epilogue_backward.*fp16 lrelu tile 1024|filtered.*fp16 up 2 down 2 .* ranks 1, 1 tile 64"
)
QUICK = (
    "c00 or c01 or self_tests or test_opcheck or shapes or no_bits or "
    "(upfirdn2d and dtype0) or (modulated and dtype0 and lrelu)"
)


def run(*arguments: str, **environment: str) -> None:
    result = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=SUPPORT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-6000:]}\n{result.stderr[-2000:]}"


def interpret(*arguments: str) -> None:
    run(
        "-m",
        "pytest",
        str(SUPPORT / "triton_kernels.py"),
        "-p",
        "no:cacheprovider",
        *arguments,
        TRITON_INTERPRET="1",
    )


def test_interpreter():
    interpret("-k", QUICK)


@pytest.mark.slow
def test_interpreter_everything():
    interpret("-m", "slow or not slow")


def test_typical_kernels_fit_sm_80_and_sm_90():
    run(str(SUPPORT / "triton_aot.py"), "--match", TYPICAL)


@pytest.mark.slow
def test_every_kernel_fits_sm_80_and_sm_90():
    run(str(SUPPORT / "triton_aot.py"), "--all")


@pytest.fixture
def broken(monkeypatch):
    """Kernels cannot run on CPU tensors outside the interpreter: a failure at run time, made to order."""
    monkeypatch.setattr(launch, "FAILED", {})
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(Triton, "obstacle", lambda self, device: None)


def with_warnings(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = function()
    return y, [str(w.message) for w in caught if "Please report" in str(w.message)]


def gradients(function, *variables):
    variables = [v.detach().requires_grad_() for v in variables]
    y = function(*variables)
    first = torch.autograd.grad(y.square().sum(), variables, create_graph=True)
    again = torch.autograd.grad(sum(g.square().sum() for g in first), variables)
    return [y, *first, *again]


F = cuda.setup_filter([1, 3, 3, 1])
CALLS = {
    "bias_act": lambda impl, x, b: cuda.bias_act(x, b, act="swish", clamp=0.7, impl=impl),
    "upfirdn2d": lambda impl, x, b: cuda.upfirdn2d(x, F, up=2, padding=(2, 1), impl=impl),
    "modulated_conv2d": lambda impl, x, b: cuda.modulated_conv2d(
        x,
        b[:, None, None, None] * torch.ones(3, 3, 3, 3),
        b.expand(2, 3),
        padding=1,
        b=b,
        act="lrelu",
        clamp=0.7,
        impl=impl,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_failing_kernel_is_replaced_by_plain_torch(broken, name):
    torch.manual_seed(0)
    x, b = torch.randn(2, 3, 5, 4), torch.rand(3) + 0.2
    call = CALLS[name]
    if name == "upfirdn2d":
        actual, messages = with_warnings(lambda: gradients(lambda x: call("triton", x, b), x))
        expected = gradients(lambda x: call("composite", x, b), x)
    else:
        actual, messages = with_warnings(lambda: gradients(lambda x, b: call("triton", x, b), x, b))
        expected = gradients(lambda x, b: call("composite", x, b), x, b)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)
    assert len(messages) == len(launch.FAILED) > 0  # one for each operator, however often it is called
    assert f"torch {torch.__version__}" in messages[0]
    assert "[2, 3, 5, 4]" in messages[0]


def test_filtered_lrelu_fails_over_to_the_same_values(broken):
    """Against the reference, with padding that crops and sizes that leave rows over."""
    torch.manual_seed(0)
    x, b = torch.randn(1, 2, 7, 6), torch.randn(2)
    fu, fd = torch.rand(6) / 3, torch.rand(5, 4) / 8

    def run(impl):
        options = {"up": 2, "down": 3, "padding": (7, -1, 4, 3), "gain": 1.3, "clamp": 0.9, "impl": impl}
        return gradients(lambda x, b: cuda.filtered_lrelu(x, fu, fd, b, **options), x, b)

    actual, messages = with_warnings(lambda: run("triton"))
    for a, e in zip(actual, run("reference")):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)
    assert len(messages) == 2  # forward and the operator of all derivatives


def test_self_tests_tell_that_kernels_failed(broken):
    result = dispatch.self_test("bias_act", "triton", torch.device("cpu"))
    assert not result.passed
    assert "raised" in result.failure
