"""`Epilogue` in kernels, of vectors of outputs that are in registers; its slope is above 0 and at most 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llvmlite import ir

from gankit_cpu.epilogue import Epilogue
from gankit_cpu.kernels import LANES
from gankit_cpu.llvm.machine import FLOATS, Code, Int, place

SIZES = ("outputs", "noise_row", "noise_column")


def sizes(outputs: int, noise_width: int) -> dict[str, int]:
    """With no noise, the width is 0."""
    return {"outputs": outputs, "noise_row": noise_width, "noise_column": min(noise_width, 1)}


def numbers(after: Epilogue) -> np.ndarray:
    """[N, 2 O + 3]: factors, bias, slope, bound, and a 0 in the place of noise."""
    n, o = after.factors.shape
    result = np.zeros((n, 2 * o + 3), np.float32)
    result[:, :o] = after.factors.numpy()
    if after.bias is not None:
        result[:, o : 2 * o] = after.bias.numpy()
    result[:, 2 * o : 2 * o + 2] = after.slope, after.bound
    return result


def places(after: Epilogue, numbers: np.ndarray) -> list[tuple[int, int]]:
    """Places in memory of the numbers and the noise, see `machine.place`."""
    first, step = own = place(numbers)
    if after.noise is None:
        return [own, (first + (numbers.shape[1] - 1) * 4, step)]
    noise, further = place(after.noise)
    return [own, (noise, further if len(after.noise) > 1 else 0)]


class Finish:
    def __init__(self, code: Code, numbers: ir.Value, noise: ir.Value, size: dict[str, Int]) -> None:
        """`numbers` and `noise` are addresses, `size` has `SIZES`."""
        self.code, self.numbers, self.noise, self.size = code, numbers, noise, size
        ends = size["outputs"] * 2
        self.slope, self.bound = (code.every(code.b.load(code.at(numbers, ends + i))) for i in (0, 1))

    def constants(self, output: Int, count: int) -> list[tuple[ir.Value, ir.Value]]:
        """Factors and bias of so many vectors of outputs."""
        firsts = [output + i * LANES for i in range(count)]
        load = self.code.load
        return [
            (load(self.numbers, first, FLOATS), load(self.numbers, self.size["outputs"] + first, FLOATS))
            for first in firsts
        ]

    def pixel(
        self,
        values: Sequence[ir.Value],
        constants: Sequence[tuple[ir.Value, ir.Value]],
        row: Int,
        column: Int,
    ) -> list[ir.Value]:
        code, b, size = self.code, self.code.b, self.size
        where = code.at(self.noise, row * size["noise_row"] + column * size["noise_column"])
        grain, results = code.every(b.load(where)), []
        for value, (factor, bias) in zip(values, constants):
            value = code.plus(b.fadd(bias, grain), value, factor)
            low = b.fmul(value, self.slope)
            value = b.select(b.fcmp_ordered(">", low, value), low, value)  # what is not a number stays so
            results.append(code.clamped(value, self.bound))
        return results
