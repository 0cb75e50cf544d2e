"""The FIR filter after a transposed convolution, and what follows it, of channels-last maps on a CPU as one kernel."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor

from gankit.core.cuda.epilogue import Epilogue
from gankit.core.cuda.native import LANES, epilogue
from gankit.core.cuda.native.epilogue import Finish
from gankit.core.cuda.native.machine import (
    FLOAT,
    FLOATS,
    HALF,
    INT,
    WORDS,
    Code,
    Int,
    Kernel,
    numbered,
    row_addresses,
)

SIZES = (
    *epilogue.SIZES, "row", "rows", "pad_y", "pad_x", "h", "w", "x_row", "x_column", "width", "y_row", "y_column",
)  # fmt: skip
GROUP = 2 * LANES  # channels that go together, even ones and odd ones
ROWS = 4  # of the result that a thread takes at least: it reads a few more of the map


def run(x: Tensor, y: Tensor, f: tuple[Tensor, Tensor], padding: tuple[int, int], after: Epilogue) -> None:
    """Fill `y` [N, O, h, w] from `x` [N, O, H, W], both channels-last, both bfloat16, with `GROUP` channels or more.

    `f` are two filters of so many taps each, which correlate along y and along x, with as many zeros in front of the
    first row and column as `padding` says.
    """
    (n, _, h, w), (height, width) = x.shape, y.shape[2:]
    call, taps = kernel(len(f[0])), torch.cat(f).float()
    step = max(math.ceil(height * n / (4 * torch.get_num_threads())), ROWS)
    starts, numbers = range(0, height, step), epilogue.numbers(after)
    nothing = np.zeros(GROUP, np.float32)
    sizes = {
        **epilogue.sizes(after), "pad_y": padding[0], "pad_x": padding[1], "h": h, "w": w, "x_row": x.stride(2),
        "x_column": x.stride(3), "width": width, "y_row": y.stride(2), "y_column": y.stride(3),
    }  # fmt: skip
    counts = numbered(SIZES, sizes, len(starts))
    places = [SIZES.index(name) for name in ("row", "rows")]
    counts[:, places] = [(row, min(step, height - row)) for row in starts]
    tasks = np.empty((n, len(starts), 7), np.int64)
    for s in range(n):
        a, b = (t.data_ptr() + s * t.stride(0) * t.element_size() for t in (x, y))
        tasks[s, :, :6] = a, b, nothing.ctypes.data, taps.data_ptr(), *epilogue.addresses(after, numbers, s)
    tasks[:, :, 6] = row_addresses(counts)
    call.run(tasks.reshape(-1, 7))


@functools.cache
def kernel(taps: int) -> Kernel:
    """Takes the addresses of x, y, zeros for a group of channels, the filter, `epilogue.numbers`, noise and sizes
    (int64, by `SIZES`)."""
    code = Code([HALF, HALF, HALF, FLOAT, FLOAT, FLOAT, INT])
    b = code.b
    x, y, nothing, weights, numbers, noise, sizes, _ = code.arguments
    size = {name: Int(b, b.load(code.at(sizes, i))) for i, name in enumerate(SIZES)}
    finish = Finish(code, numbers, noise, size)
    own = [code.every(b.load(code.at(weights, i))) for i in range(2 * taps)]

    with code.loop(0, size["rows"]) as i:
        row = size["row"] + i
        seen = []
        for j in range(taps):
            r = row + j - size["pad_y"]
            seen.append((code.within(r, size["h"]), r * size["x_row"]))
        with code.loop(0, size["outputs"], GROUP) as first:
            channel = code.lower(first, size["outputs"] - GROUP)
            constants = finish.constants(channel, 2)
            # sums along y of the last columns: those of the filter but one
            window = [ir.Constant(FLOATS, [0.0] * LANES)] * ((taps - 1) * 2)
            with code.loop(0, size["width"] + (taps - 1), carried=window) as position:
                c = position - size["pad_x"]
                inside = code.within(c, size["w"])
                columns: list[list[ir.Value]] = []
                for within, start in seen:
                    address = code.at(x, start + c * size["x_column"] + channel)
                    source = b.select(b.and_(within, inside), address, nothing)
                    columns.append(code.even_and_odd(code.load(source, code.number(0), WORDS)))
                sums = [code.dot([column[v] for column in columns], own[:taps]) for v in range(2)]
                window += sums
                target = position - (taps - 1)
                with b.if_then(target.compared(">=", 0), likely=True):
                    values = [code.dot(window[v::2], own[taps:]) for v in range(2)]
                    values = finish.pixel(code.in_turn(*values), constants, row, target)
                    code.put(values, True, y, row * size["y_row"] + target * size["y_column"] + channel)
                del window[:2]
    return code.compiled()
