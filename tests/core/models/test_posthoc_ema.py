"""Post-hoc EMA: profiles, their least-squares fit, tracking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gankit.core.models.moving_average import MovingAverage
from gankit.core.models.posthoc_ema import beta_of, fit, gamma_of, inner_products, length_of, power_function

GRID = (np.arange(200_000) + 0.5) / 200_000  # midpoints of (0, 1]


def profile(time: float, length: float) -> np.ndarray:
    """(gamma + 1) / t^(gamma + 1) * tau^gamma up to t, on the grid."""
    gamma = gamma_of(length)
    return np.where(time >= GRID, (gamma + 1) / time * (np.minimum(GRID, time) / time) ** gamma, 0)


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_lengths_of_the_paper(length: float, gamma: float) -> None:
    assert gamma_of(length) == pytest.approx(gamma, abs=0.005)
    assert length_of(gamma_of(length)) == pytest.approx(length, rel=1e-12)
    weights = profile(1, length) / len(GRID)
    mean = (weights * GRID).sum()
    assert weights.sum() == pytest.approx(1, rel=1e-4)
    assert ((weights * (GRID - mean) ** 2).sum()) ** 0.5 == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize("length", [0, -0.1, 0.29, float("nan")])
def test_lengths_out_of_range(length: float) -> None:
    with pytest.raises(ValueError, match="length"):
        gamma_of(length)


def test_inner_products_are_integrals() -> None:
    cases = [(1.0, 0.05), (0.4, 0.1), (0.75, 0.2), (0.4, 0.05)]
    t = torch.tensor([time for time, _ in cases]).double()
    g = torch.tensor([gamma_of(length) for _, length in cases]).double()
    found = inner_products(t, g, t, g)
    for i, a in enumerate(cases):
        for j, b in enumerate(cases):
            assert found[i, j].item() == pytest.approx((profile(*a) * profile(*b)).mean(), rel=1e-3)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_the_fit_is_the_least_squares_solution(length: float) -> None:
    """Against numpy's solver on sampled profiles, in which nothing of the closed form is used."""
    times = [0.2, 0.4, 0.6, 0.8, 1.0] * 2
    lengths = [0.05] * 5 + [0.1] * 5
    basis = np.stack([profile(t, w) for t, w in zip(times, lengths)], axis=1)
    last = basis[:, -1:]  # its coefficient is what the others leave of 1
    others, *_ = np.linalg.lstsq(basis[:, :-1] - last, profile(1, length) - last[:, 0], rcond=None)
    expected = np.append(others, 1 - others.sum())
    found, error = fit([1000 * t for t in times], lengths, 1000, length)
    assert found == pytest.approx(expected, abs=2e-3)
    assert sum(found) == pytest.approx(1, abs=1e-9)
    rest = np.linalg.norm(basis @ expected - profile(1, length)) / np.linalg.norm(profile(1, length))
    assert error == pytest.approx(rest, rel=0.01)


def test_the_fit_of_a_snapshot_is_that_snapshot() -> None:
    times = [float(t) for t in range(100, 5001, 100)]
    found, error = fit(times * 2, [0.05] * 50 + [0.1] * 50, 5000, 0.1)
    assert found == pytest.approx([0.0] * 99 + [1.0], abs=1e-4)
    assert error < 1e-5


@pytest.mark.parametrize("length", [0.04, 0.075, 0.15, 0.2])
def test_reconstruction_is_near_to_direct_tracking(length: float) -> None:
    """Of weights that drift and jitter, as in training."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(16, 16)
    direct = MovingAverage({"g": network}, power_function(length))
    tracked = {key: MovingAverage({"g": network}, power_function(key)) for key in (0.05, 0.1)}
    walk, snapshots, batch, steps = torch.zeros(16, 16), [], 4, 4000
    for step in range(1, steps + 1):
        walk = walk + 0.02 * torch.randn(16, 16, generator=generator)
        with torch.no_grad():
            network.weight.copy_(walk + 0.2 * torch.randn(16, 16, generator=generator))
        for average in (*tracked.values(), direct):
            average.update(step * batch, batch)
        if step % 80 == 0:
            snapshots += [
                (step * batch, key, average.networks["g"].weight.clone().double())
                for key, average in tracked.items()
            ]
    wanted = direct.networks["g"].weight
    times, lengths, tensors = zip(*snapshots)
    weights, _ = fit(times, lengths, steps * batch, length)
    found = sum(w * tensor for w, tensor in zip(weights, tensors))
    error = (found - wanted).norm() / wanted.norm()
    nearest = min((tracked[key].networks["g"].weight - wanted).norm() / wanted.norm() for key in (0.05, 0.1))
    assert error < 1e-3
    assert error < nearest / 100


def test_the_first_update_takes_the_weights_as_they_are() -> None:
    assert beta_of(6.94, 32, 32) == 0
    network = nn.Linear(2, 2)
    average = MovingAverage({"g": network}, power_function(0.1))
    average.start = 100
    with torch.no_grad():
        network.weight.add_(1)
    average.update(108, 8)
    assert torch.equal(average.networks["g"].weight, network.weight)
