"""The contracts of metrics, and checks of the numbers that they give."""

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
    """What the three kinds of metrics have in common.

    Attributes:
        values: the numbers that it gives: name -> 'lower' or 'higher', whichever is better, or '' for neither.
        min_images: with fewer images there is no value; set it in the constructor if it depends on options.
    """

    values: Mapping[str, str]
    min_images: int = 1

    def check(self, context: MetricContext) -> None:
        """Raise GankitError, before anything is drawn, for a model that cannot be measured in this way."""


class Metric(Measure):
    """`__init__(self, *, options)`; compares features of real and of generated images, whatever network they come from.
    Random choices inside come from a fixed seed: the same features give the same numbers.

    Attributes:
        output: what it reads of the feature network: 'pooled', 'spatial' or 'logits'.
        needs_rows: whether it reads `FeatureSet.rows`; otherwise it gets moments only, which take no disk.
        needs_real: whether it looks at real images; otherwise `real` is `fake`.
        min_images: of real and of generated ones.
        feature: spec of a feature network of its own, an option marked `Nested("feature", build=False)`; None means
            the one that all metrics share.
        side: of the square images that enter that network; None means its default.
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
        """Pictures that show what the numbers mean, by name; none by default."""
        return {}


class ImageMetric(Measure):
    """`__init__(self, *, options)`; judges each generated image by itself, beside the label that it was drawn from.

    Attributes:
        needs: which of 'cls', 'tags', 'text' labels must have; any one of them is enough.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    def to(self, device: torch.device) -> None:
        """Move its networks."""

    @abstractmethod
    def score(self, images: Tensor, labels: Sequence[Label]) -> Tensor:
        """[B, K] numbers of images [B, 3, H, W] in [-1, 1]; K is always the same."""

    @abstractmethod
    def summarise(self, scores: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        """The numbers named in `values` from the scores [N, K] of all images, and details for the JSON page."""

    def facts(self) -> dict[str, Any]:
        """What the numbers depend on besides the options, such as hashes of networks."""
        return {}


class ModelMetric(Measure):
    """`__init__(self, *, options)`; a property of the generator that its images alone do not show.

    Attributes:
        uses_feature: whether it asks for a feature network, `context.backbone_of(self)`.
        feature: spec of one of its own, an option marked `Nested("feature", build=False)`; None means the one that all
            metrics share.
        side: of the square images that enter it; None means its default.
    """

    uses_feature: ClassVar[bool] = False
    feature: dict[str, Any] | None = None
    side: int | None = None

    @abstractmethod
    def probe(self, context: MetricContext) -> dict[str, float]:
        """The numbers named in `values`."""


def measure(name: str, metric: Metric, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    """The values of a metric called `name`, checked before and after.

    Raises GankitError for features of different networks, too few images, features or results that are not finite.
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
    """The values of a metric called `name`, which must be those that it declares. Raises GankitError for one that is
    not finite."""
    if values.keys() != metric.values.keys():
        raise ValueError(f"metric {name!r} gives {sorted(values)}, but declares {sorted(metric.values)}")
    for key, value in values.items():
        if not math.isfinite(value):
            raise GankitError(f"metric {name!r}: {key} came out as {value}; it is not reported")
    return values
