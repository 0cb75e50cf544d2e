"""3x3 convolutions of channels-last maps on a CPU as one kernel, without gradients: Winograd's minimal filtering along
both axes (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).

Maps are cut into tiles of pixels. A tile of 4 x 4 inputs becomes 16 points, each of which multiplies one of the 16 that
the kernel has become, summed over the channels, and the sums become 2 x 2 outputs: 16 products where there were 36. Of
a transposed convolution with stride 2, whose outputs are four kinds of sums of 1, 2, 2 and 4 products, 3 x 3 inputs
become 16 points, these 25 sums, and those 4 x 4 outputs: 25 products for 36. Points are sums of up to four inputs, and
none is divided, so that little accuracy is lost.

A thread takes some tiles at a time, whose points stay in its core's cache, as do their sums. What follows a
convolution, factors, bias, noise and activation, happens to the outputs in registers. Of weights in bfloat16, a word of
32 bits holds those of two channels. AVX512_BF16 multiplies both by such a pair of points, which are rounded to bfloat16
for it, and adds in float32; on other CPUs the points are in float32, and the weights are widened in registers.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    WORD,
    WORDS,
    Code,
    Int,
    Kernel,
    Plan,
    channels_in_groups,
    features,
    multiplies_pairs,
    place,
)

STEP, POINTS = 2, 4  # along an axis: pixels of the map from tile to tile, and points of a tile
CACHE_BYTES = 2**19  # of the points that a thread works on,
TILES = 64  # or so many tiles, as all weights are read for these
SIZES = (
    *epilogue_code.SIZES, "top", "left", "across", "tile", "tiles", "products_y", "products_x", "pad_y",
    "pad_x", "h", "w", "x_row", "x_column", "groups", "inputs", "first", "last", "blocks", "height", "width", "y_row",
    "y_column",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """The constants that a kernel is compiled for."""

    half: bool  # maps and weights in bfloat16
    pairs: bool  # points, too, for instructions that multiply pairs
    transposed: bool
    tiles: int  # whose sums are in registers at once
    vectors: int  # of outputs, the same

    @property
    def group(self) -> int:
        """Channels of the map that go together."""
        return 2 * LANES if self.half else LANES

    @property
    def held(self) -> int:
        """Words that a point of a group takes."""
        return self.group // 2 if self.pairs else self.group

    @property
    def block(self) -> int:
        """Outputs that go together."""
        return self.vectors * LANES

    @property
    def reach(self) -> int:
        """Pixels of the map that a tile sees along an axis."""
        return 3 if self.transposed else 4

    @property
    def products(self) -> int:
        """Along an axis."""
        return 5 if self.transposed else 4

    @property
    def made(self) -> int:
        """Outputs along an axis."""
        return 4 if self.transposed else 2


def kind(half: bool, transposed: bool) -> Kind | None:
    """For the CPU at hand; None for transposed ones in float32, of which `finish` takes none, and for bfloat16 on other
    than x86 CPUs, whose own products may be as fast."""
    if (transposed and not half) or (half and not features().get("avx2")):
        return None
    if features().get("avx512f"):  # 32 registers of 16 floats
        return Kind(half, half and multiplies_pairs(), transposed, 8, 2)
    return Kind(half, False, transposed, 5 if half else 6, 1)  # 16 of 8 floats, or 32 of 4


def weights(weight: Tensor, kind: Kind) -> Tensor:
    """[O, I, 3, 3] -> words [16, block of outputs, words of inputs, outputs of the block], as the kernel wants it.

    Of channels that do not fill the last group or block, that one has the last channels, and a group has no weight
    where they are in another already.
    """
    (o, i), block, group = weight.shape[:2], kind.block, kind.group
    inputs, outputs = channels_in_groups(i, group), channels_in_groups(o, block).reshape(-1, block)
    points = torch.kron(_points(kind), _points(kind))
    shape = (POINTS**2, len(outputs), len(inputs) * block)
    result = torch.empty(shape, dtype=torch.bfloat16 if kind.half else torch.float32, device="cpu")
    for number, some in enumerate(outputs):  # all at once would take several times the memory of the result
        w = weight[some[0] : some[0] + block].detach().float().flatten(2)
        if len(inputs) > i:
            w = w[:, inputs]
            w[:, i // group * group : -(i % group)] = 0
        w = w.transpose(0, 1)
        if kind.half:  # a group holds its even channels, then its odd ones, and a word two of these
            w = w.reshape(-1, LANES // 2, 2, 2, block, 9).permute(0, 3, 1, 4, 2, 5)
        result[:, number] = points @ w.reshape(-1, 9).t()
    return result


def _points(kind: Kind) -> Tensor:
    """[4, 3]: the points of a kernel of three taps."""
    rows = [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]
    if kind.transposed:
        rows = [[0, 0, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0]]
    return torch.tensor(rows, dtype=torch.float32, device="cpu")


def plain(
    x: Tensor, weight: Tensor, padding: Sequence[int], size: tuple[int, int], transposed: bool
) -> Tensor | None:
    """A convolution with nothing before or after it; None where this CPU has no `kind` for it.

    Args:
        x: [N, I, H, W], bfloat16 and channels-last, with 32 channels or more.
        weight: [O, I, 3, 3], with 32 outputs or more.
        padding: of height and width.
        size: of the result, (h, w).
        transposed: take the transposed convolution with stride 2.
    """
    own = kind(True, transposed)
    if own is None:
        return None
    shape = (len(x), len(weight), *size)
    y = torch.empty(shape, dtype=x.dtype, device="cpu", memory_format=torch.channels_last)  # no view
    styles, factors = (
        torch.ones(len(x), count, dtype=torch.float32, device="cpu") for count in (x.shape[1], len(weight))
    )
    run(x, y, weights(weight, own), own, padding, styles, Epilogue(factors))
    return y


def run(
    x: Tensor, y: Tensor, weights: Tensor, kind: Kind, padding: Sequence[int], styles: Tensor, after: Epilogue
) -> None:  # fmt: skip
    """Fill `y` [N, O, h, w] with the convolution of `x * styles`, both channels-last, with a group of channels or more.

    A transposed convolution has `padding` 0, and nothing happens after it.
    """
    noise_width = 0 if after.noise is None else after.noise.shape[2]
    plan = _plan(
        kind, x.shape, x.stride(), y.shape, y.stride(), tuple(padding), noise_width, torch.get_num_threads()
    )
    order = channels_in_groups(x.shape[1], kind.group, kind.half)
    factors = styles.detach().float().numpy().take(order, 1)
    numbers = epilogue_code.numbers(after)
    made = weights.data_ptr(), 0
    plan.run([place(x), place(y), place(factors), made, *epilogue_code.places(after, numbers)])


@functools.lru_cache(256)
def _plan(
    kind: Kind, x: tuple[int, ...], x_steps: tuple[int, ...], y: tuple[int, ...], y_steps: tuple[int, ...],
    padding: tuple[int, int], noise_width: int, threads: int,
) -> Plan:  # fmt: skip
    """For maps of these shapes and strides."""
    (n, i, h, w), (_, o, height, width) = x, y
    before = (1, 1) if kind.transposed else padding  # pixels that the first tile sees beyond the map
    groups, blocks = math.ceil(i / kind.group), math.ceil(o / kind.block)
    most = max(CACHE_BYTES // (POINTS**2 * groups * kind.held * 4), TILES)
    pieces, largest = [], 0
    for (top, down, products_y), (left, across, products_x) in itertools.product(
        _spans(kind, height), _spans(kind, width)
    ):
        count = down * across
        parts = max(math.ceil(count / most), min(math.ceil(2 * threads / n), count // kind.tiles), 1)
        step = math.ceil(math.ceil(count / parts) / kind.tiles) * kind.tiles
        largest = max(largest, step)
        for tile in range(0, count, step):
            pieces.append((top, left, across, tile, min(step, count - tile), products_y, products_x))
    shares = min(max(threads // (n * len(pieces)), 1), blocks)  # threads for the same tiles
    cuts = itertools.pairwise([blocks * share // shares for share in range(shares + 1)])
    own = ("top", "left", "across", "tile", "tiles", "products_y", "products_x", "first", "last")
    sizes = {
        **epilogue_code.sizes(o, noise_width), "pad_y": before[0], "pad_x": before[1], "h": h, "w": w,
        "x_row": x_steps[2], "x_column": x_steps[3], "groups": groups, "inputs": i, "blocks": blocks,
        "height": height, "width": width, "y_row": y_steps[2], "y_column": y_steps[3],
    }  # fmt: skip
    tasks = [sizes | dict(zip(own, (*piece, *cut))) for piece, cut in itertools.product(pieces, cuts)]
    rows = np.array([[task[name] for name in SIZES] for task in tasks], np.int64)
    scratch = kind.products**2 * largest * kind.block + POINTS**2 * largest * groups * kind.held
    return Plan(kernel(kind), n, 6, [np.zeros(kind.group, np.float32)], rows, scratch)


def _spans(kind: Kind, size: int) -> list[tuple[int, int, int]]:
    """Tiles of an axis as (first, count, products of each): of a transposed convolution's last tile,
    where that has one output alone, the two that make it."""
    whole = size // kind.made
    if not kind.transposed or size % kind.made != 1:
        return [(0, math.ceil(size / kind.made), kind.products)]
    return [(0, whole, kind.products), (whole, 1, 2)] if whole else [(0, 1, 2)]


# Long because a kernel is written down as its loops nest: each step uses the values of the loops around it.
@functools.cache
def kernel(kind: Kind) -> Kernel:
    """Compile the kernel of a kind.

    It takes the addresses of x, y, factors on the channels of x, weights, `epilogue_code.numbers`, noise, zeros for a
    group of channels, and sizes (int64, by `SIZES`).
    """
    number, word, vector = (HALF, WORD, WORDS) if kind.half else (FLOAT, FLOAT, FLOATS)
    parts = kind.held // LANES  # of a word of the weights that are multiplied one after the other
    code = Code([number, number, FLOAT, word, FLOAT, FLOAT, number, INT])
    b = code.b
    x, y, factors, weights, numbers, noise, nothing, sizes, scratch = code.arguments
    points = b.bitcast(scratch, (WORD if kind.pairs else FLOAT).as_pointer())
    size = {name: Int(b, b.load(code.at(sizes, i))) for i, name in enumerate(SIZES)}
    words = size["groups"] * LANES  # of a pixel
    filled = (size["tiles"] + (kind.tiles - 1)) // kind.tiles * kind.tiles
    depth = words * parts  # of a tile's points
    plane = filled * depth  # of one point
    sums = code.at(scratch, plane * POINTS**2)
    finish = Finish(code, numbers, noise, size)

    def place(tile: Int) -> tuple[Int, Int]:
        number = size["tile"] + tile
        return size["top"] + number // size["across"], size["left"] + number % size["across"]

    with code.loop(0, size["tiles"]) as tile:
        row, column = place(tile)
        pixels = []  # of the map that the tile sees
        for down, right in itertools.product(range(kind.reach), repeat=2):
            r, c = row * STEP + down - size["pad_y"], column * STEP + right - size["pad_x"]
            inside = b.and_(code.within(r, size["h"]), code.within(c, size["w"]))
            pixels.append((inside, code.at(x, r * size["x_row"] + c * size["x_column"])))
        with code.loop(0, size["groups"]) as group:
            channel = code.lower(group * kind.group, size["inputs"] - kind.group)
            loaded = []
            for inside, address in pixels:
                value = code.load(
                    b.select(inside, code.at(address, channel), nothing), code.number(0), vector
                )
                loaded.append(code.even_and_odd(value) if kind.half else [value])
            made = []
            for part in range(len(loaded[0])):
                factor = code.load(factors, group * kind.group + part * LANES, FLOATS)
                values = [b.fmul(pixel[part], factor) for pixel in loaded]
                made.append(_along_both(b, values, _evaluate_transposed if kind.transposed else _evaluate))
            for p, of_point in enumerate(zip(*made)):
                first = plane * p + tile * depth + group * kind.held
                for part, value in enumerate((code.joined(*of_point),) if kind.pairs else of_point):
                    code.store(value, points, first + part * LANES)

    def point(product: Int, again: int) -> Int:
        """The number of the point that is in a product along an axis: of the last of a transposed convolution that of
        another."""
        return Int(b, b.select(product.compared("<", POINTS), product.value, ir.Constant(INT, again)))

    width = kind.tiles * kind.vectors  # vectors of sums, which stay in registers
    with code.loop(size["first"], size["last"]) as block:
        output = code.lower(block * kind.block, size["outputs"] - kind.block)
        constants = finish.constants(output, kind.vectors)
        with code.loop(0, size["products_y"]) as py, code.loop(0, size["products_x"]) as px:
            mine, other = (point(py, again) * POINTS + point(px, again) for again in (1, 3))
            taken = code.at(weights, (other * size["blocks"] + block) * words * kind.block)
            with code.loop(0, filled, kind.tiles) as tile:
                seen = code.at(points, plane * mine + tile * depth)
                totals = [ir.Constant(FLOATS, [0.0] * LANES)] * width
                with code.loop(0, words, carried=totals) as k:
                    rows = [code.load(taken, k * kind.block + n * LANES, vector) for n in range(kind.vectors)]
                    for part in range(parts):
                        own = rows if parts == 1 else [code.even_and_odd(row)[part] for row in rows]
                        for t in range(kind.tiles):
                            value = code.every(b.load(code.at(seen, depth * t + k * parts + part)))
                            for n, w in enumerate(own):
                                add, at = code.sum_of_pairs if kind.pairs else code.plus, t * kind.vectors + n
                                totals[at] = add(totals[at], value, w)
                start = (tile * kind.products**2 + (py * kind.products + px) * kind.tiles) * kind.block
                for n, total in enumerate(totals):
                    code.store(total, sums, start + n * LANES)

        with code.loop(0, size["tiles"]) as tile:
            first = tile // kind.tiles * (kind.products**2 * kind.tiles) + tile % kind.tiles
            made = []
            for n in range(kind.vectors):
                of_first = first * kind.block + n * LANES
                values = [
                    code.load(sums, of_first + p * (width * LANES), FLOATS) for p in range(kind.products**2)
                ]
                turn = _interpolate_transposed if kind.transposed else _interpolate
                made.append(_along_both(b, values, turn))
            row, column = place(tile)
            for i, (down, right) in enumerate(itertools.product(range(kind.made), repeat=2)):
                r, c = row * kind.made + down, column * kind.made + right
                inside = b.and_(r.compared("<", size["height"]), c.compared("<", size["width"]))
                with b.if_then(inside, likely=True):
                    values = [part[i] for part in made]
                    if not kind.transposed:
                        values = finish.pixel(values, constants, r, c)
                    code.put(values, kind.half, y, r * size["y_row"] + c * size["y_column"] + output)
    return code.compiled()


def _along_both(
    b: ir.IRBuilder, square: Sequence[ir.Value], function: Callable[[ir.IRBuilder, Sequence[ir.Value]], list[ir.Value]]
) -> list[ir.Value]:  # fmt: skip
    side = math.isqrt(len(square))
    columns = [function(b, square[j::side]) for j in range(side)]
    return [value for row in zip(*columns) for value in function(b, row)]


def _evaluate(b: ir.IRBuilder, d: Sequence[ir.Value]) -> list[ir.Value]:
    return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]


def _interpolate(b: ir.IRBuilder, m: Sequence[ir.Value]) -> list[ir.Value]:
    return [b.fadd(b.fadd(m[0], m[1]), m[2]), b.fsub(b.fsub(m[1], m[2]), m[3])]


def _evaluate_transposed(b: ir.IRBuilder, d: Sequence[ir.Value]) -> list[ir.Value]:
    return [b.fsub(d[0], d[1]), d[1], b.fsub(d[2], d[1]), d[2]]


def _interpolate_transposed(b: ir.IRBuilder, m: Sequence[ir.Value]) -> list[ir.Value]:
    return [b.fadd(m[0], m[1]), m[4], b.fadd(m[1], m[2]), m[3]]
