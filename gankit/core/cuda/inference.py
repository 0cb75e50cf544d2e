"""The modulated convolution without gradients on a CPU: some samples at a time, in place, on weights made ready once.

Fresh memory is dear (the kernel hands it out page by page), so large maps pass sample by sample through buffers that
the allocator gives again, and all that follows the convolution happens in place. In float32 most convolutions take half
of the products (see `winograd.py`). Of the others, where the weight is small beside the maps, each sample gets a weight
of its own. oneDNN reorders weights at every call; here they are reordered once for all samples, and with
`ConstantWeights` once for all calls.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from gankit.core.cuda import winograd
from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.cuda.arguments import filter_size
from gankit.core.cuda.failures import note
from gankit.core.cuda.upfirdn2d import upfirdn2d
from gankit.core.devices import bf16_units, forget, unchanged_in_file

BLOCK_BYTES = 2**21  # samples go together as long as their maps are below this
MAP_BYTES = 2**23  # as BLOCK_BYTES, of a whole network whose layers work through their maps in blocks
FOLD = 2  # factors go into a weight where maps are so many times as large
ONE, NONE = [1, 1], [0, 0]
WEIGHTS = 512  # remembered at most
KEPT_BYTES = 32 * 2**20  # of weights made ready, beyond the weights' own


class ConstantWeights:
    """Weights of convolutions as the CPU wants them, made ready once for many calls without gradients.

    A weight that is written to in place, replaced or moved is made ready anew; writing through `weight.data` or numpy
    goes unnoticed. Takes `most` bytes beyond the weights' own memory: the first to come are kept, in a generator those
    of the coarse layers, where making a weight ready takes the largest share of the time. What the last call did not
    use makes room. A weight that lies unchanged in a mapped file, as those of `gankit.load` on Linux do, gives its
    memory for what is made of it, and is read again where it is wanted.
    """

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self.most = most
        self.known: dict[int, _Ready] = {}
        self.calls = 0

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within, which is one call, convolutions take their weights from here."""
        self.calls += 1
        token = _constant.set(self)
        try:
            yield
        finally:
            _constant.reset(token)

    def room(self, size: int) -> bool:
        """Whether so many bytes more may be kept, after what has fallen out of use is gone."""
        free = self.most - size
        for ready in list(self.known.values()):  # a list, as other threads may add, too
            for key, kernel in list(ready.kernels.items()):
                if kernel.call < self.calls - 1:
                    ready.kernels.pop(key, None)
                else:
                    free -= kernel.extra
        return free >= 0


_constant: ContextVar[ConstantWeights | None] = ContextVar("constant weights", default=None)


@dataclass
class _Kernel:
    """A weight made ready for maps of one size and dtype: in one piece, or in several."""

    parts: list[Tensor]
    extra: int  # bytes that keeping it takes
    call: int = 0  # the last that used it


Kernels = dict[tuple[Any, ...], _Kernel]


@dataclass
class _Ready:
    """What depends on a weight alone. The weight is kept, so that its id stays its own."""

    weight: Tensor
    version: int
    address: int
    kernels: Kernels = field(default_factory=dict)

    @cached_property
    def energy(self) -> Tensor:
        """[O, I] in float32, sums of squares."""
        return self.weight.detach().float().square().sum((2, 3))

    def kernel(self, here: Kernels, x: Tensor, up: int, padding: list[int], phases: bool) -> Tensor:
        """The weight made ready for `x`, from what is kept, or from `here`, which is of one call."""
        key = (x.dtype, x.shape[2:], up, *padding, phases)
        return self._get(here, key, lambda: [_reorder(self.weight.detach(), x, up, padding, phases)])[0]

    def point(self, here: Kernels, point: int, rows: int, x: Tensor, padding: list[int]) -> Tensor:
        """As `kernel`, one of those of `winograd.kernels`, for `x` of a block of up to so many rows."""

        def make() -> list[Tensor]:
            points = winograd.kernels(self.weight.detach().float())
            return [_reorder(part, x, 1, padding, False) for part in points]

        return self._get(here, (x.dtype, rows, x.shape[3], *padding, "points"), make)[point]

    def _get(self, here: Kernels, key: tuple[Any, ...], make: Callable[[], list[Tensor]]) -> list[Tensor]:
        constant = _constant.get()
        kernel = self.kernels.get(key) or here.get(key)
        if kernel is None or (kernel.parts[0].is_mkldnn and _failures):
            parts = make()
            size = sum(part.numel() * part.element_size() for part in parts)
            # values that lie in a file need no memory beside those that are ready
            spare = constant is not None and not self.kernels and unchanged_in_file(self.weight)
            kernel = _Kernel(parts, size - self.weight.nbytes if spare else size)
            keeps = constant is not None and constant.room(kernel.extra)
            (self.kernels if keeps else here)[key] = kernel
            if keeps and spare:
                forget(self.weight)
        kernel.call = 0 if constant is None else constant.calls
        return kernel.parts


def _reorder(weight: Tensor, x: Tensor, up: int, padding: list[int], phases: bool) -> Tensor:
    """The weight [O, I, kh, kw] in the dtype of `x` and in oneDNN's order for a convolution of it."""
    if phases:
        weight, up, padding = _phases(weight), 1, ONE
    w = weight.to(x.dtype) if up == 1 else weight.to(x.dtype).transpose(0, 1)
    try:
        if packs(x.dtype):
            ops, size = torch.ops.mkldnn, list(x.shape)
            if up == 1:
                return ops._reorder_convolution_weight(w, padding, ONE, ONE, 1, size)  # type: ignore[no-any-return]
            return ops._reorder_convolution_transpose_weight(  # type: ignore[no-any-return]
                w, padding, NONE, [up, up], ONE, 1, size
            )
    except Exception as error:
        give_up(error)
    return w.contiguous(memory_format=torch.channels_last)


# Why torch's interface to oneDNN, which is private and may change, is no longer used by this process
_failures: list[str] = []


def give_up(error: Exception) -> None:
    """Go on without oneDNN's own order of weights, after one warning."""
    note(_failures, error, "torch's interface to oneDNN", "Its public convolutions take its place")


def packs(dtype: torch.dtype) -> bool:
    """Whether torch's interface to oneDNN, which its compiler uses, is there and works."""
    if _failures or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    ops = torch.ops.mkldnn
    needed = ("_convolution_pointwise", "_convolution_transpose_pointwise", "_reorder_convolution_weight",
              "_reorder_convolution_transpose_weight", "_is_mkldnn_bf16_supported")  # fmt: skip
    if not all(hasattr(ops, name) for name in needed):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported()))


def _ready(weight: Tensor) -> _Ready:
    constant = _constant.get()
    version = 0 if weight.is_inference() else weight._version
    known = None if constant is None else constant.known.get(id(weight))
    if known is None or (known.version, known.address) != (version, weight.data_ptr()):
        known = _Ready(weight, version, weight.data_ptr())
        if constant is not None:
            constant.known[id(weight)] = known
            for old in list(constant.known)[:-WEIGHTS]:
                constant.known.pop(old, None)
    return known


def applies(
    x: Tensor, variables: tuple[Tensor | None, ...], weight: Tensor, up: int, down: int,
    padding: tuple[int, int, int, int], flip_weight: bool, act: str, gain: float,
) -> bool:  # fmt: skip
    """Whether `modulated_conv2d` below can take this call."""
    if x.dtype not in (torch.float32, torch.bfloat16) or torch.is_autocast_enabled("cpu"):
        return False
    if not undisturbed(x, variables):
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


def undisturbed(x: Tensor, variables: Iterable[Tensor | None]) -> bool:
    """Whether numbers alone are asked for, of a plain tensor on a CPU: no derivative by `variables`, no graph, no
    transform. So operators without derivatives may run, and values may be looked at."""
    if type(x) is not Tensor or x.device.type != "cpu":
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in variables):
        return False
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or _transformed())


def at_once(x: Tensor, parameters: Iterable[Tensor], size: int) -> int | None:
    """How many samples of `x` a network should take together that makes maps of up to so many bytes of each; None: all
    of them, as where a derivative by `x` or `parameters` is asked for."""
    return max(MAP_BYTES // size, 1) if undisturbed(x, itertools.chain([x], parameters)) else None


def _transformed() -> bool:
    """Whether forward-mode derivatives or a transform of torch.func may be under way.

    Torch tells it by private names alone. Should these be gone, the answer is yes: slower, but never wrong.
    """
    level = getattr(forward_ad, "_current_level", None)
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return level is None or active is None or level >= 0 or bool(active())


def modulated_conv2d(
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
    """As `gankit.core.cuda.modulated_conv2d`, where it `applies`. The result is channels-last."""
    from gankit.core.cuda.conv import modulation, transposed_padding

    ready = _ready(weight)
    energy = ready.energy if demodulate else None
    _, styles, demodulation = modulation(x, weight, styles, demodulate, input_gain, normalize, energy)
    styles = styles.float()[:, :, None, None]
    scale = styles.new_ones(len(x), len(weight)) if demodulation is None else demodulation
    scale = (scale * gain)[:, :, None, None]

    (h, w), (kh, kw), (x0, x1, y0, y1) = x.shape[2:], weight.shape[2:], padding
    h, w = h * up + y0 + y1 - kh + 1, w * up + x0 + x1 - kw + 1
    cut, rest = [y0, x0], (0, 0, 0, 0)
    if up > 1:
        cut, rest = transposed_padding(padding, filter_size(resample_filter), (kw, kh), up)
    bias = None if b is None else b.float() * gain
    if noise is not None:
        noise = (noise.float() * gain).expand(*noise.shape[:-2], h, w)

    x = x.contiguous(memory_format=torch.channels_last)
    here: Kernels = {}
    if up == 1 and winograd.pays(x, weight, (h, w)):
        rows = winograd.block_rows(weight, (h, w))

        def product(point: int, t: Tensor) -> Tensor:
            return _convolve(t, partial(ready.point, here, point, rows, t, [0, x0]), None, 1, [0, x0])

        y = _empty(x, (len(x), len(weight), h, w))
        for i, top, t in winograd.blocks(x, styles, rows, (y0, x0), product):
            block = slice(top, top + t.shape[2])
            extra = noise[i : i + 1] if noise is not None and noise.ndim == 4 and len(noise) > 1 else noise
            extra = None if extra is None else extra[..., block, :]
            _finish(t, y[i : i + 1, :, block], scale[i : i + 1], bias, extra, act, alpha, clamp)
        return y

    phases = _phases_pay(x) and (up, kh, kw, *cut, *rest) == (2, 3, 3, 0, 0, 1, 1, 1, 1)
    elements = x[0].numel() + len(weight) * h * w
    fold = elements > FOLD * weight.numel()
    step = 1 if fold else max(BLOCK_BYTES // (elements * x.element_size()), 1)
    y = fine = x.new_empty(0)
    for i in range(0, len(x), step):
        some, part = slice(i, i + step), x[i : i + step]
        factors: Tensor | None = scale[some]
        if not fold:
            kernel = partial(ready.kernel, here, part, up, cut, phases)
            part = (part * styles[some]).to(x.dtype)  # rounded once
        elif up > 1:
            kernel = partial(_reorder, weight.float() * styles[i], part, up, cut, phases)
        else:
            kernel = partial(_reorder, weight.float() * (scale[i, :, None] * styles[i]), part, up, cut, False)
            factors = None
        if phases:
            fine = _enlarge(part, kernel, fine)
            t = upfirdn2d(fine[: len(part)], resample_filter, gain=up**2)
        else:
            t = _convolve(part, kernel, bias if factors is None else None, up, cut)
            t = t if up == 1 else upfirdn2d(t, resample_filter, padding=rest, gain=up**2)
        if i == 0:  # of a batch that goes at once, the result is finished in place
            y = t if step >= len(x) else _empty(t, (len(x), *t.shape[1:]))
        extra = noise[some] if noise is not None and noise.ndim == 4 and len(noise) > 1 else noise
        _finish(t, y[some], factors, bias if up > 1 or not fold else None, extra, act, alpha, clamp)
    return y


def filtered_convolution(x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """A plain convolution of a channels-last map in float32 by `winograd`, without gradients. Of a weight in training,
    nothing is kept from call to call."""
    h, w = (size + 2 * pad - taps + 1 for size, pad, taps in zip(x.shape[2:], padding, weight.shape[2:]))
    cut = [0, padding[1]]
    ready: list[Tensor] = []

    def kernel(point: int, t: Tensor) -> Tensor:
        if not ready or (ready[0].is_mkldnn and _failures):
            ready[:] = [_reorder(part, t, 1, cut, False) for part in winograd.kernels(weight)]
        return ready[point]

    def product(point: int, t: Tensor) -> Tensor:
        return _convolve(t, partial(kernel, point, t), None, 1, cut)

    y = _empty(x, (len(x), len(weight), h, w))
    for i, top, t in winograd.blocks(x, None, winograd.block_rows(weight, (h, w)), padding, product):
        y[i : i + 1, :, top : top + t.shape[2]] = t
    return y


def _phases_pay(x: Tensor) -> bool:
    """Where one convolution for all four phases, with nearly twice the products, beats oneDNN's transposed one: it took
    0.7 of the time with AMX, 1.5 of it in bf16 without AMX and in fp32."""
    return x.dtype == torch.bfloat16 and "AMX" in bf16_units()


def _phases(weight: Tensor) -> Tensor:
    """Kernels [4 * O, I, 2, 2] of one convolution that gives what a transposed one of stride 2 with [O, I, 3, 3] gives:
    the outputs 2 * j - 1 and 2 * j of each axis, from the inputs j - 1 and j."""
    for axis in (2, 4):  # of weight, then with the phases of y in front
        a, b, c = weight.unbind(axis)
        weight = torch.stack([torch.stack([b, torch.zeros_like(b)], axis), torch.stack([c, a], axis)])
    return weight.transpose(0, 1).flatten(0, 2)  # by phase of y, phase of x, output


def _enlarge(x: Tensor, kernel: Callable[[], Tensor], fine: Tensor) -> Tensor:
    """The transposed convolution of stride 2 with a border of zeros, for the filter after it; into `fine`, if that
    holds an earlier result."""
    n, _, h, w = x.shape
    y = _convolve(x, kernel, None, 1, ONE).permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    if not fine.numel():
        fine = y.new_zeros(n, 2 * h + 3, 2 * w + 3, y.shape[-1]).permute(0, 3, 1, 2)
    inner = fine.permute(0, 2, 3, 1)[:n, :-1, :-1].unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
    inner.copy_(y.permute(0, 1, 3, 2, 4, 5))
    return fine


def _convolve(
    x: Tensor, kernel: Callable[[], Tensor], b: Tensor | None, up: int, padding: list[int]
) -> Tensor:
    """`kernel` makes one ready; asked again after a failure, it is one for torch's public convolutions."""
    b, w = None if b is None else b.to(x.dtype), kernel()
    if w.is_mkldnn:
        try:
            return _packed_convolution(x, w, b, up, padding)
        except Exception as error:
            give_up(error)
            w = kernel()
    if up == 1:
        return F.conv2d(x, w, b, padding=padding)
    return F.conv_transpose2d(x, w, b, stride=up, padding=padding)


def _packed_convolution(x: Tensor, w: Tensor, b: Tensor | None, up: int, padding: list[int]) -> Tensor:
    ops = torch.ops.mkldnn
    if up == 1:
        return ops._convolution_pointwise(  # type: ignore[no-any-return]
            x, w, b, padding, ONE, ONE, 1, "none", [], ""
        )
    return ops._convolution_transpose_pointwise(  # type: ignore[no-any-return]
        x, w, b, padding, NONE, [up, up], ONE, 1, "none", [], ""
    )


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _finish(
    t: Tensor, y: Tensor, factors: Tensor | None, bias: Tensor | None, noise: Tensor | None, act: str, alpha: float,
    clamp: float | None,
) -> None:  # fmt: skip
    """y = clamp(act(t * factors + bias + noise)), which may be t, in blocks of rows that stay in a core's cache.

    Without `factors` there is no bias, either. Half precision is computed in float32, which is faster, too.
    """
    if act == "linear" and all(part is None for part in (factors, bias, noise, clamp)):
        if y.data_ptr() != t.data_ptr():
            y.copy_(t)
        return
    rows = max(BLOCK_BYTES // (4 * t[:, :, 0].numel()), 1)
    exact = None if t.dtype == torch.float32 else torch.empty_like(t[:, :, :rows], dtype=torch.float32)
    for first in range(0, t.shape[2], rows):
        block = slice(first, first + rows)
        u, v = t[:, :, block], y[:, :, block]
        if exact is not None:
            u = v = exact[:, :, : u.shape[2]].copy_(u)
        if factors is not None:
            if bias is None:
                torch.mul(u, factors, out=v)
            else:
                torch.addcmul(bias[:, None, None], u, factors, out=v)
            u = v
        if noise is not None:
            u = torch.add(u, noise[..., block, :], out=v)
        if act == "lrelu":
            u = torch.ops.aten.leaky_relu.out(u, alpha, out=v)
        elif act == "relu":
            u = torch.clamp_min(u, 0, out=v)
        if clamp is not None:
            u = torch.clamp(u, -clamp, clamp, out=v)
        if exact is not None or u is not v:
            y[:, :, block] = u
