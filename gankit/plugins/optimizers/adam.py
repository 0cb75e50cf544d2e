"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019, "Decoupled weight decay regularization")."""

from __future__ import annotations

from typing import Any

import torch

from gankit.core.interfaces.training import Optimizer
from gankit.errors import GankitError

__all__ = ["Adam", "AdamW"]


def fused(groups: list[dict[str, Any]]) -> bool | None:
    """True where torch has Adam as one kernel, else None, which leaves the choice to torch."""
    return groups[0]["params"][0][1].device.type in ("cpu", "cuda") or None


class Adam(Optimizer):
    """Adam, the optimizer of the StyleGAN family. Betas and epsilon are options of `train`."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, fused=fused(groups))


class AdamW(Optimizer):
    """Adam with decoupled weight decay. Betas and epsilon are options of `train`.

    Args:
        weight_decay: share of a weight that a step with learning rate 1 takes away, >= 0; it acts times the rate.
        decay_vectors: let biases, gains and other parameters with fewer than two axes decay, too.
    """

    def __init__(self, *, weight_decay: float = 0.01, decay_vectors: bool = False) -> None:
        if weight_decay < 0:
            raise GankitError(f"weight_decay = {weight_decay} of optimizer 'adamw' must not be negative")
        self.weight_decay, self.decay_vectors = weight_decay, decay_vectors

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        parts = []
        for group in groups:
            for decays in (True, False):
                params = [(n, p) for n, p in group["params"] if (self.decay_vectors or p.dim() > 1) == decays]
                if params:
                    decay = self.weight_decay if decays else 0.0
                    parts.append({**group, "params": params, "weight_decay": decay})
        return torch.optim.AdamW(parts, fused=fused(groups))
