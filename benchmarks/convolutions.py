"""Times single convolutions with gradients in fp32 on a CPU: `python benchmarks/convolutions.py [--batch 2]`.

Forward and backward of the 3x3 convolutions of StyleGAN2 at 128 px (channel_base 16384), of gankit-cpu and of torch in
turn. In seconds of the CPU on one thread, which other programs disturb less than the time that passes; medians of the
rounds, and of their ratios, are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from gankit.interfaces import ops
from gankit_cpu import training

LAYERS = {  # inputs, outputs, size, stride
    "128 px, 128 channels": (128, 128, 128, 1),
    "64 px, 256 channels": (256, 256, 64, 1),
    "32 px, 512 channels": (512, 512, 32, 1),
    "128 -> 64 px, 128 -> 256 channels": (128, 256, 131, 2),
    "64 -> 32 px, 256 -> 512 channels": (256, 512, 67, 2),
}
WAYS = {"gankit-cpu": training.conv2d, "torch": ops.conv2d}


def timed(way: str, x: Tensor, w: Tensor, stride: int) -> float:
    start = time.process_time()
    y = WAYS[way](x, w, None, stride, (1, 1) if stride == 1 else (0, 0), 1)
    y.backward(torch.ones_like(y))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    wish = parser.parse_args()
    torch.set_num_threads(1)
    for name, (inputs, outputs, size, stride) in LAYERS.items():
        x = torch.randn(wish.batch, inputs, size, size).contiguous(memory_format=torch.channels_last)
        w = torch.randn(outputs, inputs, 3, 3) / 50
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(wish.rounds + 1):
            for way, times in seconds.items():
                passed = timed(way, x.detach().requires_grad_(), w.detach().requires_grad_(), stride)
                if number:  # the first round warms up
                    times.append(passed)
        own, torchs = seconds.values()
        ratio = statistics.median(b / a for a, b in zip(own, torchs))
        print(
            f"{name:34} gankit-cpu {statistics.median(own):.3f} s  torch {statistics.median(torchs):.3f} s  {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
