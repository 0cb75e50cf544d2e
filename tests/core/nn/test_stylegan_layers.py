"""Layers of StyleGAN: minibatch standard deviation with several features."""

from __future__ import annotations

import torch

from gankit.core.nn.stylegan_layers import minibatch_std


def test_minibatch_std_with_several_features():
    """Each group of channels has its own map; groups of samples are as large as the batch allows."""
    x = torch.randn(6, 8, 4, 4)
    y = minibatch_std(x, 32, 4)
    assert y.shape == (6, 12, 4, 4)
    for feature in range(4):
        part = x[:, 2 * feature : 2 * feature + 2]
        expected = (part.var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[:, 8 + feature], expected.expand(6, 4, 4))
