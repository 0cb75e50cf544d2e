"""Small computations that tell whether an implementation works on a device: values and two orders of derivatives.

They are compared with the reference in float64 on the CPU. The random numbers come from a generator of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gankit.core.cuda import reference

TOLERANCE = 1e-4  # of the largest value; float32 reaches 1e-6, a wrong kernel is far beyond
NONE = (0, 0, 0, 0)


@dataclass(frozen=True)
class Result:
    """Largest error of any value or derivative, as a share of the largest of its kind; why it failed, if it did."""

    error: float
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure


def check(operator: str, function: Callable[..., Tensor], device: torch.device) -> Result:
    """Run `function`, an implementation of `operator`, in float32 on `device`."""
    worst = 0.0
    precise = torch.backends.cudnn.flags(allow_tf32=False)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.device("cpu"),  # whatever torch.set_default_device says
        precise,
    ):
        for variables, call in _cases(operator):
            try:
                actual = _derivatives(function, call, [v.to(device) for v in variables], device)
            except Exception as error:  # whatever a compiler, a driver or a kernel raises
                return Result(float("inf"), f"raised {type(error).__name__}: {str(error).strip()[:300]}")
            expected = _derivatives(
                getattr(reference, operator), call, [v.double() for v in variables], torch.device("cpu")
            )
            for a, e in zip(actual, expected):
                if a.shape != e.shape:
                    return Result(float("inf"), f"gave the shape {list(a.shape)} instead of {list(e.shape)}")
                off = ((a.cpu().double() - e).abs().max() / e.abs().max().clamp(min=1)).item()
                if not off <= TOLERANCE:
                    return Result(off, f"was wrong by {off:.1e} of the largest value")
                worst = max(worst, off)
    return Result(worst)


def _derivatives(
    function: Callable[..., Tensor], call: Callable[..., Any], variables: list[Tensor], device: torch.device
) -> list[Tensor]:
    """Value with and without gradients, gradients for a cotangent, gradients of their contraction with fixed ones."""
    generator = torch.Generator().manual_seed(1)

    def fixed(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=generator).to(t)

    variables = [v.detach().requires_grad_() for v in variables]
    y = call(function, device, *variables)
    dy = fixed(y).requires_grad_()
    first = torch.autograd.grad(y, variables, dy, create_graph=True)
    contraction = torch.stack([(g * fixed(g)).sum() for g in first]).sum()
    second = torch.autograd.grad(contraction, [dy, *variables], allow_unused=True, materialize_grads=True)
    with torch.no_grad():  # may take another path
        alone = call(function, device, *variables)
    return [t.detach() for t in (y, alone, *first, *second)]


# Long because it is a list: the calls of one operator after the other.
def _cases(operator: str) -> Iterator[tuple[list[Tensor], Callable[..., Any]]]:
    """Float32 variables, and a call of (function, device, *variables)."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, b, styles = randn(2, 3, 7, 6), randn(3), randn(2, 3).abs() + 0.5
    kernel, taps = (
        torch.outer(*[torch.tensor([1.0, 3, 3, 1]) / 8] * 2),
        torch.rand(8, generator=generator) / 4,
    )
    weight, noise, bias = randn(4, 3, 3, 3), randn(2, 1, 14, 12), randn(4)
    if operator == "bias_act":
        yield [x, b], lambda f, device, x, b: f(x, b, 1, "lrelu", 0.2, 1.4, 0.9)
        yield [x, b], lambda f, device, x, b: f(x, b, 1, "swish", 0.0, 1.4, None)
    elif operator == "upfirdn2d":
        yield [x], lambda f, device, x: f(x, kernel.to(device), (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)
        yield [x], lambda f, device, x: f(x, taps.to(device), (2, 1), (1, 2), (5, 3, 4, -1), True, 1.0)
    elif operator == "filtered_lrelu":

        def filtered(f: Callable[..., Tensor], device: torch.device, x: Tensor, b: Tensor) -> Tensor:
            fu, fd = taps.to(device), kernel.to(device)
            return f(x, fu, fd, b, 2, 2, (6, 5, 6, 5), 1.4, 0.2, 0.8, False)

        yield [x, b], filtered
        many = [randn(1, 16, 7, 6), randn(16)]  # a kernel wants some channels, and filters along one axis
        yield (
            many,
            lambda f, device, x, b: f(
                x, taps.to(device), taps.to(device), b, 2, 2, (6, 5, 6, 5), 1.4, 0.2, 0.8, False
            ),
        )
    elif operator == "conv2d_resample":
        for up, down in ((1, 2), (2, 1)):

            def resampled(
                f: Callable[..., Tensor], device: torch.device, x: Tensor, w: Tensor, b: Tensor,
                up: int = up, down: int = down,
            ) -> Tensor:  # fmt: skip
                return f(x, w, kernel.to(device), up, down, (1, 1, 1, 1), 1, up == 1, b)

            yield [x, weight, bias], resampled
    elif operator == "modulated_conv2d":

        def stylegan2(f: Callable[..., Tensor], device: torch.device, *t: Tensor) -> Tensor:
            x, w, s, noise, b = t
            rest = (kernel.to(device), True, False, None, False, b, "lrelu", 0.2, 1.4, 4.0)
            return f(x, w, s, noise, 2, 1, (1, 1, 1, 1), *rest)

        def stylegan3(f: Callable[..., Tensor], device: torch.device, *t: Tensor) -> Tensor:
            x, w, s = t
            gain = torch.tensor(0.7, device=device)
            rest = (None, True, True, gain, True, None, "linear", 0.0, 1.0, None)
            return f(x, w, s, None, 1, 1, (2, 2, 2, 2), *rest)

        yield [x, weight, styles, noise, bias], stylegan2
        yield [x, weight, styles], stylegan3
        # a kernel wants some channels and pixels
        yield [randn(1, 32, 32, 32), randn(32, 32, 3, 3), randn(1, 32).abs() + 0.5], stylegan3
    elif operator == "add_rgb":

        def level(f: Callable[..., Tensor], device: torch.device, *t: Tensor) -> Tensor:
            x, w, s, b, *img = t
            return f(img[0] if img else None, kernel.to(device), x, w, s, b, 0.8)

        pointwise = [randn(2, 32, 8, 6), randn(3, 32, 1, 1) / 6, randn(2, 32), randn(3)]
        yield pointwise, level
        yield [*pointwise, randn(2, 3, 4, 3)], level
    else:
        raise ValueError(f"there is no self-test of an operator {operator!r}")
