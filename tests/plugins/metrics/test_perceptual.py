"""Perceptual vectors of images with any channels."""

from __future__ import annotations

import torch

from gankit.plugins.metrics.path_length import PathLengthW
from gankit.plugins.metrics.perceptual import perceptual_vectors
from gankit.testing.metrics import toy_context


def test_perceptual_vectors_take_any_channels() -> None:
    context = toy_context()
    backbone = context.backbone_of(PathLengthW())
    grey = torch.rand(1, 1, 32, 32) * 2 - 1
    opaque = torch.cat([grey.expand(-1, 3, -1, -1), torch.ones(1, 1, 32, 32)], 1)
    clear = torch.cat([grey.expand(-1, 3, -1, -1), -torch.ones(1, 1, 32, 32)], 1)
    assert torch.allclose(perceptual_vectors(backbone, opaque), perceptual_vectors(backbone, grey))
    white = perceptual_vectors(backbone, torch.ones(1, 3, 32, 32))
    assert torch.allclose(perceptual_vectors(backbone, clear), white, atol=1e-5)
