"""The trainable part of Projected GAN: a small head for each feature map (Sauer et al. 2021, section 3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gankit.core.nn.spectral_norm import SNConv2d
from gankit.core.nn.stylegan_layers import FullyConnected

Norm = Literal["batch", "group", "none"]
FINAL_KERNEL = 4
PATCH_NOMINAL = 16  # nominal side of a map, which sets the depth of patch heads
EMBED_DIM = 128


def head_plan(nominal: float, actual: int) -> tuple[list[int], int]:
    """Widths of the down blocks and side of the last kernel, for a map of side `actual`.

    As in the paper the depth comes from the side that the map would have for a 256-pixel image, `nominal`: 128, 64, 32
    and 16 give 4, 3, 2 and 1 down blocks. A smaller map, which they would shrink below the last 4x4 kernel, gets as
    many as leave 4x4 (but one at least, since a head without any is linear), and a kernel of the side that is left.
    """
    level = max(3, round(math.log2(nominal)))
    possible = int(math.log2(actual))
    blocks = min(level - 3, max(possible - 2, 1), possible)
    # 64 channels at a nominal side of 64, doubled with each halving: 128 at 32, 256 at 16, 512 at 8
    widths = [min(max(4096 >> (level - 1 - i), 64), 512) for i in range(blocks)]
    return widths, min(FINAL_KERNEL, actual >> blocks)


class SeparableConv(nn.Module):
    """Depthwise separable convolution: depthwise 3x3, then pointwise."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = SNConv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = SNConv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class DownBlock(nn.Module):
    """Downsampling by 2: spectrally normalised convolution, norm, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, separable: bool, norm: Norm) -> None:
        super().__init__()
        normalise = make_norm(norm, out_channels)
        activate = nn.LeakyReLU(0.2, inplace=True)
        if separable:
            convolve: nn.Module = SeparableConv(in_channels, out_channels)
            self.main = nn.Sequential(convolve, normalise, activate, nn.AvgPool2d(2))
        else:
            convolve = SNConv2d(in_channels, out_channels, 4, stride=2, padding=1)
            self.main = nn.Sequential(convolve, normalise, activate)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class PatchBlock(nn.Module):
    """A down block, then a 1x1 convolution with norm and activation."""

    def __init__(self, in_channels: int, out_channels: int, *, separable: bool, norm: Norm) -> None:
        super().__init__()
        self.main = nn.Sequential(
            DownBlock(in_channels, out_channels, separable=separable, norm=norm),
            SNConv2d(out_channels, out_channels, 1, bias=False),
            make_norm(norm, out_channels),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Batch norm, group norm (32 groups, or as many as divide the channels) or identity."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(32, channels), channels) if norm == "group" else nn.Identity()


class Head(nn.Module):
    """Feature map [B, C, H, W] -> map of logits; with `c_dim`, a projection discriminator (Miyato and Koyama 2018).

    `features` computes what does not depend on the condition, `score` the rest.
    """

    def __init__(
        self,
        channels: int,
        widths: list[int],
        kernel: int,
        *,
        c_dim: int = 0,
        cmap_dim: int = 64,
        embed_dim: int = EMBED_DIM,
        separable: bool = False,
        norm: Norm = "batch",
        patch: bool = False,
        equalised: bool = False,
    ) -> None:
        super().__init__()
        sizes = [channels, *widths]
        block = PatchBlock if patch else DownBlock
        blocks = [block(a, b, separable=separable, norm=norm) for a, b in zip(sizes, widths)]
        self.conditional = c_dim > 0
        if self.conditional:
            self.main = nn.Sequential(*blocks)
            self.cls = SNConv2d(sizes[-1], cmap_dim, kernel, bias=False)
            # A table of class vectors when c is one-hot; initialised like nn.Embedding.
            self.embed = nn.Linear(c_dim, embed_dim, bias=False)
            nn.init.normal_(self.embed.weight)
            if equalised:  # StyleGAN-XL
                self.embed_proj: nn.Module = FullyConnected(embed_dim, cmap_dim, activation="lrelu")
            else:
                self.embed_proj = nn.Sequential(nn.Linear(embed_dim, cmap_dim), nn.LeakyReLU(0.2))
        else:
            self.main = nn.Sequential(*blocks, SNConv2d(sizes[-1], 1, kernel, bias=False))

    def features(self, x: Tensor) -> Tensor:
        """Feature map [B, C, H, W] -> [B, cmap_dim, h, w], or the logits [B, 1, h, w] if unconditional."""
        return self.cls(self.main(x)) if self.conditional else self.main(x)

    def score(self, features: Tensor, c: Tensor | None) -> Tensor:
        """Logits [B, 1, h, w] from the output of `features` and the condition c [B, c_dim]."""
        if not self.conditional:
            return features
        code = self.embed_proj(self.embed(c))
        return torch.einsum("bkhw,bk->bhw", features, code).unsqueeze(1) / math.sqrt(code.shape[1])
