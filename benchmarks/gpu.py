"""Times the Triton operators on a GPU against composites, plain and compiled: `python benchmarks/gpu.py`.

Prints, for forward and for forward with backward, median microseconds of the GPU and, in brackets, of the Python thread
that launches the kernels, and the largest difference from a float64 reference relative to the largest value.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gankit.core import cuda


def cases(dtype: torch.dtype, last: bool) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Name -> function of (implementation, *tensors) and its tensors."""

    def maps(*shape: int) -> Tensor:
        x = torch.randn(shape, device="cuda", dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last) if last else x

    f = cuda.setup_filter([1, 3, 3, 1]).cuda()
    fu = cuda.setup_filter(torch.hann_window(14, periodic=False)[1:-1].tolist()).cuda()
    x, b = maps(8, 128, 128, 128), torch.randn(128, device="cuda", dtype=dtype)
    weight, styles = torch.randn(128, 128, 3, 3, device="cuda"), torch.rand(8, 128, device="cuda") + 0.5
    up = {"up": 2, "padding": 1, "resample_filter": f, "flip_weight": False, "act": "lrelu", "clamp": 256}
    up["noise"] = torch.randn(256, 256, device="cuda")
    filtered = {"up": 2, "down": 2, "padding": (13, 12), "clamp": 256}
    return {
        "bias_act lrelu": (lambda impl, x, b: cuda.bias_act(x, b, act="lrelu", clamp=256, impl=impl), [x, b]),
        "bias_act swish": (lambda impl, x, b: cuda.bias_act(x, b, act="swish", impl=impl), [x, b]),
        "upsample2d": (lambda impl, x: cuda.upsample2d(x, f, impl=impl), [x]),
        "downsample2d": (lambda impl, x: cuda.downsample2d(x, f, impl=impl), [x]),
        "modulated_conv2d up 2": (
            lambda impl, x, w, s, b: cuda.modulated_conv2d(x, w, s, b=b, **up, impl=impl),
            [x, weight, styles, b],
        ),
        "filtered_lrelu": (
            lambda impl, x, b: cuda.filtered_lrelu(x, fu, fu, b, **filtered, impl=impl),
            [x, b],
        ),
    }


AHEAD = 4_000_000  # cycles, some 2 ms, for which the GPU sleeps while the host launches the timed kernels


def median_times(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Microseconds of the GPU and of the host for each run; the GPU's L2 cache is overwritten before each."""
    for _ in range(5):
        function()
    flush = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
    times, host = [], []
    for _ in range(repeats):
        flush.zero_()
        torch.cuda._sleep(AHEAD)  # so that the GPU does not wait for the host while it is timed
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        began = time.perf_counter()
        function()
        host.append((time.perf_counter() - began) * 1e6)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    return statistics.median(times), statistics.median(host)


def compare(function: Callable[..., Tensor], tensors: list[Tensor], repeats: int) -> Iterator[str]:
    """A line for forward and one for forward with backward."""
    torch.compiler.reset()  # torch stops recompiling a function after too many cases
    ways: dict[str, Callable[..., Tensor]] = {
        "triton": lambda *t: function("triton", *t),
        "cpu": lambda *t: function("cpu", *t),
        "compile": torch.compile(lambda *t: function("cpu", *t)),
    }

    def line(label: str, run: Callable[[Callable[..., Tensor]], object]) -> str:
        times = {way: median_times(lambda: run(call), repeats) for way, call in ways.items()}  # noqa: B023
        return f"{label:21s} " + " ".join(f"{way} {t:6.0f} us ({h:5.0f})" for way, (t, h) in times.items())

    with torch.no_grad():
        exact = function("reference", *(t.double() for t in tensors))
        error = (function("triton", *tensors).double() - exact).abs().max() / exact.abs().max()
        yield f"{line('forward', lambda call: call(*tensors))}  error {error:.1e}"
    variables = [t.detach().requires_grad_() for t in tensors]
    dy = torch.randn_like(function("cpu", *variables))
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
    from gankit.core.cuda.triton import launch

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.dtype}")
    for name, (function, tensors) in cases(getattr(torch, options.dtype), options.channels_last).items():
        for line in compare(function, tensors, options.repeats):
            print(f"{name:24s} {line}", flush=True)
    for name, error in launch.FAILED.items():
        print(f"FAILED {name}: {error!r}; its times above are those of plain torch")
    return 1 if launch.FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
