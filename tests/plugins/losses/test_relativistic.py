"""The relativistic pairing loss against the reference vectors of R3GAN, alone and in a training step."""

from __future__ import annotations

import pytest
import torch
from golden_utils import Case, load_golden
from r3gan_networks import check_gradients, official, step_context

from gankit.plugins.losses.relativistic import Relativistic
from gankit.plugins.regularizers.r1 import R1
from gankit.plugins.regularizers.r2 import R2


@pytest.mark.parametrize("name", ["loss_r3gan_cond", "loss_r3gan_uncond"])
def test_step_equals_reference(name):
    """Relativistic loss with both penalties: values of each image and the gradients of all parameters."""
    golden = load_golden(name)
    G = official(golden.meta["init"]["G"], golden.state("G/"))
    D = official(golden.meta["init"]["D"], golden.state("D/"))
    for case in golden.cases:
        z, real, c = case.inputs["z"], case.inputs["real"], case.inputs.get("c")
        loss = Relativistic()
        if case.name == "D":
            gamma = case.kwargs["Gamma"]
            fake = G(z, c).detach()
            step = step_context(G, D, real, c, features={"fake": fake})
            logits_real, logits_fake = D(real, c), D(fake, c)
            adversarial = loss.d_loss(logits_real, logits_fake)
            r1, r2 = R1(gamma=gamma).penalty(step), R2(gamma=gamma).penalty(step)
            case.check("r1", r1 * 2 / gamma)
            case.check("r2", r2 * 2 / gamma)
            (adversarial + r1 + r2).mean().backward()
            check_gradients(case, D, "grad.")
        else:
            logits_real, logits_fake = D(real, c), D(G(z, c), c)
            adversarial = loss.g_loss(logits_fake, logits_real)
            adversarial.mean().backward()
            check_gradients(case, G, "grad.")
        case.check("adversarial_loss", adversarial)


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
