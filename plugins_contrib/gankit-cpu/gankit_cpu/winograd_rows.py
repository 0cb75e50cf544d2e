"""Winograd's minimal filtering along the height: three taps with half of the products, for float32 on a CPU.

Four rows of outputs depend on six rows of inputs. Seen as polynomials, these are evaluated at the points 0, +-A, +-B
and infinity, and so are the three rows of the kernel; the six products interpolate the outputs (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016, section 4.1). A product is a convolution along the width, so that 6
convolutions of one row stand for 12. Along the width as well it would be 36 products for 144, but the additions, which
are what it costs, then move 2.25 times as much memory: measured, that was faster from 256 channels on only.

With the usual points, 1 and 2, the error was 1.9 times that of a direct convolution (root mean square, 64 to 512
channels), with 5/8 and 3/2, whose squares are exact in binary, 1.3 times (Barabasz et al., "Error Analysis and
Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020, choose points so).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

ROWS, TAPS, POINTS = 4, 3, 6
A, B = 5 / 8, 3 / 2
BLOCK_BYTES = 2**22  # of the inputs or outputs that go together, which should stay in cache
FEWEST_PIXELS, FEWEST_CHANNELS = 1024, 64  # below, a direct convolution is as fast


def pays(x: Tensor, weight: Tensor, size: tuple[int, int]) -> bool:
    """True if this is faster than a direct convolution of `x` [N, I, H, W] with `weight` [O, I, kh, kw] to `size`.

    It does not depend on N, which keeps an image the same in every batch.
    """
    enough = (
        min(weight.shape[:2]) >= FEWEST_CHANNELS
        and size[0] * size[1] >= FEWEST_PIXELS
        and size[0] >= 2 * ROWS
    )
    return x.dtype == torch.float32 and weight.shape[2] == TAPS and enough


def block_rows(weight: Tensor, size: tuple[int, int]) -> int:
    """Number of rows of outputs that are computed together: a multiple of 4 that splits the height evenly."""
    groups = -(-size[0] // ROWS)
    most = max(BLOCK_BYTES // (ROWS * size[1] * max(weight.shape[:2]) * 4), 1)
    return -(-groups // -(-groups // most)) * ROWS


def kernels(weight: Tensor) -> Iterator[Tensor]:
    """[O, I, 3, kw] at the six points, [O, I, 1, kw] each, over the product of the point's distances to the others.

    Those at A and B are A and B times as large, which spares `blocks` additions.
    """
    first, middle, last = weight.split(1, 2)
    yield first / (A * B) ** 2
    for a, b in ((A, B), (B, A)):
        scale = 1 / (2 * a * (a**2 - b**2))
        even, odd = torch.add(first, last, alpha=a**2).mul_(scale), middle * (a * scale)
        yield even + odd
        yield even.sub_(odd)
    yield last


def blocks(
    x: Tensor,
    styles: Tensor | None,
    rows: int,
    padding: Sequence[int],
    product: Callable[[int, Tensor], Tensor],
) -> Iterator[tuple[int, int, Tensor]]:
    """The convolution of `x * styles` with zero padding, some rows at a time.

    Args:
        x: [N, I, H, W], float32, channels-last.
        styles: [N, I, 1, 1], or None for 1.
        rows: of outputs that go together, a multiple of 4.
        padding: of height and width.
        product: convolves, for a point, [1, I, rows / 4, W] with its kernel to [1, O, rows / 4, W'], channels-last.

    Yields the sample, the first row and the outputs [1, O, rows or what is left, W'], good until the next step.
    """
    (n, i, h, w), height = x.shape, x.shape[2] + 2 * padding[0] - TAPS + 1
    x = x.permute(0, 2, 3, 1)
    inputs = x.new_empty(rows + TAPS - 1, w, i)
    points, outputs = x.new_empty(POINTS, rows // ROWS, w, i), x.new_empty(0)
    for sample in range(n):
        for top in range(0, height, rows):
            groups = -(-min(rows, height - top) // ROWS)
            d, v = inputs[: groups * ROWS + TAPS - 1], points[:, :groups]
            start = top - padding[0]
            first, last = max(start, 0), min(start + len(d), h)
            d[: first - start] = 0
            d[last - start :] = 0
            inner = d[first - start : last - start]
            if styles is None:
                inner.copy_(x[sample, first:last])
            else:
                torch.mul(x[sample, first:last], styles[sample].flatten(), out=inner)
            _evaluate([d[j : j + (groups - 1) * ROWS + 1 : ROWS] for j in range(POINTS)], v.unbind())
            m = [product(j, t.permute(2, 0, 1)[None])[0].permute(1, 2, 0) for j, t in enumerate(v)]
            if not outputs.numel():
                outputs = x.new_empty(rows // ROWS, ROWS, *m[0].shape[1:])
            _interpolate(m, outputs[:groups].unbind(1))
            y = outputs.flatten(0, 1)[: min(rows, height - top)]
            yield sample, top, y.permute(2, 0, 1)[None]


def weight_gradient(x: Tensor, dy: Tensor, padding: Sequence[int], width: int) -> Tensor:
    """[O, I, 3, width], the gradient by the kernel of a convolution with zero padding.

    Three rows of it depend on four of `dy` and six of `x`: the filtering of `blocks` with the parts exchanged, so that
    `dy` is evaluated at the points as there the result was interpolated, and the six sums of products are taken to the
    rows of the kernel as there the kernel was taken to the points.

    Args:
        x: [N, I, H, W], float32, channels-last.
        dy: [N, O, H', W'], the same.
        padding: of height and width.
        width: of the kernel.
    """
    (n, o, height, _), (i, h, w) = dy.shape, x.shape[1:]
    groups = -(-height // ROWS)
    step = max(BLOCK_BYTES // (groups * w * max(i, o) * 4), 1)
    step = -(-n // -(-n // step))
    inputs = x.new_zeros(step, groups * ROWS + TAPS - 1, w, i)
    points = x.new_empty(POINTS, step, groups, w, i)
    x, dy = x.permute(0, 2, 3, 1), dy.permute(0, 2, 3, 1)
    sums: list[Tensor] = []
    for first in range(0, n, step):
        some = slice(first, first + step)
        count = len(x[some])
        kept = min(h, inputs.shape[1] - padding[0])  # rows below reach no output
        d, v = inputs[:count], points[:, :count]
        d[:, padding[0] : padding[0] + kept] = x[some, :kept]
        _evaluate([d[:, j : j + (groups - 1) * ROWS + 1 : ROWS] for j in range(POINTS)], v.unbind())
        y = dy[some]
        if height % ROWS:
            y = torch.cat([y, y.new_zeros(count, groups * ROWS - height, *y.shape[2:])], 1)
        for point, (t, u) in enumerate(zip(v, _spread([y[:, j::ROWS] for j in range(ROWS)]))):
            t, u = t.permute(0, 3, 1, 2), u.permute(0, 3, 1, 2)
            part = direct_weight_gradient(t, u, (o, i, 1, width), [0, padding[1]])[:, :, 0]
            if first:
                sums[point].add_(part)
            else:
                sums.append(part)
    dw = torch.empty((o, i, TAPS, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    top, middle, bottom = dw.unbind(2)
    top.copy_(sums[0]).div_((A * B) ** 2)
    middle.zero_()
    bottom.copy_(sums[5])
    for a, b, one, other in ((A, B, sums[1], sums[2]), (B, A, sums[3], sums[4])):
        scale = 1 / (2 * a * (a**2 - b**2))
        top.add_(even := one + other, alpha=scale)
        bottom.add_(even, alpha=scale * a**2)
        middle.add_(one.sub_(other), alpha=scale * a)
    return dw


def direct_weight_gradient(
    x: Tensor, dy: Tensor, shape: Sequence[int], padding: Sequence[int] = (0, 0), stride: int = 1
) -> Tensor:
    """The gradient by the weight as torch computes it, of `shape` [O, I, kh, kw]."""
    weight, mask = x.new_empty(()).expand(*shape), [False, True, False]
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        dy, x, weight, None, [stride] * 2, list(padding), [1, 1], False, [0, 0], 1, mask
    )[1]


def _spread(y: Sequence[Tensor]) -> Iterator[Tensor]:
    """From four rows of outputs, to the points: the transpose of `_interpolate`."""
    yield y[0].contiguous()
    for a in (A, B):
        even, odd = torch.add(y[0] / a, y[2], alpha=a), torch.add(y[1], y[3], alpha=a**2)
        yield even + odd
        yield even.sub_(odd)
    yield y[3].contiguous()


def _evaluate(d: Sequence[Tensor], v: Sequence[Tensor]) -> None:
    """From rows of inputs, to what multiplies the kernel at each point: the transpose of interpolation."""
    even, odd = torch.add(d[4], d[2], alpha=-(B**2)), torch.add(d[3], d[1], alpha=-(B**2))
    torch.add(even, odd, alpha=A, out=v[1])
    torch.add(even, odd, alpha=-A, out=v[2])
    torch.add(d[4], d[2], alpha=-(A**2), out=even)
    torch.add(d[3], d[1], alpha=-(A**2), out=odd)
    torch.add(even, odd, alpha=B, out=v[3])
    torch.add(even, odd, alpha=-B, out=v[4])
    torch.add(even, d[2], alpha=-(B**2), out=v[0]).add_(d[0], alpha=(A * B) ** 2)
    torch.add(d[5], d[3], alpha=-(A**2), out=v[5]).add_(odd, alpha=-(B**2))


def _interpolate(m: Sequence[Tensor], y: Sequence[Tensor]) -> None:
    """From products at the points, to four rows of outputs."""
    even, more = torch.add(m[1], m[2]), torch.add(m[3], m[4])
    torch.add(m[0], even, alpha=1 / A, out=y[0]).add_(more, alpha=1 / B)
    torch.mul(even, A, out=y[2]).add_(more, alpha=B)
    torch.sub(m[1], m[2], out=even)
    torch.sub(m[3], m[4], out=more)
    torch.add(even, more, out=y[1])
    torch.add(m[5], even, alpha=A**2, out=y[3]).add_(more, alpha=B**2)
