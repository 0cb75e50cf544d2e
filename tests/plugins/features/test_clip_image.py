"""CLIP's image tower as a feature network: open_clip's numbers, other sizes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from conditioning_utils import EMBED_DIM, SIDE, make_open_clip

from gankit.errors import GankitError
from gankit.plugins.features.clip_image import CLIPImage


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return make_open_clip(tmp_path_factory.mktemp("clip"), image_layers=4)


def test_clip_tower_equals_open_clip(clip):
    """At the tower's own size: the normalised image goes through open_clip's own code, and the maps are its blocks'."""
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    model, weights = clip
    feature = CLIPImage(model=model, pretrained=str(weights))
    reference = open_clip.create_model(model, pretrained=str(weights)).eval().visual
    images = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    seen = []
    for block in reference.transformer.resblocks:
        block.register_forward_hook(lambda _, __, y: seen.append(y))
    with torch.no_grad():
        expected = reference((images / 2 + 0.5 - mean) / std)
        torch.testing.assert_close(feature.pooled(images), expected, rtol=1e-4, atol=1e-4)
        maps = feature(images)
    assert feature.num_pooled == EMBED_DIM
    for x, tokens in zip(maps, seen, strict=True):
        assert x.shape == (2, 16, 4, 4)
        torch.testing.assert_close(x.flatten(2).mT, tokens[:, 1:], rtol=1e-4, atol=1e-4)


def test_clip_tower_at_other_sizes(clip):
    """Sizes may alternate; the size of the weights is not changed by having seen others."""
    model, weights = clip
    feature = CLIPImage(model=model, pretrained=str(weights))
    images = torch.randn(2, 3, SIDE, SIDE)
    before, identity = feature(images), feature.identity()
    for height, width in ((32, 16), (16, 32), (24, 24)):
        assert feature(torch.randn(1, 3, height, width))[0].shape == (1, 16, height // 4, width // 4)
    torch.testing.assert_close(feature(images), before)
    assert feature.identity() == identity
    assert copy.deepcopy(feature).pooled(images).shape == (2, EMBED_DIM)


def test_clip_tower_with_random_weights(clip):
    one, same, other = (CLIPImage(model=clip[0], pretrained="random", seed=seed) for seed in (0, 0, 1))
    assert one.identity() == same.identity() != other.identity()


def test_clip_models_without_a_transformer_are_refused(clip):
    with pytest.raises(GankitError, match="RN50"):
        CLIPImage(model="RN50", pretrained="random")
    with pytest.raises(GankitError, match="unknown open_clip model"):
        CLIPImage(model="ViT-B-17", pretrained="random")
