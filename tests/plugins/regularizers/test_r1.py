"""R1 against StyleGAN2's reference vectors, before the augmentation."""

from __future__ import annotations

import pytest
import torch
from step_contexts import LinearD, Phases, context

from gankit.core.interfaces.conditions import Condition
from gankit.plugins.regularizers.r1 import R1


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["loss_sg2", "loss_sg2_cond"])
def phases(request: pytest.FixtureRequest) -> Phases:
    return Phases(request.param)


def test_r1_matches_the_original(phases: Phases) -> None:
    case = phases.cases["Dreg"]
    step = context(D=phases.D, real=case.inputs["real_img"], cond=Condition(case.inputs["c_real"]))
    penalty = R1(gamma=phases.settings["r1_gamma"]).penalty(step)
    case.check("Loss.D.reg", penalty)
    case.check("Loss.r1_penalty", R1(gamma=2.0).penalty(step))
    phases.check_gradients(case, phases.D, penalty)


def test_r1_is_taken_before_the_augmentation() -> None:
    D = LinearD((3, 8, 8))
    step = context(D=D, real=torch.randn(4, 3, 8, 8), augment=lambda images: 3 * images.flip(3))
    penalty = R1(gamma=0.7).penalty(step)
    expected = 0.7 / 2 * (3 * (1 - 2) * D.w).square().sum()
    torch.testing.assert_close(penalty, expected.expand(4))
    (gradient,) = torch.autograd.grad(penalty.mean(), D.w)
    torch.testing.assert_close(gradient, 0.7 * 9 * D.w.detach())
