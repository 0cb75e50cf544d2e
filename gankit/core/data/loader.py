"""The data loader: an endless stream of batches of images and labels that depends on seed and position only.

The image at position p of a run is number p % n of the (p // n)-th permutation of the n images. Image, mirroring and
choice of a caption depend on seed and p only, not on the number of processes or workers or on the stream's start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gankit.core.config import options, packages
from gankit.core.config.registry import registry
from gankit.core.data.images import FITS, BadImage, fit
from gankit.core.interfaces import contracts
from gankit.core.interfaces.data import Source
from gankit.core.interfaces.labels import Label, listed
from gankit.errors import GankitError, unknown

MAX_BAD_IN_A_ROW = 1000


def open_source(
    data_path: str, source_options: Mapping[str, Any] | None = None, recorded: Any = None
) -> Source:
    """Open the data set of `--data`.

    Args:
        data_path: 'NAME:REST' with the name of a source plugin ('avatars:', 'folder:PATH'), or a path, which is opened
            by the first source plugin whose `matches` returns True for it.
        source_options: options of the source.
        recorded: the recipe's section `packages`, for the message if the source is not here.

    Raises GankitError if the path does not exist or no source reads it.
    """
    names = registry().names("source")
    given = dict(source_options or {})
    prefix, colon, rest = data_path.partition(":")
    if colon and prefix in names and not os.path.exists(data_path):
        return _build(given, prefix, rest)
    path = Path(data_path).expanduser()
    broken = None
    for name in names:
        try:
            matches = registry().load("source", name).matches(path)
        except GankitError as error:  # cannot be imported; raised only if no other source takes the path
            broken = error
        else:
            if matches:
                return _build(given, name, str(path))
    if broken is not None:
        raise broken
    if path.exists():
        raise GankitError(
            f"no source reads {data_path}; say which with 'NAME:{data_path}', where NAME is one of {', '.join(names)}"
        )
    if re.match(r"[\w.-]{2,}:", data_path):  # one letter is a Windows drive
        with packages.explaining(recorded):
            raise GankitError(registry().unknown("source", prefix, hint=f"and there is no file {data_path}"))
    raise GankitError(f"the data path {data_path} does not exist")


def _build(source_options: Mapping[str, Any], name: str, path: str) -> Source:
    """A source whose first image, label and name are what the contract says."""
    source: Source = options.build("source", {**source_options, "name": name}, path, where="data.options")
    contracts.source(source)
    with contextlib.suppress(BadImage):
        contracts.picture(source, source.image(0))
    return source


@dataclass
class Batch:
    """One process's rows of a batch.

    Args:
        images: uint8 [b, C, H, W], channels last in memory.
        labels: b labels, each with the one caption drawn for this position; those of mirrored images are mirrored.
        flipped: b times True if the image is mirrored.
        indices: indices of the images in the source.
        skipped: (name, reason) of unreadable images, each reported once; the next readable image replaces them.
        reframed: rows of images of another shape, which were cut or padded.
    """

    images: Tensor
    labels: list[Label]
    flipped: list[bool]
    indices: list[int]
    skipped: list[tuple[str, str]]
    reframed: list[int] = dataclasses.field(default_factory=list)


class Batches(Iterator[Batch]):
    """An endless stream of batches, decoded and resized in worker processes.

    Mirroring flips images and leaves their captions: leave it off if these mention left or right, and for pictures of
    text.

    Args:
        source: source of images and labels.
        size: (H, W) of the images.
        channels: 1, 3 or 4.
        fit: 'crop', 'top-crop', 'pad' or 'stretch', see `gankit.core.data.images.fit`.
        mirror: flip each image with probability 1/2.
        mirror_label: label of an image -> that of the flipped image (`Conditioner.mirror`); runs in this process.
        fields: names of those of `Label.fields` that labels keep, so that unused ones do not travel; None keeps all.
        batch: images of a batch, over all processes.
        seed: seed of order, mirroring and choice of captions.
        rank: rank of this process, which gets rows [rank * b, (rank + 1) * b) of each batch, b = batch / world.
        world: number of processes.
        workers: processes that decode; 0 decodes in this one; None is `default_workers()`.
        start_image: position of the first image, for resuming.
        prefetch: batches that each worker prepares in advance.
    """

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        *,
        channels: int = 3,
        fit: str = "crop",
        mirror: bool = False,
        mirror_label: Callable[[Label], Label | None] | None = None,
        fields: Collection[str] | None = None,
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
        start_image: int = 0,
        prefetch: int = 2,
    ) -> None:
        if fit not in FITS:
            raise GankitError(unknown("fit", fit, FITS))
        if batch % world:
            raise GankitError(
                f"a batch of {batch} cannot be shared by {world} processes; use a multiple of {world}"
            )
        self._mirror_label, self._source, self._fit = mirror_label, source, fit
        self._told = rank > 0  # that fields of reframed images stay as they are
        self.wait_s = 0.0  # time that the consumer has waited for data
        self._reported: set[str] = set()
        rows = batch // world
        workers = default_workers() if workers is None else workers
        schedule = _Schedule(len(source), seed, start_image + rank * rows, rows, batch)
        self._loader = DataLoader(
            _Assembler(source, size, channels, fit, mirror, seed, fields),
            sampler=schedule,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # else DataLoader draws from torch's global generator
        )
        self._streams: list[Iterator[Batch | str]] = []  # none or one
        # The workers ignore SIGTERM, so an interpreter that exits would wait for them for ever.
        weakref.finalize(self, _stop, self._streams)

    def __next__(self) -> Batch:
        start = time.perf_counter()
        if not self._streams:
            self._streams.append(iter(self._loader))
        batch = next(self._streams[0])
        self.wait_s += time.perf_counter() - start
        if isinstance(batch, str):
            raise GankitError(batch)
        if self._mirror_label is not None:
            self._tell_reframed(batch, self._mirror_label)
            for row in np.flatnonzero(batch.flipped):
                mirrored = self._mirror_label(batch.labels[row])
                assert mirrored is not None  # gankit.core.config.compatibility has asked
                batch.labels[row] = mirrored
        batch.skipped = [(name, why) for name, why in batch.skipped if name not in self._reported]
        self._reported.update(name for name, _ in batch.skipped)
        return batch

    def _tell_reframed(self, batch: Batch, mirror_label: Callable[[Label], Label | None]) -> None:
        """Warn once of an image that is cut or padded while its label speaks of places: mirroring changes it."""
        for row in batch.reframed if not self._told else []:
            given = batch.labels[row].fields
            mirrored = mirror_label(batch.labels[row]) if given else None
            placed = [f for f in given if mirrored is None or mirrored.fields.get(f) != given[f]]
            if placed:
                self._told = True
                name, fields = self._source.name(batch.indices[row]), listed(sorted(map(repr, placed)))
                warnings.warn(
                    f"{name} has another shape than the model's images; data.fit = {self._fit!r} frames it and leaves "
                    f"{fields} of its label as given; give what holds in the framed image, or set data.fit to stretch",
                    stacklevel=3,
                )
                return

    def close(self) -> None:
        """Stop the workers."""
        _stop(self._streams)


def _stop(streams: list[Iterator[Batch | str]]) -> None:
    """Shut down the workers of a DataLoader's iterators, and kill those that are still alive."""
    while streams:
        stream = streams.pop()
        workers = list(getattr(stream, "_workers", ()))
        if workers:
            stream._shutdown_workers()  # type: ignore[attr-defined]
        for worker in workers:
            if worker.is_alive():
                worker.kill()


def default_workers() -> int:
    """Default number of decoding processes: half of the cores for each local training process, at most 4."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class _Schedule:
    """Sampler of (first position, source indices) of one process's rows, batch by batch. Runs in the main process."""

    def __init__(self, images: int, seed: int, first: int, rows: int, stride: int) -> None:
        self.images, self.seed, self.first, self.rows, self.stride = images, seed, first, rows, stride
        self._epochs: dict[int, np.ndarray] = {}

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        first = self.first
        while True:
            yield first, [self.index(position) for position in range(first, first + self.rows)]
            first += self.stride

    def index(self, position: int) -> int:
        epoch, place = divmod(position, self.images)
        if epoch not in self._epochs:
            self._epochs = {e: order for e, order in self._epochs.items() if e == epoch - 1}
            rng = np.random.Generator(np.random.PCG64([self.seed, 0, epoch]))
            self._epochs[epoch] = rng.permutation(self.images)
        return int(self._epochs[epoch][place])


class _Assembler(Dataset):
    """(first position, source indices) -> Batch; runs in the workers."""

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        channels: int,
        fit_mode: str,
        mirror: bool,
        seed: int,
        fields: Collection[str] | None,
    ) -> None:
        self.source, self.size, self.channels = source, size, channels
        self.fit_mode, self.mirror, self.seed = fit_mode, mirror, seed
        self.fields = None if fields is None else frozenset(fields)

    def __getitem__(self, rows: tuple[int, list[int]]) -> Batch | str:
        """The batch, or the message of a GankitError: DataLoader would wrap a raised one in a traceback."""
        try:
            return self.assemble(*rows)
        except GankitError as error:
            return str(error)

    def assemble(self, first: int, indices: list[int]) -> Batch:
        pixels = np.empty((len(indices), *self.size, self.channels), np.uint8)
        labels: list[Label] = []
        flipped: list[bool] = []
        used: list[int] = []
        skipped: dict[str, str] = {}
        reframed: list[int] = []
        for row, wanted in enumerate(indices):
            image, index, framed = self.readable(wanted, skipped)
            reframed += [row] if framed else []
            label = self.source.label(index)
            coin, caption = np.random.Generator(np.random.PCG64([self.seed, 1, first + row])).random(2)
            if label.texts:
                label = dataclasses.replace(label, texts=(label.texts[int(caption * len(label.texts))],))
            if self.fields is not None and not label.fields.keys() <= self.fields:
                kept = {name: value for name, value in label.fields.items() if name in self.fields}
                label = dataclasses.replace(label, fields=kept)
            flipped.append(bool(self.mirror and coin < 0.5))
            pixels[row] = image[:, ::-1] if flipped[row] else image
            labels.append(label)
            used.append(index)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return Batch(images, labels, flipped, used, list(skipped.items()), reframed)

    def readable(self, index: int, skipped: dict[str, str]) -> tuple[np.ndarray, int, bool]:
        """The image at an index, fitted to the size, or the next readable one; the index of the image returned, and
        whether a pixel or more of it was cut or padded.

        Adds name and reason of unreadable images to `skipped`. Raises GankitError after MAX_BAD_IN_A_ROW of them."""
        images = len(self.source)
        tries = min(images, MAX_BAD_IN_A_ROW)
        for candidate in range(index, index + tries):
            candidate %= images
            try:
                image = self.source.image(candidate)
                (height, width), (w, h) = self.size, image.size
                scaled = (height / h, width / w)
                framed = self.fit_mode != "stretch" and max(scaled) / min(scaled) >= 1 + 1 / max(self.size)
                return fit(image, self.size, self.fit_mode, self.channels), candidate, framed
            except BadImage as error:
                skipped[self.source.name(candidate)] = str(error)
        name = self.source.name(index)
        raise GankitError(
            f"{tries} images in a row cannot be read, of {images}; the first of them is {name}: {skipped[name]}"
        )


def _init_worker(_: int) -> None:
    """Ignore SIGINT and SIGTERM, which go to the whole process group and are handled by the main process."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):
            signal.signal(number, signal.SIG_IGN)
