"""R1 gradient penalty on real images: Mescheder et al. 2018, equation 9; lazily as in StyleGAN2, section 3.2."""

from __future__ import annotations

import torch
from torch import Tensor

from gankit.core.interfaces.training import Regularizer, StepContext

__all__ = ["R1"]


class R1(Regularizer):
    """Penalises the gradient of D at real images, taken before their augmentation.

    Args:
        gamma: weight, > 0; StyleGAN2-ADA's rule for a start is 0.0002 * H * W / batch.
        interval: compute it every so many steps, >= 1.
    """

    side = "D"

    def __init__(self, *, gamma: float = 1.0, interval: int = 16) -> None:
        super().__init__()
        self.gamma = gamma
        self.interval = interval

    def penalty(self, step: StepContext) -> Tensor:
        real = step.real.detach().requires_grad_(True)
        logits = step.D(step.augment(real), step.cond)
        total = torch.stack([x.sum() for x in logits]).sum()
        (gradient,) = torch.autograd.grad(total, real, create_graph=True)
        return self.gamma / 2 * gradient.square().sum((1, 2, 3))
