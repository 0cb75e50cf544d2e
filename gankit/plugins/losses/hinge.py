"""Hinge loss: Lim and Ye 2017, section 2.2; the loss of Projected GAN, StyleGAN-XL and StyleGAN-T."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.interfaces.training import AdversarialLoss

__all__ = ["Hinge"]


class Hinge(AdversarialLoss):
    """D: relu(1 - real) + relu(1 + fake); G: -fake. Mean over an image's logits, sum over networks."""

    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        terms = [F.relu(1 - r).mean(1) + F.relu(1 + f).mean(1) for r, f in zip(real, fake, strict=True)]
        return torch.stack(terms).sum(0)

    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor:
        return torch.stack([-f.mean(1) for f in fake]).sum(0)
