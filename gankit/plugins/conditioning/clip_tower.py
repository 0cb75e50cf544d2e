"""Text conditioner on a CLIP text tower whose weights are stored with the model, as in StyleGAN-T snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gankit.core.interfaces.conditions import Condition
from gankit.errors import GankitError
from gankit.plugins.conditioning.text import EncodedText


class CLIPTowerConditioner(EncodedText):
    """Text feature of a CLIP text tower that is stored with the model; zeros where no text is given.

    For models that carry their encoder, such as imported ones. To train a new model, use clip-text: its encoder is a
    published one, referenced by name and not stored. Defaults are the tower of CLIP ViT-L/14.

    Args:
        embed_dim: width of the feature.
        context_length: tokens of a text beyond this number are cut off.
        vocab_size: number of tokens that the tower knows.
        width: width of its layers.
        heads: attention heads of each layer.
        layers: number of layers.
        quick_gelu: use the approximate GELU of OpenAI's models as activation.
        normalize: scale the feature to length 1.
        trainable: fine-tune the tower together with G (StyleGAN-T's text-encoder phase).
        noise: standard deviation of Gaussian noise that training adds, in units of 1/sqrt(width).
        dropout: probability in [0, 1] with which training hides the text of an image.
    """

    name = "clip-tower"
    conformance = {"embed_dim": 8, "width": 16, "heads": 2, "layers": 1}

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        context_length: int = 77,
        vocab_size: int = 49408,
        width: int = 768,
        heads: int = 12,
        layers: int = 12,
        quick_gelu: bool = True,
        normalize: bool = True,
        trainable: bool = False,
        noise: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(trainable=True, noise=noise, dropout=dropout)
        if width % heads:
            raise GankitError(f"heads = {heads} of conditioner 'clip-tower' must divide width = {width}")
        self.embed_dim, self.quick_gelu, self.normalize = embed_dim, quick_gelu, normalize
        self.text = {
            "context_length": context_length,
            "vocab_size": vocab_size,
            "width": width,
            "heads": heads,
            "layers": layers,
        }
        self.encoder_name = f"{self.text} {normalize}"
        self._tokenizer: Any = None
        self.set_up(c_dim=embed_dim)
        self.encoder.requires_grad_(trainable)

    def load_encoder(self) -> nn.Module:
        """A tower with random weights, to be overwritten by those of the model."""
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

        vision = CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=16)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clip = CLIP(self.embed_dim, vision, CLIPTextCfg(**self.text), quick_gelu=self.quick_gelu)  # type: ignore[arg-type]
        del clip.visual, clip.logit_scale
        clip.logit_bias = None
        return clip

    def features(self, encoder: Any, texts: Sequence[str]) -> Condition:
        if self._tokenizer is None:
            from open_clip.tokenizer import SimpleTokenizer

            self._tokenizer = SimpleTokenizer(context_length=self.text["context_length"])
        if self.text["vocab_size"] < self._tokenizer.vocab_size:
            raise GankitError(
                f"the text encoder of this model knows {self.text['vocab_size']} tokens, CLIP's tokenizer makes "
                f"{self._tokenizer.vocab_size}: it cannot take prompts, only features"
            )
        tokens = self._tokenizer(list(texts)).to(next(encoder.parameters()).device)
        return Condition(encoder.encode_text(tokens, normalize=self.normalize).float())

    def cache_key(self) -> str:
        return ""  # a stored encoder is not cached

    def identity(self) -> dict[str, str]:
        return {}
