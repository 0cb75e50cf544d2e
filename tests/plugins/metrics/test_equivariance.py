"""Equivariance metrics: smooth waves, pictures that stay where they are, the filters of the paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankit import GankitError
from gankit.core.config import options
from gankit.core.interfaces.conditions import CondSpec
from gankit.evaluation.metric_context import MetricContext
from gankit.plugins.metrics import equivariance as eq
from gankit.testing.common import seeded
from gankit.testing.metrics import Waves, toy_context


def equivariant(**highest: float) -> MetricContext:
    context = toy_context(16)
    with seeded(7):
        context.pipe.generator = Waves((3, 64, 64), **highest).eval().requires_grad_(False)
    return context


def test_equivariance_of_smooth_waves() -> None:
    """They are equivariant by construction; what is left is the error of the filters that move the picture."""
    context = equivariant(highest=3.0)
    assert eq.Translation().probe(context)["eq_t"] > 120
    assert eq.FractionalTranslation().probe(context)["eq_t_frac"] > 70
    assert eq.Rotation().probe(context)["eq_r"] > 90
    transform = context.pipe.generator.synthesis.input.transform
    assert torch.equal(transform, torch.eye(3))  # is left as it was


@pytest.mark.parametrize("metric", [eq.Translation, eq.FractionalTranslation, eq.Rotation])
def test_equivariance_of_a_picture_that_stays_where_it_is(metric: type[eq.Equivariance]) -> None:
    """By the formula: 20 log10(2) - 10 log10(mean squared difference)."""
    context = equivariant()
    generator = context.pipe.generator

    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.Module()
            self.input.register_buffer("transform", torch.eye(3))

        def forward(self, ws: Tensor, cond: Any = None) -> Tensor:
            generator_input.transform.copy_(torch.eye(3))
            return synthesis(ws)

    synthesis = generator.synthesis
    generator_input = synthesis.input
    generator.synthesis = Still()
    (value,) = metric().probe(context).values()
    assert 5 < value < 35


def test_a_shift_is_a_shift() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert eq.shift(x, 1, 0)[0, 0].tolist() == [[0, 0, 1, 2], [0, 4, 5, 6], [0, 8, 9, 10]]
    assert eq.shift(x, -1, 2)[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 0]]
    assert not eq.shift(x, 4, 0).any()
    # a whole distance as a fractional one, where all taps lie inside
    image = torch.rand(1, 1, 16, 16)
    moved = eq.fractional_shift(image, 2.0, -3.0)
    rows, columns = eq.covered(-3.0, 16), eq.covered(2.0, 16)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (0, 11, 5, 16)
    assert torch.allclose(moved[:, :, rows, columns], eq.shift(image, 2, -3)[:, :, rows, columns], atol=1e-6)


def test_lanczos_taps_are_those_of_the_paper() -> None:
    """sinc(o - f) sinc((o - f) / 3) for o = -2..3, over their sum, at pixels i + o from the source."""
    impulse = torch.zeros(1, 1, 1, 21)
    impulse[..., 10] = 1
    moved = eq.fractional_shift(impulse, 1.25, 0.0)[0, 0, 0]
    f = 0.25
    taps = {o: np.sinc(o - f) * np.sinc((o - f) / 3) for o in range(-2, 4)}
    total = sum(taps.values())
    for o, tap in taps.items():
        assert float(moved[10 + 1 + o]) == pytest.approx(tap / total, abs=1e-6)
    assert int((moved != 0).sum()) == 6


def test_turning_the_picture_turns_it_the_right_way() -> None:
    """A quarter turn needs no filter between: rows become columns."""
    with seeded(1):
        image = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 6), (48, 48), mode="bicubic")
    turned, mask = eq.rotate(image, math.pi / 2)
    inner = mask.bool()
    assert 0.3 < inner.float().mean() < 1
    # Rot(pi/2) = [[0, 1], [-1, 0]] takes the right (1, 0) to the top (0, -1)
    expected = torch.rot90(image, 1, (2, 3))
    filtered, _ = eq.limit_band(expected, math.pi / 2)
    assert (turned - filtered)[inner].abs().max() < 2e-3
    assert (turned - torch.rot90(image, -1, (2, 3)))[inner].abs().max() > 0.1


def test_other_generators_have_no_equivariance() -> None:
    context = toy_context()
    context.pipe.generator.synthesis = nn.Identity()
    with pytest.raises(GankitError, match="leave eq-t, eq-t-frac and eq-r out"):
        eq.Translation().check(context)


@pytest.mark.slow
def test_equivariance_of_stylegan3() -> None:
    """Untrained: configuration R turns, T does not, both move (sizes as a check of padding and filters)."""
    found = {}
    for name, extra in (("t", {}), ("r", {"conv_kernel": 1, "use_radial_filters": True})):
        context = toy_context(4)
        spec = {"name": "stylegan3", "channel_base": 4096, "channel_max": 64, **extra}
        with seeded(0):
            G = options.build("generator", spec, (3, 64, 64), CondSpec())
        context.pipe.generator = G.eval().requires_grad_(False)
        metrics = (eq.Translation(), eq.FractionalTranslation(), eq.Rotation())
        found[name] = [value for metric in metrics for value in metric.probe(context).values()]
    assert min(found["r"]) > 60
    assert min(found["t"][:2]) > 60
    assert found["t"][2] < 50
