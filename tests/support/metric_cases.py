"""What metrics are compared on with other implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gankit.evaluation.metric_context import MetricContext
from gankit.plugins.metrics.path_length import PathLengthW


def write_inception(path: Path) -> None:
    """Weights drawn by numpy in the format and under the names of the published file."""
    from gankit.plugins.features.inception import Inception

    rng = np.random.RandomState(1)
    state: dict[str, Tensor] = {}
    for name, tensor in Inception(pretrained=False).state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            continue  # the published file lacks them
        values = rng.standard_normal(shape).astype(np.float32)
        if name.endswith(("conv.weight", "fc.weight")):
            values *= (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            values = 1 + 0.3 * np.tanh(values)
        else:
            values *= 0.1
        state[name] = torch.from_numpy(np.ascontiguousarray(values))
    torch.save(state, path)


def inception_images() -> dict[str, Tensor]:
    """uint8 images smaller and larger than 299, not square."""
    rng = np.random.RandomState(2)
    found = {}
    for name, shape in {"small": (48, 64), "large": (310, 400)}.items():
        coarse = torch.from_numpy(rng.rand(2, 3, 8, 8).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, shape, mode="bilinear", align_corners=False)
        noise = torch.from_numpy(rng.rand(2, 3, *shape).astype(np.float32)) - 0.5
        found[name] = ((smooth + 0.2 * noise).clamp(0, 1) * 255).to(torch.uint8)
    return found


def avatar_pixels(count: int = 150) -> dict[str, Tensor]:
    """uint8 [N, 3, 64, 64]: avatars, and other avatars that are a little blurred and noisy."""
    from gankit_avatars.source import AvatarSource

    found = {}
    for name, seed in (("real", 0), ("fake", 1)):
        source = AvatarSource("", seed=seed, count=count, cache="off")
        pixels = np.stack([np.asarray(source.image(i)) for i in range(count)])
        found[name] = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    blurred = torch.nn.functional.avg_pool2d(found["fake"].float(), 3, 1, 1, count_include_pad=False)
    noise = torch.from_numpy(np.random.RandomState(3).normal(0, 6, blurred.shape).astype(np.float32))
    found["fake"] = (blurred + noise).clamp(0, 255).round().to(torch.uint8)
    return found


def features(seed: int, count: int, width: int = 12, shift: float = 0.0) -> np.ndarray:
    """Correlated, like those of a network after a ReLU."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(width, width))
    return np.maximum(rng.normal(shift, 1, (count, width)) @ mix + 1, 0).astype(np.float32)


def close(value: float, expected: float) -> None:
    assert abs(value - expected) <= 1e-6 * abs(expected), (value, expected)


def distance(context: MetricContext, a: Tensor, b: Tensor) -> float:
    """LPIPS with weights 1 of two images [3, H, W], place by place."""
    network = context.backbone_of(PathLengthW()).network
    total = 0.0
    for x, y in zip(network(a[None]), network(b[None])):
        places = []
        for p, q in zip(x[0].flatten(1).T.numpy().astype(float), y[0].flatten(1).T.numpy().astype(float)):
            places.append(((p / np.linalg.norm(p) - q / np.linalg.norm(q)) ** 2).sum())
        total += float(np.mean(places))
    return total
