"""Checks of the operators' arguments, made once before dispatch, so that all implementations refuse alike.

Every check raises a ValueError that names operator, argument, value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gankit.core.cuda.activations import activation

Pair = int | Sequence[int]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def bias_act(x: Tensor, b: Tensor | None, dim: int, act: str, clamp: float | None) -> None:
    op = "bias_act"
    _floating(op, "x", x)
    activation(act)
    _bound(op, clamp)
    if b is not None:
        if not isinstance(dim, int) or not -x.ndim <= dim < x.ndim:
            raise ValueError(f"{op}: dim must be an axis of x, which has {x.ndim}, not {dim!r}")
        _vector(op, "b", b, x.shape[dim], x)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair,
    down: Pair,
    padding: Pair,
    op: str = "upfirdn2d",
    margins: Callable[[int, int, int], tuple[int, int]] = lambda taps, up, down: (0, 0),
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """-> up (x, y), down (x, y), padding (x0, x1, y0, y1) with the `margins` of (taps, up, down) before and after."""
    _maps(op, x)
    _filter(op, "f", f, x)
    ux, uy = pair(up, op, "up")
    dx, dy = pair(down, op, "down")
    x0, x1, y0, y1 = padding4(padding, op)
    nx, ny = filter_size(f)
    (left, right), (top, bottom) = margins(nx, ux, dx), margins(ny, uy, dy)
    x0, x1, y0, y1 = x0 + left, x1 + right, y0 + top, y1 + bottom
    h, w = x.shape[2] * uy + y0 + y1 - ny, x.shape[3] * ux + x0 + x1 - nx
    if h < 0 or w < 0:
        _too_small(op, x, padding, (h // dy + 1, w // dx + 1))
    return (ux, uy), (dx, dy), (x0, x1, y0, y1)


def upsampling(
    x: Tensor, f: Tensor | None, up: Pair, padding: Pair
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Factors and padding for `upfirdn2d` to do `upsample2d`, whose result is `up` times as large."""
    return upfirdn2d(
        x, f, up, 1, padding, "upsample2d", lambda n, up, down: ((n + up - 1) // 2, (n - up) // 2)
    )


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    up: int,
    down: int,
    padding: Pair,
    gain: float,
    clamp: float | None,
) -> tuple[int, int, int, int]:
    """-> padding (x0, x1, y0, y1)."""
    op = "filtered_lrelu"
    _maps(op, x)
    _filter(op, "fu", fu, x)
    _filter(op, "fd", fd, x)
    if b is not None:
        _vector(op, "b", b, x.shape[1], x)
    _factor(op, "up", up)
    _factor(op, "down", down)
    _bound(op, clamp)
    if not 0 < gain < float("inf"):
        raise ValueError(f"{op}: gain must be a positive number, not {gain!r}")
    x0, x1, y0, y1 = sides = padding4(padding, op)
    (ux, uy), (dx, dy) = filter_size(fu), filter_size(fd)
    h, w = x.shape[2] * up + y0 + y1 - uy + 1 - dy, x.shape[3] * up + x0 + x1 - ux + 1 - dx
    if h < 0 or w < 0:
        _too_small(op, x, padding, (h // down + 1, w // down + 1))
    return sides


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    padding: Pair,
    groups: int,
    b: Tensor | None,
    op: str = "conv2d_resample",
    names: tuple[str, str] = ("w", "f"),
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """-> padding (x0, x1, y0, y1), size (h, w) of the output."""
    _maps(op, x)
    _floating(op, names[0], w)
    _beside(op, names[0], w, x)
    if w.ndim != 4 or 0 in w.shape:
        raise ValueError(f"{op}: {names[0]} must be [O, I, kh, kw], not {list(w.shape)}")
    _factor(op, "groups", groups)
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ValueError(
            f"{op}: {names[0]} {list(w.shape)} must have {x.shape[1]} / {groups} input channels, those of x "
            f"{list(x.shape)}, and a multiple of {groups} output channels"
        )
    _filter(op, names[1], f, x)
    _factor(op, "up", up)
    _factor(op, "down", down)
    if b is not None:
        _vector(op, "b", b, w.shape[0], x)
    x0, x1, y0, y1 = sides = padding4(padding, op)
    nx, ny = filter_size(f)
    size = (
        _convolved(x.shape[2], w.shape[2], ny, up, down, y0 + y1),
        _convolved(x.shape[3], w.shape[3], nx, up, down, x0 + x1),
    )
    if size[0] < 1 or size[1] < 1:
        _too_small(op, x, padding, size)
    return sides, size


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    up: int,
    down: int,
    padding: Pair,
    resample_filter: Tensor | None,
    input_gain: Tensor | float | None,
    b: Tensor | None,
    act: str,
    clamp: float | None,
    op: str = "modulated_conv2d",
) -> tuple[int, int, int, int]:
    """-> padding (x0, x1, y0, y1)."""
    names = ("weight", "resample_filter")
    sides, size = conv2d_resample(x, weight, resample_filter, up, down, padding, 1, b, op, names)
    activation(act)
    _bound(op, clamp)
    n, channels = x.shape[:2]
    _floating(op, "styles", styles)
    _beside(op, "styles", styles, x)
    if styles.ndim != 2 or styles.shape[0] != n or styles.shape[1] != channels:
        raise ValueError(f"{op}: styles must be [{n}, {channels}], [N, I] of x, not {list(styles.shape)}")
    if isinstance(input_gain, Tensor):
        _floating(op, "input_gain", input_gain)
        _beside(op, "input_gain", input_gain, x)
        if input_gain.ndim and input_gain.shape not in ((channels,), (n, channels)):
            raise ValueError(
                f"{op}: input_gain must be a number, [{channels}] or [{n}, {channels}], not {list(input_gain.shape)}"
            )
    if noise is not None:
        _floating(op, "noise", noise)
        _beside(op, "noise", noise, x)
        allowed = (n, 1, *size)[4 - noise.ndim :] if noise.ndim in (2, 4) else ()
        if not allowed or any(a not in (1, e) for a, e in zip(noise.shape, allowed)):
            raise ValueError(
                f"{op}: noise must be [{n} or 1, 1, {size[0]}, {size[1]}] or [{size[0]}, {size[1]}] as the output, "
                f"not {list(noise.shape)}"
            )
    return sides


def add_rgb(
    img: Tensor | None,
    f: Tensor | None,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    b: Tensor | None,
    clamp: float | None,
) -> None:
    op = "add_rgb"
    modulated_conv2d(x, weight, styles, None, 1, 1, 0, None, None, b, "linear", clamp, op)
    if weight.shape[2:] != (1, 1):
        raise ValueError(f"{op}: weight must be [O, I, 1, 1], not {list(weight.shape)}")
    if img is None:
        return
    _floating(op, "img", img)
    _beside(op, "img", img, x)
    _filter(op, "f", f, x)
    n, _, h, w = x.shape
    if img.ndim != 4 or (n, len(weight), h, w) != (*img.shape[:2], 2 * img.shape[2], 2 * img.shape[3]):
        raise ValueError(
            f"{op}: img must be None or [{n}, {len(weight)}, {h} / 2, {w} / 2] as the output, not {list(img.shape)}"
        )


# ------------------------------------------------------------------------------------------------ small parts


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """Number of taps along (x, y)."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def pair(factor: Pair, op: str = "upfirdn2d", name: str = "up") -> tuple[int, int]:
    """One resampling factor or (x, y) -> (x, y)."""
    both = (factor, factor) if isinstance(factor, int) else tuple(factor)
    if len(both) != 2 or any(not isinstance(f, int) or isinstance(f, bool) or f < 1 for f in both):
        raise ValueError(
            f"{op}: {name} must be an integer of at least 1, or two of them (x, y), not {factor!r}"
        )
    return both[0], both[1]


def padding4(padding: Pair, op: str = "upfirdn2d") -> tuple[int, int, int, int]:
    """One number, (x, y) or (x0, x1, y0, y1) -> (x0, x1, y0, y1)."""
    sides = [padding] if isinstance(padding, int) else list(padding)
    if len(sides) not in (1, 2, 4) or not all(isinstance(side, (int, torch.SymInt)) for side in sides):
        raise ValueError(f"{op}: padding is one integer, (x, y) or (x0, x1, y0, y1), not {padding!r}")
    sides = [side for side in sides for _ in range(4 // len(sides))]
    return sides[0], sides[1], sides[2], sides[3]


def _convolved(size: int, kernel: int, taps: int, up: int, down: int, padding: int) -> int:
    """Rows or columns that are left by section 6 of the definition of conv2d_resample."""
    if up > 1:  # padded by taps - 1 + up - 1 in all, then filtered
        size, padding = size * up, padding + (taps + up - 1) // 2 + (taps - up) // 2 - (taps - 1)
    if down > 1:
        padding += (taps - down + 1) // 2 + (taps - down) // 2
    size += padding - (kernel - 1)
    return size if down == 1 else (size - taps) // down + 1


def _maps(op: str, x: Tensor) -> None:
    _floating(op, "x", x)
    if x.ndim != 4 or x.shape[1] < 1 or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(
            f"{op}: x must be [N, C, H, W] with at least one channel and pixel, not {list(x.shape)}"
        )


def _floating(op: str, name: str, t: Tensor) -> None:
    if not isinstance(t, Tensor):
        raise ValueError(f"{op}: {name} must be a tensor, not {type(t).__name__}")
    if t.dtype not in FLOATS:
        raise ValueError(f"{op}: {name} must be float16, bfloat16, float32 or float64, not {t.dtype}")


def _beside(op: str, name: str, t: Tensor, x: Tensor) -> None:
    if t.device != x.device:
        raise ValueError(f"{op}: {name} must be on the device of x, {x.device}, not on {t.device}")


def _vector(op: str, name: str, t: Tensor, length: int, x: Tensor) -> None:
    _floating(op, name, t)
    _beside(op, name, t, x)
    if t.ndim != 1 or t.shape[0] != length:
        raise ValueError(f"{op}: {name} must be [{length}], one number for each channel, not {list(t.shape)}")


def _filter(op: str, name: str, f: Tensor | None, x: Tensor) -> None:
    if f is None:
        return
    _floating(op, name, f)
    _beside(op, name, f, x)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(
            f"{op}: {name} must be 1-D taps, a 2-D kernel or None, with at least one tap, not {list(f.shape)}"
        )


def _factor(op: str, name: str, factor: int) -> None:
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
        raise ValueError(f"{op}: {name} must be an integer of at least 1, not {factor!r}")


def _bound(op: str, clamp: float | None) -> None:
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"{op}: clamp must be None or a number of at least 0, not {clamp!r}")


def _too_small(op: str, x: Tensor, padding: Pair, size: tuple[int, int]) -> None:
    raise ValueError(
        f"{op}: padding {padding!r} would make an output of {size[0]} x {size[1]} pixels from x {list(x.shape)}; "
        "it must leave at least 1 x 1"
    )
