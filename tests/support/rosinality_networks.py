"""State dicts of rosinality's stylegan2-pytorch, made here with random weights from the facts of names and formulas.

The reference below computes with plain torch what that implementation computes: transposed convolutions and explicit
blurs, weights scaled at run time, images upsampled by zero-stuffing.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

W, CHANNELS, LAYERS = 12, (10, 10, 8, 4), 3  # feature maps at 4, 8, 16, 32 pixels
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])
BLUR = torch.outer(TAPS, TAPS) / 64


def random_generator(seed: int = 0, *, old: bool = False) -> dict[str, Tensor]:
    """A state dict; `old` gives biases the four dimensions that early versions stored."""
    g = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    def modulated(name: str, inputs: int, outputs: int, kernel: int) -> None:
        state[f"{name}.weight"] = randn(1, outputs, inputs, kernel, kernel)
        state[f"{name}.modulation.weight"] = randn(inputs, W)
        state[f"{name}.modulation.bias"] = 1 + 0.1 * randn(inputs)

    def styled(name: str, inputs: int, outputs: int, *, up: bool = False) -> None:
        modulated(f"{name}.conv", inputs, outputs, 3)
        if up:
            state[f"{name}.conv.blur.kernel"] = BLUR * 4
        state[f"{name}.noise.weight"] = 0.3 * randn(1)
        state[f"{name}.activate.bias"] = randn(*((1, outputs, 1, 1) if old else (outputs,)))

    def to_rgb(name: str, inputs: int, *, up: bool = True) -> None:
        modulated(f"{name}.conv", inputs, 3, 1)
        state[f"{name}.bias"] = randn(1, 3, 1, 1)
        if up:
            state[f"{name}.upsample.kernel"] = BLUR * 4

    for i in range(LAYERS):
        state[f"style.{i + 1}.weight"] = randn(W, W) * 100
        state[f"style.{i + 1}.bias"] = randn(W) * 10
    state["input.input"] = randn(1, CHANNELS[0], 4, 4)
    styled("conv1", CHANNELS[0], CHANNELS[0])
    to_rgb("to_rgb1", CHANNELS[0], up=False)
    for level in range(1, len(CHANNELS)):
        styled(f"convs.{2 * level - 2}", CHANNELS[level - 1], CHANNELS[level], up=True)
        styled(f"convs.{2 * level - 1}", CHANNELS[level], CHANNELS[level])
        to_rgb(f"to_rgbs.{level - 1}", CHANNELS[level])
    for i in range(2 * len(CHANNELS) - 1):
        side = 4 << ((i + 1) // 2)
        state[f"noises.noise_{i}"] = randn(1, 1, side, side)
    return state


def blur(x: Tensor, kernel: Tensor, pad: tuple[int, int]) -> Tensor:
    x = F.pad(x, (*pad, *pad))
    return F.conv2d(x.flatten(0, 1)[:, None], kernel.flip(0, 1)[None, None]).unflatten(0, x.shape[:2])[
        :, :, 0
    ]


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def modulate(
    state: dict[str, Tensor], name: str, x: Tensor, w: Tensor, *, up: bool, demodulate: bool
) -> Tensor:
    weight = state[f"{name}.weight"]
    inputs, kernel = weight.shape[2:4]
    style = F.linear(w, state[f"{name}.modulation.weight"] / math.sqrt(W), state[f"{name}.modulation.bias"])
    weight = weight / math.sqrt(inputs * kernel**2) * style[:, None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    images = []
    for sample, own in zip(x, weight):  # one at a time, where the original uses groups
        if up:
            y = F.conv_transpose2d(sample[None], own.transpose(0, 1), stride=2)
            images.append(blur(y, state[f"{name}.blur.kernel"], (1, 1)))
        else:
            images.append(F.conv2d(sample[None], own, padding=kernel // 2))
    return torch.cat(images)


def styled(
    state: dict[str, Tensor], name: str, noise: int, x: Tensor, w: Tensor, *, up: bool = False
) -> Tensor:
    x = modulate(state, f"{name}.conv", x, w, up=up, demodulate=True)
    x = x + state[f"{name}.noise.weight"] * state[f"noises.noise_{noise}"]
    return leaky(x + state[f"{name}.activate.bias"].view(1, -1, 1, 1))


def reference_mapping(state: dict[str, Tensor], z: Tensor) -> Tensor:
    x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
    for i in range(LAYERS):
        scale = 0.01 / math.sqrt(W)
        x = leaky(F.linear(x, state[f"style.{i + 1}.weight"] * scale, state[f"style.{i + 1}.bias"] * 0.01))
    return x


def reference_synthesis(state: dict[str, Tensor], w: Tensor) -> Tensor:
    x = styled(state, "conv1", 0, state["input.input"].expand(len(w), -1, -1, -1), w)
    rgb = modulate(state, "to_rgb1.conv", x, w, up=False, demodulate=False) + state["to_rgb1.bias"]
    for level in range(1, len(CHANNELS)):
        x = styled(state, f"convs.{2 * level - 2}", 2 * level - 1, x, w, up=True)
        x = styled(state, f"convs.{2 * level - 1}", 2 * level, x, w)
        stuffed = torch.zeros(len(w), 3, 2 * rgb.shape[2], 2 * rgb.shape[3])
        stuffed[:, :, ::2, ::2] = rgb
        name = f"to_rgbs.{level - 1}"
        rgb = blur(stuffed, state[f"{name}.upsample.kernel"], (2, 1))
        rgb = rgb + modulate(state, f"{name}.conv", x, w, up=False, demodulate=False) + state[f"{name}.bias"]
    return rgb


def random_discriminator(seed: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, index: int, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        if index:
            state[f"{name}.0.kernel"] = BLUR
        state[f"{name}.{index}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=g)
        if bias:
            state[f"{name}.{index + 1}.bias"] = 0.1 * torch.randn(outputs, generator=g)

    widths = CHANNELS[::-1]
    conv("convs.0", 0, 3, widths[0], 1)
    for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        conv(f"convs.{i}.conv1", 0, inputs, inputs, 3)
        conv(f"convs.{i}.conv2", 1, inputs, outputs, 3)
        conv(f"convs.{i}.skip", 1, inputs, outputs, 1, bias=False)
    conv("final_conv", 0, widths[-1] + 1, widths[-1], 3)
    for i, (inputs, outputs) in enumerate(((16 * widths[-1], widths[-1]), (widths[-1], 1))):
        state[f"final_linear.{i}.weight"] = torch.randn(outputs, inputs, generator=g)
        state[f"final_linear.{i}.bias"] = torch.randn(outputs, generator=g)
    return state


def reference_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    def conv(name: str, index: int, x: Tensor, pad: tuple[int, int] | None = None) -> Tensor:
        weight = state[f"{name}.{index}.weight"]
        weight = weight / math.sqrt(weight[0].numel())
        if pad is None:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            x = F.conv2d(blur(x, state[f"{name}.0.kernel"], pad), weight, stride=2)
        bias = state.get(f"{name}.{index + 1}.bias")
        return x if bias is None else leaky(x + bias.view(1, -1, 1, 1))

    x = conv("convs.0", 0, x)
    for i in range(1, len(CHANNELS)):
        y = conv(f"convs.{i}.conv2", 1, conv(f"convs.{i}.conv1", 0, x), (2, 2))
        x = (y + conv(f"convs.{i}.skip", 1, x, (1, 1))) / math.sqrt(2)
    n, c, h, w = x.shape
    deviation = (
        x.view(min(n, 4), -1, 1, c, h, w).var(0, correction=0).add(1e-8).sqrt().mean((2, 3, 4), keepdim=True)
    )
    x = torch.cat([x, deviation[:, :, 0].repeat(min(n, 4), 1, h, w)], 1)
    x = conv("final_conv", 0, x).flatten(1)
    for i in range(2):
        weight = state[f"final_linear.{i}.weight"]
        x = F.linear(x, weight / math.sqrt(weight.shape[1]), state[f"final_linear.{i}.bias"])
        x = leaky(x) if i == 0 else x
    return x
