"""CLIP guidance: pull images towards their captions in CLIP's space (StyleGAN-T, Sauer et al. 2023, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankit.core.data.text_cache import TextCache
from gankit.core.interfaces.conditions import Condition, embedding_of
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import Pretrained
from gankit.core.interfaces.training import Guidance
from gankit.core.nn.rgb import to_rgb
from gankit.core.runtime.random import randint
from gankit.errors import GankitError
from gankit.plugins.conditioning.clip_text import clip_config, clip_normalisation, clip_tokenizer, load_clip


class CLIPGuidance(Guidance):
    """Squared angle between the CLIP features of an image and of its caption; 0 for images without a caption.

    Args:
        model: architecture in open_clip, such as ViT-L-14 or ViT-B-32.
        pretrained: weights of that architecture by their tag in open_clip, or a .safetensors file (OpenAI's weights as
            a file need a model such as ViT-L-14-quickgelu); random keeps random ones, to try a recipe out.
        weight: factor of the loss. The paper's 0.2 stands beside an adversarial loss that is divided by the images per
            GPU; beside a plain mean, as here, it corresponds to 0.2 times them. Too much of it costs diversity.
        crop: side in pixels of the random crop that is judged where images are larger, since guidance on whole
            high-resolution images makes artefacts; 0 never crops.
    """

    needs_labels = ("text",)
    _scale: Tensor
    _shift: Tensor

    def __init__(
        self, *, model: str = "ViT-L-14", pretrained: str = "openai", weight: float = 0.2, crop: int = 64
    ) -> None:
        super().__init__()
        if crop < 0:
            raise GankitError(
                f"crop = {crop} of guidance 'clip' must be a number of pixels, or 0 for no crop"
            )
        self.weight, self.crop = weight, crop
        self.frozen = Pretrained(f"CLIP {model}, {Path(pretrained).name}", load_clip(model, pretrained))
        self._tokenizer = clip_tokenizer(model)
        self._texts = TextCache(None, "", clip_config(model)["embed_dim"])
        size = self.clip.visual.image_size
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        scale, shift = clip_normalisation(model, pretrained)
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)

    @property
    def clip(self) -> Any:
        return self.frozen.network

    def loss(self, images: Tensor, cond: Condition, labels: Sequence[Label]) -> Tensor:
        images = self._random_crop(
            to_rgb(images)
        )  # draws for every row, so that rows do not depend on each other
        shown = shown_rows(cond, len(images))
        texts = [(label.text or "").strip() for label in labels]
        rows = [i for i, text in enumerate(texts) if text and shown[i]]
        result = torch.zeros(len(images), device=images.device)
        if not rows:
            return result
        if images.is_meta:  # a dry run; training finds its texts in the cache
            targets = images.new_empty(len(rows), self._texts.dim)
        else:
            targets = self._texts.get([texts[i] for i in rows], self._encode_text).to(images.device)
        where = torch.tensor(rows, device=images.device)
        chosen = images if len(rows) == len(images) else images[where]
        inputs = nn.functional.interpolate(chosen, self._size, mode="area")
        features = self.clip.encode_image(torch.addcmul(self._shift, inputs, self._scale))
        return result.index_copy(0, where, squared_angle(features.float(), targets))

    def _random_crop(self, images: Tensor) -> Tensor:
        """Crop each image at a random position of its own to at most `crop` x `crop` pixels."""
        (height, width), side = images.shape[2:], self.crop
        if not side or (height <= side and width <= side):
            return images
        high, wide = min(side, height), min(side, width)
        tops = randint(0, height - high + 1, (len(images),)).tolist()
        lefts = randint(0, width - wide + 1, (len(images),)).tolist()
        windows = [
            images[i : i + 1, :, y : y + high, x : x + wide] for i, (y, x) in enumerate(zip(tops, lefts))
        ]
        return torch.cat(windows)

    @torch.no_grad()
    def _encode_text(self, text: str) -> Tensor:
        device = self._scale.device
        with torch.autocast(device.type, enabled=False):
            return self.clip.encode_text(self._tokenizer([text]).to(device), normalize=True)[0]


def shown_rows(cond: Condition, count: int) -> list[bool]:
    """For each image, True if dropout has not hidden its condition; guiding the others would reward ignoring the
    noise."""
    embedding = embedding_of(cond)
    return [True] * count if embedding is None else (embedding.detach() != 0).any(dim=1).tolist()


def squared_angle(x: Tensor, y: Tensor) -> Tensor:
    """arccos(<x, y>)^2 of the normalised vectors [..., D], computed from the chord, so that its gradient is finite
    at x = y."""
    chord = torch.linalg.vector_norm(
        nn.functional.normalize(x, dim=-1) - nn.functional.normalize(y, dim=-1), dim=-1
    )
    return (2 * torch.asin((chord / 2).clamp(max=1 - 1e-6))).square()
