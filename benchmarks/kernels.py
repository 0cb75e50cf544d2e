"""Memory traffic of each Triton kernel, from a model of its loads and stores: `python benchmarks/kernels.py`.

Needs no GPU; nothing is measured. `moved` is the number of bytes that the programs of a launch load and store, with
each distinct address counted once in each program (its tile stays in the L1 cache or in registers), so that halos
shared by neighbouring tiles count for both. `minimum` is each input and each output once.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch

from gankit.core.cuda.triton import epilogue, filtered_kernel, resample


@dataclass(frozen=True)
class Traffic:
    label: str
    moved: float  # bytes
    minimum: float


def seen(first: int, outputs: int, taps: int, up: int, down: int, pad: int, size: int) -> int:
    """Number of input samples, on an axis of length `size`, on which outputs first .. first + outputs - 1 depend."""
    low = -(-(first * down - pad) // up)
    high = ((first + outputs - 1) * down + taps - 1 - pad) // up
    return max(min(high, size - 1) - max(low, 0) + 1, 0)


def bias_act(n: int, c: int, size: int, item: int) -> list[Traffic]:
    maps = n * c * size * size * item
    return [
        Traffic("bias_act forward", 2 * maps + 4 * c, 2 * maps + 4 * c),
        Traffic("bias_act backward (from the output)", 3 * maps, 3 * maps),
    ]


def upfirdn2d(
    n: int, c: int, size: int, item: int, up: int, down: int, taps: int, pad: tuple[int, int], last: bool
) -> Traffic:
    out = (size * up + sum(pad) - taps) // down + 1
    period = up // math.gcd(up, down)
    block_x, block_y, block_c, _ = resample.choose_tile(-(-out // period), c, last)
    block_x, block_y = block_x * period, block_y * period  # outputs
    columns = [seen(o, min(block_x, out - o), taps, up, down, pad[0], size) for o in range(0, out, block_x)]
    rows = [seen(o, min(block_y, out - o), taps, up, down, pad[0], size) for o in range(0, out, block_y)]
    programs = len(columns) * len(rows) * n * -(-c // block_c)
    loads = n * c * sum(columns) * sum(rows) * item + programs * taps * taps * 4
    stores = n * c * out * out * item
    layout = "channels-last" if last else "contiguous"
    label = f"upfirdn2d up {up} down {down} taps {taps}x{taps}, {layout}, tile {block_x}x{block_y}x{block_c}"
    return Traffic(label, loads + stores, n * c * size * size * item + taps * taps * 4 + stores)


def epilogues(n: int, c: int, size: int, item: int, last: bool) -> list[Traffic]:
    pixels, maps = size * size, n * c * size * size * item
    block_p, block_c, _ = (epilogue.CHANNELS_LAST_CONFIGS if last else epilogue.CONTIGUOUS_CONFIGS)[0]
    noise = n * -(-c // block_c) * pixels * item
    splits = -(-pixels // (block_p * epilogue.STEPS))
    sums = 2 * n * c * splits * 4
    layout = "channels-last" if last else "contiguous"
    return [
        Traffic(
            f"epilogue forward, {layout}", 2 * maps + noise + 8 * n * c, 2 * maps + pixels * item + 8 * n * c
        ),
        # partial sums are cleared, written, and read by the reduction that follows
        Traffic(f"epilogue backward, {layout}", 4 * maps + 3 * sums, 4 * maps + 2 * n * c * 4),
    ]


def filtered_lrelu(
    n: int,
    c: int,
    size: int,
    item: int,
    up: int,
    down: int,
    taps: tuple[int, int],
    pad: tuple[int, int],
    read: bool,
) -> Traffic:
    high = size * up + sum(pad) - taps[0] + 1
    out = (high - taps[1]) // down + 1
    dtype = torch.float32 if item == 4 else torch.float16
    tile, _ = filtered_kernel.choose_config(dtype, (1, 1), (out, out), down, (taps[1], taps[1]))
    own = filtered_kernel.tile_constants(tile, up, down, (taps[0],) * 2, (taps[1],) * 2)["OUT"]
    starts = range(0, out, own)
    loaded = [seen(o * down, tile, taps[0], up, 1, pad[0], size) for o in starts]
    mask = high * -(-high // 4)  # bytes of a plane
    if read:  # every program reads the bits of its whole tile
        bits = sum(min(tile, high - o * down) for o in starts) ** 2 / 4
    else:
        bits = 2 * mask  # cleared first, then written once
    loads = sum(loaded) ** 2 * item + len(starts) ** 2 * 4 * 2 * sum(taps)
    planes = n * c
    label = f"filtered_lrelu{' backward' if read else ''} up {up} down {down} taps {taps[0]}, {taps[1]}, tile {tile}"
    minimum = size * size * item + out * out * item + mask
    return Traffic(label, planes * (loads + bits + out * out * item), planes * minimum)


def table(n: int, c: int, size: int, item: int) -> list[Traffic]:
    rows = bias_act(n, c, size, item)
    for last in (False, True):
        rows += [
            upfirdn2d(n, c, size, item, 2, 1, 4, (2, 1), last),
            upfirdn2d(n, c, size, item, 1, 2, 4, (1, 1), last),
            upfirdn2d(n, c, size + 1, item, 1, 1, 4, (1, 1), last),
        ]
        rows += epilogues(n, c, size, item, last)
    for read in (False, True):
        rows += [
            filtered_lrelu(n, c, size, item, 2, 2, (12, 12), (13, 12), read),
            filtered_lrelu(n, c, size, item, 4, 2, (24, 12), (20, 17), read),
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--size", type=int, default=128, help="pixels of the input's side")
    parser.add_argument("--bytes", type=int, default=2, choices=(2, 4), help="of an element")
    options = parser.parse_args()
    for row in table(options.batch, options.channels, options.size, options.bytes):
        ratio = row.moved / row.minimum
        print(
            f"{row.moved / 1e6:9.1f} MB moved {row.minimum / 1e6:9.1f} MB minimum {ratio:5.2f}x  {row.label}"
        )


if __name__ == "__main__":
    main()
