"""Times whole generators on a CPU: gankit, the textbook formulation, and the convolutions alone.

    python benchmarks/generators.py --net stylegan2 --batch 1 8 --dtype fp32 bf16

The three are timed in turn, with the same random weights, and medians of the repeats are printed: (a) gankit, (b) the
textbook formulation in fp32 (see `textbook.py`), (c) the convolutions alone, channels-last, in the dtype of (a), or in
fp32 if the CPU has no matrix products in it. Ratios are medians of the ratios of each round, so that other load on the
machine affects all alike. (a) and (c) run in a process of their own that keeps freed memory, as `gankit sample` does
(`devices.keep_freed_memory`).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import textbook
import torch
from torch import Tensor

from gankit.core.config.registry import registry
from gankit.core.cuda import ConstantWeights
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.networks import Generator
from gankit.core.models import build, stored_state
from gankit.core.runtime import devices, tensor_files

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WEIGHTS = ConstantWeights()  # as `gankit.load` does
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NETS: dict[str, dict[str, Any]] = {
    "stylegan2": {"channel_base": 16384, "channel_max": 512},
    "stylegan-t": {"channel_base": 32768, "channel_max": 512, "num_res_blocks": 3},
    "stylegan3": {"channel_base": 16384, "channel_max": 512},
}


def build_network(net: str, size: int, last: bool = True) -> Generator:
    """A generator with random weights, biases and noise strengths, none zero, so that no operation is skipped.

    `last`: prepare it as gankit does for sampling."""
    torch.manual_seed(0)
    generator: Generator = registry().load("generator", net)((3, size, size), CondSpec(0), **NETS[net])
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise_strength", "bias")) and "affine" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    with tempfile.TemporaryDirectory() as folder:  # in a file, as weights of gankit are
        path = Path(folder, "generator.safetensors")
        tensor_files.save_tensors(path, generator.state_dict())
        stored_state.load_stored(generator, tensor_files.load_tensors(path)[0], path, adopt=True)
    generator.eval().requires_grad_(False)
    return build.for_sampling(generator, torch.device("cpu")) if last else generator


def images(generator: Generator, ws: Tensor) -> Tensor:
    with WEIGHTS.kept():
        return generator.synthesis(ws, noise_mode="const")


def calls_of(generator: Generator, ws: Tensor) -> list[tuple[Any, ...]]:
    """Arguments of the modulated convolutions called in drawing one batch."""
    from gankit.core.cuda import dispatch

    calls: list[tuple[Any, ...]] = []
    plain = dispatch.COMPOSITE["modulated_conv2d"]
    with textbook.instead({"modulated_conv2d": lambda *a: calls.append(a) or plain(*a)}):  # type: ignore[func-returns-value]
        images(generator, ws)
    return calls


def work(orders: Connection, net: str, size: int, batch: int, dtype: str, clock: str) -> None:
    """Child process: times a way for each order received, and sends milliseconds and images.

    `dtype` is a key of DTYPES, or "textbook" for the textbook formulation."""
    torch.set_grad_enabled(False)
    own = dtype in DTYPES
    if own:
        devices.keep_freed_memory()
    generator = build_network(net, size, last=own)
    ws = generator.mapping(torch.randn(batch, generator.z_dim))
    ways: dict[str, Callable[[], object]] = {}
    if own:
        ws = ws.to(DTYPES[dtype])
        multiplied = DTYPES[dtype] if devices.multiplies(DTYPES[dtype], ws.device) else torch.float32
        alone = textbook.convolutions(calls_of(generator, ws), multiplied)
        ways["c"] = lambda: [function(x, w, **options) for function, x, w, options in alone]
    ways["a" if own else "b"] = lambda: images(generator, ws)
    with contextlib.nullcontext() if own else textbook.instead(textbook.OPERATORS):
        while (way := orders.recv()) != "end":
            start = CLOCKS[clock]()
            made = ways[way]()
            passed = (CLOCKS[clock]() - start) * 1000
            orders.send((passed, made.numpy() if isinstance(made, Tensor) else None))


def quotient(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b))


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of images in [-1, 1] (peak 2)."""
    return 10 * torch.log10(4 / (a.double() - b.double()).square().mean()).item()


def report(net: str, size: int, batch: int, dtype: str, repeats: int, clock: str) -> str:
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    for way in (dtype, "textbook"):
        workers[way], other = context.Pipe()
        context.Process(target=work, args=(other, net, size, batch, way, clock), daemon=True).start()
    times: dict[str, list[float]] = {way: [] for way in "abc"}
    pictures: dict[str, Tensor] = {}
    for i in range(repeats + 1):
        for way in times:
            worker = workers["textbook" if way == "b" else dtype]
            worker.send(way)
            milliseconds, made = worker.recv()
            if i:  # the first round warms up
                times[way].append(milliseconds)
            elif made is not None:
                pictures[way] = torch.from_numpy(made)
    for worker in workers.values():
        worker.send("end")
    similarity = psnr(pictures["a"], pictures["b"])
    a, b, c = (statistics.median(t) for t in times.values())
    faster, over = quotient(times["b"], times["a"]), quotient(times["a"], times["c"])
    return (
        f"{net:10s} {size} px batch {batch} {dtype}: gankit {a:7.0f} ms  textbook fp32 {b:7.0f} ms  convolutions "
        f"alone {c:7.0f} ms  (b)/(a) {faster:5.2f}  (a)/(c) {over:5.2f}  PSNR {similarity:5.1f} dB"
    )


def profile(net: str, size: int, batch: int, dtype: str) -> str:
    """Time by torch operator."""
    generator = build_network(net, size)
    ws = generator.mapping(torch.randn(batch, generator.z_dim)).to(DTYPES[dtype])
    images(generator, ws)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        images(generator, ws)
    rows = sorted(recorded.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return "\n".join(
        f"  {row.self_cpu_time_total / 1000:8.1f} ms {row.self_cpu_time_total / total:5.1%}  {row.count:4d} x {row.key}"
        for row in rows[:14]
    )


def peak() -> int:
    """Peak resident memory of this process in KB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def peak_memory(net: str, size: int, batch: int, dtype: str, way: str) -> float:
    """Peak memory of drawing in MB above that in use before, weights included. Needs a process of its own, on Linux."""
    generator = build_network(net, size, last=way == "a")
    ws = generator.mapping(torch.randn(batch, generator.z_dim))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before = peak()
    if way == "a":
        images(generator, ws.to(DTYPES[dtype]))
    else:
        with textbook.instead(textbook.OPERATORS):
            images(generator, ws)
    return (peak() - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", nargs="+", choices=list(NETS), default=["stylegan2", "stylegan-t"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: of this process, on a busy machine"
    )
    parser.add_argument("--profile", action="store_true", help="say where gankit's time goes, too")
    parser.add_argument(
        "--memory", action="store_true", help="peak memory instead of time, of so many processes"
    )
    parser.add_argument("--way", choices=["a", "b"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    if options.way:
        print(peak_memory(options.net[0], options.size, options.batch[0], options.dtype[0], options.way))
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    for net in options.net:
        for batch in options.batch:
            for dtype in options.dtype:
                if options.memory:
                    own = [
                        *("--net", net, "--batch", str(batch), "--dtype", dtype, "--size", str(options.size))
                    ]
                    mb = {
                        way: [
                            float(subprocess.check_output([sys.executable, __file__, *own, "--way", way]))
                            for _ in range(options.repeats)
                        ]
                        for way in "ab"
                    }
                    a, b = (
                        f"{statistics.median(mb[way]):.0f} MB ({min(mb[way]):.0f}-{max(mb[way]):.0f})"
                        for way in "ab"
                    )
                    print(f"{net:10s} {options.size} px batch {batch} {dtype}: peak memory of gankit {a}, "
                          f"textbook fp32 {b}", flush=True)  # fmt: skip
                    continue
                print(
                    report(net, options.size, batch, dtype, options.repeats, options.clock),
                    flush=True,
                )
                if options.profile:
                    print(profile(net, options.size, batch, dtype), flush=True)


if __name__ == "__main__":
    main()
