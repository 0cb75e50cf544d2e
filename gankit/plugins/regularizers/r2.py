"""R2 gradient penalty on generated images: Mescheder et al. 2018, equation 10; R3GAN (2024), section 2."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from gankit.core.interfaces.training import StepContext
from gankit.plugins.regularizers.r1 import R1

__all__ = ["R2"]


class R2(R1):
    """Penalises the gradient of D at generated images, taken before their augmentation, as R1 does at real ones (R3GAN,
    Huang et al. 2024).

    Args:
        gamma: weight, > 0; R3GAN has the same for R1 and R2.
        interval: compute it every so many steps, >= 1; R3GAN computes it, like R1, in each (1).
    """

    def penalty(self, step: StepContext) -> Tensor:
        fake = step.features.get("fake")
        if fake is None:  # in a step of its own, without the images of the main phase
            with torch.no_grad():
                fake = step.G(step.sample_z(len(step.real)), step.cond)
        return super().penalty(dataclasses.replace(step, real=fake.float()))
