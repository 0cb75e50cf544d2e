"""Vision transformers from timm as feature networks; DINO ViT-S/16 is that of StyleGAN-T (Sauer et al. 2023)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gankit.core.interfaces.networks import Tap
from gankit.errors import GankitError
from gankit.plugins.features.timm_models import TimmFeatures


class TimmViT(TimmFeatures):
    """A frozen vision transformer of timm, read after 1/4, 2/4, 3/4 and 4/4 of its blocks, before the final norm.

    Position embeddings are interpolated to the size of the input, whose sides are multiples of the patch.

    Args:
        model: name in timm, such as vit_small_patch16_224.dino or deit_base_distilled_patch16_224.fb_in1k.
        pretrained: load the published weights; false keeps random ones (a discriminator on them diverges).
        seed: seed of the random weights when pretrained is false.
        model_args: further arguments of timm.create_model, such as depth or embed_dim for a network of another size.
    """

    num_token_maps: int  # number of maps from `token_maps`

    conformance = {"model": "test_vit.r160_in1k", "pretrained": False}

    def __init__(
        self,
        *,
        model: str = "vit_small_patch16_224.dino",
        pretrained: bool = True,
        seed: int = 0,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        args = {"dynamic_img_size": True, **(model_args or {})}
        unfit = f"timm model {model!r} is not a vision transformer of 4 or more blocks; use timm-cnn for it"
        try:
            super().__init__(model, pretrained=pretrained, seed=seed, model_args=args)
        except GankitError as error:
            raise GankitError(unfit) if "argument 'dynamic_img_size'" in str(error) else error from None
        blocks = getattr(self.network, "blocks", ())
        patch = self.network.patch_embed.patch_size
        if len(blocks) < 4 or patch[0] != patch[1]:
            raise GankitError(unfit)
        self.indices = [len(blocks) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        self.taps = [Tap(self.network.embed_dim, patch[0])] * 4
        self.num_token_maps = 5
        self.input_multiple = patch[0]

    def forward(self, images: Tensor, tokens: bool = False) -> list[Tensor]:
        images = self.normalise(images)
        if not tokens:
            return self.network.forward_intermediates(
                images, indices=self.indices, intermediates_only=True, stop_early=True
            )
        embedded: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            embedded.append(inputs[0])

        hook = self.network.blocks[0].register_forward_pre_hook(keep)
        try:
            maps = self.network.forward_intermediates(
                images,
                indices=self.indices,
                intermediates_only=True,
                stop_early=True,
                output_fmt="NLC",
                return_prefix_tokens=True,
            )
        finally:
            hook.remove()
        first = self.network.num_prefix_tokens
        if not first:
            return [patches.mT for patches in [*maps, embedded[0]]]
        pairs = [*maps, (embedded[0][:, first:], embedded[0][:, :first])]
        if not self.network.has_class_token:  # registers only
            return [patches.mT for patches, _ in pairs]
        return [(patches + prefix[:, :1]).mT for patches, prefix in pairs]

    def token_maps(self, images: Tensor) -> list[Tensor]:
        """Token maps, each [B, channels, N]: the blocks' outputs, then the embedded patches before the first block.

        The class token, the first of the prefix tokens, is added to every patch token (StyleGAN-T's readout).
        """
        return self(images, tokens=True)
