"""The Triton kernels against the golden vectors and the plain operators: on a GPU, or in Triton's interpreter.

`tests/core/cuda/triton/test_triton.py` runs this file with TRITON_INTERPRET=1, which must be set before triton is
imported, and `tests/end_to_end/test_gpu.py` without it, on the GPU. By hand: `TRITON_INTERPRET=1 python -m pytest
tests/support/triton_kernels.py`; add `-m "slow or not slow"` for the full matrix.
"""

from __future__ import annotations

import functools
import os

import golden_ops
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    pytest.skip("without a GPU, TRITON_INTERPRET=1 must be set before Python starts", allow_module_level=True)

from gankit.core import cuda
from gankit.core.cuda import dispatch
from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.cuda.triton import launch

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")


class Operators:
    """The public operators with one implementation."""

    def __init__(self, impl):
        self.impl = impl

    def __getattr__(self, name):
        return functools.partial(getattr(cuda, name), impl=self.impl)


kernels, plain = Operators("triton"), Operators("composite")

# Of the largest value: float32 sums in another order, half precision rounds each operator's result once.
TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def _kernels_ran():
    """A kernel that fails is replaced by plain torch, which would pass every test here."""
    launch.FAILED.clear()
    yield
    assert launch.FAILED == {}


@pytest.fixture(autouse=True)
def _on_the_device(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device(None)


def assert_close(actual, expected, dtype):
    assert actual.shape == expected.shape
    if expected.numel():
        error = (actual.double() - expected.double()).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(1.0, expected.abs().max().item()), f"error {error:.3g}"


def derivatives(function, variables, second=True):
    """Value, gradients for a random cotangent, and gradients of their contraction with random vectors."""
    variables = [v.detach().requires_grad_() for v in variables]
    torch.manual_seed(1)
    y = function(*variables)
    dy = torch.randn(y.shape).to(y.dtype).requires_grad_()
    first = torch.autograd.grad(y, variables, dy, create_graph=second)
    if not second:
        return [y, *first]
    contraction = sum((g * torch.randn(g.shape).to(g.dtype)).sum() for g in first)
    again = torch.autograd.grad(contraction, [dy, *variables], allow_unused=True, materialize_grads=True)
    return [y, *first, *again]


def compare(fast, exact, variables, dtype, second=True):
    """`fast` in `dtype` against `exact` in float64, of the same rounded inputs."""
    variables = [v.to(dtype) for v in variables]
    actual = derivatives(fast, variables, second)
    expected = derivatives(exact, [v.double() for v in variables], second)
    for a, e in zip(actual, expected):
        assert_close(a, e, dtype)
    return actual


# ------------------------------------------------------------------------------------------------------- golden


@pytest.mark.parametrize(("name", "case"), golden_ops.CASES, ids=golden_ops.IDS)
def test_golden(name, case):
    golden_ops.check(name, case, "triton", DEVICE)


# ----------------------------------------------------------------------------------------------------- bias_act


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_act(act, dtype):
    torch.manual_seed(0)
    # Odd multiples of 1/16 keep away from the kinks: in half precision what rounds to the bound counts as clamped.
    x, b = (torch.randn(2, 3, 5, 3) * 8).round() / 8, (torch.randn(3) * 8).round() / 8 + 1 / 16
    options = {"act": act, "clamp": 0.8, "alpha": 0.3, "gain": 1.0}
    x = x.contiguous(memory_format=torch.channels_last) if dtype is torch.bfloat16 else x
    y, dx, *_ = compare(
        lambda x, b: kernels.bias_act(x, b, **options),
        lambda x, b: plain.bias_act(x, b, **options),
        [x, b],
        dtype,
    )
    assert y.dtype == dx.dtype == dtype
    assert y.stride() == dx.stride() == x.stride()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3), (3, 7), (2, 3, 5), (1, 1, 1, 1)])
def test_bias_act_shapes(shape):
    x, b = torch.randn(shape), torch.randn(shape[1])
    compare(
        lambda x, b: kernels.bias_act(x, b, act="swish"),
        lambda x, b: plain.bias_act(x, b, act="swish"),
        [x, b],
        x.dtype,
    )


@pytest.mark.parametrize(("alpha", "gain"), [(-0.3, 1.0), (0.2, -1.0), (0.0, 2.0), (0.2, 0.0)])
def test_lrelu_whose_output_hides_the_slope(alpha, gain):
    options = {"act": "lrelu", "alpha": alpha, "gain": gain}
    x = torch.randn(2, 3, 4).transpose(1, 2)  # neither contiguous nor channels-last
    b = torch.randn(2)
    compare(
        lambda x, b: kernels.bias_act(x, b, 2, **options), lambda x, b: plain.bias_act(x, b, 2, **options),
        [x[:, :, :], torch.randn(3)], x.dtype,
    )  # fmt: skip
    compare(
        lambda x, b: kernels.bias_act(x, b, 0, **options),
        lambda x, b: plain.bias_act(x, b, 0, **options),
        [x, b],
        x.dtype,
    )


# ---------------------------------------------------------------------------------------------------- upfirdn2d

RESAMPLING = [  # up, down, padding, taps (x, y), flip, gain
    (1, 1, 0, (4, 4), False, 1),
    (2, 1, (2, 1, 2, 1), (4, 4), False, 4),
    (1, 2, (1, 1, 1, 1), (4, 4), True, 1),
    ((2, 1), (1, 3), (-1, 2, 3, -2), (3, 2), False, 0.7),
    ((3, 4), (2, 1), (0, -1), (5, 7), True, 1),
    (2, 2, 5, (12,), False, 1),
    (4, 2, (-3, 4, 1, -2), (9,), True, 2),
]


@pytest.mark.parametrize("case", RESAMPLING, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_upfirdn2d(case, dtype):
    up, down, padding, taps, flip, gain = case
    torch.manual_seed(0)
    x, f = torch.randn(2, 3, 7, 9), torch.randn(taps[::-1]) / max(taps)
    x = x.contiguous(memory_format=torch.channels_last) if dtype is torch.float16 else x
    options = {"up": up, "down": down, "padding": padding, "flip_filter": flip, "gain": gain}
    y, *_ = compare(
        lambda x: kernels.upfirdn2d(x, f, **options),
        lambda x: plain.upfirdn2d(x, f.double(), **options),
        [x],
        dtype,
    )
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last) == (dtype is torch.float16)


def test_upfirdn2d_of_views_and_empty_batches():
    f = torch.randn(4, 4)
    x = torch.randn(2, 6, 9, 8)[:, ::2, 1:, ::2]
    compare(
        lambda x: kernels.upfirdn2d(x[:, ::2], f),
        lambda x: plain.upfirdn2d(x[:, ::2], f.double()),
        [x],
        x.dtype,
    )
    assert kernels.upfirdn2d(x[:0], f).shape == (0, 3, 5, 1)


# ------------------------------------------------------------------------------------------------- convolutions


@pytest.mark.parametrize("act", ["lrelu", "swish"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_modulated_conv2d(act, dtype):
    torch.manual_seed(0)
    x, weight, styles = torch.randn(2, 3, 5, 4), torch.randn(6, 3, 3, 3), torch.rand(2, 3) + 0.5
    f = plain.setup_filter([1, 3, 3, 1])
    options = {"up": 2, "padding": 1, "flip_weight": False, "act": act, "gain": 0.8}
    x = x.contiguous(memory_format=torch.channels_last) if dtype is torch.bfloat16 else x

    def call(function):
        return lambda x, w, s, noise, b: function(x, w, s, noise, resample_filter=f.to(w), b=b, **options)

    variables = [x, weight, styles, torch.randn(2, 1, 10, 8) * 0.1, torch.randn(6)]
    if dtype is torch.float32:
        compare(call(kernels.modulated_conv2d), call(plain.modulated_conv2d), variables, dtype)
    else:  # sign and rounding of single pixels make gradients incomparable; the value is not
        variables = [v.to(dtype) for v in variables]
        y = call(kernels.modulated_conv2d)(*variables)
        assert_close(y, call(plain.modulated_conv2d)(*[v.double() for v in variables]), dtype)
        assert y.dtype == dtype


# ----------------------------------------------------------------------------------------------- filtered_lrelu


def filtered_by_definition(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip):
    u = plain.upfirdn2d(plain.bias_act(x, b), fu, up=up, padding=padding, gain=up**2, flip_filter=flip)
    u = plain.bias_act(u, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return plain.upfirdn2d(u, fd, down=down, flip_filter=flip)


FILTERED = [  # size (h, w), up, down, padding, taps of fu and fd, clamp, flip
    ((9, 13), 2, 2, (5, -1, 6, 4), (12,), (12,), 0.8, False),
    ((33, 20), 4, 2, 11, (24,), (12, 12), None, True),  # more than one tile, filter of full rank
    ((8, 8), 1, 4, (3, 2, -1, 3), (1,), (3, 2), 0.5, False),
]


def test_filtered_lrelu_that_keeps_no_bits():
    torch.manual_seed(0)
    x, b, f = torch.randn(1, 2, 6, 5), torch.randn(2), torch.rand(6)
    with torch.no_grad():
        y = kernels.filtered_lrelu(x, f, f, b, 2, 2, 5, clamp=1.5)
    exact = filtered_by_definition(
        x.double(), f.double(), f.double(), b.double(), 2, 2, 5, 2**0.5, 0.2, 1.5, False
    )
    assert_close(y, exact, x.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("case", FILTERED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_filtered_lrelu(case, dtype):
    (h, w), up, down, padding, nu, nd, clamp, flip = case
    torch.manual_seed(0)
    x, b = torch.randn(1, 2, h, w), torch.randn(2)
    fu, fd = torch.rand(nu) * up / nu[0], torch.rand(nd) * 2 / nd[0]
    fd = fd if len(nd) == 1 else fd / nd[0]
    rest = (up, down, padding, 1.3, 0.2, clamp)
    variables = [x.to(dtype), b.to(dtype)]
    actual = kernels.filtered_lrelu(variables[0], fu, fd, variables[1], *rest, flip_filter=flip)
    expected = filtered_by_definition(
        variables[0].double(), fu.double(), fd.double(), variables[1].double(), *rest, flip
    )
    assert_close(actual, expected, dtype)
    if dtype is torch.float32:
        compare(
            lambda x, b: kernels.filtered_lrelu(x, fu, fd, b, *rest, flip_filter=flip),
            lambda x, b: filtered_by_definition(x, fu.double(), fd.double(), b, *rest, flip),
            [x, b], dtype,
        )  # fmt: skip


@pytest.mark.parametrize(
    "operator", [name for name in dispatch.OPERATORS if hasattr(dispatch.backend("triton"), name)]
)
def test_self_tests_pass(operator):
    result = dispatch.self_test(operator, "triton", DEVICE)
    assert result.passed, result.failure
    assert 0 < result.error < 1e-5


# ---------------------------------------------------------------------------------------------------- operators


def opcheck(name, *arguments):
    torch.library.opcheck(getattr(torch.ops.gankit, name).default, arguments)


@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_opcheck_bias_act(act):
    x, b = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(3, requires_grad=True)
    opcheck("bias_act", x, b, 1, act, 0.2, 1.4, 0.7)


def test_opcheck_upfirdn2d():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    opcheck("upfirdn2d", x, torch.randn(3, 4), [2, 1], [1, 2], [2, 1, 0, 3], True, 2.0)


def test_opcheck_epilogue():
    x, s, b = (
        torch.randn(2, 3, 4, 5, requires_grad=True),
        torch.rand(2, 3, requires_grad=True),
        torch.randn(3),
    )
    opcheck("scale_bias_act", x, s, torch.randn(4, 5, requires_grad=True), b, "lrelu", 0.2, 1.4, 0.7)


def test_opcheck_filtered_lrelu():
    x, b, f = (
        torch.randn(2, 3, 5, 6, requires_grad=True),
        torch.randn(3, requires_grad=True),
        torch.rand(1, 4),
    )
    opcheck("filtered_lrelu", x, b, f, f, f, f, 2, 2, [3, 3], [13, 11], [5, 4], 1.4, 0.2, 0.7, True)
