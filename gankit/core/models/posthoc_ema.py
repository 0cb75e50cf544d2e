"""Post-hoc EMA: weight averages of a length chosen after training (Karras et al. 2024, section 3).

During training, averages with power-function profiles p(tau) ~ tau^gamma on (0, t] are kept, usually two, and snapshots
of them saved. Afterwards a linear combination of the snapshots approximates the average of any other profile; its
coefficients are the least-squares fit of the profiles, here among those that sum to 1. The length of a profile is its
standard deviation in units of t. The paper is EDM2's; see also its appendix C.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MAX_LENGTH = 0.28  # just below 1 / sqrt(12), the length of a constant profile (gamma = 0)


@functools.cache
def gamma_of(length: float) -> float:
    """Exponent gamma >= 0 of the profile of a length in (0, MAX_LENGTH]; inverse of `length_of`. Raises ValueError."""
    if not 0 < length <= MAX_LENGTH:
        raise ValueError(f"length must be in (0, {MAX_LENGTH}], not {length}")
    low, high = 0.0, 1.0
    while length_of(high) > length:
        high *= 2
    for _ in range(200):  # halves the interval down to the precision of floats
        middle = (low + high) / 2
        low, high = (middle, high) if length_of(middle) > length else (low, middle)
    return (low + high) / 2


def length_of(gamma: float) -> float:
    """Standard deviation of the density (gamma + 1) tau^gamma on (0, 1], for gamma >= 0."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def beta_of(gamma: float, t: float, step: float) -> float:
    """Decay of the average at time t: the factor on the average at t - step; 0 at the first step."""
    return (1 - step / t) ** (gamma + 1)


def inner_products(t_a: Tensor, gamma_a: Tensor, t_b: Tensor, gamma_b: Tensor) -> Tensor:
    """Integrals [A, B] of p_a(tau) p_b(tau) for profiles with times t > 0 and exponents gamma, [A] and [B], float64."""
    t_a, gamma_a = t_a[:, None], gamma_a[:, None]
    first = torch.minimum(t_a, t_b)
    # (g_a + 1) / t_a^(g_a + 1) * (g_b + 1) / t_b^(g_b + 1) * first^(g_a + g_b + 1) / (g_a + g_b + 1), in logarithms
    powers = (gamma_a + gamma_b + 1) * first.log() - (gamma_a + 1) * t_a.log() - (gamma_b + 1) * t_b.log()
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * powers.exp()


def fit(
    times: Sequence[float], lengths: Sequence[float], time: float, length: float
) -> tuple[list[float], float]:
    """Coefficients, summing to 1, of the linear combination of snapshots nearest to the wanted average.

    Args:
        times: times of the snapshots, in images since averaging began, > 0.
        lengths: lengths of the snapshots' profiles.
        time: time of the wanted average, at most the largest of `times`.
        length: length of the wanted profile.

    Returns the coefficients, and the L2 distance of the fitted from the wanted profile relative to the latter's norm.
    """
    scale = max(times)
    t = torch.tensor(times, dtype=torch.float64) / scale
    gamma = torch.tensor([gamma_of(value) for value in lengths], dtype=torch.float64)
    wanted = torch.tensor([time / scale], dtype=torch.float64), torch.tensor([gamma_of(length)]).double()
    A, b = inner_products(t, gamma, t, gamma), inner_products(t, gamma, *wanted)
    size = A.diagonal().sqrt()  # equal weights for all profiles keep the system well conditioned
    sides = torch.cat([b, torch.ones_like(b)], 1) / size[:, None]
    solved = torch.linalg.lstsq(A / size[:, None] / size, sides, driver="gelsd").solution / size[:, None]
    free, ones = solved.split(1, 1)
    # Lagrange multiplier for coefficients that sum to 1, so that constant weights are reproduced
    x = free + ones * ((1 - free.sum()) / ones.sum())
    norm = inner_products(*wanted, *wanted)
    rest = (norm - 2 * b.T @ x + x.T @ A @ x).clamp(min=0)
    return x[:, 0].tolist(), float((rest / norm).sqrt())


def power_function(length: float) -> Callable[[int, int], float]:
    """The decay of a `MovingAverage` whose profile has a length in (0, MAX_LENGTH]."""
    return lambda images, batch: beta_of(gamma_of(length), images, batch)
