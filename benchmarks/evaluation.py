"""Time of `gankit evaluate --metrics fd` compared with the feature network and the generator alone.

    python benchmarks/evaluation.py [N] [--side 64]

Times the Frechet distance of N images (10,000) of a model (avatars, 64 x 64) on EfficientNet-Lite0: first with real
images and captions to be read and encoded, then with both cached. For comparison, times as many images of the feature
network alone (random pixels through `pooled`) and of the generator alone. Images enter the network at its own side,
224, the default of `gankit evaluate`; with `--side 64` they are not resized, and the network is so cheap that most of
the time goes to the generator. Prints seconds of wall clock and of this process's CPU time; on a busy machine only the
latter are meaningful. The goal is less than twice the time of the network alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable

import torch

import gankit
from gankit.core.config import options
from gankit.core.data.loader import open_source
from gankit.evaluation.evaluate import evaluate
from gankit.evaluation.metric_context import MetricContext, entry_side


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


# Long because the timed parts share the context and are timed and printed in order.
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("images", nargs="?", type=int, default=10_000)
    parser.add_argument("--model", default="avatars")
    parser.add_argument("--side", type=int, help="at which images enter the network; its own when omitted")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    wish = parser.parse_args()
    torch.set_num_threads(wish.threads)
    warnings.simplefilter("ignore")
    network = options.build("feature", "timm-cnn")
    side = entry_side(network, wish.side)
    pixels = torch.rand(wish.batch_size, 3, side, side) * 2 - 1
    pixels = pixels.to(memory_format=torch.channels_last)  # as drawn images come, and faster

    @torch.no_grad()
    def bare() -> None:
        for _ in range(-(-wish.images // wish.batch_size)):
            network.pooled(pixels)

    pipe = gankit.load(wish.model, device="cpu")
    context = MetricContext(
        pipe, open_source(str(pipe.recipe.data.path), pipe.recipe.data.options), num=wish.batch_size
    )
    part = next(context.parts(wish.batch_size))
    context.draw(part)  # encodes its captions

    def drawing() -> None:
        for _ in range(-(-wish.images // wish.batch_size)):
            context.draw(part)

    def distance() -> None:
        evaluate(
            wish.model,
            metrics=["fd"],
            num=wish.images,
            side=wish.side,
            batch_size=wish.batch_size,
            device="cpu",
        )

    network.pooled(pixels)
    with tempfile.TemporaryDirectory() as folder:
        drawings = os.environ.get("GANKIT_CACHE")
        os.environ["GANKIT_CACHE"] = folder
        try:
            times = {
                "bare network": timed(bare),
                "bare generator": timed(drawing),
                "fd, the first time": timed(distance),
                "fd, again": timed(distance),
            }
        finally:
            os.environ.pop("GANKIT_CACHE")
            if drawings is not None:
                os.environ["GANKIT_CACHE"] = drawings
    print(f"{wish.images:,} images, {side} pixels, batches of {wish.batch_size}, {wish.threads} threads")
    wall, cpu = times["bare network"]
    both = [a + b for a, b in zip(times["bare network"], times["bare generator"])]
    print(f"{'':20} {'seconds':>16} {'of the network':>20} {'of network + generator':>25}")
    for name, (seconds, work) in times.items():
        ratios = (seconds, work, seconds / wall, work / cpu, seconds / both[0], work / both[1])
        print("{:20} {:7.1f} ({:6.1f}) {:11.2f} ({:6.2f}) {:16.2f} ({:6.2f})".format(name, *ratios))
    print("in brackets: of CPU time")


if __name__ == "__main__":
    main()
