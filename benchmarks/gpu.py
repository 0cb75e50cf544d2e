"""Times the Triton operators on a GPU against plain torch and torch.compile of it: `python benchmarks/gpu.py`.

Prints, for forward and forward with backward, medians in microseconds and the largest difference from plain torch in
float64, as a share of the largest value.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor

from gankit.core import cuda as plain


def cases(dtype: torch.dtype, last: bool) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Name -> function of (operators, *tensors) and its tensors."""

    def maps(*shape: int) -> Tensor:
        x = torch.randn(shape, device="cuda", dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last) if last else x

    f = plain.setup_filter([1, 3, 3, 1]).cuda()
    fu = plain.setup_filter(torch.hann_window(14, periodic=False)[1:-1].tolist()).cuda()
    x, b = maps(8, 128, 128, 128), torch.randn(128, device="cuda", dtype=dtype)
    weight, styles = torch.randn(128, 128, 3, 3, device="cuda"), torch.rand(8, 128, device="cuda") + 0.5
    noise = torch.randn(256, 256, device="cuda")

    def filtered(ops, x, b):  # type: ignore[no-untyped-def]
        options = {"up": 2, "padding": (13, 12)}
        if hasattr(ops, "filtered_lrelu"):
            return ops.filtered_lrelu(x, fu, fu, b, down=2, clamp=256, **options)
        u = ops.upfirdn2d(ops.bias_act(x, b), fu, gain=4, **options)
        return ops.upfirdn2d(ops.bias_act(u, act="lrelu", clamp=256), fu, down=2)

    return {
        "bias_act lrelu": (lambda ops, x, b: ops.bias_act(x, b, act="lrelu", clamp=256), [x, b]),
        "bias_act swish": (lambda ops, x, b: ops.bias_act(x, b, act="swish"), [x, b]),
        "upsample2d": (lambda ops, x: ops.upsample2d(x, f), [x]),
        "downsample2d": (lambda ops, x: ops.downsample2d(x, f), [x]),
        "modulated_conv2d up 2": (
            lambda ops, x, w, s, b: ops.modulated_conv2d(
                x,
                w,
                s,
                noise,
                up=2,
                padding=1,
                resample_filter=f,
                flip_weight=False,
                b=b,
                act="lrelu",
                clamp=256,
            ),
            [x, weight, styles, b],
        ),
        "filtered_lrelu": (filtered, [x, b]),
    }


def median_time(function: Callable[[], object], repeats: int) -> float:
    """Microseconds of the GPU, each run after its second-level cache was overwritten."""
    for _ in range(5):
        function()
    flush = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(repeats):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    return statistics.median(times)


def compare(
    function: Callable[..., Tensor], tensors: list[Tensor], kernels: ModuleType, repeats: int
) -> Iterator[str]:
    """A line for forward and one for forward with backward."""
    ways: dict[str, Callable[..., Tensor]] = {
        "triton": lambda *t: function(kernels, *t),
        "plain": lambda *t: function(plain, *t),
        "compile": torch.compile(lambda *t: function(plain, *t)),
    }

    def line(label: str, run: Callable[[Callable[..., Tensor]], object]) -> str:
        times = {way: median_time(lambda: run(call), repeats) for way, call in ways.items()}  # noqa: B023
        return f"{label:21s} " + " ".join(f"{way} {t:8.0f} us" for way, t in times.items())

    with torch.no_grad():
        exact = function(plain, *(t.double() for t in tensors))
        error = (function(kernels, *tensors).double() - exact).abs().max() / exact.abs().max()
        yield f"{line('forward', lambda call: call(*tensors))}  error {error:.1e}"
    variables = [t.detach().requires_grad_() for t in tensors]
    dy = torch.randn_like(function(plain, *variables))
    yield line("forward and backward", lambda call: torch.autograd.grad(call(*variables), variables, dy))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA GPU and finds none; benchmarks/kernels.py needs none")
        return 1
    from gankit.core.cuda import triton as kernels
    from gankit.core.cuda.triton import launch

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.dtype}")
    for name, (function, tensors) in cases(getattr(torch, options.dtype), options.channels_last).items():
        for line in compare(function, tensors, kernels, options.repeats):
            print(f"{name:24s} {line}", flush=True)
    for name, error in launch.FAILED.items():
        print(f"FAILED {name}: {error!r}; its times above are those of plain torch")
    return 1 if launch.FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
