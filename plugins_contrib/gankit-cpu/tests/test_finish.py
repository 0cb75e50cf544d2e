"""The kernel for what follows a convolution, of enlarging ones the filter first, on a CPU: against torch in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import FILTERS, around, epilogue, exact, finished, nothing_around, tensors

from gankit.core import cuda
from gankit_cpu import kernels, modulated_sampling
from gankit_cpu.llvm import finish, modulated


@pytest.mark.parametrize("taps", [1, 2, 4, 5])
@pytest.mark.parametrize("channels", [32, 45, 64])
@pytest.mark.parametrize("noise", ["none", "each"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_filter_after_a_transposed_convolution(threads, taps, channels, noise, count):
    threads(count)
    torch.manual_seed(0)
    dtype = torch.bfloat16
    for h, w, padding in ((13, 9, (0, 0)), (9, 22, (1, 0)), (taps, taps, (taps - 1, taps - 1))):
        f = torch.randn(2, taps)
        _, x = around(2, channels, h, w, dtype)
        x.copy_(torch.randn(x.shape))
        dense = torch.outer(*f).double().expand(channels, 1, taps, taps)
        # as many zeros at the end
        expected = F.conv2d(x.double(), dense, padding=padding, groups=channels)
        after = epilogue(2, channels, expected.shape[2:], noise, "lrelu", 0.9)
        whole, y = around(2, channels, *expected.shape[2:], dtype)
        finish.run(x, y, f, padding, after)
        torch.testing.assert_close(y.double(), finished(expected, after), rtol=2**-8, atol=2**-8)
        assert nothing_around(whole, y)


@pytest.mark.parametrize("channels", [32, 45])
@pytest.mark.parametrize("taps", [1, 3, 4])
def test_the_filter_after_phases(channels, taps):
    torch.manual_seed(0)
    f, (h, w) = torch.randn(2, taps), (5, 7)
    _, x = around(2, 4 * channels, h, w, torch.bfloat16)
    x.copy_(torch.randn(x.shape))
    fine = x.unflatten(1, (2, 2, channels)).permute(0, 3, 4, 1, 5, 2).reshape(2, channels, 2 * h, 2 * w)
    dense = torch.outer(*f).double().expand(channels, 1, taps, taps)
    # zeros where the result is larger than the maps are
    expected = F.conv2d(F.pad(fine.double(), (0, 1, 0, 1)), dense, groups=channels)
    after = epilogue(2, channels, expected.shape[2:], "each", "lrelu", 0.9)
    whole, y = around(2, channels, *expected.shape[2:], torch.bfloat16)
    finish.run(x, y, f, (0, 0), after, phases=True)
    torch.testing.assert_close(y.double(), finished(expected, after), rtol=2**-8, atol=2**-8)
    assert nothing_around(whole, y)


@pytest.mark.parametrize(("channels", "fits"), [(16, False), (32, True), (45, False), (64, True)])
@pytest.mark.parametrize("slope", [0, 0.2, 1])
def test_what_follows_a_convolution_in_place(channels, fits, slope):
    torch.manual_seed(0)
    whole, x = around(2, channels, 9, 7, torch.bfloat16)
    x.copy_(torch.randn(x.shape))
    before = x.double()
    after = dataclasses.replace(epilogue(2, channels, (9, 7), "one", "lrelu", 0.9), slope=slope)
    done = modulated.finished(x, x, None, 1, (1, 1, 1, 1), after, False)
    assert done == (fits and slope > 0)
    torch.testing.assert_close(
        x.double(), finished(before, after) if done else before, rtol=2**-8, atol=2**-8
    )
    assert nothing_around(whole, x)


@torch.no_grad()
@pytest.mark.parametrize(("up", "phases"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize(
    ("together", "scaled"), [("fold", False), (1, False), (3, False), (1, True), (3, True)]
)
@pytest.mark.parametrize("noise", [None, "map", "maps"])
@pytest.mark.parametrize("broken", [None, 1, 2])
def test_what_follows_a_convolution_of_onednn(monkeypatch, up, phases, together, scaled, noise, broken):
    """As with AMX."""
    x, w, s = tensors(torch.bfloat16, side=20, o=64)
    monkeypatch.setattr(modulated_sampling, "_kernels_pay", lambda x, normalize: False)
    monkeypatch.setattr(modulated_sampling, "multiplies_like", lambda x: True)
    monkeypatch.setattr(modulated_sampling, "_phases_pay", lambda x: phases)
    monkeypatch.setattr(modulated_sampling, "FOLD_BESIDE_KERNELS", 0 if together == "fold" else 1e9)
    monkeypatch.setattr(modulated_sampling, "FEWEST_VALUES", 0 if scaled else 1e9)
    size = x.element_size() * (x[0].numel() + 64 * 20 * 16 * up**2)
    monkeypatch.setattr(modulated_sampling, "BLOCK_BYTES", size * (3 if together == 3 else 1))
    monkeypatch.setattr(kernels, "_failures", [])
    calls, function = [], finish.run

    def run(*arguments):
        calls.append(1)
        if broken and len(calls) >= broken:
            raise RuntimeError("no such instruction")
        function(*arguments)

    monkeypatch.setattr(finish, "run", run)
    options = {
        "padding": 1, "up": up, "flip_weight": up == 1, "resample_filter": FILTERS["along each axis"],
        "noise": {"map": torch.randn(20 * up, 16 * up), "maps": torch.randn(3, 1, 20 * up, 16 * up)}.get(noise),
        "b": torch.randn(64), "act": "lrelu", "clamp": 3,
    }  # fmt: skip
    expected = exact(x, w, s, **options)
    every = (1 if together == 3 else 3) * (2 if scaled else 1)
    if broken and every >= broken:
        with pytest.warns(RuntimeWarning, match="no such instruction"):
            y = cuda.modulated_conv2d(x, w, s, **options)
        assert len(calls) == (2 if scaled else broken)
    else:
        y = cuda.modulated_conv2d(x, w, s, **options)
        assert len(calls) == every
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2**-7 * 10)
