"""Path length regularisation: Karras et al. 2020 (StyleGAN2), section 3.2 and appendix B."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankit.core.interfaces.training import Regularizer, StepContext
from gankit.core.runtime import random

__all__ = ["PathLength"]


class PathLength(Regularizer):
    """A penalty on the deviation of the path length, the change of the image for a step in w, from its running mean.

    Only B // batch_shrink latents are used, so `penalty` returns as many rows; their mean is the term.

    Args:
        weight: weight of the squared deviation, > 0.
        decay: weight of the current batch in the running mean, in (0, 1].
        interval: compute it every so many steps, >= 1.
        batch_shrink: divide the batch by this to save memory, >= 1.
    """

    side = "G"
    batch_statistics = "mean path length"

    def __init__(
        self, *, weight: float = 2.0, decay: float = 0.01, interval: int = 4, batch_shrink: int = 2
    ) -> None:
        super().__init__()
        self.weight = weight
        self.decay = decay
        self.interval = interval
        self.batch_shrink = batch_shrink
        self.register_buffer("pl_mean", torch.zeros(()))

    pl_mean: Tensor

    def penalty(self, step: StepContext) -> Tensor:
        batch, _, height, width = step.real.shape
        rows = slice(max(1, batch // self.batch_shrink))
        cond = step.cond[rows]
        # Drawn for all rows and cut, since only draws of the whole batch are keyed by sample (runtime/random.py).
        ws = step.G.mapping(step.sample_z(batch)[rows], cond)
        if not ws.requires_grad:  # a generator without a trained mapping
            ws = ws.detach().requires_grad_(True)
        images = step.G.synthesis(ws, cond)
        noise = random.randn(batch, *images.shape[1:], device=images.device)[rows] / math.sqrt(height * width)
        (jacobian,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
        lengths = jacobian.square().sum(2).mean(1).sqrt()
        # The mean is part of the graph: detaching it changes the gradients by about 1 %.
        mean = self.pl_mean.lerp(lengths.mean(), self.decay)
        self.pl_mean.copy_(mean.detach())
        return self.weight * (lengths - mean).square()
