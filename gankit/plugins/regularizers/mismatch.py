"""Matching-aware discrimination: Reed et al. 2016 (Generative adversarial text to image synthesis), section 4.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.training import Regularizer, StepContext
from gankit.errors import GankitError

__all__ = ["Mismatch"]


class Mismatch(Regularizer):
    """A penalty on D for accepting real images under the condition of another image of the batch.

    Without it, a D that ignores the condition is only corrected through G. Pairs that fit contribute nothing: the other
    condition is the same as the image's own, a part of it, or empty. So do images whose own condition is hidden by
    dropout. Conditions are compared as D sees them: after noise no two are the same.

    Args:
        weight: weight relative to the loss on generated images, > 0.
        interval: compute it every so many steps, >= 1; with 1 it shares the main step's features of the real images.
        form: how a logit is penalised; choose the one that the adversarial loss uses on fakes.
    """

    side = "D"
    second_order = False
    precision = "mixed"
    batch_statistics = "mismatched conditions"

    def __init__(
        self, *, weight: float = 1.0, interval: int = 1, form: Literal["hinge", "softplus"] = "hinge"
    ) -> None:
        super().__init__()
        self.weight = weight
        self.interval = interval
        self.form = form

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        if composition.cond.c_dim or composition.cond.token_dim:
            return None
        return (
            composition.conditioner,
            "there is no condition that an image could mismatch; remove one of the two",
        )

    def penalty(self, step: StepContext) -> Tensor:
        own = _rows(step.cond)
        if not any(t.numel() for t in own):
            raise GankitError(
                "regularizer 'mismatch' needs a conditional model; remove it or set a conditioner"
            )
        features = step.features.get("real")
        if features is None:
            features = step.D.features(step.augment(step.real))
        logits = step.D.score(features, step.cond.map(lambda t: t.roll(1, 0)))
        penalise = F.softplus if self.form == "softplus" else lambda x: F.relu(1 + x)
        loss = torch.stack([penalise(x.float()).mean(1) for x in logits]).sum(0)
        mismatched = torch.stack([_contradicts(rows.roll(1, 0), rows) for rows in own]).any(0)
        given = torch.stack([rows.ne(0).any(1) for rows in own]).any(0)
        return self.weight * torch.where(mismatched & given, loss, torch.zeros_like(loss))


def _rows(cond: Condition) -> list[Tensor]:
    """Embedding and tokens of a condition as [B, n], zero where nothing is given."""
    parts = [] if cond.embedding is None else [cond.embedding]
    if cond.tokens is not None:
        parts.append(cond.tokens if cond.mask is None else cond.tokens * cond.mask.unsqueeze(2))
    return [part.detach().flatten(1) for part in parts]


def _contradicts(foreign: Tensor, own: Tensor) -> Tensor:
    """True [B] where the foreign condition has a non-zero entry that differs from the own one."""
    return (foreign.ne(0) & (foreign != own)).any(1)
