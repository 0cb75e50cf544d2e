"""Modulated 1x1 convolutions of channels-last maps to few channels (RGB) on a CPU as one kernel, without gradients."""

from __future__ import annotations

import functools
import math

import numpy as np
from llvmlite import ir
from torch import Tensor

from gankit.core.cuda.native import LANES
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
    channels_in_groups,
)

GROUP = 2 * LANES  # channels that go together
MOST = 4  # outputs
SIZES = ("row", "rows", "columns", "groups", "inputs", "x_row", "x_column", "y_row", "y_column", "y_output")
PIXELS = 2**12  # that a thread takes at least


def run(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor | None, clamp: float | None) -> Tensor | None:
    """clamp(x * styles @ weight + bias), channels-last in the dtype of `x`, or None where the kernel does not apply.

    Args:
        x: [N, I, H, W], bfloat16, channels-last.
        weight: [O, I].
        styles: [N, I].
        bias: [O].
        clamp: the largest value, or None.
    """
    (n, i, h, w), outputs = x.shape, len(weight)
    if i < GROUP or outputs > MOST:
        return None
    order = channels_in_groups(i, GROUP, True)
    own = styles.detach().float().numpy().take(order, 1)[:, None] * weight.detach().float().numpy().take(
        order, 1
    )
    own[:, :, len(order) - GROUP :] *= _new(i)
    ends = np.zeros(2 * LANES, np.float32)
    ends[:outputs] = 0 if bias is None else bias.detach().float().numpy()
    ends[LANES:] = math.inf if clamp is None else clamp
    y = x.new_empty(n, h, w, outputs).permute(0, 3, 1, 2)
    plan = _plan(outputs, x.shape, x.stride(), y.stride())
    x_first, y_first, first, last = x.data_ptr(), y.data_ptr(), own.ctypes.data, ends.ctypes.data
    x_step, y_step = (t.stride(0) * t.element_size() for t in (x, y))
    plan.run(
        [(x_first + s * x_step, y_first + s * y_step, first + s * own.strides[0], last) for s in range(n)]
    )
    return y


@functools.lru_cache(256)
def _plan(outputs: int, x: tuple[int, ...], x_steps: tuple[int, ...], y_steps: tuple[int, ...]) -> Plan:
    """For maps of these shapes and strides."""
    n, i, h, w = x
    step = math.ceil(PIXELS / w)
    sizes = {
        "columns": w, "groups": math.ceil(i / GROUP), "inputs": i, "x_row": x_steps[2], "x_column": x_steps[3],
        "y_row": y_steps[2], "y_column": y_steps[3], "y_output": y_steps[1],
    }  # fmt: skip
    tasks = [sizes | {"row": row, "rows": min(step, h - row)} for row in range(0, h, step)]
    rows = np.array([[task[name] for name in SIZES] for task in tasks], np.int64)
    return Plan(kernel(outputs), n, 4, [], rows)


@functools.cache
def _new(channels: int) -> np.ndarray:
    """Of the last group, 1 where a channel is in no other, else 0."""
    known = channels // GROUP * GROUP if channels % GROUP else channels - GROUP
    return (channels_in_groups(channels, GROUP, True)[-GROUP:] >= known).astype(np.float32)


@functools.cache
def kernel(outputs: int) -> Kernel:
    """Takes the addresses of x, y, weights (of an output, by group), bias and bounds (16 floats each) and sizes (int64,
    by `SIZES`)."""
    code = Code([HALF, HALF, FLOAT, FLOAT, INT])
    b = code.b
    x, y, weights, ends, sizes, _ = code.arguments
    size = {name: Int(b, b.load(code.at(sizes, i))) for i, name in enumerate(SIZES)}
    bias, bound = (code.load(ends, code.number(i * LANES), FLOATS) for i in (0, 1))
    zero = ir.Constant(FLOATS, [0.0] * LANES)

    with code.loop(size["row"], size["row"] + size["rows"]) as row, code.loop(0, size["columns"]) as column:
        pixel = row * size["x_row"] + column * size["x_column"]
        sums = [zero] * outputs
        with code.loop(0, size["groups"], carried=sums) as group:
            channel = code.lower(group * GROUP, size["inputs"] - GROUP)
            for part, v in enumerate(code.even_and_odd(code.load(x, pixel + channel, WORDS))):
                for o in range(outputs):
                    first = (size["groups"] * o + group) * GROUP + part * LANES
                    sums[o] = code.plus(sums[o], v, code.load(weights, first, FLOATS))
        result = zero
        for o, total in enumerate(sums):
            result = b.insert_element(result, code.sum(total), ir.Constant(ir.IntType(32), o))
        result = code.rounded(code.clamped(b.fadd(result, bias), bound))
        for o in range(outputs):
            value = b.extract_element(result, ir.Constant(ir.IntType(32), o))
            where = row * size["y_row"] + column * size["y_column"] + size["y_output"] * o
            b.store(value, code.at(y, where))
    return code.compiled()
