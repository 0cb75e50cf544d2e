"""The hinge loss against the reference vectors of three code bases."""

from __future__ import annotations

import pytest
import torch
from golden_utils import Case, load_golden
from torch import Tensor

from gankit.plugins.losses.hinge import Hinge


def golden_hinge() -> list:
    """(case, names of the logits, rows are list entries, factor on the batch mean)"""
    projected = [(c, "{}_logits", False, 1.0) for c in load_golden("loss_hinge_projected_gan").cases]
    xl = [(c, "{}", True, 1.0) for c in load_golden("loss_hinge_sgxl").cases]
    t = [(c, "{}_logits", False, 0.25) for c in load_golden("loss_sgt").cases if c.name == "hinge"]
    return [pytest.param(*args, id=f"{i}-{args[0].name}") for i, args in enumerate([*projected, *xl, *t])]


@pytest.mark.parametrize(("case", "names", "as_list", "factor"), golden_hinge())
def test_hinge_matches_the_original(case: Case, names: str, as_list: bool, factor: float) -> None:
    """StyleGAN-T divides by the batch size once more; StyleGAN-XL sums over a list of one row each."""
    real, fake = (case.inputs[names.format(kind)].clone().requires_grad_() for kind in ("real", "fake"))

    def logits(x: Tensor) -> list[Tensor]:
        return list(x.split(1)) if as_list else [x]

    d_loss = factor * Hinge().d_loss(logits(real), logits(fake)).mean()
    d_real, d_fake = torch.autograd.grad(d_loss, [real, fake])
    g_loss = factor * Hinge().g_loss(logits(fake)).mean()
    (dg_fake,) = torch.autograd.grad(g_loss, fake)
    actual = {
        "D_loss": d_loss[None],
        "d_real": d_real,
        "d_fake": d_fake,
        "G_loss": g_loss[None],
        "dG_fake": dg_fake,
    }
    for name, value in actual.items():
        case.check(name, value)
