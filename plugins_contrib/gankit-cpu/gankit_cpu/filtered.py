"""`filtered_lrelu` without gradients by a kernel of `llvm.filters`."""

from __future__ import annotations

import torch
from torch import Tensor

from gankit.interfaces import ops
from gankit_cpu import kernels

MOST = 16  # phases, and taps of each, that a kernel is compiled for


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
) -> Tensor:
    """`operators.filtered_lrelu` to channels-last maps; NotImplemented where the kernel does not apply.

    It takes maps in float32 or bfloat16 of `LANES` channels or more, filters `fu` along one axis, and `up` that `down`
    divides, as in all layers of StyleGAN3.
    """
    if fu is None or fu.ndim != 1 or fd is None or up % down:
        return NotImplemented
    if max(up, len(fu) // up, *(n // down for n in fd.shape)) > MOST:
        return NotImplemented
    if x.dtype not in (torch.float32, torch.bfloat16) or x.shape[1] < kernels.LANES:
        return NotImplemented
    size = ops.output_size(x, fu, fd, up, down, padding)
    if 0 in (*x.shape, *size) or not ops.values_only(x, (x, b)) or kernels.watched():
        return NotImplemented
    kernel = kernels.load("filters")
    if kernel is None:
        return NotImplemented
    x = x.contiguous(memory_format=torch.channels_last)
    y = x.new_empty(len(x), *size, x.shape[1]).permute(0, 3, 1, 2)
    x = x if b is None else x + b.to(x.dtype).view(-1, 1, 1)
    exact = x[:0].float()  # the kernel computes in float32
    (tx, ty), gains, offset = ops.filter_size(fd), (up * gain, up), (padding[2], padding[0])
    rows, columns = (
        kernel.Phases.of(
            ops.correlation_taps(fu, exact, gains[i], flip_filter), up, offset[i], (size[i] - 1) * down + t
        )
        for i, t in enumerate((ty, tx))
    )
    last = ops.correlation_taps(fd, exact, 1, flip_filter), down, slope, clamp
    y = kernels.attempt("gankit::filtered_lrelu", kernel.run, x, y, rows, columns, *last)
    return NotImplemented if y is None else y
