"""Metrics while a run trains: of the moving average, within a time limit, without a trace in the training.

Nothing here draws from the random numbers that training uses, and a number is reported whole or not at all: if the time
is up before all images are drawn, the log says so.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gankit
from gankit import evaluation
from gankit.core import checkpoint, options
from gankit.core.interfaces import Conditioner, FeatureNetwork, Generator, Metric, Source
from gankit.core.keep import Keep
from gankit.core.recipe import Recipe, measured
from gankit.core.statistics import FeatureSet, measure
from gankit.core.step import Stepper
from gankit.errors import GankitError
from gankit.pipeline import Pipeline

FOLDER = (
    "evaluations"  # in the run's folder; pages as `gankit evaluate` writes them, named like the checkpoints
)
PSI = 1.0


class _Late(Exception):
    """The evaluation is to end without a result; the text says why."""


@dataclass
class _Live:
    """What training has at the moment, in the form of a `gankit.pipeline.Pipeline`."""

    recipe: Recipe
    conditioner: Conditioner
    generator: Generator
    device: torch.device
    latents = Pipeline.latents


class Monitor:
    """Measures a run as it goes. One process does; the others wait for it at their next exchange.

    Args:
        out: the run's folder.
        recipe: with `evaluation.every` set.
        source: the data set.
        stepper: that trains.
        say: shows a line to the user.

    Raises GankitError if a metric cannot be measured at all: too few images, or a missing feature network.
    """

    def __init__(
        self, out: Path, recipe: Recipe, source: Source, stepper: Stepper, say: Callable[[str], None]
    ) -> None:
        self.out, self.recipe, self.source, self.stepper, self.say = out, recipe, source, stepper, say
        self.wish = recipe.evaluation
        self.keep, self.better = Keep.parse(recipe.train.keep), measured(recipe.evaluation)
        self.metrics: dict[str, Metric] = {
            name: options.build("metric", {**given, "name": name})
            for name, given in self.wish.metrics.items()
        }
        self.live: Any = _Live(recipe, stepper.conditioner_ema, stepper.G_ema, stepper.device)
        self.count = min(self.wish.num, len(source))
        for name, metric in self.metrics.items():
            if self.count < metric.min_images:
                raise GankitError(
                    f"metric {name!r} needs {metric.min_images} images or more, not {self.count} "
                    "(evaluation.num, or the data set)"
                )
        for page in self._pages():  # written by an interrupted run after its last checkpoint
            if int(page.stem) > stepper.nimg:
                page.unlink()
        with self._undisturbed():
            network: FeatureNetwork = options.build("feature", self.wish.feature)
            self.backbone = evaluation.Backbone(
                network.to(stepper.device), self._side(network), stepper.device
            )
            self.real = self._real_features()

    def evaluate(self, want_stop: Callable[[], bool]) -> bool:
        """Measure what there is now, log it, and write a page. False if it was given up, which has been said then."""
        nimg, start = self.stepper.nimg, time.monotonic()

        def watch(done: int) -> None:
            seconds = time.monotonic() - start
            if want_stop():
                raise _Late("the training is to stop")
            if seconds > self.wish.seconds:
                raise _Late(
                    f"{done:,} of {self.wish.num:,} images took {seconds:.0f} s; lower evaluation.num, or raise "
                    f"evaluation.seconds = {self.wish.seconds:g}"
                )

        try:
            with self._undisturbed(), self.stepper.meter.timed("eval"):
                values = self._measure(watch)
        except (_Late, GankitError) as reason:
            self.say(f"no evaluation at {nimg:,} images: {reason}")
            return False
        seconds = time.monotonic() - start
        checkpoint.write_text(self._page(nimg), json.dumps(self._facts(values, seconds), indent=1))
        numbers = {key: value for result in values.values() for key, value in result.items()}
        for key, value in numbers.items():
            self.stepper.meter.add(f"eval/{key}", value)
        told = "  ".join(f"{key} {value:.4g}{self._rank(key, nimg)}" for key, value in numbers.items())
        self.say(f"evaluated at {nimg:,} images: {told}  ({seconds:.0f} s)")
        return True

    def spared(self) -> set[int]:
        """Images trained at the checkpoints that are to be kept since they are the best."""
        nimgs = {int(folder.name) for folder in checkpoint.checkpoints(self.out)} | {self.stepper.nimg}
        chosen: set[int] = set()
        for count, wanted in self.keep.best:
            key = wanted or next(iter(self.better))
            ranked = [nimg for nimg in self._ranked(key) if nimg in nimgs]
            chosen.update(ranked[:count])
        return chosen

    def stalled(self, patience: int) -> bool:
        """Whether as many measurements in a row as `patience` says, all of this stage, have not improved the first
        number that is measured."""
        start = self.stepper.stage_start
        here = [n for n in self._ranked(next(iter(self.better))) if start < n <= self.stepper.nimg]
        return bool(here) and sum(n > here[0] for n in here) >= patience

    # ------------------------------------------------------------------------------------------------ measuring

    def _real_features(self) -> FeatureSet:
        start = time.monotonic()
        self.say(f"evaluations: taking features of {self.count:,} real images, once for this data set")
        rows = any(metric.needs_rows for metric in self.metrics.values())
        found, cached = evaluation.real_features(
            self.source,
            self.live,
            self.backbone,
            self.count,
            self.wish.batch,
            rows,
            lambda done: None,
        )
        self.say(f"  {'found in the cache' if cached else 'done'} in {time.monotonic() - start:.0f} s")
        return found

    def _measure(self, watch: Callable[[int], None]) -> dict[str, dict[str, float]]:
        """Metric -> number -> value."""
        wish, network = self.wish, self.backbone.network
        with tempfile.TemporaryDirectory(prefix="gankit-") as scratch:
            rows = any(metric.needs_rows for metric in self.metrics.values())
            file = Path(scratch) / "rows.npy" if rows else None
            images = evaluation.generated_images(
                self.live,
                self.source,
                wish.num,
                wish.batch,
                wish.seed,
                PSI,
                watch,
            )
            stream = evaluation.checked(images, self.backbone, "generated")
            fake = FeatureSet.collect(stream, wish.num, network.num_pooled, file)
            values = {}
            for name, metric in self.metrics.items():
                watch(wish.num)
                values[name] = measure(name, metric, self.real, fake)
            del fake  # closes the file that is about to vanish
        return values

    def _undisturbed(self) -> Any:
        """Whatever happens inside, training goes on with the random numbers that it would have had."""
        devices = [self.stepper.device] if self.stepper.device.type == "cuda" else []
        return torch.random.fork_rng(devices)

    def _side(self, network: FeatureNetwork) -> int:
        """The size of the images, at most what the network was trained on: small images need no large input."""
        multiple = network.input_multiple
        if self.wish.side is not None:
            if self.wish.side % multiple:
                raise GankitError(
                    f"evaluation.side = {self.wish.side}: {network.name!r} takes multiples of {multiple}"
                )
            return self.wish.side
        side = min(max(self.recipe.data.size), network.input_side or evaluation.DEFAULT_SIDE)
        return math.ceil(side / multiple) * multiple

    # ---------------------------------------------------------------------------------------------------- pages

    def _page(self, nimg: int) -> Path:
        folder = self.out / FOLDER
        with checkpoint.write_advice(folder):
            folder.mkdir(exist_ok=True)
        return folder / f"{nimg:09d}.json"

    def _pages(self) -> list[Path]:
        return sorted(page for page in (self.out / FOLDER).glob("*.json") if page.stem.isdigit())

    def _ranked(self, key: str) -> list[int]:
        """Images trained at the pages that hold a number, the best first; of equal ones the earlier."""
        found = []
        for page in self._pages():
            try:
                results = json.loads(page.read_text(encoding="utf-8"))["metrics"].values()
                value = next(r["values"][key] for r in results if key in r["values"])
                found.append((float(value), int(page.stem)))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
                continue  # damaged, or of other metrics
        sign = -1 if self.better[key] == "higher" else 1
        return [nimg for _, nimg in sorted(found, key=lambda pair: (sign * pair[0], pair[1]))]

    def _rank(self, key: str, nimg: int) -> str:
        return " (best so far)" if key in self.better and self._ranked(key)[:1] == [nimg] else ""

    def _facts(self, values: dict[str, dict[str, float]], seconds: float) -> dict[str, Any]:
        """What `gankit.evaluation.evaluate` writes, of this moment of the run."""
        recipe, wish = self.recipe, self.wish
        return {
            "format": evaluation.FORMAT,
            "metrics": {
                name: {
                    "values": numbers,
                    "better": dict(self.metrics[name].values),
                    "options": wish.metrics[name],
                }
                for name, numbers in values.items()
            },
            "generated": {
                "model": str(self.out),
                "recipe": recipe.name,
                "trained_images": self.stepper.nimg,
                "images": wish.num,
                "seed": wish.seed,
                "psi": PSI,
                "noise": "random",
                "batch": wish.batch,
                "labels": "of the data set" if self.live.conditioner.accepts else "none",
            },
            "real": {
                "data": recipe.data.path,
                "images": self.count,
                "of": len(self.source),
                "seed": evaluation.DATA_SEED,
                "size": list(recipe.data.size),
                "resize": f"lanczos, antialiased, {recipe.data.fit}",
            },
            "feature": {**self.backbone.facts(), "plugin": wish.feature, "dtype": "float32"},
            "versions": {
                "gankit": gankit.__version__,
                "torch": torch.__version__,
                "timm": importlib.metadata.version("timm"),
            },
            "device": str(self.stepper.device),
            "seconds": round(seconds, 1),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
