"""The default feature networks of metrics, as plugin names with options."""

from __future__ import annotations

from typing import Annotated, Any

from gankit.core.config.options import Nested

OwnFeature = Annotated[dict[str, Any] | None, Nested("feature", build=False)]

INCEPTION = {"name": "inception"}
RANDOM_INCEPTION = {"name": "inception", "pretrained": False}
EFFICIENTNET = {"name": "timm-cnn"}
# Stein et al., Exposing flaws of generative model evaluation metrics, NeurIPS 2023, and Kynkaanniemi et al.,
# The Role of ImageNet Classes in Frechet Inception Distance, ICLR 2023: these two networks, at 224 pixels.
DINOV2 = {"name": "timm-vit", "model": "vit_large_patch14_dinov2.lvd142m"}
CLIP = {"name": "timm-vit", "model": "vit_base_patch32_clip_quickgelu_224.openai"}
