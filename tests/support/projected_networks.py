"""A feature network small enough for tests, and names of reference heads."""

from __future__ import annotations

from torch import nn

from gankit.core.interfaces.networks import FeatureNetwork, Tap


class Pyramid(FeatureNetwork):
    """Strided convolutions: a feature network small enough for tests."""

    name = "pyramid"
    num_pooled = num_logits = 0

    def __init__(self, channels=(8, 8, 16, 32), strides=(4, 8, 16, 32)):
        super().__init__()
        self.taps = [Tap(c, s) for c, s in zip(channels, strides)]
        self.input_multiple = strides[-1]
        self.convs = nn.ModuleList(nn.Conv2d(3, c, s, stride=s) for c, s in zip(channels, strides))
        self.requires_grad_(False)

    def forward(self, images):
        return [conv(images) for conv in self.convs]

    def pooled(self, images):
        raise NotImplementedError


def renamed(state, prefix):
    """The declared mapping of names: their embedding table is our linear layer without bias, transposed."""
    named = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return {k: v.t() if k.endswith("embed.weight") else v for k, v in named.items()}
