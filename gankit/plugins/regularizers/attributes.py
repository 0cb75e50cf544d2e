"""Auxiliary classifier on D's features: Odena et al. 2017 (Image synthesis with auxiliary classifier GANs)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankit.core.interfaces.conditions import Conditioner
from gankit.core.interfaces.networks import Discriminator, ImageShape
from gankit.core.interfaces.training import Regularizer, StepContext
from gankit.core.nn.stylegan_layers import FullyConnected
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError

__all__ = ["Attributes"]


class Attributes(Regularizer):
    """An auxiliary classifier on D's features, by which G's images must show each class and tag (section 3).

    A single score for a whole condition says little about its small parts: D may accept an image whose colours fit
    although the glasses are missing. Here a classifier on D's features learns every class and tag of real images (D's
    part), and G is penalised where it recognises something else in G's images (G's part). A caption need not mention
    all that is seen, so a second classifier, on conditions, is trained along: G answers only for attributes that this
    one predicts correctly, with the given certainty, from G's condition.

    Args:
        weight_d: weight of D's part, the sum of the cross-entropies of all attributes, >= 0.
        weight_g: weight of G's part, >= 0.
        certainty: an attribute counts for G if the classifier on conditions gives its true value at least this
            probability, in (0.5, 1).
        hidden: width of the hidden layer of the classifier on conditions, >= 1.
    """

    side = "both"
    second_order = False
    precision = "mixed"
    needs_labels = ("cls", "tags")

    conformance = {"certainty": 0.51}  # before training, the classifier on conditions is not certain

    def __init__(
        self, *, weight_d: float = 0.1, weight_g: float = 0.1, certainty: float = 0.9, hidden: int = 256
    ) -> None:
        super().__init__()
        if not 0.5 < certainty < 1:
            raise GankitError(f"certainty = {certainty} of regularizer 'attributes' must be in (0.5, 1)")
        if min(weight_d, weight_g) < 0:
            raise GankitError("weight_d and weight_g of regularizer 'attributes' must not be negative")
        if hidden < 1:
            raise GankitError(f"hidden = {hidden} of regularizer 'attributes' must be at least 1")
        self.weight_d, self.weight_g, self.certainty, self.hidden = weight_d, weight_g, certainty, hidden

    def set_up(self, D: Discriminator, conditioner: Conditioner, image_shape: ImageShape) -> None:
        self.columns = [i for i, (kind, _) in enumerate(conditioner.columns()) if kind in ("cls", "tags")]
        if not self.columns:
            raise GankitError(
                "regularizer 'attributes' needs a conditioner with classes or tags; remove it, or add one "
                "(conditioner 'combined' takes captions and tags together)"
            )
        device = next(D.parameters()).device
        with torch.no_grad(), batch_random("set_up", total=2):
            width = _vector(D.features(torch.zeros(2, *image_shape, device=device))).shape[1]
        self.of_images = FullyConnected(width, len(self.columns))
        self.of_conditions = nn.Sequential(
            FullyConnected(conditioner.spec.c_dim, self.hidden, activation="lrelu"),
            FullyConnected(self.hidden, len(self.columns)),
        )

    def penalty(self, step: StepContext) -> Tensor:
        full, given = step.full_cond.embedding, step.cond.embedding
        if full is None or given is None:
            raise ValueError("regularizer 'attributes' needs conditions with an embedding")
        truth = (full[:, self.columns] > 0).float()
        told = self.of_conditions(given.detach())
        if step.side == "D":
            features = step.features.get("real")
            if features is None:
                features = step.D.features(step.augment(step.real))
            seen = self.of_images(_vector(features))
            return self.weight_d * _cross_entropy(seen, truth).sum(1) + _cross_entropy(told, truth).sum(1)
        features = step.features.get("fake features")
        if features is None:
            fake = step.G(step.sample_z(len(step.real)), step.cond)
            features = step.D.features(step.augment(fake))
        known = (told.sigmoid() - truth).abs() <= 1 - self.certainty
        return self.weight_g * (_cross_entropy(self.of_images(_vector(features)), truth) * known).sum(1)


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropies, of the shape of the logits."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none")


def _vector(features: Any) -> Tensor:
    """D's features as vectors [B, n]: maps are averaged over their positions, several parts concatenated."""
    if isinstance(features, Tensor):
        rows = features.float()
        return rows.flatten(2).mean(2) if rows.dim() > 2 else rows.reshape(len(rows), -1)
    parts = features.values() if isinstance(features, dict) else features
    return torch.cat([_vector(part) for part in parts], dim=1)
