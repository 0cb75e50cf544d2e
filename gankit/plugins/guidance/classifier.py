"""Classifier guidance: a pretrained classifier's loss on G's images (StyleGAN-XL, Sauer et al. 2022, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from gankit.core.config.options import Nested
from gankit.core.config.registry import registry
from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import FeatureNetwork
from gankit.core.interfaces.training import Guidance
from gankit.core.nn.rgb import to_rgb
from gankit.errors import GankitError, unknown
from gankit.plugins.guidance.clip import shown_rows

DEIT = {"name": "timm-vit", "model": "deit_small_distilled_patch16_224.fb_in1k"}


class ClassifierGuidance(Guidance):
    """Cross-entropy between a classifier's prediction for an image and the image's class; 0 for images without a class.

    Args:
        feature: feature network with a classifier.
        weight: factor of the loss. StyleGAN-XL's 8 stands beside an adversarial loss that is summed over feature
            networks and over the N images of a GPU; losses here sum over networks and take the mean over images,
            beside which it corresponds to 8 / N.
        classes: class of the data -> index of the classifier's output, e.g. {tabby: 281}; null takes the names of the
            classes as indices.
        temperature: the classifier's logits are divided by it.
        side: images are resized to this many pixels, both sides.
    """

    needs_labels = ("cls",)
    conformance = {
        "feature": {"name": "timm-vit", "model": "test_vit.r160_in1k", "pretrained": False},
        "classes": {"cat": 0, "dog": 1, "bird": 2},
        "side": 32,
    }

    def __init__(
        self,
        *,
        feature: Annotated[FeatureNetwork, Nested("feature")] = DEIT,  # type: ignore[assignment]
        weight: float = 8.0,
        classes: dict[str, int] | None = None,
        temperature: float = 1.0,
        side: int = 224,
    ) -> None:
        super().__init__()
        if not feature.num_logits:
            raise GankitError(
                f"feature {feature.name!r} of guidance 'classifier' has no classifier; choose another"
            )
        if temperature <= 0:
            raise GankitError(f"temperature = {temperature} of guidance 'classifier' must be positive")
        if side < 1 or side % feature.input_multiple:
            raise GankitError(
                f"side = {side} of guidance 'classifier' must be a multiple of {feature.input_multiple} pixels"
            )
        for name, index in (classes or {}).items():
            self._check(name, index, feature)
        self.feature, self.weight, self.classes = feature, weight, classes
        self.temperature, self.side = temperature, side

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        name = options["feature"]["name"]
        if getattr(registry().load("feature", name), "num_logits", None) == 0:
            return f"feature network {name!r}", "it has no classifier; choose another, such as timm-vit"
        return None

    @staticmethod
    def _check(name: str, index: int, feature: FeatureNetwork) -> int:
        if not 0 <= index < feature.num_logits:
            raise GankitError(
                f"class {name!r} of guidance 'classifier' has index {index}, but {feature.name!r} knows the "
                f"{feature.num_logits} classes 0 to {feature.num_logits - 1}"
            )
        return index

    def _index(self, name: str) -> int:
        if self.classes is not None:
            if name not in self.classes:
                hint = "in option classes of guidance 'classifier'"
                raise GankitError(unknown("class", name, self.classes, hint=hint))
            return self.classes[name]
        if not (name.isascii() and name.isdigit()):
            raise GankitError(
                f"class {name!r} is not a number of a class of {self.feature.name!r}; "
                "give guidance 'classifier' the option classes, e.g. {" + name + ": 281}"
            )
        return self._check(name, int(name), self.feature)

    def loss(self, images: Tensor, cond: Condition, labels: Sequence[Label]) -> Tensor:
        images = to_rgb(images)  # may draw random numbers for all rows, so before any are selected
        shown = shown_rows(cond, len(images))
        targets = {i: self._index(x.cls) for i, x in enumerate(labels) if x.cls is not None and shown[i]}
        result = torch.zeros(len(images), device=images.device)
        if not targets:
            return result
        where = torch.tensor(list(targets), device=images.device)
        chosen = images if len(targets) == len(images) else images[where]
        inputs = nn.functional.interpolate(
            chosen, (self.side, self.side), mode="bilinear", align_corners=False
        )
        logits = self.feature.logits(inputs).float() / self.temperature
        wanted = torch.tensor(list(targets.values()), device=images.device)
        return result.index_copy(0, where, nn.functional.cross_entropy(logits, wanted, reduction="none"))
