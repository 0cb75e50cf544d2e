"""The kernel for the steps after a convolution; after a transposed one it applies the FIR filter first."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor

from gankit_cpu.epilogue import Epilogue
from gankit_cpu.kernels import LANES
from gankit_cpu.llvm import epilogue_code
from gankit_cpu.llvm.epilogue_code import Finish
from gankit_cpu.llvm.machine import (
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
    *epilogue_code.SIZES, "row", "rows", "pad_y", "pad_x", "h", "w", "x_row", "x_column", "width", "y_row", "y_column",
    "x_phase_y", "x_phase_x",
)  # fmt: skip
GROUP = 2 * LANES  # channels that go together, even ones and odd ones
ROWS = 4  # of the result that a thread takes at least: it reads a few more of the map


def run(
    x: Tensor, y: Tensor, f: Tensor, padding: tuple[int, int], after: Epilogue, phases: bool = False
) -> None:
    """Fill `y` [N, O, h, w] from `x` [N, O, H, W], both channels-last, both bfloat16, with `GROUP` channels or more.

    `f` [2, taps], float32, are two filters, which correlate along y and along x, with as many zeros in front of the
    first row and column as `padding` says. `phases`: `x` is [N, 4 O, H / 2, W / 2], a map whose even and odd rows and
    columns lie one after the other, by row, column and channel, and `padding` is 0.
    """
    noise_width = 0 if after.noise is None else after.noise.shape[2]
    steps = x.stride(), y.stride()
    plan = _plan(f.shape[1], phases, x.shape, y.shape, *steps, padding, noise_width, torch.get_num_threads())
    numbers = epilogue_code.numbers(after)
    plan.run([place(x), place(y), (f.data_ptr(), 0), *epilogue_code.places(after, numbers)])


@functools.lru_cache(256)
def _plan(
    taps: int, phases: bool, x: tuple[int, ...], y: tuple[int, ...], x_steps: tuple[int, ...],
    y_steps: tuple[int, ...], padding: tuple[int, int], noise_width: int, threads: int,
) -> Plan:  # fmt: skip
    """For maps of these shapes and strides."""
    (n, o, height, width), (h, w) = y, (size * (2 if phases else 1) for size in x[2:])
    step = max(math.ceil(height * n / (4 * threads)), ROWS)
    sizes = {
        **epilogue_code.sizes(o, noise_width), "pad_y": padding[0], "pad_x": padding[1], "h": h, "w": w,
        "x_row": x_steps[2], "x_column": x_steps[3], "width": width, "y_row": y_steps[2], "y_column": y_steps[3],
        "x_phase_y": 2 * o, "x_phase_x": o,
    }  # fmt: skip
    tasks = [sizes | {"row": row, "rows": min(step, height - row)} for row in range(0, height, step)]
    rows = np.array([[task[name] for name in SIZES] for task in tasks], np.int64)
    scratch = taps * math.ceil(o / GROUP) * GROUP
    return Plan(kernel(taps, phases), n, 5, [np.zeros(GROUP, np.float32)], rows, scratch)


@functools.cache
def kernel(taps: int, phases: bool) -> Kernel:
    """Compile the kernel for filters of so many taps.

    It takes the addresses of x, y, the filters, `epilogue_code.numbers`, noise, zeros for a group of channels, and
    sizes (int64, by `SIZES`).
    """
    code = Code([HALF, HALF, FLOAT, FLOAT, FLOAT, HALF, INT])
    b = code.b
    x, y, weights, numbers, noise, nothing, sizes, scratch = code.arguments
    size = {name: Int(b, b.load(code.at(sizes, i))) for i, name in enumerate(SIZES)}
    finish = Finish(code, numbers, noise, size)
    own = [code.every(b.load(code.at(weights, i))) for i in range(2 * taps)]

    def along(axis: str, position: Int) -> Int:
        """Offset in x at which a row or column begins."""
        step = size["x_row" if axis == "y" else "x_column"]
        return position // 2 * step + position % 2 * size[f"x_phase_{axis}"] if phases else position * step

    room = (size["outputs"] + (GROUP - 1)) // GROUP * GROUP
    with code.loop(0, size["rows"]) as i:
        row = size["row"] + i
        seen = []
        for j in range(taps):
            r = row + j - size["pad_y"]
            seen.append((code.within(r, size["h"]), along("y", r)))
        # where sums along y of the last columns are, all channels of each
        slots = [(room * j).value for j in range(taps)]
        with code.loop(0, size["width"] + (taps - 1), carried=slots) as position:
            c, target = position - size["pad_x"], position - (taps - 1)
            inside, column = code.within(c, size["w"]), along("x", c)
            sources = [(b.and_(within, inside), start + column) for within, start in seen]
            *earlier, latest = (Int(b, slot) for slot in slots)
            with code.loop(0, size["outputs"], GROUP) as first:
                channel = code.lower(first, size["outputs"] - GROUP)
                columns: list[list[ir.Value]] = []
                for within, start in sources:
                    source = b.select(within, code.at(x, start + channel), nothing)
                    columns.append(code.even_and_odd(code.load(source, code.number(0), WORDS)))
                sums = [code.dot([column[v] for column in columns], own[:taps]) for v in range(2)]
                for v, total in enumerate(sums):
                    if earlier:
                        code.store(total, scratch, latest + first + v * LANES)
                with b.if_then(target.compared(">=", 0), likely=True):
                    values = []
                    for v, total in enumerate(sums):
                        known = [code.load(scratch, slot + first + v * LANES, FLOATS) for slot in earlier]
                        values.append(code.dot([*known, total], own[taps:]))
                    constants = finish.constants(channel, 2)
                    values = finish.pixel(code.in_turn(*values), constants, row, target)
                    code.put(values, True, y, row * size["y_row"] + target * size["y_column"] + channel)
            slots.append(slots.pop(0))
    return code.compiled()
