"""Base classes of metric plugins, and checks of the numbers that they return."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gankit.core.interfaces.labels import Label
from gankit.errors import GankitError
from gankit.evaluation.metric_context import Album, MetricContext
from gankit.evaluation.moments import FeatureSet


class Measure(ABC):
    """Common base class of the three kinds of metrics.

    Attributes:
        values: names of its numbers -> 'lower' or 'higher', whichever is better, or '' for neither.
        min_images: minimum number of images; set it in the constructor if it depends on options.
    """

    values: Mapping[str, str]
    min_images: int = 1

    def check(self, context: MetricContext) -> None:
        """Raise GankitError, before any image is drawn, if this metric cannot measure the model."""


class Metric(Measure):
    """Compares features of real and of generated images, of any feature network. `__init__(self, *, options)`.

    Must be deterministic (random choices from a fixed seed): the same features give the same numbers.

    Attributes:
        output: output of the feature network that it reads: 'pooled', 'spatial' or 'logits'.
        needs_rows: True if it reads `FeatureSet.rows`; otherwise it gets moments only, which take no disk.
        needs_real: True if it reads features of real images; otherwise `real` is `fake`.
        min_images: minimum number of real and of generated images.
        feature: spec of a feature network of its own, an option marked `Nested("feature", build=False)`; None means
            the one that all metrics share.
        side: side of the square images given to that network; None means its default.
    """

    output: ClassVar[str] = "pooled"
    needs_rows: ClassVar[bool] = False
    needs_real: ClassVar[bool] = True
    min_images: int = 2
    feature: dict[str, Any] | None = None
    side: int | None = None

    @abstractmethod
    def compute(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """The numbers named in `values`; both sets have `min_images` or more, one width, and finite features."""

    def pictures(self, real: FeatureSet, fake: FeatureSet, album: Album) -> dict[str, Image.Image]:
        """Pictures that illustrate the numbers, by name; none by default."""
        return {}


class ImageMetric(Measure):
    """Scores each generated image by itself, with the label under which it was drawn. `__init__(self, *, options)`.

    Attributes:
        needs: fields of labels, 'cls', 'tags', 'text' or others by name; each label must have at least one of them.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    def to(self, device: torch.device) -> None:
        """Move the metric's networks to a device."""

    @abstractmethod
    def score(self, images: Tensor, labels: Sequence[Label]) -> Tensor:
        """Scores [B, K] of images [B, 3, H, W] in [-1, 1], with a fixed K."""

    @abstractmethod
    def summarise(self, scores: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        """Scores [N, K] of all images -> the numbers named in `values`, and details for the JSON page."""

    def facts(self) -> dict[str, Any]:
        """Everything besides the options on which the numbers depend, such as hashes of networks."""
        return {}


class ModelMetric(Measure):
    """Measures a property of the generator that its images alone do not show. `__init__(self, *, options)`.

    Attributes:
        uses_feature: True if it uses a feature network, `context.backbone_of(self)`.
        feature: spec of a feature network of its own, an option marked `Nested("feature", build=False)`; None means
            the one that all metrics share.
        side: side of the square images given to that network; None means its default.
    """

    uses_feature: ClassVar[bool] = False
    feature: dict[str, Any] | None = None
    side: int | None = None

    @abstractmethod
    def probe(self, context: MetricContext) -> dict[str, float]:
        """Measure the model; returns the numbers named in `values`."""


def measure(name: str, metric: Metric, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    """Compute a metric's numbers and check inputs and results; `name` is the metric's name in messages.

    Raises GankitError for features of different widths, too few images, and features or results that are not finite.
    """
    if real.width != fake.width:
        raise GankitError(
            f"metric {name!r} compares features of {real.width} and {fake.width} numbers; take both from one network"
        )
    for what, features in (("real", real), ("generated", fake)):
        if features.count < metric.min_images:
            raise GankitError(
                f"metric {name!r} needs {metric.min_images} {what} images or more, there are {features.count}; "
                + ("raise --num" if what == "generated" else "use a larger data set or raise --num-real")
            )
        if not (np.isfinite(features.moments.mean).all() and np.isfinite(features.moments.scatter).all()):
            raise GankitError(
                f"metric {name!r}: features of {what} images are not finite (NaN or infinity); the feature network is "
                "broken or computes in too narrow a type"
            )
        if metric.needs_rows and features.rows is None:
            raise ValueError(f"metric {name!r} needs the rows of the {what} images")
    return reported(name, metric, metric.compute(real, fake))


def reported(name: str, metric: Measure, values: dict[str, float]) -> dict[str, float]:
    """Check a metric's numbers and return them; `name` is the metric's name in messages.

    Raises GankitError for a number that is not finite, ValueError for names other than those in `metric.values`."""
    if values.keys() != metric.values.keys():
        raise ValueError(f"metric {name!r} gives {sorted(values)}, but declares {sorted(metric.values)}")
    for key, value in values.items():
        if not math.isfinite(value):
            raise GankitError(f"metric {name!r}: {key} came out as {value}; it is not reported")
    return values
