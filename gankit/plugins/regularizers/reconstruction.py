"""L1 reconstruction loss on G's images: Isola et al. 2017 (Image-to-image translation), section 3.1."""

from __future__ import annotations

from torch import Tensor

from gankit.core.interfaces.training import Regularizer, StepContext
from gankit.errors import GankitError

__all__ = ["Reconstruction"]


class Reconstruction(Regularizer):
    """A warm start for conditions that say nearly everything about an image, such as full captions or many tags.

    The mean absolute difference between G's images and the real ones with the same condition. It teaches layout and
    colours in a few thousand images, but also to ignore z and to average what the condition leaves open, so it fades
    out and leaves the rest to D. Of no use where a condition fits many different images, such as a class.

    Args:
        weight: weight at the start, relative to the adversarial loss, >= 0.
        until_kimg: the weight moves linearly to `final_weight` over so many thousand images, > 0.
        final_weight: weight from then on, >= 0; more than 0 keeps small details in place, at the price of variety in
            what a condition leaves open.
    """

    side = "G"
    second_order = False
    precision = "mixed"

    def __init__(self, *, weight: float = 50.0, until_kimg: float = 30.0, final_weight: float = 0.0) -> None:
        super().__init__()
        if until_kimg <= 0:
            raise GankitError(f"until_kimg = {until_kimg} of regularizer 'reconstruction' must be positive")
        if min(weight, final_weight) < 0:
            raise GankitError("weight and final_weight of regularizer 'reconstruction' must not be negative")
        self.weight, self.until_kimg, self.final_weight = weight, until_kimg, final_weight

    def penalty(self, step: StepContext) -> Tensor:
        left = max(0.0, 1 - step.nimg / (1000 * self.until_kimg))
        weight = self.final_weight + left * (self.weight - self.final_weight)
        if weight <= 0:
            return step.real.new_zeros(len(step.real))
        fake = step.features.get("fake")
        if fake is None:
            fake = step.G(step.sample_z(len(step.real)), step.cond)
        return weight * (fake.float() - step.real).abs().mean((1, 2, 3))
