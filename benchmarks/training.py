"""Times training steps on a CPU: `python benchmarks/training.py [--size 128] [--batch 8] [--rounds 3]`.

StyleGAN2 (channel_base 16384) with R1 every 16th step, no augmentation, random images. In turn, in gankit in bf16, in
gankit in fp32 and in the textbook formulation in fp32 and NCHW (see `textbook.py`), a step with R1 and one without are
timed, forward and backward of G and D; the mean step weighs them 1 to 15. Prints medians over the rounds, and medians
of their ratios. R1 always runs in fp32. Each of the three has a process of its own, since gankit keeps freed memory for
the next step (`devices.keep_freed_memory`, called by `gankit train`) and the textbook formulation does not.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import textbook
import torch

from gankit.core.config import recipe as recipes
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.models import build
from gankit.core.runtime import devices, distributed
from gankit.core.training.assembly import build_parts
from gankit.core.training.step import Stepper

INTERVAL = 16  # steps from one R1 step to the next
CPU = torch.device("cpu")


def build_stepper(size: int, batch: int, bf16: bool, last: bool) -> Stepper:
    """A stepper of StyleGAN2 in `size` px; `last`: channels-last networks, as gankit trains."""
    page = {
        "data.size": size,
        "generator.channel_base": 16384,
        "discriminator.channel_base": 16384,
        "regularizers": {"r1": {"gamma": 1.0, "interval": INTERVAL}, "path-length": False},
        "augmentation": None,
        "train.batch": batch,
        "train.micro_batch": batch,
    }
    recipe = recipes.read("stylegan2", page)
    parts = build_parts(recipe, build.build_conditioner(recipe, Vocabulary()), CPU)
    if not last:
        for network in (parts.G, parts.D):
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Stepper(parts, recipe, CPU, distributed.World(), bf16)


def timed(stepper: Stepper, step: int, images: torch.Tensor, labels: list[Label]) -> float:
    stepper.step = step
    start = time.perf_counter()
    stepper.run(images, labels)
    return time.perf_counter() - start


def work(orders: Connection, way: str, size: int, batch: int) -> None:
    """Process that times the training steps of one way for each order received."""
    torch.manual_seed(0)
    own = way != "textbook"
    if own:
        devices.keep_freed_memory()
    pictures = torch.randn(batch, 3, size, size).clamp(-1, 1)
    if own:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    stepper = build_stepper(size, batch, way == "gankit bf16", own)
    with contextlib.nullcontext() if own else textbook.instead(textbook.OPERATORS):
        while orders.recv() == "round":
            orders.send([timed(stepper, step, pictures, [Label()] * batch) for step in (0, 1)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    wish = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ways: dict[str, Connection] = {}
    for way in ("gankit bf16", "gankit fp32", "textbook"):
        ways[way], other = context.Pipe()
        context.Process(target=work, args=(other, way, wish.size, wish.batch), daemon=True).start()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(wish.rounds + 1):
        for way, worker in ways.items():
            worker.send("round")
            with_r1, without = worker.recv()
            if number:  # the first round warms up
                seconds[way].append((with_r1 + (INTERVAL - 1) * without) / INTERVAL)
    for worker in ways.values():
        worker.send("end")
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    for way, times in seconds.items():
        ratio = statistics.median(b / a for b, a in zip(seconds["textbook"], times))
        print(
            f"{way:12} {statistics.median(times):7.2f} s a step of {wish.batch} images: textbook / this {ratio:5.2f}"
        )


if __name__ == "__main__":
    main()
