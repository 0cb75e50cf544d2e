"""Conformance checks of metrics, on random features and images and a toy generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gankit.core.config import options
from gankit.core.config.recipe import DataOptions, Recipe
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import Generator
from gankit.core.models.model_folder import Model
from gankit.evaluation.metric import ImageMetric, Measure, Metric, ModelMetric, measure, reported
from gankit.evaluation.metric_context import MetricContext
from gankit.evaluation.moments import FeatureSet
from gankit.sampling.pipeline import Pipeline
from gankit.testing.common import Subject, seeded

WIDTH = 6
LABELS = [
    Label("cat", {"fur": 1.0}, ("a cat",)),
    Label("dog", {"fur": 1.0, "red": 1.0}, ("a red dog",)),
]


def _metric(subject: Subject) -> Measure:
    metric = subject.build()
    assert isinstance(metric, Measure), f"{subject}: {type(metric).__name__} is no metric"
    return metric


def _features(metric: Metric, seed: int, shift: float = 0.0) -> FeatureSet:
    """Random features from N(shift, 1), with rows if the metric needs them."""
    count = max(metric.min_images, 64)
    rows = np.random.default_rng(seed).normal(shift, 1, (count, WIDTH)).astype(np.float32)
    features = FeatureSet.of(rows)
    return features if metric.needs_rows else FeatureSet(features.moments)


class Waves(Generator):
    """A toy generator of sine waves with random directions, amplitudes and phases, and a transformable input.

    As in StyleGAN3, `synthesis.input.transform` [3, 3] acts on coordinates in fractions of the image, x to the right, y
    down and the origin in the middle.

    Args:
        image_shape: (C, H, W).
        highest: largest frequency, in periods in an image.
    """

    def __init__(self, image_shape: tuple[int, int, int], *, highest: float = 3.0) -> None:
        super().__init__()
        self.z_dim = self.w_dim = 8
        self.num_ws, self.image_shape = 2, image_shape
        self.synthesis = _WaveSynthesis(image_shape, self.w_dim, highest)
        self.affine = nn.Linear(self.z_dim, self.w_dim)

    def mapping(self, z: Tensor, cond: Any = None, *, truncation_psi: float = 1, **_: Any) -> Tensor:  # type: ignore[override]
        return (self.affine(z) * truncation_psi)[:, None].repeat(1, self.num_ws, 1)


class _WaveSynthesis(nn.Module):
    def __init__(self, image_shape: tuple[int, int, int], w_dim: int, highest: float) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.input = nn.Module()
        self.input.register_buffer("transform", torch.eye(3))
        waves = 5
        angle, length = torch.rand(waves) * 2 * torch.pi, torch.rand(waves) * highest
        self.register_buffer("frequencies", torch.stack([angle.cos(), angle.sin()], 1) * length[:, None])
        self.mix = nn.Linear(w_dim, waves * (image_shape[0] + 1))

    def forward(self, ws: Tensor, cond: Any = None, *, noise_mode: str = "random") -> Tensor:
        channels, height, width = self.image_shape
        y, x = (((torch.arange(side) + 0.5) / side - 0.5).to(ws) for side in (height, width))
        places = torch.stack(
            [x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width).to(ws)]
        )
        moved = torch.einsum("ij,jhw->ihw", self.input.transform, places)[:2]  # type: ignore[arg-type]
        mixed = self.mix(ws[:, 0]).unflatten(1, (channels + 1, -1))
        phase = torch.einsum("fi,ihw->fhw", self.frequencies, moved) + mixed[:, -1, :, None, None]
        waves = torch.sin(2 * torch.pi * phase)
        return torch.einsum("bcf,bfhw->bchw", mixed[:, :-1], waves) / 5


def toy_context(num: int = 12, **extra: Any) -> MetricContext:
    """A context with the toy generator, no condition, and the smallest feature network."""
    with seeded(7):
        generator = Waves((3, 32, 32))
    recipe = Recipe(name="toy", data=DataOptions(size=(32, 32)))
    model = Model(recipe, options.build("conditioner", "none"), generator)
    pipe = Pipeline(model, torch.device("cpu"))
    feature = options.check(
        "feature", {"name": "timm-cnn", "model": "test_efficientnet.r160_in1k", "pretrained": False}
    )
    return MetricContext(pipe, num=num, batch=4, feature=feature, side=32, **extra)


def _values(subject: Subject, metric: Measure, seed: int = 1, shift: float = 0.0) -> dict[str, float]:
    """Values of a metric on random features or images, or on the toy generator."""
    if isinstance(metric, Metric):
        return measure(subject.name, metric, _features(metric, 0), _features(metric, seed, shift))
    if isinstance(metric, ImageMetric):
        with seeded(seed):
            images = torch.rand(max(4, metric.min_images), 3, 32, 32) * 2 - 1
        labels = [LABELS[i % 2] for i in range(len(images))]
        with torch.no_grad():
            scores = torch.cat(
                [metric.score(images[i : i + 2], labels[i : i + 2]) for i in range(0, len(images), 2)]
            )
        return reported(subject.name, metric, metric.summarise(scores.double().numpy())[0])
    assert isinstance(metric, ModelMetric)
    context = toy_context(max(12, metric.min_images))
    metric.check(context)
    return reported(subject.name, metric, metric.probe(context))


def check_metric_values(subject: Subject) -> None:
    """Values are floats under the declared names, the same when repeated; inputs are not written to."""
    metric = _metric(subject)
    assert set(metric.values.values()) <= {"lower", "higher", ""}, f"{subject}: values = {metric.values}"
    values = _values(subject, metric)
    assert values.keys() == metric.values.keys(), (
        f"{subject}: it gives {sorted(values)}, values declares {sorted(metric.values)}"
    )
    assert all(type(value) is float for value in values.values()), f"{subject}: {values} are not all floats"
    assert _values(subject, metric) == values, f"{subject}: another value the second time"
    if isinstance(metric, Metric):
        real, fake = _features(metric, 0), _features(metric, 1)
        before = real.moments.scatter.copy()
        metric.compute(real, fake)
        assert np.array_equal(before, real.moments.scatter), (
            f"{subject} writes into the features that it is given"
        )


def check_metric_direction(subject: Subject) -> None:
    """Features like the real ones are better than shifted ones, in the direction that `values` declares."""
    metric = _metric(subject)
    if not isinstance(metric, Metric) or not metric.needs_real:
        return
    good, bad = _values(subject, metric, 1), _values(subject, metric, 2, shift=3.0)
    for name, better in metric.values.items():
        if better:
            ahead = good[name] < bad[name] if better == "lower" else good[name] > bad[name]
            assert ahead, (
                f"{subject}: {name} is {good[name]:.4g} for features like the real ones and {bad[name]:.4g} for "
                f"others, but {better} is said to be better"
            )


def check_metric_one_by_one(subject: Subject) -> None:
    """An image's score does not depend on the others of its batch."""
    metric = _metric(subject)
    if not isinstance(metric, ImageMetric):
        return
    with seeded(1), torch.no_grad():
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        both = metric.score(images, LABELS)
        alone = torch.cat([metric.score(images[i : i + 1], LABELS[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(both, alone, rtol=1e-4, atol=1e-5), f"{subject}: scores depend on the batch"


CHECKS: dict[str, list[Callable[[Subject], None]]] = {
    "metric": [check_metric_values, check_metric_direction, check_metric_one_by_one]
}
