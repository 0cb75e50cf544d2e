"""Relativistic pairing loss: Jolicoeur-Martineau 2018; R3GAN (Huang et al. 2024), sections 2 and 3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.interfaces.training import AdversarialLoss

__all__ = ["Relativistic"]


class Relativistic(AdversarialLoss):
    """D: softplus(fake - real); G: softplus(real - fake). Mean over an image's logits, sum over networks.

    Image i of the fakes is compared with image i of the reals, which has the same condition.
    """

    g_needs_real = True

    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return torch.stack([F.softplus(f - r).mean(1) for r, f in zip(real, fake, strict=True)]).sum(0)

    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        if real is None:
            raise ValueError("real must hold the real images' logits: a relativistic loss compares pairs")
        return self.d_loss(fake, [r.detach() for r in real])
