"""Modulated 1x1 convolutions of channels-last maps to few channels (RGB) on a CPU as one kernel, without gradients."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor

from gankit_cpu.kernels import LANES
from gankit_cpu.llvm.axes import axes
from gankit_cpu.llvm.machine import (
    FLOAT,
    FLOATS,
    HALF,
    INT,
    WORD,
    WORDS,
    Code,
    Int,
    Kernel,
    Plan,
    channels_in_groups,
    place,
)

GROUP = 2 * LANES  # channels that go together
MOST = 4  # outputs
FOUR = ir.VectorType(FLOAT, MOST)
SIZES = (
    "row", "rows", "columns", "groups", "inputs", "x_row", "x_column", "y_row", "y_column", "y_output", "height",
    "width", "img_row", "img_column", "pad",
)  # fmt: skip
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
    if x.shape[1] < GROUP or len(weight) > MOST:
        return None
    y = x.new_empty(len(x), *x.shape[2:], len(weight)).permute(0, 3, 1, 2)
    _run(x, y, weight, styles, bias, clamp, None, None)
    return y


def onto(
    x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor | None, clamp: float | None, img: Tensor | None,
    f: Tensor | None,
) -> Tensor | None:  # fmt: skip
    """`run` in float32, plus `img` enlarged twice; None where the kernel does not apply.

    A pixel of the result, and so of `img`, takes the memory of four outputs.

    Args:
        img: an earlier result [N, O, H / 2, W / 2], or None.
        f: the filter that enlarges it, [t] or [ty, tx].
    """
    (n, i, h, w), outputs = x.shape, len(weight)
    if i < GROUP or outputs > MOST:
        return None
    if img is not None:
        fits = (n, outputs, h, w) == (*img.shape[:2], 2 * img.shape[2], 2 * img.shape[3]) and _has_room(img)
        f = axes(f, 2)
        if not fits or f is None or f.shape[1] % 2:
            return None
    y = x.new_empty(n, h, w, MOST, dtype=torch.float32).permute(0, 3, 1, 2)
    _run(x, y, weight, styles, bias, clamp, img, f)
    return y[:, :outputs]


def _has_room(img: Tensor) -> bool:
    """True if every pixel has memory for four outputs."""
    n, _, h, w = img.shape
    if img.dtype != torch.float32 or img.stride()[1:] != (1, w * MOST, MOST):
        return False
    end = img.storage_offset() + (n - 1) * img.stride(0) + h * w * MOST
    return img.untyped_storage().nbytes() >= end * 4


def _run(
    x: Tensor, y: Tensor, weight: Tensor, styles: Tensor, bias: Tensor | None, clamp: float | None,
    img: Tensor | None, f: Tensor | None,
) -> None:  # fmt: skip
    i, outputs = x.shape[1], len(weight)
    order = channels_in_groups(i, GROUP, True)
    own = styles.detach().float().numpy().take(order, 1)[:, None] * weight.detach().float().numpy().take(
        order, 1
    )
    own[:, :, len(order) - GROUP :] *= _new(i)
    ends = np.zeros(2 * LANES, np.float32)
    ends[:outputs] = 0 if bias is None else bias.detach().float().numpy()
    ends[LANES:] = math.inf if clamp is None else clamp
    taps = None if y.dtype == torch.bfloat16 else 0 if img is None or f is None else f.shape[1]
    seen = ((0, 0), (0,) * 4) if img is None else (img.shape[2:], img.stride())
    plan = _plan(outputs, taps, x.shape, x.stride(), y.stride(), *seen)
    levels = [] if img is None or f is None else [place(img), (f.data_ptr(), 0)]
    plan.run([place(x), place(y), *levels, place(own), (ends.ctypes.data, 0)])


@functools.lru_cache(256)
def _plan(
    outputs: int, taps: int | None, x: tuple[int, ...], x_steps: tuple[int, ...], y_steps: tuple[int, ...],
    img: tuple[int, ...], img_steps: tuple[int, ...],
) -> Plan:  # fmt: skip
    """For maps of these shapes and strides, and an image of this height and width."""
    n, i, h, w = x
    step = math.ceil(PIXELS / w)
    sizes = {
        "columns": w, "groups": math.ceil(i / GROUP), "inputs": i, "x_row": x_steps[2], "x_column": x_steps[3],
        "y_row": y_steps[2], "y_column": y_steps[3], "y_output": y_steps[1], "height": img[0], "width": img[1],
        "img_row": img_steps[2], "img_column": img_steps[3], "pad": ((taps or 0) + 1) // 2,
    }  # fmt: skip
    tasks = [sizes | {"row": row, "rows": min(step, h - row)} for row in range(0, h, step)]
    rows = np.array([[task.get(name, 0) for name in SIZES] for task in tasks], np.int64)
    constants = [np.zeros(MOST, np.float32)] if taps else []
    return Plan(kernel(outputs, taps), n, 6 if taps else 4, constants, rows)


@functools.cache
def _new(channels: int) -> np.ndarray:
    """Mask of the last group: 1 for channels that are in no other group, else 0."""
    known = channels // GROUP * GROUP if channels % GROUP else channels - GROUP
    return (channels_in_groups(channels, GROUP, True)[-GROUP:] >= known).astype(np.float32)


@functools.cache
def kernel(outputs: int, taps: int | None) -> Kernel:
    """Compile the kernel for so many outputs.

    It takes the addresses of x, y, weights (of an output, by group), bias and bounds (16 floats each) and sizes (int64,
    by `SIZES`). With `taps`, y is in float32; if they are not 0, the addresses of an image and of its filters follow
    that of y, and four zeros come before sizes.
    """
    more = [FLOAT, FLOAT] if taps else []
    code = Code([HALF, HALF if taps is None else FLOAT, *more, FLOAT, FLOAT, *more[1:], INT])
    b = code.b
    x, y, *between, sizes, _ = code.arguments
    img, filters, weights, ends, nothing = between if taps else (None, None, *between, None)
    size = {name: Int(b, b.load(code.at(sizes, i))) for i, name in enumerate(SIZES)}
    bias, bound = (code.load(ends, code.number(i * LANES), FLOATS) for i in (0, 1))
    zero = ir.Constant(FLOATS, [0.0] * LANES)
    first_four = ir.Constant(ir.VectorType(WORD, MOST), list(range(MOST)))

    def met(axis: int, position: Int, length: Int) -> list[tuple[Int, ir.Value, ir.Value]]:
        """Along an axis of the result: pixels of the image under the filter, whether there are such, and their taps."""
        first = (position + size["pad"]) % 2
        start, found = (position + first + size["pad"]) // 2 - size["pad"], []
        for i in range((taps or 0) // 2):
            tap = code.every(b.load(code.at(filters, first + (axis * (taps or 0) + 2 * i))))
            pixel = start + i
            found.append((pixel, code.within(pixel, length), b.shuffle_vector(tap, tap, first_four)))
        return found

    with code.loop(size["row"], size["row"] + size["rows"]) as row:
        rows = met(0, row, size["height"])
        with code.loop(0, size["columns"]) as column:
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
                result = b.insert_element(result, code.sum(total), ir.Constant(WORD, o))
            result = code.clamped(b.fadd(result, bias), bound)
            where = row * size["y_row"] + column * size["y_column"]
            if taps is None:
                result = code.rounded(result)
                for o in range(outputs):
                    value = b.extract_element(result, ir.Constant(WORD, o))
                    b.store(value, code.at(y, where + size["y_output"] * o))
            else:
                result = b.shuffle_vector(result, zero, first_four)
                for c, across, tap in met(1, column, size["width"]):
                    seen = []
                    for r, down, _ in rows:
                        address = code.at(img, r * size["img_row"] + c * size["img_column"])
                        seen.append(
                            code.load(b.select(b.and_(across, down), address, nothing), code.number(0), FOUR)
                        )
                    result = code.plus(result, code.dot(seen, [of_row for _, _, of_row in rows]), tap)
                b.store(result, b.bitcast(code.at(y, where), FOUR.as_pointer()), align=4)
    return code.compiled()
