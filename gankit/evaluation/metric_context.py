"""The context of metrics: a model's images, drawn in batches over processes, and the real images of a data set."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gankit.core.config import options
from gankit.core.data.loader import Batches
from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import FeatureNetwork
from gankit.core.runtime import distributed
from gankit.core.runtime.distributed import World
from gankit.core.runtime.random import batch_random
from gankit.errors import GankitError
from gankit.evaluation.backbone import Backbone
from gankit.sampling.pipeline import Pipeline

DATA_SEED = 0  # seed of the choice of real images, the same for every evaluation so that features are cached
DEFAULT_SIDE = 224


@dataclass(frozen=True)
class BatchSlice:
    """One process's part of a batch: images number [first + start, first + start + count) of an evaluation.

    `total` is the size of the batch, `counts` the number of its images of each process. A process with count 0 in
    `counts` still computes one image, which is dropped.
    """

    seed: int
    first: int
    total: int
    start: int
    count: int
    counts: tuple[int, ...]

    @property
    def numbers(self) -> range:
        return range(self.first + self.start, self.first + self.start + self.count)

    def random(self, *key: int | str) -> AbstractContextManager[None]:
        """Context in which random draws are keyed by the batch and `key`, independent of the number of processes."""
        return batch_random(*key, self.seed, self.first, total=self.total, start=self.start, count=self.count)


class Progress:
    """Progress line on stderr."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self.start = enabled, 0.0

    def of(self, what: str, total: int) -> Callable[[int], None]:
        """Start a line for `total` images called `what`; returns a function to call with the number of images done."""
        self.start = time.monotonic()

        def say(done: int) -> None:
            if self.enabled:
                speed = done / max(time.monotonic() - self.start, 1e-9)
                left = f", {(total - done) / speed:.0f} s left" if done else ""
                line = f"\r{what}: {done:,} of {total:,}{left}\x1b[K"
                print(line, end="", file=sys.stderr, flush=True)

        return say

    def end(self) -> None:
        if self.enabled:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class HasFeature(Protocol):
    """A metric that may have a feature network of its own: its spec or None, and the side of its input or None."""

    feature: dict[str, Any] | None
    side: int | None


@dataclass
class MetricContext:
    """A model to measure, the data set, and the settings with which images are drawn.

    Args:
        pipe: the model.
        source: data set of the real images, and of labels unless `captions` are given; None if neither is needed.
        num: number of generated images.
        num_real: number of real images.
        seed: image number i has latent seed + i.
        psi: truncation towards the mean of the model's family; 1 is none.
        batch: images at a time, over all processes.
        feature: checked spec of the feature network of all metrics that have none of their own.
        side: side of the square images given to it; None is the size that it was trained on.
        captions: image number i is drawn with caption i modulo their number; None takes labels of random images of the
            data set.
        half: compute feature networks in bfloat16.
        world: rank and number of the processes that share the work.
        progress: progress line.
    """

    pipe: Pipeline
    source: Source | None = None
    num: int = 10_000
    num_real: int = 10_000
    seed: int = 0
    psi: float = 1.0
    batch: int = 32
    feature: Mapping[str, Any] | None = None
    side: int | None = None
    captions: Sequence[str] | None = None
    half: bool = False
    world: World = field(default_factory=World)
    progress: Progress = field(default_factory=lambda: Progress(False))
    _backbones: dict[str, Backbone] = field(default_factory=dict)
    _networks: dict[str, FeatureNetwork] = field(default_factory=dict)

    def backbone_of(self, metric: HasFeature) -> Backbone:
        """The Backbone of a metric: its own, or the shared one. Raises ValueError if there is neither."""
        if metric.feature is not None:
            return self.backbone(metric.feature, metric.side)
        if self.feature is None:
            raise ValueError("the context has no feature network")
        return self.backbone(self.feature, self.side)

    def backbone(self, spec: Mapping[str, Any], side: int | None = None) -> Backbone:
        """The Backbone of a checked spec and a side; the same object for equal arguments."""
        key = repr((spec, side))
        if key not in self._backbones:
            network = self.network(spec)
            entry = entry_side(network, side)
            self._backbones[key] = Backbone(network, entry, self.pipe.device, self.half, dict(spec))
        return self._backbones[key]

    def network(self, spec: Mapping[str, Any]) -> FeatureNetwork:
        """The feature network of a checked spec, on the model's device; loaded once, for all input sides."""
        key = repr(spec)
        if key not in self._networks:
            network: FeatureNetwork = options.build("feature", dict(spec))
            self._networks[key] = network.to(self.pipe.device)
        return self._networks[key]

    # ------------------------------------------------------------------------------------------------ drawing

    def parts(self, total: int, batch: int | None = None) -> Iterator[BatchSlice]:
        """Yield this process's parts of the batches of `total` images."""
        batch, size = batch or self.batch, self.world.size
        each = -(-batch // size)
        for first in range(0, total, batch):
            rows = min(batch, total - first)
            bounds = [(min(rows, r * each), min(rows, (r + 1) * each)) for r in range(size)]
            start, stop = bounds[self.world.rank]
            counts = tuple(stop - start for start, stop in bounds)
            if start == stop:
                start, stop = 0, 1
            yield BatchSlice(self.seed, first, rows, start, stop - start, counts)

    def labels(self, numbers: Sequence[int]) -> list[Label]:
        """The labels with which generated images are drawn, by image number; empty ones for an unconditional model."""
        if not self.pipe.conditioner.accepts:
            return [Label()] * len(numbers)
        if self.captions is not None:
            return [Label(texts=(self.captions[i % len(self.captions)],)) for i in numbers]
        if self.source is None:
            raise GankitError("the model is conditional: say with --data or --captions what to draw")
        return [_random_label(self.source, self.seed, i) for i in numbers]

    def condition(self, labels: Sequence[Label]) -> Condition:
        return self.pipe.conditioner.encode(list(labels))

    def latents(self, numbers: Sequence[int]) -> Tensor:
        """Latents z [len(numbers), z_dim] of images by number."""
        return self.pipe.latents([self.seed + i for i in numbers])

    @torch.no_grad()
    def draw(self, part: BatchSlice) -> tuple[Tensor, list[Label]]:
        """Draw images of a part, uint8 [count, C, H, W] on the model's device, with random noise; and their labels."""
        labels = self.labels(part.numbers)
        with part.random("evaluate"):
            cond = self.condition(labels)
            images = self.pipe.generator(self.latents(part.numbers), cond, truncation_psi=self.psi)
        return to_levels(images), labels

    def drawn(self) -> Generator[tuple[BatchSlice, Tensor, list[Label]], None, None]:
        """Yield (part, images, labels) for all `num` generated images."""
        for part in self.parts(self.num):
            yield part, *self.draw(part)

    def real(self) -> Generator[tuple[BatchSlice, Tensor], None, None]:
        """Yield (part, images) for `num_real` distinct random real images, as in training but never mirrored."""
        batches = self._batches(self.batch, rank=self.world.rank, world=self.world.size)
        try:
            for part in self.parts(self.num_real):
                loaded = next(batches)
                for name, reason in loaded.skipped:
                    warnings.warn(
                        f"{name} cannot be read ({reason}); the next image stands in for it", stacklevel=2
                    )
                yield part, loaded.images[: part.count]
        finally:
            batches.close()

    def _batches(self, batch: int, **where: Any) -> Batches:
        assert self.source is not None
        data = self.pipe.recipe.data
        return Batches(
            self.source,
            data.size,
            channels=data.channels,
            fit=data.fit,
            seed=DATA_SEED,
            batch=batch,
            fields=(),  # only the images are read
            **where,
        )

    # --------------------------------------------------------------------------------------------- measuring

    @torch.no_grad()
    def rows(
        self, total: int, work: Callable[[BatchSlice], Tensor], what: str, batch: int | None = None
    ) -> np.ndarray:
        """Results [total, K], float64, of `work`, which returns [count, K] for a part; the same in every process.

        `what` names the images in progress and messages. Raises GankitError for a number that is not finite."""
        say = self.progress.of(what, total)
        found = []
        for part in self.parts(total, batch):
            rows = distributed.all_rows(work(part).double(), part.counts).cpu().numpy()
            finite(rows, part, f"{what}: NaN or infinity for image {{}}; the model or the network is broken")
            found.append(rows)
            say(part.first + part.total)
        return np.concatenate(found)


@dataclass
class Album:
    """Access to the images that belong to rows of features, for pictures of metrics."""

    context: MetricContext

    def fake(self, row: int) -> np.ndarray:
        """Generated image number `row`, uint8 [H, W, C], drawn again as it was for the features."""
        context = self.context
        first = row // context.batch * context.batch
        part = BatchSlice(context.seed, first, min(context.batch, context.num - first), row - first, 1, (1,))
        return context.draw(part)[0][0].permute(1, 2, 0).cpu().numpy()

    def real(self, row: int) -> np.ndarray:
        """Real image number `row`, uint8 [H, W, C]."""
        batches = self.context._batches(1, workers=0, start_image=row)
        try:
            return next(batches).images[0].permute(1, 2, 0).numpy()
        finally:
            batches.close()


def to_levels(images: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8 with the rounding of `to_uint8`, same shape and device.

    Raises GankitError for NaN or infinity."""
    if not bool(images.isfinite().all()):
        raise GankitError(
            "the generator gives NaN or infinity; the model is broken, take an earlier checkpoint"
        )
    return (images.float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)


def finite(rows: np.ndarray, part: BatchSlice, message: str) -> None:
    """Raise GankitError if a row of a batch is not finite; `message` is formatted with the image's number."""
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise GankitError(message.format(part.first + int(bad.argmax())))


def _random_label(source: Source, seed: int, number: int) -> Label:
    """Label of a random image of the data set, with one of its captions; depends on seed and number only."""
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    label = source.label(int(rng.integers(len(source))))
    return replace(label, texts=(label.texts[rng.integers(len(label.texts))],)) if label.texts else label


def entry_side(network: FeatureNetwork, wanted: int | None) -> int:
    """Side of a feature network's input: the wanted one, or the one that it was trained on.

    Raises GankitError if the wanted side is not a multiple of `input_multiple`, or the network resizes by itself."""
    multiple = network.input_multiple
    if network.own_resize:
        if wanted is not None:
            raise GankitError(f"--side {wanted}: {network.name!r} resizes images by itself; leave it out")
        return network.input_side or 0
    if wanted is None:
        return -(-(network.input_side or DEFAULT_SIDE) // multiple) * multiple
    if wanted < 1 or wanted % multiple:
        raise GankitError(f"--side {wanted}: {network.name!r} takes multiples of {multiple}")
    return wanted
