"""Frozen vision transformers from timm: maps of layers, with and without a class token."""

from __future__ import annotations

import pytest
import torch

from gankit.plugins.features.timm_vit import TimmViT

TINY_VIT = {"patch_size": 16, "img_size": 64, "embed_dim": 24, "depth": 8, "num_heads": 2}


def test_vit_maps_are_the_outputs_of_a_quarter_each():
    network = TimmViT(pretrained=False, model_args=TINY_VIT)
    assert network.indices == [1, 3, 5, 7]
    outputs = {}
    for i, block in enumerate(network.network.blocks):
        block.register_forward_hook(lambda _, args, out, i=i: outputs.__setitem__(i, out))
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    maps = network(images)
    tokens = network.token_maps(images)
    assert len(tokens) == network.num_token_maps == 5
    for x, t, i in zip(maps, tokens, network.indices):
        assert x.shape == (2, 24, 4, 6)
        sequence = outputs[i].mT
        assert torch.equal(x.flatten(2), sequence[:, :, 1:])
        assert torch.allclose(t, sequence[:, :, 1:] + sequence[:, :, :1])
    embedded = network.network._pos_embed(network.network.patch_embed(network.normalise(images))).mT
    assert torch.allclose(tokens[4], embedded[:, :, 1:] + embedded[:, :, :1], atol=1e-6)
    assert network.pooled(images).shape == (2, network.num_pooled)
    with pytest.raises(NotImplementedError, match="classifier"):
        network.logits(images)


def test_vit_without_class_token():
    args = {**TINY_VIT, "class_token": False, "global_pool": "avg"}
    network = TimmViT(pretrained=False, model_args=args)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(network.token_maps(images)[0], network(images)[0].flatten(2))
