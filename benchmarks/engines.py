"""Speed-up of sampling by the engines over plain torch: medians of interleaved repeats, in one process.

    python -m benchmarks.engines --generators stylegan2 stylegan-t --batches 1 8 --repeats 7

Networks: StyleGAN2 with channel_base 16384; StyleGAN-T with channel_base 32768 and three residual blocks; 256 px,
random weights, constant noise, fp32. 'set-up' is the time before the first picture, in a process without compiled files
of the network and, with --warm, in a later one that has them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from gankit.core.config import options
from gankit.core.config.registry import registry
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.models import build
from gankit.sampling.graphs import SynthesisGraph

NETWORKS: dict[str, dict[str, Any]] = {
    "stylegan2": {"channel_base": 16384, "channel_max": 512},
    "stylegan-t": {"channel_base": 32768, "channel_max": 512, "num_res_blocks": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generators", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument(
        "--engines", nargs="+", default=[n for n in registry().names("engine") if n != "eager"]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--warm", action="store_true", help="Time a second set-up as well.")
    wish = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    for name in wish.generators:
        torch.manual_seed(0)
        spec = {"name": name, **NETWORKS[name]}
        network = options.build("generator", spec, (3, wish.size, wish.size), CondSpec())
        generator = build.channels_last(network, device).eval().requires_grad_(False)
        for batch in wish.batches:
            with torch.no_grad():
                compare(name, SynthesisGraph(generator).eval(), batch, wish)


def compare(name: str, graph: SynthesisGraph, batch: int, wish: argparse.Namespace) -> None:
    device = next(graph.parameters()).device
    ws = graph.generator.mapping(torch.randn(batch, graph.generator.z_dim, device=device))
    inputs = {"ws": ws}
    expected = graph(**inputs)
    draws: dict[str, Callable[[], torch.Tensor]] = {"eager": lambda: graph(**inputs)}
    setups: dict[str, list[float]] = {}
    for engine_name in wish.engines:
        engine = options.build("engine", engine_name)
        if reason := engine.obstacle(device):
            print(f"{name} batch {batch}: {engine_name} is left out: {reason}")
            continue
        setups[engine_name] = []
        for _ in range(2 if wish.warm else 1):
            engine.forget()
            start = time.perf_counter()
            draw = engine.prepare(graph, inputs)
            error = (draw(inputs) - expected).abs().max().item() / max(1, expected.abs().max().item())
            wait(device)
            setups[engine_name].append(time.perf_counter() - start)
        assert error < 1e-3, f"{engine_name} draws other images: {error}"
        draws[engine_name] = lambda draw=draw: draw(inputs)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {engine: [] for engine in draws}
    for _ in range(wish.repeats):
        for engine, run in draws.items():
            start = time.perf_counter()
            run()
            wait(device)
            seconds[engine].append(time.perf_counter() - start)
    eager = statistics.median(seconds["eager"])
    print(f"{name} {wish.size} px, batch {batch}: eager {eager / batch:.3f} s an image")
    for engine, setup in setups.items():
        ratio = statistics.median(e / s for e, s in zip(seconds["eager"], seconds[engine]))
        one = statistics.median(seconds[engine]) / batch
        prepared = ", then ".join(f"{s:.1f}" for s in setup)
        print(f"  {engine:12} {one:.3f} s an image, {ratio:.2f}x eager; set-up {prepared} s", flush=True)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # nothing compiled before counts
        import os

        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        main()
