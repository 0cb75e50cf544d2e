"""What metrics are taken on: images that a model draws, in batches and over processes, and the data set beside them."""

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

DATA_SEED = 0  # of the choice of real images, the same for every evaluation so that they are cached
DEFAULT_SIDE = 224


@dataclass(frozen=True)
class BatchSlice:
    """One process's images of a batch: numbers [first + start, first + start + count) of those that are drawn.

    `counts` says how many of the batch each process has; one that would have none makes one image that does not count.
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
        """Draws inside are keyed by the batch and `key`, and the same however many processes share the batch."""
        return batch_random(*key, self.seed, self.first, total=self.total, start=self.start, count=self.count)


class Progress:
    """One line on stderr."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self.start = enabled, 0.0

    def of(self, what: str, total: int) -> Callable[[int], None]:
        """A function to be called with the number of images that are done."""
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
    """A metric that may bring a feature network of its own: its spec or None, and the side of the images in it."""

    feature: dict[str, Any] | None
    side: int | None


@dataclass
class MetricContext:
    """A model and how its images are drawn.

    Args:
        pipe: the model.
        source: data set of the real images, and of labels unless `captions` are given; None where neither is needed.
        num: generated images.
        num_real: real images.
        seed: image number i has latent seed + i.
        psi: truncation towards the mean of the model's family.
        batch: images at a time, over all processes.
        feature: checked spec of the feature network of all metrics that bring none of their own.
        side: of the square images that enter it; None means what it was trained on.
        captions: image number i is drawn under caption i, again from the first after the last; None takes labels of
            random images of the data set.
        half: compute feature networks in bfloat16.
        world: the processes that share the work.
        progress: where to show it.
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
        """The network of a metric: its own, or the shared one."""
        if metric.feature is not None:
            return self.backbone(metric.feature, metric.side)
        if self.feature is None:
            raise ValueError("the context has no feature network")
        return self.backbone(self.feature, self.side)

    def backbone(self, spec: Mapping[str, Any], side: int | None = None) -> Backbone:
        """The network of a checked spec, the same one for the same spec."""
        key = repr((spec, side))
        if key not in self._backbones:
            network = self.network(spec)
            entry = entry_side(network, side)
            self._backbones[key] = Backbone(network, entry, self.pipe.device, self.half, dict(spec))
        return self._backbones[key]

    def network(self, spec: Mapping[str, Any]) -> FeatureNetwork:
        """That of a checked spec on the model's device, loaded once whatever sides images enter it at."""
        key = repr(spec)
        if key not in self._networks:
            network: FeatureNetwork = options.build("feature", dict(spec))
            self._networks[key] = network.to(self.pipe.device)
        return self._networks[key]

    # ------------------------------------------------------------------------------------------------ drawing

    def parts(self, total: int, batch: int | None = None) -> Iterator[BatchSlice]:
        """This process's parts of all batches."""
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
        """Of images by number: what the model is asked for. Empty ones for a model without conditions."""
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
        """z [len(numbers), z_dim]."""
        return self.pipe.latents([self.seed + i for i in numbers])

    @torch.no_grad()
    def draw(self, part: BatchSlice) -> tuple[Tensor, list[Label]]:
        """uint8 images [count, C, H, W] on the model's device, and their labels; with fresh per-pixel noise."""
        labels = self.labels(part.numbers)
        with part.random("evaluate"):
            cond = self.condition(labels)
            images = self.pipe.generator(self.latents(part.numbers), cond, truncation_psi=self.psi)
        return to_levels(images), labels

    def drawn(self) -> Generator[tuple[BatchSlice, Tensor, list[Label]], None, None]:
        """All `num` images."""
        for part in self.parts(self.num):
            yield part, *self.draw(part)

    def real(self) -> Generator[tuple[BatchSlice, Tensor], None, None]:
        """A random choice of `num_real` images without repetition, as training sees them but never mirrored."""
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
            **where,
        )

    # --------------------------------------------------------------------------------------------- measuring

    @torch.no_grad()
    def rows(
        self, total: int, work: Callable[[BatchSlice], Tensor], what: str, batch: int | None = None
    ) -> np.ndarray:
        """[total, K] float64 from `work`, which makes [count, K] of each part; the same in every process.

        Raises GankitError for a number that is not finite."""
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
    """The images behind rows of features, for pictures."""

    context: MetricContext

    def fake(self, row: int) -> np.ndarray:
        """uint8 [H, W, C] of a generated image by number, as it was when it was measured."""
        context = self.context
        first = row // context.batch * context.batch
        part = BatchSlice(context.seed, first, min(context.batch, context.num - first), row - first, 1, (1,))
        return context.draw(part)[0][0].permute(1, 2, 0).cpu().numpy()

    def real(self, row: int) -> np.ndarray:
        """uint8 [H, W, C] of a real image."""
        batches = self.context._batches(1, workers=0, start_image=row)
        try:
            return next(batches).images[0].permute(1, 2, 0).numpy()
        finally:
            batches.close()


def to_levels(images: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8 as `to_uint8` makes them, left on their device. Raises GankitError for NaN."""
    if not bool(images.isfinite().all()):
        raise GankitError(
            "the generator gives NaN or infinity; the model is broken, take an earlier checkpoint"
        )
    return (images.float() * 127.5 + 128).clamp_(0, 255).to(torch.uint8)


def finite(rows: np.ndarray, part: BatchSlice, message: str) -> None:
    """Raise GankitError with the number of the first image that has a row that is not finite."""
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise GankitError(message.format(part.first + int(bad.argmax())))


def _random_label(source: Source, seed: int, number: int) -> Label:
    """That of a random image of the data set with one of its captions; depends on seed and number only."""
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    label = source.label(int(rng.integers(len(source))))
    return replace(label, texts=(label.texts[rng.integers(len(label.texts))],)) if label.texts else label


def entry_side(network: FeatureNetwork, wanted: int | None) -> int:
    """The side at which images enter: the wanted one, or what the network was trained on. Raises GankitError."""
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
