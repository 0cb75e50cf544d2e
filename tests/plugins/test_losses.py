"""Adversarial losses against the reference vectors and their definitions."""

from __future__ import annotations

import pytest
import torch
from golden_utils import Case, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gankit.core.interfaces.training import AdversarialLoss
from gankit.plugins.losses.hinge import Hinge
from gankit.plugins.losses.non_saturating import NonSaturating

LOSSES = [Hinge(), NonSaturating()]


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


@pytest.mark.parametrize("file", ["loss_sg2", "loss_sg2_cond"])
def test_non_saturating_matches_the_original(file: str) -> None:
    cases = {case.name: case for case in load_golden(file).cases}
    d, g = cases["Dmain"], cases["Gmain"]
    d_loss = NonSaturating().d_loss([d.outputs["Loss.scores.real"]], [d.outputs["Loss.scores.fake"]])
    d.check("Loss.D.loss", d_loss[:, None])
    g.check("Loss.G.loss", NonSaturating().g_loss([g.outputs["Loss.scores.fake"]])[:, None])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 4),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 999),
)
def test_shapes_and_reduction(loss: AdversarialLoss, batch: int, widths: list[int], seed: int) -> None:
    """One value an image; mean over an entry's logits, sum over entries; images do not mix."""
    generator = torch.Generator().manual_seed(seed)
    real, fake = ([torch.randn(batch, n, generator=generator) for n in widths] for _ in range(2))
    d, g = loss.d_loss(real, fake), loss.g_loss(fake)
    assert d.shape == g.shape == (batch,)
    columns = [
        (loss.d_loss([r[:, i : i + 1]], [f[:, i : i + 1]]) / n, loss.g_loss([f[:, i : i + 1]]) / n)
        for r, f, n in zip(real, fake, widths)
        for i in range(n)
    ]
    torch.testing.assert_close(d, torch.stack([c[0] for c in columns]).sum(0))
    torch.testing.assert_close(g, torch.stack([c[1] for c in columns]).sum(0))
    first = loss.d_loss([r[:1] for r in real], [f[:1] for f in fake])
    torch.testing.assert_close(first, d[:1])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_directions(loss: AdversarialLoss) -> None:
    """D wants real logits up and fake ones down, G fake ones up; the derivatives are those of finite differences."""
    real = torch.tensor([[-0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([[-0.6, 0.2]], dtype=torch.float64, requires_grad=True)
    d_real, d_fake = torch.autograd.grad(loss.d_loss([real], [fake]).sum(), [real, fake])
    (g_fake,) = torch.autograd.grad(loss.g_loss([fake]).sum(), fake)
    assert (d_real < 0).all()
    assert (d_fake > 0).all()
    assert (g_fake < 0).all()
    assert torch.autograd.gradcheck(lambda r, f: loss.d_loss([r], [f]), (real, fake))
    assert torch.autograd.gradcheck(lambda f: loss.g_loss([f]), (fake,))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_extreme_logits_stay_finite(loss: AdversarialLoss) -> None:
    huge = [torch.tensor([[1e4], [-1e4]])]
    assert loss.d_loss(huge, [-huge[0]]).isfinite().all()
    assert loss.g_loss(huge).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_lists_of_different_length_are_an_error(loss: AdversarialLoss) -> None:
    one = torch.zeros(2, 3)
    with pytest.raises(ValueError):
        loss.d_loss([one, one], [one])
