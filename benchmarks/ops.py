"""Times single operators on a CPU: `python benchmarks/ops.py --batch 1 8 --dtype fp32 bf16`.

In one run, in turn: (a) what gankit chooses (with gankit-cpu its kernels), channels-last;
(b) the textbook formulation in fp32 (see
`textbook.py`); (c) for convolutions, the convolution alone, channels-last, in the dtype of (a). Prints medians and
medians of the ratios of each round, without gradients and, with --train, forward and backward. The last lines are the
overhead of checking arguments and choosing an implementation, in microseconds for each call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import textbook
import torch
from generators import CLOCKS, DTYPES, WEIGHTS, quotient
from torch import Tensor

from gankit.core import cuda

Case = tuple[Callable[..., Tensor], list[Tensor]]  # of variables that have the dtype of maps or of parameters


def cases(n: int, c: int, size: int) -> dict[str, Case]:
    """Name -> (function, its arguments in float32); the first argument is a feature map [n, c, size, size]."""
    f = cuda.setup_filter([1, 3, 3, 1])
    fu = cuda.setup_filter(torch.hann_window(14, periodic=False)[1:-1].tolist())
    x, b = torch.randn(n, c, size, size), torch.randn(c)
    w, s = torch.randn(c, c, 3, 3), torch.rand(n, c) + 0.5
    layer: dict[str, Any] = {"padding": 1, "resample_filter": f, "act": "lrelu", "gain": 2**0.5, "clamp": 256}
    noise, noise2 = torch.randn(size, size), torch.randn(2 * size, 2 * size)
    return {
        "bias_act": (lambda x, b: cuda.bias_act(x, b, act="lrelu", clamp=256), [x, b]),
        "upsample2d": (lambda x: cuda.upsample2d(x, f), [x]),
        "downsample2d": (lambda x: cuda.downsample2d(x, f), [x]),
        "filtered_lrelu": (
            lambda x, b: cuda.filtered_lrelu(x, fu, fu, b, up=2, down=2, padding=11, clamp=256),
            [x, b],
        ),
        "conv2d_resample down": (
            lambda x, w, b: cuda.conv2d_resample(x, w, f, down=2, padding=1, b=b),
            [x, w, b],
        ),
        "modulated_conv2d": (
            lambda x, w, s, b: cuda.modulated_conv2d(x, w, s, noise, b=b, **layer),
            [x, w, s, b],
        ),
        "modulated_conv2d up": (
            lambda x, w, s, b: cuda.modulated_conv2d(x, w, s, noise2, up=2, flip_weight=False, b=b, **layer),
            [x, w, s, b],
        ),
        "modulated_conv2d RGB": (
            lambda x, w, s, b: cuda.modulated_conv2d(x, w[:3, :, :1, :1], s, demodulate=False, b=b[:3]),
            [x, w, s, b],
        ),
    }


def alone(call: Callable[..., Tensor], variables: list[Tensor], dtype: torch.dtype) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    plain = cuda.dispatch.COMPOSITE["modulated_conv2d"]
    spy = {"modulated_conv2d": lambda *a: calls.append(a) or plain(*a)}  # type: ignore[func-returns-value]
    with textbook.instead(spy), torch.no_grad():
        call(*variables)
    return textbook.convolutions(calls, dtype)


def measure(
    ways: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds of each way, for each round after a warm-up round."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(repeats + 1):
        for way, run in ways.items():
            start = clock()
            run()
            if i:  # the first round warms up
                times[way].append((clock() - start) * 1000)
    return times


def line(
    name: str, case: Case, dtype: torch.dtype, train: bool, repeats: int, clock: Callable[[], float]
) -> str:
    call, variables = case

    def run(tensors: list[Tensor]) -> object:
        if not train:
            with torch.no_grad(), WEIGHTS.kept():
                return call(*tensors)
        y = call(*tensors)
        return torch.autograd.grad(y, tensors, torch.ones_like(y))

    own = [variables[0].to(dtype).contiguous(memory_format=torch.channels_last), *variables[1:]]
    own = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in own]
    own, original = (
        [t.detach().clone().requires_grad_(train) for t in tensors] for tensors in (own, variables)
    )

    def b() -> object:
        with textbook.instead(textbook.OPERATORS):
            return run(original)

    ways: dict[str, Callable[[], object]] = {"a": lambda: run(own), "b": b}
    convolutions = [] if train else alone(call, own, dtype)
    if convolutions:

        def c() -> object:
            with torch.no_grad():
                return [function(x, w, **options) for function, x, w, options in convolutions]

        ways["c"] = c
    times = measure(ways, repeats, clock)
    a, b_ = (statistics.median(times[way]) for way in "ab")
    text = f"{name:21s} gankit {a:8.2f} ms  textbook {b_:8.2f} ms  (b)/(a) {quotient(times['b'], times['a']):6.2f}"
    if convolutions:
        text += f"  alone {statistics.median(times['c']):8.2f} ms  (a)/(c) {quotient(times['a'], times['c']):5.2f}"
    return text


def overhead() -> str:
    """Microseconds that the public operator adds to its implementation, measured on tensors of a few bytes."""
    x, w, s, f = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3), torch.ones(1, 1), torch.ones(1, 1)
    nothing = lambda *arguments: x  # noqa: E731
    lines = []
    with textbook.instead(dict.fromkeys(textbook.OPERATORS, nothing)):
        for name, call in {
            "bias_act": lambda: cuda.bias_act(x, s[0]),
            "upfirdn2d": lambda: cuda.upfirdn2d(x, f),
            "filtered_lrelu": lambda: cuda.filtered_lrelu(x, f, f),
            "modulated_conv2d": lambda: cuda.modulated_conv2d(x, w, s, padding=1),
        }.items():
            call()
            start = time.process_time()
            for _ in range(2000):
                call()
            lines.append(f"{name} {(time.process_time() - start) / 2000 * 1e6:.1f} us")
    return "checks and dispatch: " + ", ".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", nargs="+", help="only operators whose name starts with one of these")
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=128, help="pixels of the input's side")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: of this process, on a busy machine"
    )
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    for batch in options.batch:
        for dtype in options.dtype:
            print(f"batch {batch}, {options.channels} channels, {options.size} px, {dtype}:")
            for name, case in cases(batch, options.channels, options.size).items():
                if options.op and not name.startswith(tuple(options.op)):
                    continue
                clock = CLOCKS[options.clock]
                print(
                    "  " + line(name, case, DTYPES[dtype], options.train, options.repeats, clock), flush=True
                )
    print(overhead())


if __name__ == "__main__":
    main()
