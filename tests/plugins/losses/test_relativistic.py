"""The relativistic pairing loss against the reference vectors of R3GAN."""

from __future__ import annotations

import pytest
import torch
from golden_utils import Case, load_golden

from gankit.plugins.losses.relativistic import Relativistic


@pytest.mark.parametrize("case", load_golden("loss_r3gan_scores").cases, ids=lambda case: case.name)
def test_matches_the_original(case: Case) -> None:
    real, fake = (
        case.outputs[f"{kind}_scores"].clone().reshape(-1, 1).requires_grad_() for kind in ("real", "fake")
    )
    d = Relativistic().d_loss([real], [fake])
    d_real, d_fake = torch.autograd.grad(d.mean(), [real, fake])
    g = Relativistic().g_loss([fake], [real])
    for name, value in {
        "adversarial_loss": d,
        "G_adversarial_loss": g,
        "dscore_real": d_real,
        "dscore_fake": d_fake,
    }.items():
        case.check(name, value.reshape(case.outputs[name].shape))
    assert not torch.autograd.grad(g.sum(), real, allow_unused=True)[0]


def test_g_needs_the_real_logits() -> None:
    with pytest.raises(ValueError, match="real"):
        Relativistic().g_loss([torch.zeros(2, 1)])
