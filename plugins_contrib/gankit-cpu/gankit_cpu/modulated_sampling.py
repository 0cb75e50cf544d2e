"""The modulated convolution without gradients on a CPU: some samples at a time, in place, on weights prepared once.

Fresh memory is dear (the kernel hands it out page by page), so large maps pass sample by sample through buffers that
the allocator gives again, and all that follows the convolution happens in place. In float32 most convolutions take half
of the products (see `winograd_rows`). Of the others, where the weight is small beside the maps, each sample gets a
weight of its own. oneDNN packs weights at every call; here they are packed once for all samples, and with
`ConstantWeights` once for all calls. In bfloat16, kernels of `llvm` do what follows a convolution; where they pay, they
take the place of all this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from gankit.interfaces.ops import (
    ACTIVATIONS,
    Kernels,
    Ready,
    bf16_units,
    filter_size,
    modulation,
    multiplies_like,
    ready_for,
    transposed_padding,
    upfirdn2d,
    values_only,
)
from gankit_cpu import kernels, onednn, winograd_rows
from gankit_cpu.epilogue import Epilogue

BLOCK_BYTES = 2**21  # samples go together as long as their maps are below this
FOLD = 2  # factors go into a weight where maps are so many times as large,
FOLD_BESIDE_KERNELS = 12  # and where a kernel multiplies maps
FEWEST_VALUES = 2**20  # of a map, from which on it does
ONE = [1, 1]


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    resample_filter: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
    input_gain: Tensor | float | None,
    normalize: bool,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """`operators.modulated_conv2d`; NotImplemented where gradients are asked for and for calls of other kinds.

    The result of larger than 1x1 convolutions is channels-last.
    """
    variables = (x, weight, styles, noise, b, input_gain if isinstance(input_gain, Tensor) else None)
    if _applies(x, variables, weight, up, down, padding, flip_weight, act, gain):
        return _modulated_conv2d(
            x, weight, styles, noise, up, padding, resample_filter, demodulate, input_gain, normalize, b, act, alpha,
            gain, clamp,
        )  # fmt: skip
    plain = not demodulate and act == "linear" and gain == 1 and noise is None
    if plain and padding == (0, 0, 0, 0) and up == down == 1:
        y = _to_few(x, variables, weight, styles, input_gain, b, clamp)
        return NotImplemented if y is None else y
    return NotImplemented


def _applies(
    x: Tensor, variables: tuple[Tensor | None, ...], weight: Tensor, up: int, down: int,
    padding: tuple[int, int, int, int], flip_weight: bool, act: str, gain: float,
) -> bool:  # fmt: skip
    """True if `_modulated_conv2d` can take this call."""
    if x.dtype not in (torch.float32, torch.bfloat16) or torch.is_autocast_enabled("cpu"):
        return False
    if not values_only(x, variables):
        return False
    x0, x1, y0, y1 = padding
    return (
        x.numel() > 0
        and down == 1
        and weight.shape[2:] != (1, 1)
        and flip_weight == (up == 1)
        and (up > 1 or (x0 == x1 >= 0 and y0 == y1 >= 0))
        and ACTIVATIONS[act].homogeneous
        and gain > 0
    )


def _modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    up: int,
    padding: tuple[int, int, int, int],
    resample_filter: Tensor | None,
    demodulate: bool,
    input_gain: Tensor | float | None,
    normalize: bool,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """The modulated convolution, where `_applies` is true; channels-last."""
    ready = ready_for(weight)
    energy = ready.energy if demodulate else None
    _, styles, demodulation = modulation(x, weight, styles, demodulate, input_gain, normalize, energy)
    styles = styles.float()
    scale = styles.new_ones(len(x), len(weight)) if demodulation is None else demodulation

    (h, w), (kh, kw), (x0, x1, y0, y1) = x.shape[2:], weight.shape[2:], padding
    size = h * up + y0 + y1 - kh + 1, w * up + x0 + x1 - kw + 1
    cut, rest = [y0, x0], (0, 0, 0, 0)
    if up > 1:
        cut, rest = transposed_padding(padding, filter_size(resample_filter), (kw, kh), up)
    if noise is not None:
        noise = (noise.float() * gain).expand(*noise.shape[:-2], *size).reshape(-1, *size).contiguous()
    slope = {"linear": 1.0, "relu": 0.0}.get(act, alpha)
    bound = math.inf if clamp is None else clamp
    after = Epilogue(
        (scale * gain).contiguous(), None if b is None else b.float() * gain, noise, slope, bound
    )

    x = x.contiguous(memory_format=torch.channels_last)
    form = _Form(ready, {}, size, up, cut, rest, resample_filter)
    if _kernels_pay(x, normalize):
        y = _by_kernels(x, styles, form, after)
        if y is not None:
            return y
    maps = x if multiplies_like(x) else x.float()
    compute = _by_points if up == 1 and winograd_rows.pays(maps, weight, size) else _by_convolutions
    return compute(maps, styles[:, :, None, None], form, after).to(x.dtype)


@dataclass(frozen=True)
class _Form:
    """A modulated convolution, but for what follows it."""

    ready: Ready
    here: Kernels
    size: tuple[int, int]  # of the result
    up: int
    cut: list[int]  # padding (y, x), or what a transposed convolution cuts,
    rest: tuple[int, int, int, int]  # and the padding of the filter after that
    f: Tensor | None

    @property
    def weight(self) -> Tensor:
        return self.ready.weight

    def result(self, x: Tensor) -> Tensor:
        """Room for it."""
        return _empty(x, (len(x), len(self.weight), *self.size))


def _kernels() -> ModuleType | None:
    return None if kernels.watched() else kernels.load("modulated")


def _by_kernels(x: Tensor, styles: Tensor, form: _Form, after: Epilogue) -> Tensor | None:
    """None where they cannot be had, or do not apply."""
    llvm = _kernels()
    if llvm is None:
        return None
    get = partial(form.ready.get, form.here)
    shape = form.size, form.up, form.cut, form.rest
    return kernels.attempt(  # type: ignore[no-any-return]
        "gankit::modulated_conv2d", llvm.run, x, form.weight, get, *shape, form.f, styles, after
    )


def _by_points(x: Tensor, styles: Tensor, form: _Form, after: Epilogue) -> Tensor:
    """In float32, half of the products."""
    rows, (y0, x0) = winograd_rows.block_rows(form.weight, form.size), form.cut

    def product(point: int, t: Tensor) -> Tensor:
        return onednn.convolve(
            t, partial(_point, form.ready, form.here, point, rows, t, [0, x0]), None, 1, [0, x0]
        )

    y = form.result(x)
    for i, top, t in winograd_rows.blocks(x, styles, rows, (y0, x0), product):
        block = slice(top, top + t.shape[2])
        after.of(slice(i, i + 1)).rows(block).apply(t, y[i : i + 1, :, block])
    return y


def _by_convolutions(x: Tensor, styles: Tensor, form: _Form, after: Epilogue) -> Tensor:
    """By convolutions of oneDNN, and upfirdn2d after those that enlarge; in bfloat16 a kernel does what follows."""
    weight, up, cut = form.weight, form.up, form.cut
    phases = _phases_pay(x) and (up, *weight.shape[2:], *cut, *form.rest) == (2, 3, 3, 0, 0, 1, 1, 1, 1)
    elements = x[0].numel() + len(weight) * math.prod(form.size)
    llvm = _kernels() if x.dtype == torch.bfloat16 else None
    fold = elements > (FOLD if llvm is None else FOLD_BESIDE_KERNELS) * weight.numel()
    step = 1 if fold else max(BLOCK_BYTES // (elements * x.element_size()), 1)
    # a batch that goes at once is finished in place, but for what a kernel enlarges
    y = None if step >= len(x) and (up == 1 or llvm is None) else form.result(x)
    fine = None
    for i in range(0, len(x), step):
        some, part = slice(i, i + step), x[i : i + step]
        own, scaled = after.of(some), fold and up == 1
        if not fold:
            kernel = partial(_direct, form.ready, form.here, part, up, cut, phases)
            part = _multiplied(part, styles[some], llvm)
        elif up > 1:
            kernel = partial(_reordered, weight.float() * styles[i], part, up, cut, phases)
        else:
            factors = own.factors[0, :, None, None, None] * styles[i]
            kernel = partial(onednn.reorder, weight.float() * factors, part, up, cut)
        if phases:
            t, around = onednn.convolve(part, kernel, None, 1, ONE), (0, 0, 0, 0)
        else:
            t, around = onednn.convolve(part, kernel, own.bias if scaled else None, up, cut), form.rest
        if llvm is not None and not (scaled and own.linear):
            left = own.without_factors() if scaled else own
            if _finished(llvm, t, t if y is None else y[some], form.f, up, around, left, phases):
                continue
            llvm = None
        if phases:
            fine = _interleaved(t, fine)
            t = fine[: len(t)]
        if up > 1:
            t = upfirdn2d(t, form.f, padding=around, gain=up**2)
        own.apply(t, t if y is None else y[some], scaled)
    return t if y is None else y


def _multiplied(x: Tensor, styles: Tensor, llvm: ModuleType | None) -> Tensor:
    """x * styles, rounded once."""
    if llvm is not None and x.numel() >= FEWEST_VALUES:
        y, factors = torch.empty_like(x), styles[:, :, 0, 0].contiguous()
        if _finished(llvm, x, y, None, 1, (0, 0, 0, 0), Epilogue(factors), False):
            return y
    return (x * styles).to(x.dtype)


def _finished(llvm: ModuleType, *arguments: object) -> bool:
    """True if a kernel has applied what follows a convolution, see `llvm.modulated.finished`."""
    return bool(kernels.attempt("gankit::modulated_conv2d", llvm.finished, *arguments))


def _to_few(
    x: Tensor, variables: tuple[Tensor | None, ...], weight: Tensor, styles: Tensor, input_gain: Tensor | float | None,
    b: Tensor | None, clamp: float | None,
) -> Tensor | None:  # fmt: skip
    """A 1x1 convolution without demodulation, such as to RGB, by a kernel; None where that does not apply."""
    pointwise = _pointwise(x, variables, weight)
    if pointwise is None:
        return None
    styles = styles if input_gain is None else styles * input_gain
    return kernels.attempt(  # type: ignore[no-any-return]
        "gankit::modulated_conv2d", pointwise.run, x, weight[:, :, 0, 0], styles, b, clamp
    )


def add_rgb(
    img: Tensor | None, f: Tensor | None, x: Tensor, weight: Tensor, styles: Tensor, b: Tensor | None,
    clamp: float | None,
) -> Tensor | None:  # fmt: skip
    """As the public operator, by a kernel; None where that does not apply."""
    pointwise = _pointwise(x, (x, weight, styles, b, img), weight)
    if pointwise is None:
        return None
    return kernels.attempt(  # type: ignore[no-any-return]
        "gankit::add_rgb", pointwise.onto, x, weight[:, :, 0, 0], styles, b, clamp, img, f
    )


def _pointwise(x: Tensor, variables: tuple[Tensor | None, ...], weight: Tensor) -> ModuleType | None:
    """The kernels for 1x1 convolutions to few channels, where such are asked for that they may take."""
    if weight.shape[2:] != (1, 1) or x.dtype != torch.bfloat16 or not x.numel():
        return None
    if not x.is_contiguous(memory_format=torch.channels_last) or x.stride(1) != 1:
        return None
    if not values_only(x, variables) or torch.is_autocast_enabled("cpu") or kernels.watched():
        return None
    return kernels.load("pointwise")


def _kernels_pay(x: Tensor, normalize: bool) -> bool:
    """True where kernels of `llvm`, with half of the products, take the place of oneDNN's convolutions.

    Those have AMX, which a kernel has not. Of small maps most time goes into reading weights, of which a kernel's are
    larger, and in bfloat16 their rounding weighs most, as all of the picture is made of them. In float32, LLVM and a
    kernel's weights would lift the peak of memory, save in StyleGAN3, whose form is that with `normalize` and which
    has LLVM anyway.
    """
    large = x.shape[2] * x.shape[3] >= winograd_rows.FEWEST_PIXELS
    return large and (normalize if x.dtype == torch.float32 else "AMX" not in bf16_units())


def _direct(ready: Ready, here: Kernels, x: Tensor, up: int, padding: list[int], phases: bool) -> Tensor:
    """The weight in oneDNN's order for `x`."""
    key = (x.dtype, x.shape[2:], up, *padding, phases, onednn.packs(x.dtype))
    return ready.get(here, key, lambda: [_reordered(ready.weight.detach(), x, up, padding, phases)])[0]


def _reordered(weight: Tensor, x: Tensor, up: int, padding: list[int], phases: bool) -> Tensor:
    return onednn.reorder(_phases(weight), x, 1, ONE) if phases else onednn.reorder(weight, x, up, padding)


def _point(ready: Ready, here: Kernels, point: int, rows: int, x: Tensor, padding: list[int]) -> Tensor:
    """One of `winograd_rows.kernels`, in oneDNN's order for `x` of a block of up to so many rows."""

    def make() -> list[Tensor]:
        points = winograd_rows.kernels(ready.weight.detach().float())
        return [onednn.reorder(part, x, 1, padding) for part in points]

    key = (x.dtype, rows, x.shape[3], *padding, "points", onednn.packs(x.dtype))
    return ready.get(here, key, make)[point]


def _phases_pay(x: Tensor) -> bool:
    """True where one convolution for all four phases, with nearly twice the products, beats oneDNN's transposed one.

    It took 0.7 of the time with AMX, 1.5 of it in bf16 without AMX and in fp32.
    """
    return x.dtype == torch.bfloat16 and "AMX" in bf16_units()


def _phases(weight: Tensor) -> Tensor:
    """Kernels of one convolution that computes a transposed one of stride 2.

    [O, I, 3, 3] -> [4 * O, I, 2, 2]. Of each axis, they give outputs 2 * j - 1 and 2 * j from inputs j - 1 and j.
    """
    for axis in (2, 4):  # of weight, then with the phases of y in front
        a, b, c = weight.unbind(axis)
        weight = torch.stack([torch.stack([b, torch.zeros_like(b)], axis), torch.stack([c, a], axis)])
    return weight.transpose(0, 1).flatten(0, 2)  # by phase of y, phase of x, output


def _interleaved(phases: Tensor, fine: Tensor | None) -> Tensor:
    """Put the result of a convolution with `_phases` into the order of the transposed convolution.

    The result has a border of zeros at its end, for the filter after it. `fine`, which holds an earlier one, is filled
    again.
    """
    n, _, h, w = phases.shape
    y = phases.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    if fine is None:
        fine = y.new_zeros(n, 2 * h + 1, 2 * w + 1, y.shape[-1]).permute(0, 3, 1, 2)
    inner = fine.permute(0, 2, 3, 1)[:n, :-1, :-1].unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
    inner.copy_(y.permute(0, 1, 3, 2, 4, 5))
    return fine


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
