"""StyleGAN-XL discriminator (Sauer et al., SIGGRAPH 2022): Projected GAN on several frozen networks.

A convolutional network and a vision transformer are complementary (section 3.2 of the paper); each has random
projections and heads of its own. Tensor names are those of the official code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from gankit.core.config.options import Nested
from gankit.core.interfaces.composition import Composition
from gankit.core.interfaces.conditions import Cond, CondSpec, required_embedding
from gankit.core.interfaces.networks import Discriminator, FeatureNetwork, ImageShape
from gankit.core.models.pretrained import start_table
from gankit.core.nn.rgb import entry_size, to_rgb
from gankit.errors import GankitError
from gankit.plugins.discriminators.heads import Head, Norm
from gankit.plugins.discriminators.projected import (
    ProjectedFeatures,
    make_heads,
    resized,
    unfit_feature,
)

NETWORKS = {
    "deit_base_distilled_patch16_224": {
        "name": "timm-vit",
        "model": "deit_base_distilled_patch16_224.fb_in1k",
    },
    "tf_efficientnet_lite0": {"name": "timm-cnn"},
}


class StyleGANXLDiscriminator(Discriminator):
    """Frozen features of several networks, random projections, a head for each scale; logits for each network.

    All networks see the same augmented images, whereas the original augments anew for each.

    Args:
        features: frozen networks under names of your choice, with plugin and options, such as {cnn: {name: timm-cnn},
            clip: {name: clip-image}}; by default DeiT and EfficientNet-Lite0 as in the paper.
        side: pixels; images whose shorter side is smaller are enlarged to it. Larger ones enter convolutional networks
            as they are and are shrunk to it for transformers. The paper uses 224.
        cout: channels of the finest mixed map.
        norm: normalisation inside the heads; batch as in the paper, group and none do not depend on other images.
        cmap_dim: width of the projected condition, whose dot product with the features is the logit.
        embed_dim: width of the class embedding in each head; 320 as the class means of EfficientNet-Lite0.
        class_table: initial class embedding: a .safetensors file, or the id of weights, with one tensor [classes,
            embed_dim], such as `gankit class-table` writes; random when omitted. It is trained in any case.
    """

    batch_statistics: ClassVar[str] = "batch norm"

    conformance = {
        "features": {
            "cnn": {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False},
            "vit": {"name": "timm-vit", "model": "test_vit.r160_in1k", "pretrained": False},
        },
        "side": 64,
        "cout": 8,
    }

    def __init__(
        self,
        image_shape: ImageShape,
        cond: CondSpec,
        *,
        features: Annotated[dict[str, FeatureNetwork], Nested("feature", many=True)] = NETWORKS,  # type: ignore[assignment]
        side: int = 224,
        cout: int = 64,
        norm: Norm = "batch",
        cmap_dim: int = 64,
        embed_dim: int = 320,
        class_table: str | None = None,
    ) -> None:
        super().__init__()
        if norm != "batch":
            self.batch_statistics = ""  # type: ignore[misc]
        if not features or any("." in name for name in features):
            raise GankitError(
                f"discriminator.features of 'stylegan-xl' must name one network at least, without dots in the names, "
                f"not {list(features)}"
            )
        self.c_dim = cond.c_dim
        self.feature_networks, self.discriminators = nn.ModuleDict(), nn.ModuleDict()
        self.entries: dict[str, tuple[int, int]] = {}
        height, width = image_shape[1:]
        for name, feature in features.items():
            projected = ProjectedFeatures(feature, proj_type=2, cout=cout, expand=True)
            enters = side if is_transformer(feature) else max(side, min(height, width))
            self.entries[name] = entry_size(height, width, enters, projected.input_multiple)
            self.feature_networks[name] = projected
            self.discriminators[name] = make_heads(
                projected.outputs,
                self.entries[name],
                c_dim=cond.c_dim,
                cmap_dim=cmap_dim,
                embed_dim=embed_dim,
                norm=norm,
                equalised=True,
            )
        table = (
            start_table(class_table, cond.c_dim, embed_dim, "discriminator.class_table")
            if cond.c_dim
            else None
        )
        if table is not None:
            with torch.no_grad():
                for head in self.heads():
                    head.embed.weight.copy_(table.T)

    @classmethod
    def incompatibility(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        specs = ({"name": label, **spec} for label, spec in options["features"].items())
        return next(filter(None, map(unfit_feature, specs)), None)

    def heads(self) -> list[Head]:
        return [head for name in self.discriminators for head in self._heads(name)]

    def _heads(self, name: str) -> list[Head]:
        return list(cast("nn.ModuleList", self.discriminators.get_submodule(f"{name}.mini_discs")))  # type: ignore[arg-type]

    def features(self, images: Tensor) -> dict[str, list[Tensor]]:
        """For each network, the features of each head before the condition enters, [B, cmap_dim, h, w]."""
        images = to_rgb(images)
        found = {}
        for name, network in self.feature_networks.items():
            maps = network(resized(images, self.entries[name]))
            found[name] = [head.features(x) for head, x in zip(self._heads(name), maps)]
        return found

    def score(self, features: dict[str, list[Tensor]], cond: Cond = None) -> list[Tensor]:
        c = required_embedding(cond, self.c_dim)
        logits = []
        for name, maps in features.items():
            scores = [head.score(x, c).flatten(1) for head, x in zip(self._heads(name), maps)]
            logits.append(torch.cat(scores, dim=1))
        return logits


def is_transformer(feature: FeatureNetwork) -> bool:
    """True if all maps have one stride, as in a vision transformer, which works best at its training size."""
    return len(feature.taps) > 1 and len({tap.stride for tap in feature.taps}) == 1
