"""Bad arguments: one ValueError for all implementations, with operator, argument, value and what is allowed."""

from __future__ import annotations

import pytest
import torch

from gankit.core import cuda
from gankit.core.cuda import dispatch

X = torch.zeros(2, 3, 8, 6)
W = torch.zeros(4, 3, 3, 3)
S = torch.ones(2, 3)
F = torch.ones(4, 4)
INT = torch.int64


def elsewhere(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, device="meta")


BAD = [  # operator, arguments, keywords, what the message says after the operator's name
    ("bias_act", ([1.0],), {}, "x must be a tensor, not list"),
    ("bias_act", (X.to(INT),), {}, "x must be float16, bfloat16, float32 or float64, not torch.int64"),
    ("bias_act", (X, torch.zeros(4)), {}, r"b must be \[3\], one number for each channel, not \[4\]"),
    ("bias_act", (X, torch.zeros(3, 1)), {}, r"b must be \[3\], .* not \[3, 1\]"),
    ("bias_act", (X, torch.zeros(3, dtype=INT)), {}, "b must be float16, .* not torch.int64"),
    ("bias_act", (X, elsewhere(3)), {}, "b must be on the device of x, cpu, not on meta"),
    ("bias_act", (X, torch.zeros(3)), {"dim": 4}, "dim must be an axis of x, which has 4, not 4"),
    ("bias_act", (X, torch.zeros(3)), {"dim": 1.0}, "dim must be an axis of x, which has 4, not 1.0"),
    ("bias_act", (X,), {"clamp": -1}, "clamp must be None or a number of at least 0, not -1"),
    ("bias_act", (X,), {"clamp": float("nan")}, "clamp must be None or a number of at least 0, not nan"),
    ("upfirdn2d", (X[0], F), {}, r"x must be \[N, C, H, W\] .* not \[3, 8, 6\]"),
    ("upfirdn2d", (X[:, :0], F), {}, r"x must be .* at least one channel and pixel, not \[2, 0, 8, 6\]"),
    ("upfirdn2d", (X.to(torch.complex64), F), {}, "x must be float16, .* not torch.complex64"),
    ("upfirdn2d", (X, [1, 3, 3, 1]), {}, "f must be a tensor, not list"),
    ("upfirdn2d", (X, torch.ones(1, 1, 1)), {}, r"f must be 1-D taps, .* not \[1, 1, 1\]"),
    ("upfirdn2d", (X, torch.ones(0)), {}, r"f must be .* at least one tap, not \[0\]"),
    ("upfirdn2d", (X, torch.ones(4, dtype=INT)), {}, "f must be float16, .* not torch.int64"),
    ("upfirdn2d", (X, elsewhere(4)), {}, "f must be on the device of x, cpu, not on meta"),
    ("upfirdn2d", (X, F), {"up": 0}, r"up must be an integer of at least 1, or two of them \(x, y\), not 0"),
    ("upfirdn2d", (X, F), {"up": (1, 2, 3)}, r"up must be .* not \(1, 2, 3\)"),
    ("upfirdn2d", (X, F), {"down": (2, 1.5)}, r"down must be .* not \(2, 1.5\)"),
    ("upfirdn2d", (X, F), {"down": True}, "down must be .* not True"),
    ("upfirdn2d", (X, F), {"padding": (1, 2, 3)}, r"padding is one integer, .* not \(1, 2, 3\)"),
    ("upfirdn2d", (X, F), {"padding": (1, 0.5)}, r"padding is one integer, .* not \(1, 0.5\)"),
    ("upfirdn2d", (X, F), {"padding": -2}, "padding -2 would make an output of 1 x -1 pixels"),
    ("filter2d", (X, F), {"padding": (-5, 0)}, r"padding \(-5, 0\) would make an output of 8 x -4 pixels"),
    ("filter2d", (X, "f"), {}, "f must be a tensor, not str"),
    ("upsample2d", (X, F), {"up": -1}, "up must be .* not -1"),
    ("upsample2d", (X, F), {"padding": (-30, 0)}, r"padding \(-30, 0\) would make an output of 16 x -48 pixels"),
    ("downsample2d", (X, F), {"down": 0}, "down must be .* not 0"),
    ("downsample2d", (X[0], F), {}, r"x must be \[N, C, H, W\] .* not \[3, 8, 6\]"),
    ("filtered_lrelu", (X[0],), {}, r"x must be \[N, C, H, W\] .* not \[3, 8, 6\]"),
    ("filtered_lrelu", (X, torch.ones(1, 1, 1)), {}, r"fu must be 1-D taps, .* not \[1, 1, 1\]"),
    ("filtered_lrelu", (X, None, elsewhere(3)), {}, "fd must be on the device of x, cpu, not on meta"),
    ("filtered_lrelu", (X, None, None, torch.zeros(2)), {}, r"b must be \[3\], .* not \[2\]"),
    ("filtered_lrelu", (X,), {"up": (2, 2)}, r"up must be an integer of at least 1, not \(2, 2\)"),
    ("filtered_lrelu", (X,), {"down": 0}, "down must be an integer of at least 1, not 0"),
    ("filtered_lrelu", (X,), {"gain": 0}, "gain must be a positive number, not 0"),
    ("filtered_lrelu", (X,), {"clamp": -0.5}, "clamp must be None or a number of at least 0, not -0.5"),
    ("filtered_lrelu", (X, F, torch.ones(6)), {}, "padding 0 would make an output of 0 x -2 pixels"),
    ("conv2d_resample", (X, W[0]), {}, r"w must be \[O, I, kh, kw\], not \[3, 3, 3\]"),
    ("conv2d_resample", (X, W[:, :2]), {}, r"w \[4, 2, 3, 3\] must have 3 / 1 input channels"),
    ("conv2d_resample", (X, W), {"groups": 0}, "groups must be an integer of at least 1, not 0"),
    ("conv2d_resample", (X, W[:, :1]), {"groups": 3}, r"w \[4, 1, 3, 3\] must have .* a multiple of 3 output"),
    ("conv2d_resample", (X, W, F), {"up": 1.5}, "up must be an integer of at least 1, not 1.5"),
    ("conv2d_resample", (X, W), {"b": torch.zeros(3)}, r"b must be \[4\], .* not \[3\]"),
    ("conv2d_resample", (X, W), {"padding": -3}, "padding -3 would make an output of 0 x -2 pixels"),
    ("modulated_conv2d", (X[0], W, S), {}, r"x must be \[N, C, H, W\] .* not \[3, 8, 6\]"),
    ("modulated_conv2d", (X, W.to(INT), S), {}, "weight must be float16, .* not torch.int64"),
    ("modulated_conv2d", (X, W, S[:1]), {}, r"styles must be \[2, 3\], \[N, I\] of x, not \[1, 3\]"),
    ("modulated_conv2d", (X, W, S[0]), {}, r"styles must be \[2, 3\], .* not \[3\]"),
    ("modulated_conv2d", (X, W, elsewhere(2, 3)), {}, "styles must be on the device of x, cpu, not on meta"),
    ("modulated_conv2d", (X, W, S, X), {}, r"noise must be \[2 or 1, 1, 6, 4\] or \[6, 4\] .* not \[2, 3, 8, 6\]"),
    ("modulated_conv2d", (X, W, S, X[0, 0]), {}, r"noise must be .* not \[8, 6\]"),
    ("modulated_conv2d", (X, W, S, torch.zeros(6)), {}, r"noise must be .* not \[6\]"),
    ("modulated_conv2d", (X, W, S), {"up": 2, "resample_filter": F[None]}, "resample_filter must be 1-D taps"),
    ("modulated_conv2d", (X, W, S), {"input_gain": torch.ones(4)}, r"input_gain must be a number, \[3\] or \[2, 3\]"),
    ("modulated_conv2d", (X, W, S), {"padding": -2}, "padding -2 would make an output of 2 x 0 pixels"),
    ("modulated_conv2d", (X, W, S), {"clamp": -1}, "clamp must be None or a number of at least 0, not -1"),
    ("add_rgb", (None, F, X[0], W[:, :, :1, :1], S), {}, r"x must be \[N, C, H, W\] .* not \[3, 8, 6\]"),
    ("add_rgb", (None, F, X, W, S), {}, r"weight must be \[O, I, 1, 1\], not \[4, 3, 3, 3\]"),
    ("add_rgb", (None, F, X, W[:, :, :1, :1], S[:1]), {}, r"styles must be \[2, 3\], .* not \[1, 3\]"),
    ("add_rgb", (None, F, X, W[:, :, :1, :1], S, torch.zeros(3)), {}, r"b must be \[4\], .* not \[3\]"),
    ("add_rgb", (None, F, X, W[:, :, :1, :1], S), {"clamp": -1}, "clamp must be None or .* not -1"),
    ("add_rgb", (X, F, X, W[:, :, :1, :1], S), {}, r"img must be None or \[2, 4, 8 / 2, 6 / 2\] .* not \[2, 3, 8, 6\]"),
    ("add_rgb", (X[0], F, X, W[:, :, :1, :1], S), {}, r"img must be .* not \[3, 8, 6\]"),
    ("add_rgb", (X.to(INT), F, X, W[:, :, :1, :1], S), {}, "img must be float16, .* not torch.int64"),
    ("add_rgb", (elsewhere(2, 4, 4, 3), F, X, W[:, :, :1, :1], S), {}, "img must be on the device of x, cpu"),
    ("add_rgb", (X, torch.ones(0), X, W[:, :, :1, :1], S), {}, r"f must be .* at least one tap, not \[0\]"),
    ("setup_filter", (torch.ones(2, 2, 2),), {}, r"f must have one or two axes .* not the shape \[2, 2, 2\]"),
    ("setup_filter", ([],), {}, r"f must have .* at least one tap, not the shape \[0\]"),
    ("setup_filter", ([1, -1],), {"separable": True}, r"f \[1.0, -1.0\] sums to 0 and cannot be normalized"),
]  # fmt: skip


@pytest.mark.parametrize("impl", ["auto", *dispatch.PLAIN, *dispatch.names()])
@pytest.mark.parametrize(
    ("operator", "arguments", "keywords", "message"), BAD, ids=lambda v: v if isinstance(v, str) else ""
)
def test_refused(operator, arguments, keywords, message, impl):
    with pytest.raises(ValueError, match=f"^{operator}: {message}"):
        getattr(cuda, operator)(*arguments, **keywords, impl=impl)


@pytest.mark.parametrize("operator", ["bias_act", "upfirdn2d", "modulated_conv2d", "setup_filter"])
def test_unknown_implementation(operator):
    arguments = {"upfirdn2d": (X, F), "modulated_conv2d": (X, W, S), "setup_filter": ([1],)}.get(
        operator, (X,)
    )
    with pytest.raises(ValueError, match="unknown implementation in impl 'tritton'; did you mean 'triton'"):
        getattr(cuda, operator)(*arguments, impl="tritton")


@pytest.mark.parametrize("operator", cuda.__all__)
def test_every_operator_is_in_the_table(operator):
    if operator not in ("normalize_2nd_moment", "ConstantWeights"):
        assert any(operator == row[0] for row in BAD)
