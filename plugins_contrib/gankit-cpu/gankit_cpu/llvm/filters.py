"""`filtered_lrelu` of channels-last maps on a CPU as one kernel, without gradients.

A vector holds one pixel of `LANES` channels, in float32. Rows of the map are read in turn and enlarged along y, then
along x, where leaky ReLU and clamp follow, and reduced along x; there they wait until as many are there as the filter
along y sees. So a single row of the upsampled map exists at a time (of a filter in two dimensions, as many as it sees),
close to the core, where operators of torch carry the map through memory several times and round it at every step.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor

from gankit_cpu.kernels import LANES
from gankit_cpu.llvm.machine import FLOAT, FLOATS, HALF, HALVES, INT, Code, Int, Kernel

ROWS = 32  # of the result, at least, that a thread takes: it reads some ten more of the map than these need
SIZES = (
    "h", "top", "steps", "skipped", "x_row", "x_column", "columns", "margin", "span", "fine",
    "rows", "width", "y_row", "y_column", "y_columns",
)  # fmt: skip


@dataclass(frozen=True)
class Phases:
    """One axis enlarged: pixel `i` of phase `r` is the sum over k of x[first + i + k] * taps[r][k]. The pixel that was
    asked for as the first is number `skipped` of all phases in turn."""

    taps: Tensor  # [up, K]
    first: int
    count: int  # of pixels of each phase
    skipped: int

    @staticmethod
    def of(taps: Tensor, up: int, start: int, size: int) -> Phases:
        """For y[o] = sum over i of x[i] * taps[i * up + start - o], o below `size`. Phases begin where all see the same
        inputs, so that none has a tap more than it needs."""
        skipped = (up - 1 - start) % up
        k = math.ceil(len(taps) / up)
        padded = torch.nn.functional.pad(taps, (0, k * up - len(taps)))
        # phase r of o + skipped = up * i + r sees the taps up - 1 - r + up * k
        rows = padded.view(k, up).flip(1).T
        return Phases(rows, -((start + skipped) // up), math.ceil((size + skipped) / up), skipped)


def run(
    x: Tensor, y: Tensor, rows: Phases, columns: Phases, fd: Tensor, down: int, slope: float, clamp: float | None
) -> Tensor:  # fmt: skip
    """Fill and return `y` [N, C, h, w], channels-last like `x`, both float32 or bfloat16 with `LANES` channels or more.

    `rows` and `columns` enlarge `x`. `fd` reduces, as a correlation: [t] along both axes, or [ty, tx]. `down` divides
    the number of phases.
    """
    (n, channels, h, w), (height, width) = x.shape, y.shape[2:]
    up, k = columns.taps.shape
    half = x.dtype == torch.bfloat16
    vectors = 2 if half and channels >= 2 * LANES else 1  # 64 bytes, a line of the cache
    kind = Kind(half, vectors, up, down, k, fd.ndim == 2, len(fd), fd.shape[-1], columns.skipped, slope > 1)
    call = kernel(kind)
    phases, threads = up // down, torch.get_num_threads()
    # the last two groups of channels may overlap: both write the same values
    parts = [min(i, channels - vectors * LANES) for i in range(0, channels, vectors * LANES)]
    bands = min(math.ceil(2 * threads / (n * len(parts))), max(height // ROWS, 1)) if threads > 1 else 1
    step = math.ceil(math.ceil(height / bands) / phases) * phases
    weights = np.concatenate([t.flatten().numpy() for t in (rows.taps, columns.taps, fd)])
    weights = np.append(weights, [slope, math.inf if clamp is None else clamp]).astype(np.float32)
    low, high = max(columns.first, 0), min(columns.first + columns.count + k - 1, w)
    sizes = {
        "h": h, "skipped": rows.skipped, "x_row": x.stride(2), "x_column": x.stride(3), "columns": max(high - low, 0),
        "margin": low - columns.first, "span": columns.count + k - 1, "fine": columns.count,
        "width": math.ceil(width / phases), "y_row": y.stride(2), "y_column": y.stride(3), "y_columns": width,
    }  # fmt: skip
    starts = range(0, height, step)
    numbers = np.empty((len(starts), len(SIZES)), np.int64)
    for own, row in zip(numbers, starts):
        sizes |= {"rows": min(step, height - row), "top": rows.first + row * down // up}
        sizes["steps"] = math.ceil(((sizes["rows"] - 1) * down + len(fd) + rows.skipped) / up)
        own[:] = [sizes[name] for name in SIZES]
    tasks = []
    for i, channel, (row, own) in itertools.product(range(n), parts, zip(starts, numbers)):
        a = x.data_ptr() + (i * x.stride(0) + low * x.stride(3) + channel) * x.element_size()
        b = y.data_ptr() + (i * y.stride(0) + row * y.stride(2) + channel) * y.element_size()
        tasks.append((a, b, own.ctypes.data, weights.ctypes.data))
    call.run(tasks, buffer_size(kind, sizes["span"], sizes["fine"], sizes["width"]))
    return y


@dataclass(frozen=True)
class Kind:
    """The constants that a kernel is compiled for."""

    half: bool
    vectors: int  # of a pixel, at a time
    up: int
    down: int
    taps_up: int  # of a phase
    square: bool  # whether the filter that reduces is in two dimensions
    rows: int  # of that filter
    columns: int
    skipped: int  # along x
    steep: bool  # slope > 1


def buffer_size(kind: Kind, span: int, fine: int, width: int) -> int:
    """Floats that a thread needs for the lines that are kept."""
    lines, rings = kind.up // kind.down, kind.rows
    pixels = (kind.taps_up + kind.up) * span + kind.up * (rings if kind.square else 1) * fine
    pixels += (1 if kind.square else 1 + rings) * lines * width
    # the last is read, but goes nowhere, where `lines` does not divide the width
    return (pixels * kind.vectors + 1) * LANES


# Long because a kernel is written down as its loops nest: each step uses the values of the loops around it.
@functools.cache
def kernel(kind: Kind) -> Kernel:
    """Compile the kernel of a kind.

    It takes the addresses of x, y, sizes (int64, by `SIZES`) and weights (float32: phases along y, along x, the filter
    that reduces, slope, bound). Those of x and y are of the first channel of a group of `vectors`, in the first row
    and the first of the `columns`.
    """
    up, down, k, rows, columns = kind.up, kind.down, kind.taps_up, kind.rows, kind.columns
    lines = up // down  # of the result, as phases along x
    number, vector = (HALF, HALVES) if kind.half else (FLOAT, FLOATS)
    code = Code([number, number, INT, FLOAT])
    b = code.b
    x, y, sizes, weights, buffer = code.arguments
    size = {name: Int(b, b.load(code.at(sizes, i))) for i, name in enumerate(SIZES)}

    place, length, end = {}, {}, code.number(0)
    for name, pixels, count in (
        ("input", size["span"], k),
        ("tall", size["span"], up),
        ("wide", size["fine"], up * (rows if kind.square else 1)),
        ("narrow", size["width"] * lines, 0 if kind.square else rows),
        ("result", size["width"] * lines, 1),
    ):
        place[name], length[name] = end, pixels * LANES
        end = end + length[name] * count

    part = code.number(0)  # where the lines of a vector begin, in loops over the vectors of a pixel

    def line(name: str, index: Int | int) -> Int:
        return part + place[name] + length[name] * index

    def weight(index: Int | int) -> ir.Value:
        return code.every(b.load(code.at(weights, index)))

    reduce = 2 * up * k  # where the weights of that filter begin
    last = reduce + rows * (columns if kind.square else 1)

    def sweep(
        pixels: Int, sources: Sequence[Int], targets: Sequence[Int], first: Int | int, taps: int, shift: int = 0,
        activate: bool = False, add: bool = False,
    ) -> None:  # fmt: skip
        """Each target is a sum of `taps` sources. Either it has weights of its own, from number `first` on, or, with
        `shift`, all have the same and each starts so many sources after the one before."""
        own = [
            [weight(first + (0 if shift else i * taps) + j) for j in range(taps)] for i in range(len(targets))
        ]
        slope, bound = weight(last), weight(last + 1)
        with code.loop(0, pixels * LANES, LANES) as p:
            values = [code.load(buffer, source + p, FLOATS) for source in sources]
            for i, target in enumerate(targets):
                v = code.dot(values[i * shift : i * shift + taps], own[i])
                if add:
                    v = b.fadd(v, code.load(buffer, target + p, FLOATS))
                if activate:  # what is not a number stays so
                    other, low = b.fmul(v, slope), b.fneg(bound)
                    v = b.select(b.fcmp_ordered("<" if kind.steep else ">", other, v), other, v)
                    v = b.select(b.fcmp_ordered(">", v, bound), bound, v)
                    v = b.select(b.fcmp_ordered("<", v, low), low, v)
                code.store(v, buffer, target + p)

    def clear(start: Int | int, end: Int) -> None:
        with code.loop(start, end, LANES) as p:
            code.store(code.every(ir.Constant(FLOAT, 0.0)), buffer, p)

    seen_along_x = range(kind.skipped, kind.skipped + columns + (lines - 1) * down)

    def shifted(first: Int | int) -> list[Int]:
        """Pixels of the upsampled row that starts with this line, as many as the filter sees along x."""
        return [line("wide", first + j % up) + j // up * LANES for j in seen_along_x]

    def each_line(start: Int) -> list[Int]:
        return [start + size["width"] * (q * LANES) for q in range(lines)]

    done = b.alloca(INT)
    b.store(code.number(0).value, done)
    for v in range(kind.vectors):  # columns beside the map stay zero
        clear(end * v, end * v + place["tall"])
    with code.loop(0, size["steps"] + (k - 1)) as i:
        row, target = size["top"] + i, line("input", i % k)
        inside = b.and_(row.compared(">=", 0), row.compared("<", size["h"]))
        with b.if_else(inside) as (then, otherwise):
            with then, code.loop(0, size["columns"]) as j:
                source, to = row * size["x_row"] + j * size["x_column"], target + (size["margin"] + j) * LANES
                for v in range(kind.vectors):
                    values = code.load(x, source + v * LANES, vector)
                    code.store(code.widened(values) if kind.half else values, buffer, to + end * v)
            with otherwise:
                for v in range(kind.vectors):
                    clear(target + end * v, target + end * v + size["span"] * LANES)

        with b.if_then(i.compared(">=", k - 1)):
            with code.loop(0, end * kind.vectors, end) as part:
                seen = [line("input", (i + 1 + j) % k) for j in range(k)]
                for c in range(0, up, 2):  # more at once would want more registers than there are
                    pair = [line("tall", s) for s in range(c, min(c + 2, up))]
                    sweep(size["span"], seen, pair, c * k, k)
            with code.loop(0, up) as r:
                fine_row = (i - (k - 1)) * up + r
                slot = fine_row % rows
                with code.loop(0, end * kind.vectors, end) as part:
                    wide = slot * up if kind.square else code.number(0)
                    seen = [line("tall", r) + j * LANES for j in range(k)]
                    for c in range(0, up, 2):
                        pair = [line("wide", wide + s) for s in range(c, min(c + 2, up))]
                        sweep(size["fine"], seen, pair, (up + c) * k, k, activate=True)
                    if not kind.square:
                        targets = each_line(line("narrow", slot))
                        sweep(size["width"], shifted(0), targets, reduce, columns, shift=down)

                waiting = Int(b, b.load(done))
                start = waiting * down + size["skipped"]
                ready = (fine_row + 1).compared("==", start + rows)
                with b.if_then(b.and_(ready, waiting.compared("<", size["rows"]))):
                    with code.loop(0, end * kind.vectors, end) as part:
                        result = line("result", 0)
                        if kind.square:
                            clear(result, result + length["result"])
                            with code.loop(0, rows) as j:
                                seen, own = shifted((start + j) % rows * up), j * columns + reduce
                                sweep(
                                    size["width"], seen, each_line(result), own, columns, shift=down, add=True
                                )
                        else:
                            seen = [line("narrow", (start + j) % rows) for j in range(rows)]
                            sweep(size["width"] * lines, seen, [result], reduce, rows)
                    for q in range(lines):
                        of_line = (size["y_columns"] + (lines - 1 - q)) // lines
                        with code.loop(0, of_line) as j:
                            source = place["result"] + (size["width"] * q + j) * LANES
                            to = waiting * size["y_row"] + (j * lines + q) * size["y_column"]
                            for v in range(kind.vectors):
                                values = code.load(buffer, source + end * v, FLOATS)
                                code.store(code.rounded(values) if kind.half else values, y, to + v * LANES)
                    b.store((waiting + 1).value, done)
    return code.compiled()
