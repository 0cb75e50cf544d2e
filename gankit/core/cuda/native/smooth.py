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
    Plan,
    place,
)

SIZES = (
    *epilogue.SIZES, "row", "rows", "pad_y", "pad_x", "h", "w", "x_row", "x_column", "width", "y_row", "y_column",
)  # fmt: skip
GROUP = 2 * LANES  # channels that go together, even ones and odd ones
ROWS = 4  # of the result that a thread takes at least: it reads a few more of the map


def run(x: Tensor, y: Tensor, f: Tensor, padding: tuple[int, int], after: Epilogue) -> None:
    """Fill `y` [N, O, h, w] from `x` [N, O, H, W], both channels-last, both bfloat16, with `GROUP` channels or more.

    `f` [2, taps], float32, are two filters, which correlate along y and along x, with as many zeros in front of the
    first row and column as `padding` says.
    """
    noise_width = 0 if after.noise is None else after.noise.shape[2]
    plan = _plan(
        f.shape[1], x.shape, x.stride(), y.shape, y.stride(), padding, noise_width, torch.get_num_threads()
    )
    numbers = epilogue.numbers(after)
    plan.run([place(x), place(y), (f.data_ptr(), 0), *epilogue.places(after, numbers)])


@functools.lru_cache(256)
def _plan(
    taps: int, x: tuple[int, ...], x_steps: tuple[int, ...], y: tuple[int, ...], y_steps: tuple[int, ...],
    padding: tuple[int, int], noise_width: int, threads: int,
) -> Plan:  # fmt: skip
    """For maps of these shapes and strides."""
    (n, o, h, w), (height, width) = x, y[2:]
    step = max(math.ceil(height * n / (4 * threads)), ROWS)
    sizes = {
        **epilogue.sizes(o, noise_width), "pad_y": padding[0], "pad_x": padding[1], "h": h, "w": w,
        "x_row": x_steps[2], "x_column": x_steps[3], "width": width, "y_row": y_steps[2], "y_column": y_steps[3],
    }  # fmt: skip
    tasks = [sizes | {"row": row, "rows": min(step, height - row)} for row in range(0, height, step)]
    rows = np.array([[task[name] for name in SIZES] for task in tasks], np.int64)
    return Plan(kernel(taps), n, 5, [np.zeros(GROUP, np.float32)], rows)


@functools.cache
def kernel(taps: int) -> Kernel:
    """Takes the addresses of x, y, the filters, `epilogue.numbers`, noise, zeros for a group of channels, and sizes
    (int64, by `SIZES`)."""
    code = Code([HALF, HALF, FLOAT, FLOAT, FLOAT, HALF, INT])
    b = code.b
    x, y, weights, numbers, noise, nothing, sizes, _ = code.arguments
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
