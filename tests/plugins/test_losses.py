"""What adversarial losses share: shapes, directions, extreme logits, lists of logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gankit.core.interfaces.training import AdversarialLoss
from gankit.plugins.losses.hinge import Hinge
from gankit.plugins.losses.non_saturating import NonSaturating

LOSSES = [Hinge(), NonSaturating()]


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
