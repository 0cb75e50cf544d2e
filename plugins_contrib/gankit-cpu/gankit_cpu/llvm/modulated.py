"""The modulated 3x3 convolution without gradients on a CPU by kernels: one, and of an enlarging one a second, which
filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gankit_cpu.epilogue import Epilogue
from gankit_cpu.llvm import finish, winograd_tiles
from gankit_cpu.llvm.axes import axes

SAME = torch.ones(2, 1, dtype=torch.float32, device="cpu")  # filters that change nothing


def run(
    x: Tensor,
    weight: Tensor,
    get: Callable[[tuple[Any, ...], Callable[[], list[Tensor]]], list[Tensor]],
    size: tuple[int, int],
    up: int,
    padding: Sequence[int],
    rest: tuple[int, int, int, int],
    f: Tensor | None,
    styles: Tensor,
    after: Epilogue,
) -> Tensor | None:
    """`after` applied to conv(x * styles), channels-last; None where the kernels do not apply.

    Args:
        x: [N, I, H, W], float32 or bfloat16, channels-last.
        weight: [O, I, kh, kw]; of an enlarging one, unflipped for a transposed convolution.
        get: the weight made ready, by a key and a function that makes it.
        size: of the result.
        up: 1 or more.
        padding: of height and width, or what a transposed convolution cuts.
        rest: (x0, x1, y0, y1), that of the filter after it.
        f: this filter, [t] or [ty, tx].
        styles: [N, I], in float32.
        after: what follows.
    """
    kind = winograd_tiles.kind(x.dtype == torch.bfloat16, up > 1)
    if kind is None or not 0 < after.slope <= 1 or weight.shape[2:] != (3, 3):
        return None
    if len(weight) < kind.block or weight.shape[1] < kind.group:
        return None
    filters = None if up == 1 else axes(f, up)
    if up > 1 and (up != 2 or any(padding) or filters is None or min(rest) < 0 or len(weight) < finish.GROUP):
        return None

    (weights,) = get((kind,), lambda: [winograd_tiles.weights(weight, kind)])
    y = _empty(x, len(weight), size)
    if filters is None:
        winograd_tiles.run(x, y, weights, kind, padding, styles, after)
        return y
    fine = _empty(x, len(weight), (2 * x.shape[2] + 1, 2 * x.shape[3] + 1))
    winograd_tiles.run(x, fine, weights, kind, padding, styles, Epilogue(after.factors))
    finish.run(fine, y, filters, (rest[2], rest[0]), after)
    return y


def finished(
    x: Tensor, y: Tensor, f: Tensor | None, up: int, rest: tuple[int, int, int, int], after: Epilogue, phases: bool
) -> bool:  # fmt: skip
    """Apply the steps after a convolution to `x`, the result of another one; True if the kernel applies.

    It fills `y`, which may be `x` where that does not enlarge. Both are channels-last and bfloat16. `phases` is as in
    `finish.run`; for the rest see `run`."""
    filters = axes(f, up) if up > 1 else SAME
    if filters is None or not 0 < after.slope <= 1 or min(rest) < 0:
        return False
    outputs = y.shape[1]
    if outputs < finish.GROUP or x.stride(1) != 1 or y.stride(1) != 1:
        return False
    if x.data_ptr() == y.data_ptr() and outputs % finish.GROUP:  # some outputs would be computed twice
        return False
    finish.run(x, y, filters, (rest[2], rest[0]) if up > 1 else (0, 0), after, phases)
    return True


def _empty(x: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    return x.new_empty(len(x), *size, channels).permute(0, 3, 1, 2)
