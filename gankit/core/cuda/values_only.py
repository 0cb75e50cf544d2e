"""Calls that ask for values alone on a CPU: no derivative, no graph, no transform."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad

MAP_BYTES = 2**23  # of the largest map of all samples that a network takes together


def values_only(x: Tensor, variables: Iterable[Tensor | None]) -> bool:
    """True if `x` is a plain tensor on a CPU and nothing but numbers is asked for.

    No derivative by one of `variables`, no compiled, traced or transformed call: operators without derivatives may run,
    and values may be looked at.
    """
    if type(x) is not Tensor or x.device.type != "cpu":
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in variables):
        return False
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or _transformed())


def samples_at_once(x: Tensor, parameters: Iterable[Tensor], size: int) -> int | None:
    """Number of samples of `x` that a network should take together so that its maps stay in a CPU's cache.

    Args:
        x: the network's input, [N, ...].
        parameters: of the network.
        size: bytes of the largest map of one sample.

    Returns:
        At least 1, or None for all of them: on other devices, and where a derivative is asked for.
    """
    return max(MAP_BYTES // size, 1) if values_only(x, itertools.chain([x], parameters)) else None


def _transformed() -> bool:
    """True if forward-mode derivatives or a transform of torch.func may be under way.

    Torch tells it by private names alone. Should these be gone, the answer is yes: slower, but never wrong.
    """
    level = getattr(forward_ad, "_current_level", None)
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return level is None or active is None or level >= 0 or bool(active())
