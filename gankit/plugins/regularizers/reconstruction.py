"""A reconstruction loss beside the adversarial one: Isola et al. 2017 (Image-to-image translation), section 3.1."""

from __future__ import annotations

from torch import Tensor

from gankit.core.interfaces import Regularizer, StepContext

__all__ = ["Reconstruction"]


class Reconstruction(Regularizer):
    """A warm start for conditions that say nearly everything about an image, such as full captions or many tags.

    The mean absolute difference between G's images and the real ones with the same condition. It teaches layout and
    colours in a few thousand images, but also to ignore z, so it fades out and leaves the rest to D. Of no use where a
    condition fits many different images, such as a class.

    Args:
        weight: weight at the start, relative to the adversarial loss, > 0.
        until_kimg: the weight falls linearly to 0 over so many thousand images, > 0.
    """

    side = "G"
    second_order = False

    def __init__(self, *, weight: float = 50.0, until_kimg: float = 30.0) -> None:
        super().__init__()
        self.weight = weight
        self.until_kimg = until_kimg

    def penalty(self, step: StepContext) -> Tensor:
        left = 1 - step.nimg / (1000 * self.until_kimg)
        if left <= 0:
            return step.real.new_zeros(len(step.real))
        fake = step.features.get("fake")
        if fake is None:
            fake = step.G(step.sample_z(len(step.real)), step.cond)
        return self.weight * left * (fake.float() - step.real).abs().mean((1, 2, 3))
