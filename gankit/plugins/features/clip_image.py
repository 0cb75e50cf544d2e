"""Image towers of CLIP models from open_clip (Radford et al. 2021), for projected discriminators and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from gankit.core.interfaces.networks import FeatureNetwork, Tap
from gankit.core.runtime.tensor_files import sha256_of
from gankit.errors import GankitError
from gankit.plugins.conditioning.clip_text import clip_config, clip_normalisation, load_clip

RANDOM = "random"  # in place of the name of published weights


class CLIPImage(FeatureNetwork):
    """The frozen vision transformer of a CLIP model, read after 1/4, 2/4, 3/4 and 4/4 of its blocks.

    Position embeddings are interpolated to the size of the input, whose sides are multiples of the patch. `pooled` is
    the projected image feature, in the space shared with texts, not normalised.

    Args:
        model: architecture in open_clip, such as ViT-B-16 or ViT-L-14.
        pretrained: weights of that architecture by their tag in open_clip, or a .safetensors file (OpenAI's weights as
            a file need a model such as ViT-B-16-quickgelu); random keeps random ones, on which a discriminator
            diverges.
        seed: seed of the random weights when pretrained is random.
    """

    num_logits = 0
    visual: Any  # open_clip's vision transformer
    _scale: Tensor
    _shift: Tensor
    _positions: Tensor

    def __init__(self, *, model: str = "ViT-B-16", pretrained: str = "openai", seed: int = 0) -> None:
        super().__init__()
        config = clip_config(model)["vision_cfg"]
        layers = config.get("layers", 12)
        if config.get("timm_model_name") or not isinstance(layers, int) or layers < 4:
            raise GankitError(
                f"open_clip model {model!r} has no vision transformer of 4 or more blocks; use one like ViT-B-16"
            )
        self.visual = (
            _random_tower(model, seed) if pretrained == RANDOM else load_clip(model, pretrained).visual
        )
        self.visual.eval().requires_grad_(False)
        weights = f"random weights, seed {seed}" if pretrained == RANDOM else Path(pretrained).name
        self.name = f"{model}, {weights}"
        self._sha256 = sha256_of(self.visual.state_dict())
        self.patch = self.visual.patch_size[0]
        self._grid = list(self.visual.grid_size)
        self.indices = [layers * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        self.taps = [Tap(self.visual.conv1.out_channels, self.patch)] * 4
        self.num_pooled = self.visual.output_dim
        self.input_multiple, self.input_side = self.patch, self.visual.image_size[0]
        scale, shift = clip_normalisation(model, pretrained)
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)
        self.register_buffer(
            "_positions", self.visual.positional_embedding.detach().clone(), persistent=False
        )

    def _enter(self, images: Tensor) -> Tensor:
        """Normalise images, and interpolate the tower's position embeddings to their size."""
        grid = [side // self.patch for side in images.shape[2:]]
        if grid != self._grid:
            fitted = resample_abs_pos_embed(
                self._positions[None], grid, list(self.visual.grid_size), num_prefix_tokens=1
            )
            self.visual.positional_embedding = nn.Parameter(fitted[0], requires_grad=False)
            self._grid = grid
        return torch.addcmul(self._shift, images, self._scale)

    def forward(self, images: Tensor) -> list[Tensor]:
        result = self.visual.forward_intermediates(
            self._enter(images), indices=self.indices, stop_early=True, intermediates_only=True
        )
        return result["image_intermediates"]

    def pooled(self, images: Tensor) -> Tensor:
        result = self.visual(self._enter(images))
        return result[0] if isinstance(result, tuple) else result


def _random_tower(model: str, seed: int) -> nn.Module:
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.create_model(
            model, load_weights=False, pretrained_text=False, device=torch.get_default_device()
        ).visual
