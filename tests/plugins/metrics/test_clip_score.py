"""The CLIP score: the mean cosine of images and captions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conditioning_utils import SIDE, make_open_clip

from gankit.core.interfaces.labels import Label
from gankit.plugins.metrics.clip_score import CLIPScore
from gankit.testing.common import seeded


def test_clip_score_is_the_mean_cosine(tmp_path: Path) -> None:
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    name, weights = make_open_clip(tmp_path)
    metric = CLIPScore(model=name, pretrained=str(weights))
    with seeded(2), torch.no_grad():
        images = torch.rand(3, 3, SIDE, SIDE) * 2 - 1
        labels = [Label(texts=(text,)) for text in ("a cat", "red hat", "a cat")]
        values, _ = metric.summarise(metric.score(images, labels).double().numpy())
        pixels = images * 0.5 + 0.5
        normal = torch.stack(
            [(pixels[:, i] - m) / s for i, (m, s) in enumerate(zip(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))],
            1,
        )
        seen = metric.clip.encode_image(normal)
        said = metric.clip.encode_text(open_clip.get_tokenizer(name)(["a cat", "red hat", "a cat"]))
    a, b = seen.double().numpy(), said.double().numpy()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert values["clip_score"] == pytest.approx(cosines.mean(), rel=1e-5)
    assert values["clip_score_se"] == pytest.approx(cosines.std(ddof=1) / math.sqrt(3), rel=1e-4)
    assert metric.facts()["feature"]["sha256"]
