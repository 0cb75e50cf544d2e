"""Non-saturating logistic loss: Goodfellow et al. 2014, section 3; the loss of StyleGAN2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.interfaces.training import AdversarialLoss

__all__ = ["NonSaturating"]


class NonSaturating(AdversarialLoss):
    """D: softplus(-real) + softplus(fake); G: softplus(-fake). Mean over an image's logits, sum over networks."""

    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        terms = [F.softplus(-r).mean(1) + F.softplus(f).mean(1) for r, f in zip(real, fake, strict=True)]
        return torch.stack(terms).sum(0)

    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        return torch.stack([F.softplus(-f).mean(1) for f in fake]).sum(0)
