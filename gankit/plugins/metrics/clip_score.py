"""CLIP score (Hessel et al., CLIPScore, EMNLP 2021, section 3, without its factor and clipping)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gankit.core.data.text_cache import TextCache
from gankit.core.interfaces.labels import Label
from gankit.core.runtime.tensor_files import sha256_of
from gankit.evaluation.metric import ImageMetric
from gankit.plugins.conditioning.clip_text import clip_config, clip_tokenizer, load_clip

if TYPE_CHECKING:
    from gankit.evaluation.metric_context import MetricContext

RESIZE = "bicubic, antialiased, clamped, float32, stretched to a square"


class CLIPScore(ImageMetric):
    """Mean cosine similarity of the CLIP embeddings of an image and of the caption that it was drawn under.

    The default network is that of StyleGAN-T's `cs10k`; take another one than the model was trained with.

    Args:
        model: architecture in open_clip.
        pretrained: its weights by their tag in open_clip, or a .safetensors file.
    """

    values = {"clip_score": "higher", "clip_score_se": ""}
    needs = ("text",)
    min_images = 2

    def __init__(self, *, model: str = "ViT-g-14", pretrained: str = "laion2b_s12b_b42k") -> None:
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
        from open_clip.pretrained import get_pretrained_cfg

        self.model, self.pretrained = model, pretrained
        self.clip: Any = load_clip(model, pretrained)
        self._tokenizer = clip_tokenizer(model)
        self._texts = TextCache(None, "", clip_config(model)["embed_dim"])
        size = self.clip.visual.image_size
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        config = get_pretrained_cfg(model, pretrained)
        self._mean = torch.tensor(config.get("mean") or OPENAI_DATASET_MEAN).view(3, 1, 1)
        self._std = torch.tensor(config.get("std") or OPENAI_DATASET_STD).view(3, 1, 1)

    def check(self, context: MetricContext) -> None:
        guidance = context.pipe.recipe.to_page().get("guidance")
        clip = guidance.get("clip") if isinstance(guidance, dict) else None
        if isinstance(clip, dict) and clip.get("model") == self.model:
            warnings.warn(
                f"the model was trained to please CLIP {self.model}, which metric 'clip-score' now judges by; choose "
                "another one (--set clip-score.model=...)",
                stacklevel=2,
            )

    def to(self, device: torch.device) -> None:
        self.clip.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)

    def score(self, images: Tensor, labels: Sequence[Label]) -> Tensor:
        texts = [(label.text or "").strip() for label in labels]
        wanted = self._texts.get(texts, self._encode_text).to(images.device)
        if images.shape[2:] != self._size:
            images = F.interpolate(images, self._size, mode="bicubic", antialias=True).clamp(-1, 1)
        seen = self.clip.encode_image(((images + 1) / 2 - self._mean) / self._std)
        return F.cosine_similarity(seen.float(), wanted.float())[:, None]

    def _encode_text(self, text: str) -> Tensor:
        return self.clip.encode_text(self._tokenizer([text]).to(self._mean.device), normalize=True)[0]

    def summarise(self, scores: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        cosines = scores[:, 0]
        error = float(np.std(cosines, ddof=1) / math.sqrt(len(cosines)))
        return {"clip_score": float(cosines.mean()), "clip_score_se": error}, {}

    def facts(self) -> dict[str, Any]:
        name = f"open_clip {self.model} {self.pretrained}"
        return {
            "feature": {
                "name": name,
                "sha256": sha256_of(self.clip.state_dict()),
                "input": self._size[0],
                "resize": RESIZE,
            }
        }
