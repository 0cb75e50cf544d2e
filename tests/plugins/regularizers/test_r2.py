"""R2 beside R1, on a critic of known penalties and on fakes of its own."""

from __future__ import annotations

import pytest
import torch
from golden_utils import Case, load_golden
from r3gan_networks import TINY, step_context

from gankit.core.interfaces.conditions import CondSpec
from gankit.plugins.discriminators.r3gan import R3GANDiscriminator
from gankit.plugins.generators.r3gan import R3GAN
from gankit.plugins.losses.relativistic import Relativistic
from gankit.plugins.regularizers.r1 import R1
from gankit.plugins.regularizers.r2 import R2


class Quadratic(torch.nn.Module):
    """The closed-form critic of the reference."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.a, self.q = (torch.nn.Parameter(case.inputs[name].clone()) for name in "aq")
        self.b = case.inputs["b"]

    def forward(self, x, cond=None):
        return [(self.b + (self.a * x + 0.5 * self.q * x * x).sum((1, 2, 3)))[:, None]]


@pytest.mark.parametrize("case", load_golden("loss_r3gan_scores").cases, ids=lambda case: case.name)
def test_penalties_of_a_known_critic(case):
    D, gamma = Quadratic(case), case.kwargs["Gamma"]
    real, fake = case.inputs["real"], case.inputs["fake"]
    step = step_context(None, D, real, None, {"fake": fake})
    r1, r2 = R1(gamma=gamma).penalty(step), R2(gamma=gamma).penalty(step)
    case.check("r1", r1 * 2 / gamma)
    case.check("r2", r2 * 2 / gamma)
    total = (Relativistic().d_loss(D(real), D(fake)) + r1 + r2).mean()
    case.check("total", total.reshape(case.outputs["total"].shape))
    total.backward()
    case.check("grad_a", D.a.grad)
    case.check("grad_q", D.q.grad)


def test_lazy_r2_draws_fakes_of_its_own():
    G, D = (
        R3GAN((3, 16, 16), CondSpec(), z_dim=8, **TINY),
        R3GANDiscriminator((3, 16, 16), CondSpec(), **TINY),
    )
    torch.manual_seed(1)
    lazy = R2(gamma=2).penalty(step_context(G, D, torch.zeros(3, 3, 16, 16), None, {}))
    torch.manual_seed(1)
    fake = G(torch.randn(3, 8)).detach()
    given = R2(gamma=2).penalty(step_context(G, D, torch.zeros(3, 3, 16, 16), None, {"fake": fake}))
    torch.testing.assert_close(lazy, given)
    assert lazy.min() > 0
